//! Rows of f32 as the bytes of a type, and back.
//!
//! Layouts and formulas are those of ggml (`ggml/src/ggml-common.h` and `ggml-quants.c` in llama.cpp), which the Python
//! package `gguf` implements a second time (`gguf/quants.py`); `tests/fixtures/blocks.gguf` holds what it computes.
//! `x` is an element, `q` its stored integer, `d` an f16 scale.
//!
//! | type | elements | bytes | layout | x |
//! |---|---|---|---|---|
//! | Q8_0 | 32 | 34 | d, 32 x i8 | d q |
//! | Q4_0 | 32 | 18 | d, 16 nibble pairs | d (q - 8) |
//! | Q4_1 | 32 | 20 | d, m, 16 nibble pairs | d q + m |
//! | Q5_0 | 32 | 22 | d, 32 fifth bits, 16 nibble pairs | d (q - 16) |
//! | Q5_1 | 32 | 24 | d, m, 32 fifth bits, 16 nibble pairs | d q + m |
//! | Q4_K | 256 | 144 | d, dmin, 8 x (s, m) in 6 bits, 128 nibble pairs | d s q - dmin m |
//! | Q5_K | 256 | 176 | d, dmin, 8 x (s, m) in 6 bits, 256 fifth bits, 128 nibble pairs | d s q - dmin m |
//! | Q6_K | 256 | 210 | 128 nibble pairs, 64 x 4 upper bits, 16 x i8 s, d | d s (q - 32) |
//!
//! Quantising chooses scales that make the weighted squared error small (`search.rs`).

mod k;
mod legacy;
mod plain;
mod q6_k;
mod q8_0;
pub(crate) mod search;

use crate::DType;
use half::f16;

/// Writes the elements of whole blocks as f32.
///
/// # Panics
/// If `bytes` are not exactly the blocks of `out`.
pub fn decode(kind: DType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(kind.row_bytes(out.len()), Some(bytes.len()), "bytes of {} elements as {}", out.len(), kind.name());
    match kind {
        DType::F32 => plain::decode_f32(bytes, out),
        DType::F16 => plain::decode_f16(bytes, out),
        DType::BF16 => plain::decode_bf16(bytes, out),
        DType::Q8_0 => q8_0::decode(bytes, out),
        DType::Q4_0 => legacy::decode::<4, false>(bytes, out),
        DType::Q4_1 => legacy::decode::<4, true>(bytes, out),
        DType::Q5_0 => legacy::decode::<5, false>(bytes, out),
        DType::Q5_1 => legacy::decode::<5, true>(bytes, out),
        DType::Q4K => k::decode::<4>(bytes, out),
        DType::Q5K => k::decode::<5>(bytes, out),
        DType::Q6K => q6_k::decode(bytes, out),
    }
}

/// The largest element that every type can store: the largest f16.
pub const LARGEST: f32 = 65504.0;

/// Stores elements of at most [`LARGEST`] in whole blocks; larger ones only F32 and BF16 can hold.
///
/// # Panics
/// If `out` is not exactly as long as the blocks of `values`.
pub fn encode(kind: DType, values: &[f32], out: &mut [u8]) {
    assert_eq!(kind.row_bytes(values.len()), Some(out.len()), "bytes of {} elements as {}", values.len(), kind.name());
    match kind {
        DType::F32 => plain::encode_f32(values, out),
        DType::F16 => plain::encode_f16(values, out),
        DType::BF16 => plain::encode_bf16(values, out),
        DType::Q8_0 => q8_0::encode(values, out),
        DType::Q4_0 => legacy::encode::<4, false>(values, out),
        DType::Q4_1 => legacy::encode::<4, true>(values, out),
        DType::Q5_0 => legacy::encode::<5, false>(values, out),
        DType::Q5_1 => legacy::encode::<5, true>(values, out),
        DType::Q4K => k::encode::<4>(values, out),
        DType::Q5K => k::encode::<5>(values, out),
        DType::Q6K => q6_k::encode(values, out),
    }
}

/// Reads an f16 at the start of `bytes`.
fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// Stores `value` as f16 at the start of `bytes`, clamped to its range, and returns what was stored.
fn put_half(bytes: &mut [u8], value: f32) -> f32 {
    let stored = f16::from_f32(value.clamp(-65504.0, 65504.0));
    bytes[..2].copy_from_slice(&stored.to_le_bytes());
    stored.to_f32()
}

/// [`put_half`] of a scale that integer scales are multiples of: where f16 has few digits left it is rounded up rather
/// than down, so that the integers can still reach the largest.
fn put_unit(bytes: &mut [u8], value: f32) -> f32 {
    let stored = put_half(bytes, value);
    if stored.abs() >= 0.995 * value.abs() || value.abs() >= 1.0 {
        return stored;
    }
    let above = f16::from_bits(f16::from_f32(value).to_bits() + 1);
    put_half(bytes, above.to_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pseudo-random values about as trained weights are distributed.
    fn sample(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let mut unit = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / u32::MAX as f32 - 0.5
        };
        (0..n).map(|_| 0.05 * (0..6).map(|_| unit()).sum::<f32>()).collect()
    }

    fn there_and_back(kind: DType, x: &[f32]) -> Vec<f32> {
        let mut bytes = vec![0; kind.row_bytes(x.len()).unwrap()];
        encode(kind, x, &mut bytes);
        let mut out = vec![f32::NAN; x.len()];
        decode(kind, &bytes, &mut out);
        out
    }

    #[test]
    fn errors_stay_within_a_step_of_the_type() {
        // Steps that cover the range of a group, as a share of its largest element; half of one is the rounding.
        let steps = |kind| match kind {
            DType::F32 => 0.0,
            DType::F16 => 1.0 / 1024.0,
            DType::BF16 => 1.0 / 128.0,
            DType::Q8_0 => 1.1 / 127.0,
            DType::Q6K => 1.3 / 31.0,
            DType::Q5_0 | DType::Q5_1 | DType::Q5K => 1.4 / 15.0,
            DType::Q4_0 | DType::Q4_1 | DType::Q4K => 1.5 / 7.0,
        };
        for kind in DType::ALL {
            for seed in 0..40 {
                let x = sample(512, seed);
                let most = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
                for (x, y) in x.iter().zip(there_and_back(kind, &x)) {
                    assert!((x - y).abs() <= steps(kind) * most, "{}: {x} became {y}", kind.name());
                }
            }
        }
    }

    #[test]
    fn zeros_constants_and_extremes_survive() {
        for kind in DType::ALL {
            assert_eq!(there_and_back(kind, &[0.0; 256]), [0.0; 256], "{}", kind.name());
            for value in [1.0f32, -3.5, 1e-4, -2e4] {
                for y in there_and_back(kind, &[value; 256]) {
                    assert!((y / value - 1.0).abs() < 0.02, "{}: {value} became {y}", kind.name());
                }
            }
            let mut x = [0.0f32; 256];
            (x[7], x[200]) = (-1e3, 5e-6);
            let y = there_and_back(kind, &x);
            assert!((y[7] + 1e3).abs() < 8.0 && y.iter().all(|v| v.is_finite()), "{}: {}", kind.name(), y[7]);
            assert!(there_and_back(kind, &[-1e-40; 256]).iter().all(|v| v.abs() < 1e-6));
        }
    }

    #[test]
    fn quantising_what_was_quantised_changes_little() {
        for kind in DType::ALL {
            let once = there_and_back(kind, &sample(512, 3));
            let twice = there_and_back(kind, &once);
            let error: f32 = once.iter().zip(&twice).map(|(a, b)| (a - b).powi(2)).sum();
            let size: f32 = once.iter().map(|a| a * a).sum();
            assert!(error <= 1e-3 * size, "{}: {error} of {size}", kind.name());
        }
    }
}
