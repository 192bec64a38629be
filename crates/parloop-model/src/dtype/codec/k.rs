//! Q4_K and Q5_K: 8 groups of 32 with `x = d s q - dmin m`, s and m of 6 bits (`dequantize_row_q4_K` and
//! `dequantize_row_q5_K` in ggml-quants.c).
//!
//! Layout: d, dmin (f16), 12 bytes of s and m, for Q5_K 32 bytes of fifth bits (bit g of byte i: element i of group g),
//! then for each pair of groups 32 bytes whose lower nibbles hold the first group and upper ones the second.

use super::search::{Affine, affine, error, importance, inverse, nearest, round_to};
use super::{half, put_unit};

const BLOCK: usize = 256;
const GROUP: usize = 32;
const GROUPS: usize = 8;
/// Bytes before the fifth bits or nibbles.
const HEAD: usize = 16;
/// The largest s and m.
const MOST: f32 = 63.0;

const fn size(bits: u32) -> usize {
    HEAD + BLOCK / 2 + if bits == 5 { GROUP } else { 0 }
}

/// s and m of the 8 groups. The first four have six bits in bytes 0 to 3 and 4 to 7; the upper two bits of those bytes
/// and bytes 8 to 11 hold the others (`get_scale_min_k4`).
fn unpack(bytes: &[u8]) -> [(u8, u8); GROUPS] {
    std::array::from_fn(|g| match g {
        0..4 => (bytes[g] & 63, bytes[g + 4] & 63),
        _ => (bytes[g + 4] & 15 | bytes[g - 4] >> 6 << 4, bytes[g + 4] >> 4 | bytes[g] >> 6 << 4),
    })
}

fn pack(scales: &[(u8, u8); GROUPS], bytes: &mut [u8]) {
    for g in 0..4 {
        let ((s, m), (s4, m4)) = (scales[g], scales[g + 4]);
        bytes[g] = s | s4 >> 4 << 6;
        bytes[g + 4] = m | m4 >> 4 << 6;
        bytes[g + 8] = s4 & 15 | m4 << 4;
    }
}

pub fn decode<const BITS: u32>(bytes: &[u8], out: &mut [f32]) {
    for (out, block) in out.chunks_exact_mut(BLOCK).zip(bytes.chunks_exact(size(BITS))) {
        let (d, dmin) = (half(block), half(&block[2..]));
        let (fifth, nibbles) = block[HEAD..].split_at(if BITS == 5 { GROUP } else { 0 });
        for (g, (s, m)) in unpack(&block[4..HEAD]).into_iter().enumerate() {
            let (scale, min) = (d * f32::from(s), dmin * f32::from(m));
            for (i, out) in out[g * GROUP..][..GROUP].iter_mut().enumerate() {
                let mut q = nibbles[g / 2 * GROUP + i] >> (4 * (g % 2)) & 15;
                if BITS == 5 {
                    q |= (fifth[i] >> g & 1) << 4;
                }
                *out = scale * f32::from(q) - min;
            }
        }
    }
}

pub fn encode<const BITS: u32>(values: &[f32], out: &mut [u8]) {
    let top = ((1 << BITS) - 1) as f32;
    for (values, block) in values.chunks_exact(BLOCK).zip(out.chunks_exact_mut(size(BITS))) {
        let x: [[f32; GROUP]; GROUPS] = std::array::from_fn(|g| std::array::from_fn(|i| values[g * GROUP + i]));
        let (d, dmin, scales) = scales(&x, top, block);
        pack(&scales, &mut block[4..HEAD]);
        let q: [[u8; GROUP]; GROUPS] = std::array::from_fn(|g| round_to(&x[g], group(d, dmin, scales[g]), top));
        let (fifth, nibbles) = block[HEAD..].split_at_mut(if BITS == 5 { GROUP } else { 0 });
        for (i, byte) in fifth.iter_mut().enumerate() {
            *byte = (0..GROUPS).fold(0, |bits, g| bits | q[g][i] >> 4 << g);
        }
        for (at, byte) in nibbles.iter_mut().enumerate() {
            let (pair, i) = (at / GROUP, at % GROUP);
            *byte = q[2 * pair][i] & 15 | q[2 * pair + 1][i] << 4;
        }
    }
}

fn group(d: f32, dmin: f32, (s, m): (u8, u8)) -> Affine {
    Affine { scale: d * f32::from(s), min: -dmin * f32::from(m) }
}

/// Chooses d and dmin, stores them, and chooses each group's s and m: the best fit of the group alone, then the best
/// of its neighbours among the pairs that can be stored.
fn scales(x: &[[f32; GROUP]; GROUPS], top: f32, block: &mut [u8]) -> (f32, f32, [(u8, u8); GROUPS]) {
    let weight = x.each_ref().map(importance);
    let fits: [Affine; GROUPS] = std::array::from_fn(|g| affine(&x[g], &weight[g], top, true));
    let d = put_unit(block, fits.iter().fold(0.0f32, |m, f| m.max(f.scale)) / MOST);
    let dmin = put_unit(&mut block[2..], fits.iter().fold(0.0f32, |m, f| m.max(-f.min)) / MOST);
    let near = |v: f32, step: i32| nearest((v + step as f32).clamp(0.0, MOST)) as u8;
    let scales = std::array::from_fn(|g| {
        let (s, m) = (fits[g].scale * inverse(d), -fits[g].min * inverse(dmin));
        let mut best = (f32::INFINITY, (0, 0));
        for step in 0..9 {
            let pair = (near(s, step / 3 - 1), near(m, step % 3 - 1));
            let found = error(&x[g], &weight[g], group(d, dmin, pair), top);
            if found < best.0 {
                best = (found, pair);
            }
        }
        best.1
    });
    (d, dmin, scales)
}
