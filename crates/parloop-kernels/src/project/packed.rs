//! Products with quantised weights ([`crate::quant`]): integer dot products of blocks, scaled and summed in f32.
//!
//! A vector holds four inputs of each of 16 outputs, so a lane is an output and sums up its blocks in order, whatever
//! the other rows. The weights of a block are loaded and unpacked once for all rows of the tile.

use super::form::{Bytes, FormId};
use super::kernel::{Input, Kernel, Task};
use super::results::{self, Results, TILE, Tiles};
use crate::quant::{self, BLOCK, Bits, GROUP, SCALES};
use crate::simd::{ByteDot, Simd, Target, Work};
use crate::weights::Weights;
use std::hint::black_box;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Quantised weights of one type, with the dot products of B.
pub(super) struct Packed<B, const KIND: u8>(PhantomData<fn() -> B>);

impl<B, const KIND: u8> Packed<B, KIND> {
    pub const NEW: Self = Self(PhantomData);
}

impl<B: ByteDot, const KIND: u8> Kernel for Packed<B, KIND> {
    fn name(&self) -> &'static str {
        "integer dot products of bytes"
    }

    fn form(&self) -> FormId {
        FormId::Bytes
    }

    unsafe fn run(&self, task: &Task<'_>) {
        // SAFETY: the caller's promise.
        unsafe { B::T::compiled(Run::<B, KIND>(task, PhantomData)) }
    }

    unsafe fn peak(&self, rounds: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe { B::T::compiled(Peak::<B>(rounds, PhantomData)) };
        rounds * CHAINS * <B::T as Target>::S::LANES * 4 * 2
    }
}

struct Run<'a, 'b, B, const KIND: u8>(&'a Task<'b>, PhantomData<B>);

impl<B: ByteDot, const KIND: u8> Work for Run<'_, '_, B, KIND> {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the caller's promise.
        unsafe { results::each_tile::<Packed<B, KIND>>(self.0) }
    }
}

/// Independent chains of the peak's measurement, enough to hide an instruction's latency.
const CHAINS: usize = 12;

struct Peak<B>(usize, PhantomData<B>);

impl<B: ByteDot> Work for Peak<B> {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the caller's promise.
        unsafe {
            let (mut acc, x, w) =
                ([B::start(0); CHAINS], B::splat(black_box(0x0101_0101)), B::splat(black_box(0x0302_0100)));
            for _ in 0..self.0 {
                for a in &mut acc {
                    *a = B::dot_q4(*a, w, x);
                }
            }
            for v in acc {
                black_box(<B::T as Target>::S::reduce_add(B::to_float(v)));
            }
        }
    }
}

/// The types of weights, as numbers that functions can be made for.
pub(super) const EIGHT: u8 = 0;
pub(super) const FOUR: u8 = 1;
pub(super) const FOUR_MIN: u8 = 2;

/// The type with a number.
#[inline(always)]
pub(super) const fn bits(kind: u8) -> Bits {
    match kind {
        EIGHT => Bits::Eight,
        FOUR_MIN => Bits::FourMin,
        _ => Bits::Four,
    }
}

/// Whether two tiles are computed side by side, so that an input broadcast serves both: 16 lanes mean 32 registers.
#[inline(always)]
const fn paired<B: ByteDot>() -> bool {
    <B::T as Target>::S::LANES == 16
}

impl<B: ByteDot, const KIND: u8> Tiles for Packed<B, KIND> {
    type T = B::T;
    const ABREAST: usize = if paired::<B>() { 2 } else { 1 };

    #[inline(always)]
    unsafe fn tile(task: &Task<'_>, weights: &Weights, first: usize, count: usize, out: &mut Results) {
        // SAFETY: the caller's promise.
        unsafe { tiles::<B, KIND>(task, weights, first, count, out) }
    }
}

/// Input rows: values `pitch` bytes apart, and scale and sum of each block of 32.
#[derive(Clone, Copy)]
struct Rows {
    at: *const i8,
    pitch: usize,
    blocks: *const [f32; 2],
}

impl Rows {
    fn new(input: Input, row: usize) -> Self {
        let (at, blocks) = Bytes::row(input, row);
        Self { at, pitch: input.shape.stride, blocks }
    }
}

/// Parts of a single tile that are read side by side, each summed by itself, where tiles are not paired: the hardware
/// fetches several streams sooner than one, because it follows each only to the end of its page.
const STREAMS: usize = 2;

/// How far ahead of its use a stream of weights is fetched, in bytes.
const AHEAD: usize = 3 << 10;

#[inline(always)]
unsafe fn tiles<B: ByteDot, const KIND: u8>(
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
    let most = if paired::<B>() { 4 } else { 2 };
    let size = n.div_ceil(n.div_ceil(most));
    let mut r = 0;
    while r < n {
        let block = size.min(n - r);
        let input = Rows::new(task.input, task.input_rows().start + r);
        // SAFETY: `packed` and `other` are whole tiles; `input` and the results have room for `block` rows.
        unsafe {
            if !paired::<B>() {
                let to = &mut out[r * TILE..];
                match block {
                    1 => rows::<B, KIND, 1>(packed, input, to),
                    _ => rows::<B, KIND, 2>(packed, input, to),
                }
            } else {
                // A tile without a neighbour is its own: the second result is not looked at.
                let pair = [packed, if other.is_empty() { packed } else { other }];
                let (to, second) = out.split_at_mut(n * TILE);
                let to = [&mut to[r * TILE..], &mut second[r * TILE..]];
                match block {
                    1 => pairs::<B, KIND, 1>(pair, input, to),
                    2 => pairs::<B, KIND, 2>(pair, input, to),
                    3 => pairs::<B, KIND, 3>(pair, input, to),
                    _ => pairs::<B, KIND, 4>(pair, input, to),
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
unsafe fn pairs<B: ByteDot, const KIND: u8, const R: usize>(
    packed: [&[u8]; 2],
    input: Rows,
    out: [&mut [MaybeUninit<f32>]; 2],
) {
    const GROUPS: usize = BLOCK / GROUP;
    let bits = bits(KIND);
    let offset = if KIND == EIGHT { B::Q8_OFFSET } else { bits.offset() };
    let per_row = input.pitch / BLOCK;
    // SAFETY: as in `rows`.
    unsafe {
        let mut acc = [[<B::T as Target>::S::zero(); R]; 2];
        for s in 0..packed[0].len() / bits.super_bytes() {
            let at = [packed[0].as_ptr().add(s * bits.super_bytes()), packed[1].as_ptr().add(s * bits.super_bytes())];
            let mut line = 0;
            while line < bits.super_bytes() {
                <B::T as Target>::S::prefetch(at[0].wrapping_add(AHEAD + line));
                <B::T as Target>::S::prefetch(at[1].wrapping_add(AHEAD + line));
                line += 64;
            }
            for half in 0..2 {
                let b = 2 * s + half;
                let mut w = [[B::splat(0); GROUPS]; 2];
                let (mut scales, mut minima) = ([<B::T as Target>::S::zero(); 2], [<B::T as Target>::S::zero(); 2]);
                for t in 0..2 {
                    let values = at[t].add(bits.header() + half * bits.block_bytes());
                    if KIND == EIGHT {
                        for j in 0..GROUPS {
                            w[t][j] = B::load(values.add(j * 64));
                        }
                    } else {
                        for j in 0..GROUPS / 2 {
                            let both = B::load(values.add(j * 64));
                            w[t][j] = B::low_nibbles(both);
                            w[t][j + GROUPS / 2] = B::high_nibbles(both);
                        }
                    }
                    scales[t] = <B::T as Target>::S::load_f16(at[t].add(2 * half * TILE).cast());
                    if bits.has_min() {
                        minima[t] = <B::T as Target>::S::load_f16(at[t].add(SCALES + 2 * half * TILE).cast());
                    }
                }
                for r in 0..R {
                    let [scale, sum] = *input.blocks.add(r * per_row + b);
                    let row = input.at.add(r * input.pitch + b * BLOCK);
                    let start = B::start(-offset * sum.to_bits() as i32);
                    let mut dot = [start; 2];
                    for j in 0..GROUPS {
                        let x = B::splat(row.add(j * GROUP).cast::<i32>().read_unaligned());
                        for t in 0..2 {
                            dot[t] = if KIND == EIGHT {
                                B::dot_q8(dot[t], w[t][j], x)
                            } else {
                                B::dot_q4(dot[t], w[t][j], x)
                            };
                        }
                    }
                    let weight = <B::T as Target>::S::splat(scale);
                    for t in 0..2 {
                        acc[t][r] = <B::T as Target>::S::fma(
                            B::to_float(dot[t]),
                            <B::T as Target>::S::mul(scales[t], weight),
                            acc[t][r],
                        );
                        if bits.has_min() {
                            acc[t][r] = <B::T as Target>::S::fma(
                                minima[t],
                                <B::T as Target>::S::splat(block_sum(scale, sum)),
                                acc[t][r],
                            );
                        }
                    }
                }
            }
        }
        for (t, out) in out.into_iter().enumerate() {
            for r in 0..R {
                <B::T as Target>::S::store(out[r * TILE..][..TILE].as_mut_ptr().cast(), acc[t][r]);
            }
        }
    }
}

/// Sixteen outputs for R rows.
#[inline(always)]
unsafe fn rows<B: ByteDot, const KIND: u8, const R: usize>(packed: &[u8], input: Rows, out: &mut [MaybeUninit<f32>]) {
    const GROUPS: usize = BLOCK / GROUP;
    let bits = bits(KIND);
    let offset = if KIND == EIGHT { B::Q8_OFFSET } else { bits.offset() };
    let per_row = input.pitch / BLOCK;
    // SAFETY: superblocks cover `pitch` inputs, to which the rows are padded; the tile has 16 outputs.
    unsafe {
        let mut acc = [[[<B::T as Target>::S::zero(); R]; 2]; STREAMS];
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
                    <B::T as Target>::S::prefetch(at.wrapping_add(AHEAD + line));
                    line += 64;
                }
                for half in 0..2 {
                    let b = 2 * s + half;
                    let x = input.at.add(b * BLOCK);
                    let values = at.add(bits.header() + half * bits.block_bytes());
                    for h in 0..TILE / <B::T as Target>::S::LANES {
                        // Outputs of this half of the tile (of the whole tile, with 16 lanes).
                        let lanes = h * <B::T as Target>::S::LANES * GROUP;
                        let mut w = [B::splat(0); GROUPS];
                        if KIND == EIGHT {
                            for j in 0..GROUPS {
                                w[j] = B::load(values.add(j * 64 + lanes));
                            }
                        } else {
                            for j in 0..GROUPS / 2 {
                                let both = B::load(values.add(j * 64 + lanes));
                                w[j] = B::low_nibbles(both);
                                w[j + GROUPS / 2] = B::high_nibbles(both);
                            }
                        }
                        let place = 2 * (half * TILE + h * <B::T as Target>::S::LANES);
                        let scales = <B::T as Target>::S::load_f16(at.add(place).cast());
                        let minima = if bits.has_min() {
                            <B::T as Target>::S::load_f16(at.add(SCALES + place).cast())
                        } else {
                            <B::T as Target>::S::zero()
                        };
                        for r in 0..R {
                            let [scale, sum] = *input.blocks.add(r * per_row + b);
                            let row = x.add(r * input.pitch);
                            let mut dot = B::start(-offset * sum.to_bits() as i32);
                            for j in 0..GROUPS {
                                let x = B::splat(row.add(j * GROUP).cast::<i32>().read_unaligned());
                                dot = if KIND == EIGHT { B::dot_q8(dot, w[j], x) } else { B::dot_q4(dot, w[j], x) };
                            }
                            let product = <B::T as Target>::S::mul(scales, <B::T as Target>::S::splat(scale));
                            acc[stream][h][r] = <B::T as Target>::S::fma(B::to_float(dot), product, acc[stream][h][r]);
                            if bits.has_min() {
                                let sum = <B::T as Target>::S::splat(block_sum(scale, sum));
                                acc[stream][h][r] = <B::T as Target>::S::fma(minima, sum, acc[stream][h][r]);
                            }
                        }
                    }
                }
            }
        }
        for r in 0..R {
            for h in 0..TILE / <B::T as Target>::S::LANES {
                let mut sum = acc[0][h][r];
                for stream in 1..STREAMS {
                    sum = <B::T as Target>::S::add(sum, acc[stream][h][r]);
                }
                <B::T as Target>::S::store(
                    out[r * TILE + h * <B::T as Target>::S::LANES..][..<B::T as Target>::S::LANES].as_mut_ptr().cast(),
                    sum,
                );
            }
        }
    }
}

const _: () = assert!(quant::OUTPUTS == TILE, "a packed tile is a tile of results");
