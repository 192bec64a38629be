//! The results of experts, put together row by row.

use crate::{Projector, SharedMut};

/// What a row's experts gave, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Picked<'a> {
    /// `[..][d]`, one result for each expert of each row.
    pub results: &'a [f32],
    /// `[rows][k]`, which of the results are a row's, in the order in which they are added.
    pub places: &'a [u32],
    /// `[rows][k]`, what each is multiplied with.
    pub weights: &'a [f32],
    /// `[rows][d]`, a result that every row has beside those of its experts, and `[rows]`, what it is multiplied with.
    pub shared: Option<(&'a [f32], Option<&'a [f32]>)>,
}

/// Rows from which the workers share them.
const SHARED: usize = 16;

/// `out = sum of weight x result` for each row of `out [rows][d]`: first its experts in their order, then what all rows
/// share. A row's bits depend on nothing but its results.
///
/// # Panics
/// If a length does not fit, or a place lies outside the results.
pub fn combine(on: &mut Projector, picked: Picked<'_>, d: usize, out: &mut [f32]) {
    let Picked { results, places, weights, shared } = picked;
    assert!(d > 0 && out.len().is_multiple_of(d), "whole rows");
    let rows = out.len() / d;
    assert!(places.len() == weights.len() && places.len().is_multiple_of(rows.max(1)), "as many experts for each row");
    let k = places.len() / rows.max(1);
    if let Some((shared, gates)) = shared {
        assert!(shared.len() == out.len() && gates.is_none_or(|g| g.len() == rows), "a shared result for each row");
    }
    let one = |i: usize, out: &mut [f32]| {
        out.fill(0.0);
        for (place, weight) in places[i * k..][..k].iter().zip(&weights[i * k..][..k]) {
            let result = &results[*place as usize * d..][..d];
            out.iter_mut().zip(result).for_each(|(o, y)| *o += weight * y);
        }
        if let Some((shared, gates)) = shared {
            let gate = gates.map_or(1.0, |gates| gates[i]);
            out.iter_mut().zip(&shared[i * d..][..d]).for_each(|(o, y)| *o += gate * y);
        }
    };
    if rows < SHARED {
        out.chunks_exact_mut(d).enumerate().for_each(|(i, out)| one(i, out));
        return;
    }
    let out = SharedMut::new(out);
    // SAFETY: each row is written by one task only, and `out` outlives the call.
    on.pool.run(rows, |i| one(i, unsafe { out.slice(i * d, d) }));
}
