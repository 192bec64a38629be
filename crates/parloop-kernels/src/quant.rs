//! Weights and activations in blocks of 32 that share a scale.
//!
//! | type | values | bits a weight |
//! |---|---|---|
//! | 8-bit | -127 to 127, times an f16 scale | 8.5 |
//! | 4-bit | -8 to 7, times an f16 scale | 4.5 |
//! | 4-bit with minimum | 0 to 15, times an f16 scale, plus an f16 minimum | 5 |
//!
//! Packed for rows: 16 outputs side by side, so that one vector holds four inputs of each of 16 outputs and a product
//! needs no sum across lanes. A [`SUPER`]block covers 64 inputs of 16 outputs:
//!
//! - 64 bytes: f16 scales, `[2 blocks][16 outputs]`
//! - with minimum: 64 bytes of f16 minima, in the same order
//! - 8-bit: `[2 blocks][8 groups][16 outputs][4 inputs]` bytes, weight + 128
//! - 4-bit: `[2 blocks][4 pairs][16 outputs][4 inputs]` bytes; the lower nibble holds group j, the upper one group
//!   j + 4, weight + 8 (with minimum: the value from 0 to 15)
//!
//! Outputs are padded to 16 and inputs to 64 with zero scales and minima.

use crate::isa::{Isa, kernel};
use crate::simd::Simd;
use half::f16;

/// Inputs that share a scale.
pub const BLOCK: usize = 32;
/// Inputs of a superblock.
pub const SUPER: usize = 2 * BLOCK;
/// Outputs side by side.
pub const OUTPUTS: usize = 16;
/// Bytes of a superblock's scales.
pub const SCALES: usize = 2 * 2 * OUTPUTS;
/// Inputs of a group: the bytes of a vector lane.
pub const GROUP: usize = 4;

/// Bits of a quantised weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// 8 bits.
    Eight,
    /// 4 bits.
    Four,
    /// 4 bits and a minimum.
    FourMin,
}

/// A block of 32 quantised weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quants {
    /// What a step of a value is worth.
    pub scale: f16,
    /// What the value 0 stands for in [`Bits::FourMin`]; 0 in other types.
    pub min: f16,
    /// -127 to 127, -8 to 7, or 0 to 15.
    pub values: [i8; BLOCK],
}

impl Quants {
    /// The weights: `scale * value + min`.
    pub fn weights(&self) -> [f32; BLOCK] {
        let (scale, min) = (self.scale.to_f32(), self.min.to_f32());
        self.values.map(|q| scale * f32::from(q) + min)
    }
}

impl Bits {
    /// Bytes of a superblock.
    pub const fn super_bytes(self) -> usize {
        self.header() + self.block_bytes() * 2
    }

    /// Bytes of a superblock before its values.
    pub const fn header(self) -> usize {
        if self.has_min() { 2 * SCALES } else { SCALES }
    }

    /// Whether blocks have a minimum.
    pub const fn has_min(self) -> bool {
        matches!(self, Self::FourMin)
    }

    /// What is added to values so that they are stored without a sign.
    pub const fn offset(self) -> i32 {
        match self {
            Self::Eight => 128,
            Self::Four => 8,
            Self::FourMin => 0,
        }
    }

    /// Bytes of the values of a block of 32 inputs and 16 outputs.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::Eight => BLOCK * OUTPUTS,
            Self::Four | Self::FourMin => BLOCK * OUTPUTS / 2,
        }
    }

    /// Bytes of a packed matrix.
    pub fn packed_bytes(self, outputs: usize, inputs: usize) -> usize {
        outputs.div_ceil(OUTPUTS).saturating_mul(inputs.div_ceil(SUPER)).saturating_mul(self.super_bytes())
    }
}

/// Quantises a block.
#[inline(always)]
pub fn quantize(bits: Bits, x: &[f32; BLOCK]) -> Quants {
    match bits {
        Bits::Eight => eight(x),
        Bits::Four => four(x),
        Bits::FourMin => four_min(x),
    }
}

#[inline(always)]
fn eight(x: &[f32; BLOCK]) -> Quants {
    let scale = f16::from_f32(largest(x) / 127.0);
    Quants { scale, min: f16::ZERO, values: bytes(&steps(x, scale.to_f32(), -127.0, 127.0)) }
}

/// Tries scales around the one that just reaches the largest weight, refits each by least squares, and keeps the one
/// with the smallest squared error. The largest weight may land on either end of -8..7.
#[inline(always)]
fn four(x: &[f32; BLOCK]) -> Quants {
    let magnitude = largest(x);
    let most = if x.contains(&magnitude) { magnitude } else { -magnitude };
    let mut best = (f32::INFINITY, f16::ZERO, [0.0; BLOCK]);
    if most != 0.0 {
        for reach in [-8.8, -8.4, -8.0, -7.6, -7.2, -6.8, 7.6, 7.2, 6.8] {
            let first = most / reach;
            let q = steps(x, first, -8.0, 7.0);
            let qq = dot(&q, &q);
            let scale = f16::from_f32(if qq > 0.0 { dot(x, &q) / qq } else { first });
            let q = steps(x, scale.to_f32(), -8.0, 7.0);
            let error = squared_error(x, &q, scale.to_f32(), 0.0);
            if error < best.0 {
                best = (error, scale, q);
            }
        }
    }
    Quants { scale: best.1, min: f16::ZERO, values: bytes(&best.2) }
}

/// Tries ranges around the one that just holds all weights, refits scale and minimum of each by least squares, and keeps
/// the ones with the smallest squared error.
#[inline(always)]
fn four_min(x: &[f32; BLOCK]) -> Quants {
    let (mut low, mut high) = (x[0], x[0]);
    for v in x {
        (low, high) = (low.min(*v), high.max(*v));
    }
    let mut best = (f32::INFINITY, f16::ZERO, f16::ZERO, [0.0; BLOCK]);
    for (cut_low, cut_high) in [(0.0, 0.0), (0.02, 0.02), (0.04, 0.0), (0.0, 0.04), (0.05, 0.05), (-0.02, -0.02)] {
        let (from, to) = (low + cut_low * (high - low), high - cut_high * (high - low));
        let (mut scale, mut min) = ((to - from) / 15.0, from);
        for refit in [false, true] {
            let (d, m) = (f16::from_f32(scale), f16::from_f32(min));
            let mut above = *x;
            above.iter_mut().for_each(|v| *v -= m.to_f32());
            let q = steps(&above, d.to_f32(), 0.0, 15.0);
            let error = squared_error(x, &q, d.to_f32(), m.to_f32());
            if error < best.0 {
                best = (error, d, m, q);
            }
            if !refit {
                // Least squares of x = scale q + min.
                let ones = [1.0; BLOCK];
                let (n, q1, x1) = (BLOCK as f32, dot(&q, &ones), dot(x, &ones));
                let spread = n * dot(&q, &q) - q1 * q1;
                if spread > 0.0 {
                    scale = (n * dot(x, &q) - q1 * x1) / spread;
                    min = (x1 - scale * q1) / n;
                }
            }
        }
    }
    Quants { scale: best.1, min: best.2, values: bytes(&best.3) }
}

/// `x / scale`, rounded to whole numbers from `low` to `high`.
#[inline(always)]
fn steps(x: &[f32; BLOCK], scale: f32, low: f32, high: f32) -> [f32; BLOCK] {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut out = [0.0; BLOCK];
    for i in 0..BLOCK {
        // Rounds to nearest even by adding 1.5 * 2^23: unlike `round_ties_even`, this is vectorised everywhere.
        out[i] = ((x[i] * inverse).clamp(low, high) + 12_582_912.0) - 12_582_912.0;
    }
    out
}

/// Whole numbers as bytes.
#[inline(always)]
fn bytes(steps: &[f32; BLOCK]) -> [i8; BLOCK] {
    let mut out = [0; BLOCK];
    for i in 0..BLOCK {
        out[i] = steps[i] as i8;
    }
    out
}

/// The sum of products, half added to half: the same on every instruction set, and in whole vectors. (No closures: they
/// would not take on the instruction set.)
#[inline(always)]
fn dot(a: &[f32; BLOCK], b: &[f32; BLOCK]) -> f32 {
    let mut products = *a;
    for i in 0..BLOCK {
        products[i] *= b[i];
    }
    let mut n = BLOCK;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            products[i] += products[n + i];
        }
    }
    products[0]
}

/// `sum of (x - scale q - min)^2`
#[inline(always)]
fn squared_error(x: &[f32; BLOCK], q: &[f32; BLOCK], scale: f32, min: f32) -> f32 {
    let mut rest = *x;
    for i in 0..BLOCK {
        rest[i] -= scale * q[i] + min;
    }
    dot(&rest, &rest)
}

/// The largest magnitude of a block.
#[inline(always)]
fn largest(x: &[f32; BLOCK]) -> f32 {
    let mut magnitudes = *x;
    for v in &mut magnitudes {
        *v = v.abs();
    }
    let mut n = BLOCK;
    while n > 1 {
        n /= 2;
        for i in 0..n {
            magnitudes[i] = if magnitudes[i] > magnitudes[n + i] { magnitudes[i] } else { magnitudes[n + i] };
        }
    }
    magnitudes[0]
}

kernel! {
    /// Quantises the blocks of a row.
    fn quantize_blocks(bits: Bits, x: &[f32], out: &mut [Quants]) = quantize_blocks_generic
}

// Plain code: what the kernel adds is the compiler's leave to use the instruction set.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn quantize_blocks_generic<S: Simd>(bits: Bits, x: &[f32], out: &mut [Quants]) {
    for (x, out) in x.as_chunks::<BLOCK>().0.iter().zip(out) {
        *out = quantize(bits, x);
    }
}

/// Packs 16 outputs (`rows`, fewer at the end of a matrix) of `inputs` weights each into `out`.
pub fn pack(bits: Bits, rows: &[&[f32]], inputs: usize, out: &mut [u8]) {
    let count = inputs / BLOCK;
    let mut blocks = vec![Quants { scale: f16::ZERO, min: f16::ZERO, values: [0; BLOCK] }; rows.len() * count];
    // The search is plain arithmetic: every instruction set finds the same.
    let isa = Isa::chosen().unwrap_or(Isa::Portable);
    for (row, out) in rows.iter().zip(blocks.chunks_exact_mut(count.max(1))) {
        // SAFETY: the chosen instruction set is available.
        unsafe { quantize_blocks(isa, bits, row, out) };
    }
    pack_blocks(bits, rows.len(), inputs, out, |o, b| blocks[o * count + b]);
}

/// Packs 16 outputs (fewer at the end of a matrix) whose blocks are already quantised: `block(o, b)` gives block `b` of
/// output `o`.
pub fn pack_blocks(bits: Bits, outputs: usize, inputs: usize, out: &mut [u8], block: impl Fn(usize, usize) -> Quants) {
    for (s, out) in out.chunks_exact_mut(bits.super_bytes()).enumerate() {
        out.fill(0);
        let (header, values) = out.split_at_mut(bits.header());
        // Padding must hold zero weights, not zero bytes.
        values.fill(match bits {
            Bits::Eight => 128,
            Bits::Four => 0x88,
            Bits::FourMin => 0,
        });
        for b in 0..2 {
            let first = s * SUPER + b * BLOCK;
            if first >= inputs {
                continue;
            }
            for o in 0..outputs {
                let quants = block(o, first / BLOCK);
                let place = 2 * (b * OUTPUTS + o);
                header[place..][..2].copy_from_slice(&quants.scale.to_le_bytes());
                if bits.has_min() {
                    header[SCALES + place..][..2].copy_from_slice(&quants.min.to_le_bytes());
                }
                let values = &mut values[b * bits.block_bytes()..];
                for (i, q) in quants.values.into_iter().enumerate() {
                    let (group, at) = (i / GROUP, o * GROUP + i % GROUP);
                    let q = (i32::from(q) + bits.offset()) as u8;
                    match bits {
                        Bits::Eight => values[group * 64 + at] = q,
                        Bits::Four | Bits::FourMin => {
                            let shift = if group < 4 { 0 } else { 4 };
                            let byte = &mut values[group % 4 * 64 + at];
                            *byte = *byte & !(0xF << shift) | q << shift;
                        }
                    }
                }
            }
        }
    }
}

/// Reads one output's weights back: `tile` is the packed tile that holds it, `o` its place in it.
pub fn unpack(bits: Bits, tile: &[u8], o: usize, out: &mut [f32]) {
    for (s, from) in tile.chunks_exact(bits.super_bytes()).enumerate() {
        let (header, values) = from.split_at(bits.header());
        for b in 0..2 {
            let half = |at: usize| f16::from_le_bytes([header[at], header[at + 1]]).to_f32();
            let place = 2 * (b * OUTPUTS + o);
            let (scale, min) = (half(place), if bits.has_min() { half(SCALES + place) } else { 0.0 });
            let values = &values[b * bits.block_bytes()..];
            for (i, out) in out.iter_mut().skip(s * SUPER + b * BLOCK).take(BLOCK).enumerate() {
                let (group, at) = (i / GROUP, o * GROUP + i % GROUP);
                let q = match bits {
                    Bits::Eight => values[group * 64 + at],
                    Bits::Four | Bits::FourMin => values[group % 4 * 64 + at] >> (group / 4 * 4) & 0xF,
                };
                *out = scale * (i32::from(q) - bits.offset()) as f32 + min;
            }
        }
    }
}

/// A row of activations in 8 bits.
///
/// `values` holds `[padded inputs]` signed bytes; `blocks` holds for each block the scale (f32) and the sum of the
/// block's values (i32 bits), because weights are stored with an offset.
#[inline(always)]
pub fn quantize_row(x: &[f32], values: &mut [i8], blocks: &mut [[f32; 2]]) {
    for (b, block) in blocks.iter_mut().enumerate() {
        let mut padded = [0.0; BLOCK];
        let from = x.get(b * BLOCK..).unwrap_or_default();
        let n = from.len().min(BLOCK);
        padded[..n].copy_from_slice(&from[..n]);
        let scale = largest(&padded) / 127.0;
        let quants = bytes(&steps(&padded, scale, -127.0, 127.0));
        values[b * BLOCK..][..BLOCK].copy_from_slice(&quants);
        let sum: i32 = quants.iter().map(|q| i32::from(*q)).sum();
        *block = [scale, f32::from_bits(sum as u32)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Bits; 3] = [Bits::Eight, Bits::Four, Bits::FourMin];

    fn sample(seed: u32) -> [f32; BLOCK] {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        std::array::from_fn(|_| {
            let mut sum = 0.0;
            for _ in 0..6 {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                sum += state as f32 / u32::MAX as f32 - 0.5;
            }
            sum * 0.05
        })
    }

    #[test]
    fn errors_stay_below_half_a_step_and_the_search_beats_plain_rounding() {
        let (mut searched, mut plain, mut minimum) = (0.0, 0.0, 0.0);
        for seed in 0..500 {
            let x = sample(seed);
            let most = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let Quants { scale, values: q, .. } = quantize(Bits::Eight, &x);
            for (x, q) in x.iter().zip(q) {
                // Half a step, and the rounding of the scale to f16 at the far end.
                let bound = scale.to_f32() * 0.5 + most * 6e-4;
                assert!((x - scale.to_f32() * f32::from(q)).abs() <= bound);
            }
            let Quants { scale, values: q, .. } = quantize(Bits::Four, &x);
            let with_min: f32 = x.iter().zip(quantize(Bits::FourMin, &x).weights()).map(|(x, w)| (x - w).powi(2)).sum();
            minimum += with_min;
            let error = |scale: f32, q: [i8; BLOCK]| -> f32 {
                x.iter().zip(q).map(|(x, q)| (x - scale * f32::from(q)).powi(2)).sum()
            };
            searched += error(scale.to_f32(), q);
            let most = x.iter().copied().fold(0.0f32, |m, v| if v.abs() > m.abs() { v } else { m });
            plain += error(most / -8.0, bytes(&steps(&x, most / -8.0, -8.0, 7.0)));
            for (x, q) in x.iter().zip(q) {
                assert!((x - scale.to_f32() * f32::from(q)).abs() <= most.abs() / 7.0, "4-bit bound");
            }
        }
        assert!(searched < 0.9 * plain, "search {searched}, plain rounding {plain}");
        assert!(minimum < 0.95 * searched, "with minimum {minimum}, without {searched}");
    }

    #[test]
    fn zeros_and_extremes_survive() {
        for bits in ALL {
            assert_eq!(quantize(bits, &[0.0; BLOCK]).weights(), [0.0; BLOCK]);
            let mut x = [0.0; BLOCK];
            x[3] = -1e3;
            assert!((quantize(bits, &x).weights()[3] + 1e3).abs() < 1.0);
            assert!(quantize(bits, &[2.5; BLOCK]).weights().iter().all(|w| (w - 2.5).abs() < 0.01));
        }
    }

    #[test]
    fn packing_and_unpacking_return_the_quantised_weights() {
        for bits in ALL {
            for (outputs, inputs) in [(16, 64), (3, 96), (16, 32)] {
                let rows: Vec<Vec<f32>> = (0..outputs)
                    .map(|o| (0..inputs / BLOCK).flat_map(|b| sample((o * 31 + b) as u32)).collect())
                    .collect();
                let refs: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
                let mut packed = vec![0; bits.packed_bytes(outputs, inputs)];
                pack(bits, &refs, inputs, &mut packed);
                for (o, row) in rows.iter().enumerate() {
                    let mut out = vec![f32::NAN; inputs];
                    unpack(bits, &packed, o, &mut out);
                    for (x, out) in row.chunks_exact(BLOCK).zip(out.chunks_exact(BLOCK)) {
                        assert_eq!(out, quantize(bits, x.try_into().unwrap()).weights());
                    }
                }
            }
        }
    }
}
