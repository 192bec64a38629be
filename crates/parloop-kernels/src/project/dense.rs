//! Products with dense weights (f32, bf16) that lie row by row.
//!
//! A dot product keeps one vector accumulator over the whole inner dimension and sums its lanes at the end, in an
//! order that depends on nothing but the width: so a result is the same in any company. Four outputs and a few rows
//! are in flight at a time, to load each weight once for all rows of the block.

use super::Effect;
use crate::isa::kernel;
use crate::simd::Simd;
use crate::weights::{WeightType, Weights};
use crate::{SharedMut, ops, quant};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Outputs of a tile; tasks cover whole tiles.
pub(super) const TILE: usize = 16;
/// Outputs in flight.
const LINE: usize = 4;
/// Rows of a tile at most.
const ROWS: usize = 48;

/// Rows of a task: as many as leave room in a core's second-level cache, in whole units of rows in flight.
pub(super) fn row_block(width: usize, unit: usize) -> usize {
    ((256 << 10) / width).clamp(unit, ROWS) / unit * unit
}

/// Prepared input rows: `stride` bytes apart, zero-padded to a multiple of 64 columns.
#[derive(Clone, Copy)]
pub(super) struct Input {
    pub rows: *const u8,
    pub stride: usize,
    /// For rows packed in blocks ([`super::amx`]): the first row taken, of how many. Such rows are not skipped to,
    /// because a block interleaves them.
    pub offset: usize,
    pub total: usize,
    /// For rows of bytes (`stride` elements): scale and sum of each block of 32.
    pub blocks: *const [f32; 2],
}

// SAFETY: the rows are only read while the call that prepared them runs.
unsafe impl Send for Input {}
// SAFETY: as above.
unsafe impl Sync for Input {}

impl Input {
    pub fn skip_rows(self, row: usize) -> Self {
        if self.total > 0 {
            return Self { offset: self.offset + row, ..self };
        }
        let blocks = row * self.stride / quant::BLOCK;
        Self { rows: self.rows.wrapping_add(row * self.stride), blocks: self.blocks.wrapping_add(blocks), ..self }
    }
}

/// A range of outputs for a range of rows.
pub(super) struct Task<'a> {
    pub weights: &'a Weights,
    pub effect: Effect<'a>,
    pub input: Input,
    pub rows: Range<usize>,
    pub outputs: Range<usize>,
    /// `[all rows][all outputs]`
    pub out: SharedMut<f32>,
}

kernel! {
    /// Computes a task.
    pub(super) fn run(task: &Task<'_>) = run_generic
}

#[inline(always)]
unsafe fn run_generic<S: Simd>(task: &Task<'_>) {
    // SAFETY: the caller's promise.
    unsafe { each_tile::<S, Dense>(task) }
}

/// The results of one tile or two, `[tiles][rows][TILE]`.
pub(super) type Results = [MaybeUninit<f32>; 2 * ROWS * TILE];

/// How the results of a tile are computed.
///
/// A trait, not a closure: closures do not take on the instruction set of the function they are written in, so
/// vector instructions inside them would become calls.
pub(super) trait Tiles {
    /// Tiles computed side by side: 1 or 2.
    #[inline(always)]
    fn abreast<S: Simd>() -> usize {
        1
    }

    /// Computes outputs `first .. first + count` for all rows of the task.
    ///
    /// # Safety
    /// As [`run`]; all TILE columns of every row of the task must be written.
    unsafe fn tile<S: Simd>(task: &Task<'_>, weights: &Weights, first: usize, count: usize, out: &mut Results);
}

/// Computes the tiles of a task and lets them take effect.
///
/// # Safety
/// As [`run`].
#[inline(always)]
pub(super) unsafe fn each_tile<S: Simd, T: Tiles>(task: &Task<'_>) {
    let n = task.rows.len();
    let mut first = task.outputs.start;
    let mut a = [MaybeUninit::<f32>::uninit(); 2 * ROWS * TILE];
    let mut b = [MaybeUninit::<f32>::uninit(); 2 * ROWS * TILE];
    while first < task.outputs.end {
        let count = (T::abreast::<S>() * TILE).min(task.outputs.end - first);
        // SAFETY: rows and outputs are in range; the tile writes all of `n` rows before they are read here; the
        // output ranges of tasks are disjoint.
        unsafe {
            T::tile::<S>(task, task.weights, first, count, &mut a);
            if let Effect::SwiGlu(up) = task.effect {
                T::tile::<S>(task, up, first, count, &mut b);
            }
            for tile in 0..count.div_ceil(TILE) {
                let of = tile * n * TILE..(tile + 1) * n * TILE;
                let count = TILE.min(count - tile * TILE);
                take_effect::<S>(task, 0, first + tile * TILE, count, &mut a[of.clone()], &b[of]);
            }
        }
        first += count;
    }
}

/// Lets the results of a tile (`a`, and `b` for SwiGLU's second matrix, both `[rows][TILE]`) take effect on outputs
/// `first .. first + count` of the task's rows from `row` on.
///
/// # Safety
/// As [`run`]; the results are written, and the outputs belong to this task.
#[inline(always)]
pub(super) unsafe fn take_effect<S: Simd>(
    task: &Task<'_>,
    row: usize,
    first: usize,
    count: usize,
    a: &mut [MaybeUninit<f32>],
    b: &[MaybeUninit<f32>],
) {
    let all = task.weights.outputs();
    for i in 0..a.len() / TILE {
        // SAFETY: the caller's promise.
        unsafe {
            let result = &mut *std::ptr::from_mut(&mut a[i * TILE..][..TILE]).cast::<[f32; TILE]>();
            let out = task.out.slice((task.rows.start + row + i) * all + first, count);
            match task.effect {
                Effect::Store => {}
                Effect::Add => result.iter_mut().zip(&*out).for_each(|(r, o)| *r += o),
                Effect::SwiGlu(_) => {
                    let up = &*std::ptr::from_ref(&b[i * TILE..][..TILE]).cast::<[f32; TILE]>();
                    ops::swiglu_inline::<S>(result, up);
                }
            }
            match out.first_chunk_mut::<TILE>() {
                // Known at compile time: two moves instead of a call.
                Some(out) => *out = *result,
                None => out.copy_from_slice(&result[..count]),
            }
        }
    }
}

/// Dense rows; columns past the last output repeat it.
struct Dense;

impl Tiles for Dense {
    #[inline(always)]
    unsafe fn tile<S: Simd>(task: &Task<'_>, weights: &Weights, first: usize, count: usize, out: &mut Results) {
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
            let most = if S::LANES == 16 { 6 } else { 3 };
            let size = n.div_ceil(n.div_ceil(most));
            let mut r = 0;
            while r < n {
                let block = size.min(n - r);
                let input = task.input.skip_rows(task.rows.start + r);
                let to = &mut out[r * TILE + line * LINE..];
                // SAFETY: pointers cover whole rows; `to` has room for `block` rows.
                unsafe {
                    match block {
                        1 => lines::<S, 1>(weights, &w, input, to),
                        2 => lines::<S, 2>(weights, &w, input, to),
                        3 => lines::<S, 3>(weights, &w, input, to),
                        4 => lines::<S, 4>(weights, &w, input, to),
                        5 => lines::<S, 5>(weights, &w, input, to),
                        _ => lines::<S, 6>(weights, &w, input, to),
                    }
                }
                r += block;
            }
        }
    }
}

#[inline(always)]
unsafe fn lines<S: Simd, const R: usize>(
    weights: &Weights,
    w: &[*const u8; LINE],
    input: Input,
    out: &mut [MaybeUninit<f32>],
) {
    // SAFETY: the caller's promise; the tail of a weight row goes through a padded buffer.
    unsafe {
        let mut acc = [[S::zero(); R]; LINE];
        match weights.kind() {
            WeightType::F32 => dots::<S, F32, R>(&mut acc, w, input, weights.inputs()),
            // Packed types have kernels of their own.
            _ => dots::<S, Bf16, R>(&mut acc, w, input, weights.inputs()),
        }
        for r in 0..R {
            let sums = S::reduce_add4([acc[0][r], acc[1][r], acc[2][r], acc[3][r]]);
            for (to, sum) in out[r * TILE..][..LINE].iter_mut().zip(sums) {
                to.write(sum);
            }
        }
    }
}

/// A dense element type: how a step of a dot product goes.
trait Dot {
    /// Bytes of a weight.
    const SIZE: usize;
    /// Elements of a step.
    fn step<S: Simd>() -> usize;
    /// Bytes of an element of the input.
    fn input_size<S: Simd>() -> usize;
    /// One step: a weight vector against R input vectors.
    unsafe fn add<S: Simd, const R: usize>(acc: &mut [S::V; R], w: *const u8, x: *const u8, stride: usize);
}

struct F32;

impl Dot for F32 {
    const SIZE: usize = 4;
    #[inline(always)]
    fn step<S: Simd>() -> usize {
        S::LANES
    }
    #[inline(always)]
    fn input_size<S: Simd>() -> usize {
        4
    }
    #[inline(always)]
    unsafe fn add<S: Simd, const R: usize>(acc: &mut [S::V; R], w: *const u8, x: *const u8, stride: usize) {
        // SAFETY: the caller's pointers hold a step.
        unsafe {
            let w = S::load(w.cast());
            for r in 0..R {
                acc[r] = S::fma(w, S::load(x.wrapping_add(r * stride).cast()), acc[r]);
            }
        }
    }
}

struct Bf16;

impl Dot for Bf16 {
    const SIZE: usize = 2;
    #[inline(always)]
    fn step<S: Simd>() -> usize {
        S::BF16_STEP
    }
    #[inline(always)]
    fn input_size<S: Simd>() -> usize {
        if S::BF16_INPUT { 2 } else { 4 }
    }
    #[inline(always)]
    unsafe fn add<S: Simd, const R: usize>(acc: &mut [S::V; R], w: *const u8, x: *const u8, stride: usize) {
        // SAFETY: the caller's pointers hold a step.
        unsafe {
            let w = S::load_bf16(w.cast());
            for r in 0..R {
                acc[r] = S::dot_bf16(acc[r], w, x.wrapping_add(r * stride));
            }
        }
    }
}

/// Walks LINE weight rows and R input rows step by step.
#[inline(always)]
unsafe fn dots<S: Simd, D: Dot, const R: usize>(
    acc: &mut [[S::V; R]; LINE],
    w: &[*const u8; LINE],
    input: Input,
    width: usize,
) {
    let whole = width - width % D::step::<S>();
    let mut k = 0;
    while k < whole {
        let x = input.rows.wrapping_add(k * D::input_size::<S>());
        for i in 0..LINE {
            // SAFETY: `k` is a whole step before the end of the weight row; input rows are padded.
            unsafe { D::add::<S, R>(&mut acc[i], w[i].wrapping_add(k * D::SIZE), x, input.stride) };
        }
        k += D::step::<S>();
    }
    if whole < width {
        let x = input.rows.wrapping_add(k * D::input_size::<S>());
        for i in 0..LINE {
            let mut padded = [0u8; 64];
            // SAFETY: the rest of the weight row, less than a step (64 bytes at most).
            unsafe {
                std::ptr::copy_nonoverlapping(
                    w[i].wrapping_add(k * D::SIZE),
                    padded.as_mut_ptr(),
                    (width - k) * D::SIZE,
                );
                D::add::<S, R>(&mut acc[i], padded.as_ptr(), x, input.stride);
            }
        }
    }
}
