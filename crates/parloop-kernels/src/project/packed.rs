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
    unsafe fn tile<S: Simd>(task: &Task<'_>, weights: &Weights, first: usize, _: usize, out: &mut Results) {
        // SAFETY: the caller's promise.
        unsafe {
            match weights.kind().bits() {
                Some(Bits::Eight) => tile::<S, true>(task, weights, first, out),
                _ => tile::<S, false>(task, weights, first, out),
            }
        }
    }
}

/// Parts of a tile that are read side by side, each summed by itself: the hardware fetches several streams sooner than
/// one, because it follows each only to the end of its page.
const STREAMS: usize = 2;

/// How far ahead of its use a stream of weights is fetched, in bytes.
const AHEAD: usize = 3 << 10;

#[inline(always)]
unsafe fn tile<S: Simd, const EIGHT: bool>(task: &Task<'_>, weights: &Weights, first: usize, out: &mut Results) {
    let bytes = TILE * weights.kind().row_bytes(weights.inputs());
    let packed = &weights.data()[first / TILE * bytes..][..bytes];
    let n = task.rows.len();
    // Registers: one or two sums a row (16 lanes), and the unpacked block.
    let most = if S::LANES == 16 { 8 } else { 2 };
    let size = n.div_ceil(n.div_ceil(most));
    let mut r = 0;
    while r < n {
        let block = size.min(n - r);
        let input = task.input.skip_rows(task.rows.start + r);
        let to = &mut out[r * TILE..];
        // SAFETY: `packed` is a whole tile; `input` and `to` have room for `block` rows.
        unsafe {
            match block {
                1 => rows::<S, EIGHT, 1>(packed, input, to),
                2 => rows::<S, EIGHT, 2>(packed, input, to),
                3 => rows::<S, EIGHT, 3>(packed, input, to),
                4 => rows::<S, EIGHT, 4>(packed, input, to),
                5 => rows::<S, EIGHT, 5>(packed, input, to),
                6 => rows::<S, EIGHT, 6>(packed, input, to),
                7 => rows::<S, EIGHT, 7>(packed, input, to),
                _ => rows::<S, EIGHT, 8>(packed, input, to),
            }
        }
        r += block;
    }
}

/// Sixteen outputs for R rows.
#[inline(always)]
unsafe fn rows<S: Simd, const EIGHT: bool, const R: usize>(packed: &[u8], input: Input, out: &mut [MaybeUninit<f32>]) {
    const GROUPS: usize = BLOCK / GROUP;
    let bits = if EIGHT { Bits::Eight } else { Bits::Four };
    let offset = if EIGHT { S::Q8_OFFSET } else { 8 };
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
                    let values = at.add(SCALES + half * bits.block_bytes());
                    for h in 0..TILE / S::LANES {
                        // Outputs of this half of the tile (of the whole tile, with 16 lanes).
                        let lanes = h * S::LANES * GROUP;
                        let mut w = [S::splat_int(0); GROUPS];
                        if EIGHT {
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
                        let scales = S::load_f16(at.add(2 * (half * TILE + h * S::LANES)).cast());
                        for r in 0..R {
                            let [scale, sum] = *input.blocks.add(r * per_row + b);
                            let row = x.add(r * input.stride);
                            let mut dot = S::splat_int(-offset * sum.to_bits() as i32);
                            for j in 0..GROUPS {
                                let x = S::splat_int(row.add(j * GROUP).cast::<i32>().read_unaligned());
                                dot = if EIGHT { S::dot_q8(dot, w[j], x) } else { S::dot_q4(dot, w[j], x) };
                            }
                            let scale = S::mul(scales, S::splat(scale));
                            acc[stream][h][r] = S::fma(S::to_float(dot), scale, acc[stream][h][r]);
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
