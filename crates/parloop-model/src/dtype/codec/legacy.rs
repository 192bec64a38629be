//! Q4_0, Q4_1, Q5_0, Q5_1: blocks of 32 with one scale and, in the second kind, a minimum
//! (`dequantize_row_q4_0` to `dequantize_row_q5_1` in ggml-quants.c).
//!
//! The lower nibbles of 16 bytes hold elements 0 to 15, the upper ones elements 16 to 31; bit i of a little-endian
//! u32 before them is the fifth bit of element i.

use super::search::{Affine, affine, importance, round_to, symmetric};
use super::{half, put_half};

const BLOCK: usize = 32;

/// Bytes of d and, with a minimum, m.
const fn head(min: bool) -> usize {
    if min { 4 } else { 2 }
}

/// Bytes of a block.
const fn size(bits: u32, min: bool) -> usize {
    head(min) + (if bits == 5 { 4 } else { 0 }) + BLOCK / 2
}

pub fn decode<const BITS: u32, const MIN: bool>(bytes: &[u8], out: &mut [f32]) {
    for (out, block) in out.chunks_exact_mut(BLOCK).zip(bytes.chunks_exact(size(BITS, MIN))) {
        let d = half(block);
        let (m, zero) = if MIN { (half(&block[2..]), 0) } else { (0.0, 1 << (BITS - 1)) };
        let rest = &block[head(MIN)..];
        let (fifth, nibbles) = match BITS {
            5 => (u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]), &rest[4..]),
            _ => (0, rest),
        };
        for (i, out) in out.iter_mut().enumerate() {
            let nibble = nibbles[i % 16] >> (4 * (i / 16)) & 15;
            let q = i32::from(nibble) + 16 * (fifth >> i & 1) as i32;
            *out = d * (q - zero) as f32 + m;
        }
    }
}

pub fn encode<const BITS: u32, const MIN: bool>(values: &[f32], out: &mut [u8]) {
    let top = ((1 << BITS) - 1) as f32;
    let middle = (1 << (BITS - 1)) as f32;
    for (values, block) in values.chunks_exact(BLOCK).zip(out.chunks_exact_mut(size(BITS, MIN))) {
        let mut x = [0.0; BLOCK];
        x.copy_from_slice(values);
        let weight = importance(&x);
        let stored = if MIN {
            let found = affine(&x, &weight, top, false);
            Affine { scale: put_half(block, found.scale), min: put_half(&mut block[2..], found.min) }
        } else {
            let scale = put_half(block, symmetric(&x, &weight, -middle, middle - 1.0));
            Affine { scale, min: -middle * scale }
        };
        // A scale that became zero leaves nothing but the minimum, or the middle, which is zero.
        let q = if MIN || stored.scale != 0.0 { round_to(&x, stored, top) } else { [middle as u8; BLOCK] };
        let rest = &mut block[head(MIN)..];
        let nibbles = if BITS == 5 {
            let fifth = (0..BLOCK).fold(0u32, |bits, i| bits | u32::from(q[i] >> 4) << i);
            rest[..4].copy_from_slice(&fifth.to_le_bytes());
            &mut rest[4..]
        } else {
            rest
        };
        for (i, byte) in nibbles.iter_mut().enumerate() {
            *byte = q[i] & 15 | q[i + 16] << 4;
        }
    }
}
