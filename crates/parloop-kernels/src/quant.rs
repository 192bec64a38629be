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

mod search;

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

/// Quantises a block; the same on every instruction set, so the portable one serves.
pub fn quantize(bits: Bits, x: &[f32; BLOCK]) -> Quants {
    let (mut lanes, mut block) = ([[0.0; OUTPUTS]; BLOCK], search::Block::ZERO);
    lanes.iter_mut().zip(x).for_each(|(lanes, x)| lanes[0] = *x);
    // SAFETY: available everywhere.
    unsafe { search::quantize(Isa::PORTABLE, bits, &lanes, &mut block) };
    Quants {
        scale: f16::from_f32(block.scales[0]),
        min: f16::from_f32(block.minima[0]),
        values: block.values.map(|v| v[0] as i8),
    }
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

/// Packs 16 outputs (`rows`, fewer at the end of a matrix) of `inputs` weights each into `out`.
///
/// # Safety
/// `isa` must be available on this machine.
pub(crate) unsafe fn pack(isa: Isa, bits: Bits, rows: &[&[f32]], inputs: usize, out: &mut [u8]) {
    let (mut x, mut block) = ([[0.0; OUTPUTS]; BLOCK], search::Block::ZERO);
    each_block(bits, inputs, out, |first, out| {
        for (o, row) in rows.iter().enumerate() {
            for (x, row) in x.iter_mut().zip(&row[first..first + BLOCK]) {
                x[o] = *row;
            }
        }
        // SAFETY: the caller's promise.
        unsafe {
            search::quantize(isa, bits, &x, &mut block);
            write_block(isa, bits, &block, out);
        }
    });
}

/// Packs 16 outputs (fewer at the end of a matrix) whose blocks are already quantised: `block(o, b)` gives block `b` of
/// output `o`.
///
/// # Safety
/// `isa` must be available on this machine.
pub(crate) unsafe fn pack_blocks(
    isa: Isa,
    bits: Bits,
    outputs: usize,
    inputs: usize,
    out: &mut [u8],
    quants: impl Fn(usize, usize) -> Quants,
) {
    let mut block = search::Block::ZERO;
    each_block(bits, inputs, out, |first, out| {
        for o in 0..outputs {
            let Quants { scale, min, values } = quants(o, first / BLOCK);
            (block.scales[o], block.minima[o]) = (scale.to_f32(), min.to_f32());
            block.values.iter_mut().zip(values).for_each(|(to, v)| to[o] = f32::from(v));
        }
        // SAFETY: the caller's promise.
        unsafe { write_block(isa, bits, &block, out) };
    });
}

/// Where a block of 16 outputs goes: its superblock, and which half of it.
struct Place<'a> {
    superblock: &'a mut [u8],
    half: usize,
}

/// Calls `write` with the first input and the place of every block; padding becomes zero weights.
fn each_block(bits: Bits, inputs: usize, out: &mut [u8], mut write: impl FnMut(usize, Place<'_>)) {
    for (s, superblock) in out.chunks_exact_mut(bits.super_bytes()).enumerate() {
        if (s + 1) * SUPER > inputs {
            let (header, values) = superblock.split_at_mut(bits.header());
            header.fill(0);
            // Zero weights, not zero bytes.
            values.fill(match bits {
                Bits::Eight => 128,
                Bits::Four => 0x88,
                Bits::FourMin => 0,
            });
        }
        for half in 0..2 {
            let first = s * SUPER + half * BLOCK;
            if first < inputs {
                write(first, Place { superblock: &mut *superblock, half });
            }
        }
    }
}

kernel! {
    /// Packs a quantised block of 16 outputs.
    fn write_block(bits: Bits, block: &search::Block, out: Place<'_>) = write_block_generic
}

// Plain code: what the kernel adds is the compiler's leave to use the instruction set.
#[allow(clippy::extra_unused_type_parameters)]
#[inline(always)]
unsafe fn write_block_generic<S: Simd>(bits: Bits, block: &search::Block, out: Place<'_>) {
    let (header, values) = out.superblock.split_at_mut(bits.header());
    for (at, numbers) in [(0, &block.scales), (SCALES, &block.minima)] {
        if at == 0 || bits.has_min() {
            let to = header[at + out.half * 2 * OUTPUTS..][..2 * OUTPUTS].chunks_exact_mut(2);
            to.zip(numbers).for_each(|(to, x)| to.copy_from_slice(&f16::from_f32(*x).to_le_bytes()));
        }
    }
    // Four inputs of each output side by side, with the offset: a group.
    let mut groups = [[0u32; OUTPUTS]; BLOCK / GROUP];
    for (g, group) in groups.iter_mut().enumerate() {
        for j in 0..GROUP {
            let inputs = &block.values[g * GROUP + j];
            for o in 0..OUTPUTS {
                group[o] |= ((inputs[o] as i32 + bits.offset()) as u32 & 0xFF) << (8 * j);
            }
        }
    }
    let lines = values[out.half * bits.block_bytes()..][..bits.block_bytes()].chunks_exact_mut(4 * OUTPUTS);
    for (g, line) in lines.enumerate() {
        for (o, to) in line.chunks_exact_mut(4).enumerate() {
            let word = match bits {
                Bits::Eight => groups[g][o],
                Bits::Four | Bits::FourMin => groups[g][o] | groups[g + 4][o] << 4,
            };
            to.copy_from_slice(&word.to_le_bytes());
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
                // SAFETY: available everywhere.
                unsafe { pack(Isa::PORTABLE, bits, &refs, inputs, &mut packed) };
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
