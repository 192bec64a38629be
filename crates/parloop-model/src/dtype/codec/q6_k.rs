//! Q6_K: 16 groups of 16 with `x = d s (q - 32)`, s an i8 (`dequantize_row_q6_K` in ggml-quants.c).
//!
//! Each half of 128 elements has 64 bytes of lower nibbles and 32 bytes of upper bit pairs: element 32 k + l has its
//! nibble in byte 32 (k % 2) + l, the lower one for k < 2, and its bits in byte l at 2 k. Then 16 scales and d.

use super::search::{importance, inverse, nearest, symmetric};
use super::{half, put_unit};

const BLOCK: usize = 256;
const GROUP: usize = 16;
const GROUPS: usize = 16;
const BYTES: usize = 210;
/// Where the upper bits, the scales and d begin.
const UPPER: usize = 128;
const SCALES: usize = 192;
const D: usize = 208;

/// Byte and shift of the nibble, byte and shift of the upper bits of element `i`.
fn place(i: usize) -> (usize, usize, usize, usize) {
    let (half, k, l) = (i / 128, i % 128 / 32, i % 32);
    (64 * half + 32 * (k % 2) + l, 4 * (k / 2), UPPER + 32 * half + l, 2 * k)
}

pub fn decode(bytes: &[u8], out: &mut [f32]) {
    for (out, block) in out.chunks_exact_mut(BLOCK).zip(bytes.chunks_exact(BYTES)) {
        let d = half(&block[D..]);
        for (i, out) in out.iter_mut().enumerate() {
            let (low, shift, high, shift2) = place(i);
            let q = block[low] >> shift & 15 | (block[high] >> shift2 & 3) << 4;
            *out = d * f32::from(block[SCALES + i / GROUP] as i8) * (f32::from(q) - 32.0);
        }
    }
}

pub fn encode(values: &[f32], out: &mut [u8]) {
    for (values, block) in values.chunks_exact(BLOCK).zip(out.chunks_exact_mut(BYTES)) {
        block.fill(0);
        let x: [[f32; GROUP]; GROUPS] = std::array::from_fn(|g| std::array::from_fn(|i| values[g * GROUP + i]));
        let weight = x.each_ref().map(importance);
        let fits: [f32; GROUPS] = std::array::from_fn(|g| symmetric(&x[g], &weight[g], -32.0, 31.0));
        // The largest scale becomes -128, so that all eight bits are used.
        let most = fits.iter().copied().fold(0.0f32, |m, s| if s.abs() > m.abs() { s } else { m });
        let d = put_unit(&mut block[D..], most / -128.0);
        for g in 0..GROUPS {
            let ideal = fits[g] * inverse(d);
            let mut best = (f32::INFINITY, 0.0);
            for step in [0.0, -1.0, 1.0] {
                let s = nearest((ideal + step).clamp(-128.0, 127.0));
                let found = error(&x[g], &weight[g], d * s);
                if found < best.0 {
                    best = (found, s);
                }
            }
            block[SCALES + g] = best.1 as i8 as u8;
            let inverse = inverse(d * best.1);
            for (i, x) in x[g].iter().enumerate() {
                let q = (integer(x * inverse) + 32.0) as u8;
                let (low, shift, high, shift2) = place(g * GROUP + i);
                block[low] |= (q & 15) << shift;
                block[high] |= q >> 4 << shift2;
            }
        }
    }
}

fn integer(v: f32) -> f32 {
    nearest(v.clamp(-32.0, 31.0))
}

fn error(x: &[f32; GROUP], weight: &[f32; GROUP], scale: f32) -> f32 {
    let inverse = inverse(scale);
    x.iter().zip(weight).map(|(x, w)| w * (x - scale * integer(x * inverse)).powi(2)).sum()
}
