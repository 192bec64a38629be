//! What the tests of several crates share: the goldens of an outside implementation, and random models.
//!
//! Everything here is for tests and panics freely.
#![forbid(unsafe_code)]

mod cases;
mod golden;
mod random;
pub mod untrusted;

pub use cases::{cases, seed};
pub use golden::{FAMILIES, FamilyCase, GOLDENS, Golden, MOE_GOLDENS};
pub use random::{Rng, any_config, checkpoint, config, config_with, experts, whole_blocks};

/// Asserts that every element of `found` lies within `tolerance` x the largest element of `expected`.
///
/// # Panics
/// Some element does not, or is not finite; the message says where and by how much.
pub fn assert_close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    let scale = expected.iter().fold(0.0f32, |m, v| m.max(v.abs())).max(f32::MIN_POSITIVE);
    let worst = found.iter().zip(expected).map(|(f, e)| (f - e).abs()).enumerate();
    let (i, error) = worst.fold((0, 0.0), |w, (i, e)| if e > w.1 || e.is_nan() { (i, e) } else { w });
    assert!(
        error <= tolerance * scale && !error.is_nan(),
        "{what}: element {i} is {} instead of {}, {:.2e} of the largest (allowed {tolerance:.0e})",
        found[i],
        expected[i],
        error / scale
    );
}
