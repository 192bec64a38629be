//! bf16 weights for few rows, read where they lie.
//!
//! A vector of 16 weights is widened by a shift (its even columns) and a mask (its odd ones), so that 16 weights cost
//! two cheap operations; the inputs are put in the same order once ([`FloatPairs`]). Four outputs and up to three rows
//! are in flight, or two outputs and four rows: each weight is loaded once for all of them.

use crate::project::form::{FloatPairs, FormId};
use crate::project::kernel::{Input, Kernel, Task};
use crate::project::panels::Widen;
use crate::project::results::{self, Results, TILE, Tiles};
use crate::simd::{Avx2, Simd, Target, Work};
use crate::weights::Weights;
use std::arch::x86_64::*;
use std::hint::black_box;
use std::mem::MaybeUninit;
use std::sync::atomic::{Ordering, compiler_fence};

/// Columns of a step.
const STEP: usize = 16;
/// Rows in flight at most.
const ROWS: usize = 4;
/// How far ahead of its use a row of weights is fetched, in bytes.
const AHEAD: usize = 1 << 10;

/// bf16 weights.
pub(in crate::project) struct Few;

struct Run<'a, 'b>(&'a Task<'b>);

impl Kernel for Few {
    fn name(&self) -> &'static str {
        <Self as Widen>::NAME
    }

    fn form(&self) -> FormId {
        <Self as Widen>::FORM
    }

    unsafe fn run(&self, task: &Task<'_>) {
        // SAFETY: the caller's promise.
        unsafe { Avx2::compiled(Run(task)) }
    }

    unsafe fn peak(&self, rounds: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe { Avx2::compiled(Peak(rounds)) };
        rounds * CHAINS * 8 * 2
    }
}

impl Work for Run<'_, '_> {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the caller's promise.
        unsafe { results::each_tile::<Few>(self.0) }
    }
}

/// 16 bf16 numbers as f32: those of the even columns, and those of the odd ones.
///
/// # Safety
/// AVX2 must be available, and 32 bytes valid at `p`.
#[inline(always)]
unsafe fn widen(p: *const u8) -> [__m256; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let both = _mm256_loadu_si256(p.cast());
        let odd = _mm256_and_si256(both, _mm256_set1_epi32(0xFFFF_0000_u32 as i32));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(both)), _mm256_castsi256_ps(odd)]
    }
}

impl Tiles for Few {
    type T = Avx2;

    #[inline(always)]
    unsafe fn tile(task: &Task<'_>, weights: &Weights, first: usize, count: usize, out: &mut Results) {
        let n = task.rows.len();
        // Even blocks: 5 rows go as 3 + 2, not as 4 + 1.
        let size = n.div_ceil(n.div_ceil(ROWS));
        let mut r = 0;
        while r < n {
            let block = size.min(n - r);
            let (at, pitch) = FloatPairs::row(task.input, task.input_rows().start + r);
            let tile = Tile { weights, first, count, x: at.cast(), pitch: pitch / 4 };
            let to = &mut out[r * TILE..];
            // SAFETY: the rows exist, and the results have room for `block` rows.
            unsafe {
                match block {
                    1 => tile.outputs::<1, 4>(to),
                    2 => tile.outputs::<2, 4>(to),
                    3 => tile.outputs::<3, 4>(to),
                    _ => tile.outputs::<4, 2>(to),
                }
            }
            r += block;
        }
    }
}

/// Outputs `first .. first + count` of a matrix, and input rows `pitch` numbers apart.
struct Tile<'a> {
    weights: &'a Weights,
    first: usize,
    count: usize,
    x: *const f32,
    pitch: usize,
}

impl Tile<'_> {
    /// All outputs for R rows, L outputs at a time; those past the last repeat it.
    #[inline(always)]
    unsafe fn outputs<const R: usize, const L: usize>(&self, out: &mut [MaybeUninit<f32>]) {
        let row_bytes = 2 * self.weights.inputs();
        let data = self.weights.data();
        for line in 0..TILE / L {
            let mut w = [std::ptr::null::<u8>(); L];
            for (i, w) in w.iter_mut().enumerate() {
                let output = self.first + (line * L + i).min(self.count - 1);
                *w = data[output * row_bytes..(output + 1) * row_bytes].as_ptr();
            }
            let to = &mut out[line * L..];
            if line * L >= self.count {
                // Never read, but they must hold something.
                for r in 0..R {
                    to[r * TILE..][..L].fill(MaybeUninit::new(0.0));
                }
                continue;
            }
            // SAFETY: pointers cover whole rows.
            unsafe {
                let acc = self.dots::<R, L>(&w);
                for r in 0..R {
                    let sums = Avx2::reduce_add4([acc[0][r], acc[1][r], acc[2 % L][r], acc[3 % L][r]]);
                    for (to, sum) in to[r * TILE..][..L].iter_mut().zip(sums) {
                        to.write(sum);
                    }
                }
            }
        }
    }

    /// The products of L rows of weights with R rows of inputs, by lane.
    #[inline(always)]
    unsafe fn dots<const R: usize, const L: usize>(&self, w: &[*const u8; L]) -> [[__m256; R]; L] {
        let width = self.weights.inputs();
        // SAFETY: whole steps inside the weights' rows, then a padded copy of the rest; inputs are padded.
        unsafe {
            let mut acc = [[_mm256_setzero_ps(); R]; L];
            let mut k = 0;
            // Two steps a turn, a line of memory, so that one fetch serves them without a test: with a test in the loop
            // the compiler kept the sums in memory.
            while k + 2 * STEP <= width {
                for step in 0..2 {
                    for i in 0..L {
                        let at = w[i].add(2 * (k + step * STEP));
                        if step == 0 {
                            Avx2::prefetch(at.wrapping_add(AHEAD));
                        }
                        self.step(&mut acc[i], widen(at), k + step * STEP);
                        if R >= 3 {
                            compiler_fence(Ordering::SeqCst);
                        }
                    }
                    compiler_fence(Ordering::SeqCst);
                }
                k += 2 * STEP;
            }
            if k + STEP <= width {
                for i in 0..L {
                    self.step(&mut acc[i], widen(w[i].add(2 * k)), k);
                }
                k += STEP;
            }
            if k < width {
                for i in 0..L {
                    let mut padded = [0u8; 2 * STEP];
                    std::ptr::copy_nonoverlapping(w[i].add(2 * k), padded.as_mut_ptr(), 2 * (width - k));
                    self.step(&mut acc[i], widen(padded.as_ptr()), k);
                }
            }
            acc
        }
    }

    #[inline(always)]
    unsafe fn step<const R: usize>(&self, acc: &mut [__m256; R], [even, odd]: [__m256; 2], k: usize) {
        for (half, w) in [even, odd].into_iter().enumerate() {
            for r in 0..R {
                // SAFETY: 16 numbers of a padded row.
                let x = unsafe { _mm256_loadu_ps(self.x.add(r * self.pitch + k + 8 * half)) };
                // SAFETY: the caller's promise.
                acc[r] = unsafe { _mm256_fmadd_ps(w, x, acc[r]) };
            }
        }
    }
}

impl Widen for Few {
    type T = Avx2;
    const NAME: &'static str = "f32 multiply-adds of widened bf16";
    const FORM: FormId = FormId::FloatPairs;
    const SIZE: usize = 2;
    const VECTORS: usize = 2;

    fn row(input: Input, row: usize) -> (*const u8, usize) {
        FloatPairs::row(input, row)
    }

    #[inline(always)]
    unsafe fn widen(p: *const u8) -> [__m256; 2] {
        // SAFETY: the caller's promise.
        unsafe { widen(p) }
    }
}

/// Independent chains of the peak's measurement, enough to hide an instruction's latency.
const CHAINS: usize = 12;

struct Peak(usize);

impl Work for Peak {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the caller's promise.
        unsafe {
            let (x, w) = (_mm256_set1_ps(black_box(0.5)), _mm256_set1_ps(black_box(1.0)));
            let mut acc = [_mm256_setzero_ps(); CHAINS];
            for _ in 0..self.0 {
                for a in &mut acc {
                    *a = _mm256_fmadd_ps(x, w, *a);
                }
            }
            for v in acc {
                black_box(Avx2::reduce_add(v));
            }
        }
    }
}
