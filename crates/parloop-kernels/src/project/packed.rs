//! Products with quantised weights ([`crate::quant`]): integer dot products of blocks, scaled and summed in f32.
//!
//! A vector holds four inputs of each of 16 outputs, so a lane is an output and sums up its blocks in order, whatever
//! the other rows. The weights of a block are loaded and unpacked once for all rows of the tile.

use super::dense::{self, Input, Results, TILE, Task, Tiles};
use crate::isa::kernel;
use crate::quant::{self, BLOCK, Bits, GROUP, SCALES};
use crate::simd::Simd;
use crate::weights::Weights;
use std::mem::MaybeUninit;

kernel! {
    /// Computes a task.
    pub(super) fn run(task: &Task<'_>) = run_generic
}

#[inline(always)]
unsafe fn run_generic<S: Simd>(task: &Task<'_>) {
    // SAFETY: the caller's promise.
    unsafe { dense::each_tile::<S, Packed>(task) }
}

struct Packed;

impl Tiles for Packed {
    #[inline(always)]
    fn abreast<S: Simd>() -> usize {
        if paired::<S>() { 2 } else { 1 }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd>(task: &Task<'_>, weights: &Weights, first: usize, count: usize, out: &mut Results) {
        // SAFETY: the caller's promise.
        unsafe {
            match weights.kind().bits() {
                Some(Bits::Eight) => tiles::<S, EIGHT>(task, weights, first, count, out),
                Some(Bits::FourMin) => tiles::<S, FOUR_MIN>(task, weights, first, count, out),
                _ => tiles::<S, FOUR>(task, weights, first, count, out),
            }
        }
    }
}

/// The types of weights, as numbers that functions can be made for.
const EIGHT: u8 = 0;
const FOUR: u8 = 1;
const FOUR_MIN: u8 = 2;

/// The type with a number.
#[inline(always)]
const fn bits(kind: u8) -> Bits {
    match kind {
        EIGHT => Bits::Eight,
        FOUR_MIN => Bits::FourMin,
        _ => Bits::Four,
    }
}

/// Whether two tiles are computed side by side, so that an input broadcast serves both: 16 lanes mean 32 registers.
#[inline(always)]
fn paired<S: Simd>() -> bool {
    S::LANES == 16
}

/// Parts of a single tile that are read side by side, each summed by itself, where tiles are not paired: the hardware
/// fetches several streams sooner than one, because it follows each only to the end of its page.
const STREAMS: usize = 2;

/// How far ahead of its use a stream of weights is fetched, in bytes.
const AHEAD: usize = 3 << 10;

#[inline(always)]
unsafe fn tiles<S: Simd, const KIND: u8>(
    task: &Task<'_>,
    weights: &Weights,
    first: usize,
    count: usize,
    out: &mut Results,
) {
    let bytes = TILE * weights.kind().row_bytes(weights.inputs());
    let data = &weights.data()[first / TILE * bytes..][..count.div_ceil(TILE) * bytes];
    let (packed, other) = data.split_at(bytes);
    let n = task.rows.len();
    // Registers: the sums of each row, and the unpacked block (of two tiles where they are paired).
    let most = if paired::<S>() { 4 } else { 2 };
    let size = n.div_ceil(n.div_ceil(most));
    let mut r = 0;
    while r < n {
        let block = size.min(n - r);
        let input = task.input.skip_rows(task.rows.start + r);
        // SAFETY: `packed` and `other` are whole tiles; `input` and the results have room for `block` rows.
        unsafe {
            if !paired::<S>() {
                let to = &mut out[r * TILE..];
                match block {
                    1 => rows::<S, KIND, 1>(packed, input, to),
                    _ => rows::<S, KIND, 2>(packed, input, to),
                }
            } else {
                // A tile without a neighbour is its own: the second result is not looked at.
                let pair = [packed, if other.is_empty() { packed } else { other }];
                let (to, second) = out.split_at_mut(n * TILE);
                let to = [&mut to[r * TILE..], &mut second[r * TILE..]];
                match block {
                    1 => pairs::<S, KIND, 1>(pair, input, to),
                    2 => pairs::<S, KIND, 2>(pair, input, to),
                    3 => pairs::<S, KIND, 3>(pair, input, to),
                    _ => pairs::<S, KIND, 4>(pair, input, to),
                }
            }
        }
        r += block;
    }
}

/// The sum of a block of inputs: what a minimum is multiplied with.
#[inline(always)]
pub(super) fn block_sum(scale: f32, sum: f32) -> f32 {
    scale * (sum.to_bits() as i32 as f32)
}

/// Two tiles for R rows, with 16 lanes.
#[inline(always)]
unsafe fn pairs<S: Simd, const KIND: u8, const R: usize>(
    packed: [&[u8]; 2],
    input: Input,
    out: [&mut [MaybeUninit<f32>]; 2],
) {
    const GROUPS: usize = BLOCK / GROUP;
    let bits = bits(KIND);
    let offset = if KIND == EIGHT { S::Q8_OFFSET } else { bits.offset() };
    let per_row = input.stride / BLOCK;
    // SAFETY: as in `rows`.
    unsafe {
        let mut acc = [[S::zero(); R]; 2];
        for s in 0..packed[0].len() / bits.super_bytes() {
            let at = [packed[0].as_ptr().add(s * bits.super_bytes()), packed[1].as_ptr().add(s * bits.super_bytes())];
            let mut line = 0;
            while line < bits.super_bytes() {
                S::prefetch(at[0].wrapping_add(AHEAD + line));
                S::prefetch(at[1].wrapping_add(AHEAD + line));
                line += 64;
            }
            for half in 0..2 {
                let b = 2 * s + half;
                let mut w = [[S::splat_int(0); GROUPS]; 2];
                let (mut scales, mut minima) = ([S::zero(); 2], [S::zero(); 2]);
                for t in 0..2 {
                    let values = at[t].add(bits.header() + half * bits.block_bytes());
                    if KIND == EIGHT {
                        for j in 0..GROUPS {
                            w[t][j] = S::load_int(values.add(j * 64));
                        }
                    } else {
                        for j in 0..GROUPS / 2 {
                            let both = S::load_int(values.add(j * 64));
                            w[t][j] = S::low_nibbles(both);
                            w[t][j + GROUPS / 2] = S::high_nibbles(both);
                        }
                    }
                    scales[t] = S::load_f16(at[t].add(2 * half * TILE).cast());
                    if bits.has_min() {
                        minima[t] = S::load_f16(at[t].add(SCALES + 2 * half * TILE).cast());
                    }
                }
                for r in 0..R {
                    let [scale, sum] = *input.blocks.add(r * per_row + b);
                    let row = input.rows.add(r * input.stride + b * BLOCK);
                    let start = S::splat_int(-offset * sum.to_bits() as i32);
                    let mut dot = [start; 2];
                    for j in 0..GROUPS {
                        let x = S::splat_int(row.add(j * GROUP).cast::<i32>().read_unaligned());
                        for t in 0..2 {
                            dot[t] = if KIND == EIGHT {
                                S::dot_q8(dot[t], w[t][j], x)
                            } else {
                                S::dot_q4(dot[t], w[t][j], x)
                            };
                        }
                    }
                    let weight = S::splat(scale);
                    for t in 0..2 {
                        acc[t][r] = S::fma(S::to_float(dot[t]), S::mul(scales[t], weight), acc[t][r]);
                        if bits.has_min() {
                            acc[t][r] = S::fma(minima[t], S::splat(block_sum(scale, sum)), acc[t][r]);
                        }
                    }
                }
            }
        }
        for (t, out) in out.into_iter().enumerate() {
            for r in 0..R {
                S::store(out[r * TILE..][..TILE].as_mut_ptr().cast(), acc[t][r]);
            }
        }
    }
}

/// Sixteen outputs for R rows.
#[inline(always)]
unsafe fn rows<S: Simd, const KIND: u8, const R: usize>(packed: &[u8], input: Input, out: &mut [MaybeUninit<f32>]) {
    const GROUPS: usize = BLOCK / GROUP;
    let bits = bits(KIND);
    let offset = if KIND == EIGHT { S::Q8_OFFSET } else { bits.offset() };
    let per_row = input.stride / BLOCK;
    // SAFETY: superblocks cover `stride` inputs, to which the rows are padded; the tile has 16 outputs.
    unsafe {
        let mut acc = [[[S::zero(); R]; 2]; STREAMS];
        let count = packed.len() / bits.super_bytes();
        let share = count.div_ceil(STREAMS);
        for s in 0..share {
            for stream in 0..STREAMS {
                let s = stream * share + s;
                if s >= count {
                    continue;
                }
                let at = packed.as_ptr().add(s * bits.super_bytes());
                let mut line = 0;
                while line < bits.super_bytes() {
                    S::prefetch(at.wrapping_add(AHEAD + line));
                    line += 64;
                }
                for half in 0..2 {
                    let b = 2 * s + half;
                    let x = input.rows.add(b * BLOCK);
                    let values = at.add(bits.header() + half * bits.block_bytes());
                    for h in 0..TILE / S::LANES {
                        // Outputs of this half of the tile (of the whole tile, with 16 lanes).
                        let lanes = h * S::LANES * GROUP;
                        let mut w = [S::splat_int(0); GROUPS];
                        if KIND == EIGHT {
                            for j in 0..GROUPS {
                                w[j] = S::load_int(values.add(j * 64 + lanes));
                            }
                        } else {
                            for j in 0..GROUPS / 2 {
                                let both = S::load_int(values.add(j * 64 + lanes));
                                w[j] = S::low_nibbles(both);
                                w[j + GROUPS / 2] = S::high_nibbles(both);
                            }
                        }
                        let place = 2 * (half * TILE + h * S::LANES);
                        let scales = S::load_f16(at.add(place).cast());
                        let minima =
                            if bits.has_min() { S::load_f16(at.add(SCALES + place).cast()) } else { S::zero() };
                        for r in 0..R {
                            let [scale, sum] = *input.blocks.add(r * per_row + b);
                            let row = x.add(r * input.stride);
                            let mut dot = S::splat_int(-offset * sum.to_bits() as i32);
                            for j in 0..GROUPS {
                                let x = S::splat_int(row.add(j * GROUP).cast::<i32>().read_unaligned());
                                dot = if KIND == EIGHT { S::dot_q8(dot, w[j], x) } else { S::dot_q4(dot, w[j], x) };
                            }
                            let product = S::mul(scales, S::splat(scale));
                            acc[stream][h][r] = S::fma(S::to_float(dot), product, acc[stream][h][r]);
                            if bits.has_min() {
                                let sum = S::splat(block_sum(scale, sum));
                                acc[stream][h][r] = S::fma(minima, sum, acc[stream][h][r]);
                            }
                        }
                    }
                }
            }
        }
        for r in 0..R {
            for h in 0..TILE / S::LANES {
                let mut sum = acc[0][h][r];
                for stream in 1..STREAMS {
                    sum = S::add(sum, acc[stream][h][r]);
                }
                S::store(out[r * TILE + h * S::LANES..][..S::LANES].as_mut_ptr().cast(), sum);
            }
        }
    }
}

const _: () = assert!(quant::OUTPUTS == TILE, "a packed tile is a tile of results");
