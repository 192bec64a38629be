//! Products with dense weights (f32, bf16) that lie row by row.
//!
//! A dot product keeps one vector accumulator over the whole inner dimension and sums its lanes at the end, in an
//! order that depends on nothing but the width: so a result is the same in any company. Four outputs and a few rows
//! are in flight at a time, to load each weight once for all rows of the block.

use super::form::{Floats, FormId, Halves};
use super::kernel::{Input, Kernel, Task};
use super::results::{self, Results, TILE, Tiles};
use crate::simd::{HalfDot, Simd, Target, VectorOf, Work};
use crate::weights::Weights;
use std::hint::black_box;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Outputs in flight.
const LINE: usize = 4;

/// Dense weights, with the steps of D.
pub(super) struct Dense<D>(PhantomData<fn() -> D>);

impl<D> Dense<D> {
    pub const NEW: Self = Self(PhantomData);
}

impl<D: Dot> Kernel for Dense<D> {
    fn name(&self) -> &'static str {
        D::NAME
    }

    fn form(&self) -> FormId {
        D::FORM
    }

    unsafe fn run(&self, task: &Task<'_>) {
        // SAFETY: the caller's promise.
        unsafe { D::T::compiled(Run::<D>(task, PhantomData)) }
    }

    unsafe fn peak(&self, rounds: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe { D::T::compiled(Peak::<D>(rounds, PhantomData)) };
        rounds * CHAINS * D::STEP * 2
    }
}

struct Run<'a, 'b, D>(&'a Task<'b>, PhantomData<D>);

impl<D: Dot> Work for Run<'_, '_, D> {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the caller's promise.
        unsafe { results::each_tile::<Dense<D>>(self.0) }
    }
}

/// Independent chains of the peak's measurement, enough to hide an instruction's latency.
const CHAINS: usize = 12;

struct Peak<D>(usize, PhantomData<D>);

impl<D: Dot> Work for Peak<D> {
    #[inline(always)]
    unsafe fn run(self) {
        // Bits of 1 in bf16 and near it in f32; enough bytes for a step of any kernel.
        let (x, w) = (black_box([0x3F80u16; 64]), black_box([0x3F80u16; 64]));
        // SAFETY: the caller's promise; the buffers hold a step.
        unsafe {
            let mut acc = [<D::T as Target>::S::zero(); CHAINS];
            for _ in 0..self.0 {
                for a in &mut acc {
                    D::add::<1>(std::array::from_mut(a), w.as_ptr().cast(), x.as_ptr().cast(), 0);
                }
            }
            for v in acc {
                black_box(<D::T as Target>::S::reduce_add(v));
            }
        }
    }
}

/// Columns past the last output repeat it.
impl<D: Dot> Tiles for Dense<D> {
    type T = D::T;

    #[inline(always)]
    unsafe fn tile(task: &Task<'_>, weights: &Weights, first: usize, count: usize, out: &mut Results) {
        let first_row = task.input_rows().start;
        let row_bytes = weights.kind().row_bytes(weights.inputs());
        let data = weights.data();
        for line in 0..TILE / LINE {
            let mut w = [std::ptr::null::<u8>(); LINE];
            for (i, w) in w.iter_mut().enumerate() {
                let output = first + (line * LINE + i).min(count - 1);
                *w = data[output * row_bytes..(output + 1) * row_bytes].as_ptr();
            }
            if line * LINE >= count {
                // The whole line is past the end: the columns are never read, but must hold something.
                for r in 0..task.rows.len() {
                    out[r * TILE + line * LINE..][..LINE].fill(MaybeUninit::new(0.0));
                }
                continue;
            }
            let n = task.rows.len();
            // Even blocks: 8 rows go as 4 + 4, not as 6 + 2.
            let wide = <D::T as Target>::S::LANES == 16;
            let most = if wide { 6 } else { 3 };
            let size = n.div_ceil(n.div_ceil(most));
            let mut r = 0;
            while r < n {
                let block = size.min(n - r);
                let (at, pitch) = D::row(task.input, first_row + r);
                let input = Rows { at, pitch };
                let to = &mut out[r * TILE + line * LINE..];
                // SAFETY: pointers cover whole rows; `to` has room for `block` rows.
                unsafe {
                    match block {
                        1 => lines::<D, 1>(weights, &w, input, to),
                        2 => lines::<D, 2>(weights, &w, input, to),
                        4 if wide => lines::<D, 4>(weights, &w, input, to),
                        5 if wide => lines::<D, 5>(weights, &w, input, to),
                        6 if wide => lines::<D, 6>(weights, &w, input, to),
                        _ => lines::<D, 3>(weights, &w, input, to),
                    }
                }
                r += block;
            }
        }
    }
}

/// Input rows, `pitch` bytes apart.
#[derive(Clone, Copy)]
struct Rows {
    at: *const u8,
    pitch: usize,
}

#[inline(always)]
unsafe fn lines<D: Dot, const R: usize>(
    weights: &Weights,
    w: &[*const u8; LINE],
    input: Rows,
    out: &mut [MaybeUninit<f32>],
) {
    // SAFETY: the caller's promise; the tail of a weight row goes through a padded buffer.
    unsafe {
        let mut acc = [[<D::T as Target>::S::zero(); R]; LINE];
        dots::<D, R>(&mut acc, w, input, weights.inputs());
        for r in 0..R {
            let sums = <D::T as Target>::S::reduce_add4([acc[0][r], acc[1][r], acc[2][r], acc[3][r]]);
            for (to, sum) in out[r * TILE..][..LINE].iter_mut().zip(sums) {
                to.write(sum);
            }
        }
    }
}

/// A dense element type on an instruction set: how a step of a dot product goes.
pub(super) trait Dot: 'static {
    /// What it needs.
    type T: Target;
    /// As reports name it.
    const NAME: &'static str;
    /// The form of the input.
    const FORM: FormId;
    /// Bytes of a weight, and of an element of the input.
    const SIZES: (usize, usize);
    /// Elements of a step.
    const STEP: usize;

    /// Where an input row begins, and the bytes from one row to the next.
    fn row(input: Input, row: usize) -> (*const u8, usize);

    /// One step: a weight vector against R input vectors, `pitch` bytes apart.
    ///
    /// # Safety
    /// As [`Simd`].
    unsafe fn add<const R: usize>(acc: &mut [VectorOf<Self::T>; R], w: *const u8, x: *const u8, pitch: usize);
}

/// f32 weights.
pub(super) struct F32<S>(PhantomData<S>);

impl<S: Simd + Target<S = S>> Dot for F32<S> {
    type T = S;
    const NAME: &'static str = "f32 multiply-adds";
    const FORM: FormId = FormId::Floats;
    const SIZES: (usize, usize) = (4, 4);
    const STEP: usize = S::LANES;

    fn row(input: Input, row: usize) -> (*const u8, usize) {
        Floats::row(input, row)
    }

    #[inline(always)]
    unsafe fn add<const R: usize>(acc: &mut [S::V; R], w: *const u8, x: *const u8, pitch: usize) {
        // SAFETY: the caller's pointers hold a step.
        unsafe {
            let w = S::load(w.cast());
            for r in 0..R {
                acc[r] = S::fma(w, S::load(x.wrapping_add(r * pitch).cast()), acc[r]);
            }
        }
    }
}

/// bf16 weights.
pub(super) struct Bf16<H>(PhantomData<H>);

impl<H: HalfDot> Dot for Bf16<H> {
    type T = H::T;
    const NAME: &'static str = if H::BF16_INPUT { "bf16 dot products" } else { "f32 multiply-adds of widened bf16" };
    const FORM: FormId = if H::BF16_INPUT { FormId::Halves } else { FormId::Floats };
    const SIZES: (usize, usize) = (2, if H::BF16_INPUT { 2 } else { 4 });
    const STEP: usize = H::STEP;

    fn row(input: Input, row: usize) -> (*const u8, usize) {
        if H::BF16_INPUT { Halves::row(input, row) } else { Floats::row(input, row) }
    }

    #[inline(always)]
    unsafe fn add<const R: usize>(acc: &mut [VectorOf<H::T>; R], w: *const u8, x: *const u8, pitch: usize) {
        // SAFETY: the caller's pointers hold a step.
        unsafe {
            let w = H::load(w.cast());
            for r in 0..R {
                acc[r] = H::dot(acc[r], w, x.wrapping_add(r * pitch));
            }
        }
    }
}

/// Walks LINE weight rows and R input rows step by step.
#[inline(always)]
unsafe fn dots<D: Dot, const R: usize>(
    acc: &mut [[VectorOf<D::T>; R]; LINE],
    w: &[*const u8; LINE],
    input: Rows,
    width: usize,
) {
    let (size, input_size) = D::SIZES;
    let whole = width - width % D::STEP;
    let mut k = 0;
    while k < whole {
        let x = input.at.wrapping_add(k * input_size);
        for i in 0..LINE {
            // SAFETY: `k` is a whole step before the end of the weight row; input rows are padded.
            unsafe { D::add::<R>(&mut acc[i], w[i].wrapping_add(k * size), x, input.pitch) };
        }
        k += D::STEP;
    }
    if whole < width {
        let x = input.at.wrapping_add(k * input_size);
        for i in 0..LINE {
            let mut padded = [0u8; 64];
            // SAFETY: the rest of the weight row, less than a step (64 bytes at most).
            unsafe {
                std::ptr::copy_nonoverlapping(w[i].wrapping_add(k * size), padded.as_mut_ptr(), (width - k) * size);
                D::add::<R>(&mut acc[i], padded.as_ptr(), x, input.pitch);
            }
        }
    }
}
