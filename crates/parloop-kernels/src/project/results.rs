//! Results of a tile of 16 outputs, and what becomes of them.

use super::kernel::Task;
use super::{Bias, Effect};
use crate::ops;
use crate::simd::{Simd, Target};
use crate::weights::Weights;
use std::mem::MaybeUninit;

/// Outputs of a tile; tasks cover whole tiles.
pub(super) const TILE: usize = 16;
/// Rows of a task with few rows at most.
pub(super) const ROWS: usize = 48;

/// The results of one tile or two, `[tiles][rows][TILE]`.
pub(super) type Results = [MaybeUninit<f32>; 2 * ROWS * TILE];

/// How the results of a tile are computed.
pub(super) trait Tiles {
    /// What it is compiled for.
    type T: Target;

    /// Tiles computed side by side: 1 or 2.
    const ABREAST: usize = 1;

    /// Computes outputs `first .. first + count` for all rows of the task.
    ///
    /// # Safety
    /// As [`super::kernel::Kernel::run`]; all TILE columns of every row of the task must be written.
    unsafe fn tile(task: &Task<'_>, weights: &Weights, first: usize, count: usize, out: &mut Results);
}

/// Computes the tiles of a task and lets them take effect.
///
/// # Safety
/// As [`super::kernel::Kernel::run`].
#[inline(always)]
pub(super) unsafe fn each_tile<X: Tiles>(task: &Task<'_>) {
    let n = task.rows.len();
    let mut first = task.outputs.start;
    let mut results = [[MaybeUninit::<f32>::uninit(); 2 * ROWS * TILE]; 2];
    while first < task.outputs.end {
        let count = (X::ABREAST * TILE).min(task.outputs.end - first);
        // One place in the code for both matrices, so that the kernel is compiled once.
        for (weights, out) in task.matrices().into_iter().zip(&mut results) {
            if let Some(weights) = weights {
                // SAFETY: rows and outputs are in range.
                unsafe { X::tile(task, weights, first, count, out) };
            }
        }
        let [a, b] = &mut results;
        for tile in 0..count.div_ceil(TILE) {
            let of = tile * n * TILE..(tile + 1) * n * TILE;
            let count = TILE.min(count - tile * TILE);
            // SAFETY: the tile wrote all of `n` rows; the output ranges of tasks are disjoint.
            unsafe {
                take_effect::<<X::T as Target>::S>(task, 0, first + tile * TILE, count, &mut a[of.clone()], &b[of]);
            }
        }
        first += count;
    }
}

/// Adds a bias to results `[TILE]` of outputs from `first` on.
#[inline(always)]
fn add_bias(results: &mut [f32; TILE], bias: Bias<'_>, first: usize) {
    if let Some(bias) = bias.get(first..) {
        results.iter_mut().zip(bias).for_each(|(r, b)| *r += b);
    }
}

/// Lets the results of a tile (`a`, and `b` for SwiGLU's second matrix, both `[rows][TILE]`) take effect on outputs
/// `first .. first + count` of the task's rows from `row` on.
///
/// # Safety
/// As [`super::kernel::Kernel::run`]; the results are written, and the outputs belong to this task.
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
    let [bias, up_bias] = task.biases();
    for i in 0..a.len() / TILE {
        // SAFETY: the caller's promise.
        unsafe {
            let result = &mut *std::ptr::from_mut(&mut a[i * TILE..][..TILE]).cast::<[f32; TILE]>();
            let out = task.out.slice((task.rows.start + row + i) * all + first, count);
            match task.effect {
                Effect::Store | Effect::StoreBiased(_) => {}
                Effect::Add | Effect::AddBiased(_) => result.iter_mut().zip(&*out).for_each(|(r, o)| *r += o),
                Effect::SwiGlu(_) => {
                    let up = &*std::ptr::from_ref(&b[i * TILE..][..TILE]).cast::<[f32; TILE]>();
                    ops::swiglu_inline::<S>(result, up);
                }
                Effect::SwiGluBiased { .. } => {
                    let mut up = *std::ptr::from_ref(&b[i * TILE..][..TILE]).cast::<[f32; TILE]>();
                    add_bias(result, bias, first);
                    add_bias(&mut up, up_bias, first);
                    ops::swiglu_inline::<S>(result, &up);
                }
            }
            // Last, so that a biased sum has the bits of a sum to which a bias is added afterwards.
            if let Effect::StoreBiased(bias) | Effect::AddBiased(bias) = task.effect {
                add_bias(result, bias, first);
            }
            match out.first_chunk_mut::<TILE>() {
                // Known at compile time: two moves instead of a call.
                Some(out) => *out = *result,
                None => out.copy_from_slice(&result[..count]),
            }
        }
    }
}
