//! Products of many rows with dense weights.
//!
//! Loops go over the inner dimension in stretches of [`DEPTH`] columns. The weights of four outputs are widened into a
//! panel that stays in the first-level cache while all rows of the task pass by from the second; a few rows at a time
//! meet the four outputs in registers. Sums are kept by lane and put aside between stretches, and the lanes are summed
//! at the end, so the bits are those of the kernels for few rows.

use super::dense::{Bf16, F32};
use super::form::{Floats, FormId};
use super::kernel::{Input, Kernel, Shape, Task};
use super::results::{self, TILE};
use crate::memory::{Line, Lines};
use crate::simd::{Simd, Target, VectorOf, Widened, Work};
use crate::weights::Weights;
use std::cell::RefCell;
use std::marker::PhantomData;
use std::mem::MaybeUninit;

/// Columns of a stretch; whole steps of every kernel.
const DEPTH: usize = 512;
/// Outputs of a panel.
const LINE: usize = 4;
/// Outputs and rows of a task: the rows of a stretch and the sums stay in a core's second-level cache.
const TASK: (usize, usize) = (48, 96);
/// Rows from which panels are faster.
pub(super) const LEAST: usize = 12;
/// Bytes of the longest step of weights.
const STEP_BYTES: usize = 64;

/// How a kernel for few rows takes weights: in which vectors of which columns, one after the other.
pub(super) trait Widen: 'static {
    /// What it needs.
    type T: Target;
    /// As reports name it.
    const NAME: &'static str;
    /// The form of the input: f32, in the order of the vectors.
    const FORM: FormId;
    /// Bytes of a weight.
    const SIZE: usize;
    /// Vectors of a step, at most 2.
    const VECTORS: usize;

    /// Where an input row begins, and the bytes from one row to the next.
    fn row(input: Input, row: usize) -> (*const u8, usize);

    /// The vectors of a step.
    ///
    /// # Safety
    /// The target's instructions must be available, and a step valid at `p`.
    unsafe fn widen(p: *const u8) -> [VectorOf<Self::T>; 2];
}

impl<S: Simd + Target<S = S>> Widen for F32<S> {
    type T = S;
    const NAME: &'static str = "f32 multiply-adds";
    const FORM: FormId = FormId::Floats;
    const SIZE: usize = 4;
    const VECTORS: usize = 1;

    fn row(input: Input, row: usize) -> (*const u8, usize) {
        Floats::row(input, row)
    }

    #[inline(always)]
    unsafe fn widen(p: *const u8) -> [S::V; 2] {
        // SAFETY: the caller's promise.
        unsafe { [S::load(p.cast()), S::zero()] }
    }
}

impl<S: Simd + Target<S = S>> Widen for Bf16<Widened<S>> {
    type T = S;
    const NAME: &'static str = "f32 multiply-adds of widened bf16";
    const FORM: FormId = FormId::Floats;
    const SIZE: usize = 2;
    const VECTORS: usize = 1;

    fn row(input: Input, row: usize) -> (*const u8, usize) {
        Floats::row(input, row)
    }

    #[inline(always)]
    unsafe fn widen(p: *const u8) -> [S::V; 2] {
        // SAFETY: the caller's promise.
        unsafe { [S::load_bf16_as_f32(p.cast()), S::zero()] }
    }
}

/// Many rows.
pub(super) struct Panels<D>(PhantomData<fn() -> D>);

struct Run<'a, 'b, D>(&'a Task<'b>, PhantomData<D>);

impl<D> Panels<D> {
    pub const NEW: Self = Self(PhantomData);
}

impl<D: Widen> Kernel for Panels<D> {
    fn name(&self) -> &'static str {
        D::NAME
    }

    fn form(&self) -> FormId {
        D::FORM
    }

    fn cut(&self, shape: Shape, _: usize) -> (usize, usize) {
        (TASK.0, shape.rows.div_ceil(shape.rows.div_ceil(TASK.1)).next_multiple_of(6))
    }

    unsafe fn run(&self, task: &Task<'_>) {
        // SAFETY: the caller's promise.
        unsafe { D::T::compiled(Run::<D>(task, PhantomData)) }
    }

    unsafe fn peak(&self, rounds: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe { D::T::compiled(Peak::<D>(rounds, PhantomData)) };
        rounds * CHAINS * 2 * lanes::<D>()
    }
}

const fn lanes<D: Widen>() -> usize {
    <D::T as Target>::S::LANES
}

thread_local! {
    /// Panel, sums and results, kept from task to task.
    static SPACE: RefCell<Lines> = const { RefCell::new(Lines::NONE) };
}

impl<D: Widen> Work for Run<'_, '_, D> {
    #[inline(always)]
    unsafe fn run(self) {
        let task = self.0;
        let (n, first_row) = (task.rows.len(), task.input_rows().start);
        let tiles = task.outputs.len().div_ceil(TILE);
        let matrices = task.matrices();
        let count = matrices.iter().flatten().count();
        let per_sum = lanes::<D>() * 4;
        let (panel_lines, sum_lines) = (LINE * DEPTH * 4 / 64, tiles * TILE * n * per_sum / 64);
        let results_lines = count * tiles * n;
        let mut space = SPACE.take();
        let space_lines = space.at_least(panel_lines + sum_lines + results_lines);
        let (panel, rest) = space_lines.split_at_mut(panel_lines);
        let (sums, rest) = rest.split_at_mut(sum_lines);
        let results = &mut rest[..results_lines];
        let width = task.weights.inputs();
        let panel = panel.as_mut_ptr().cast::<f32>();
        for (weights, results) in matrices.into_iter().flatten().zip(results.chunks_exact_mut(tiles * n)) {
            let mut k = 0;
            while k < width {
                let columns = DEPTH.min(width - k);
                // Sums `[lines of 4 outputs][rows][4 outputs]`, each a vector.
                for line in 0..tiles * TILE / LINE {
                    let first = task.outputs.start + line * LINE;
                    if first >= task.outputs.end {
                        break;
                    }
                    // SAFETY: the panel has room for DEPTH columns of four outputs; rows are padded to whole steps;
                    // as many sums as rows.
                    unsafe {
                        let steps = fill::<D>(weights, first, task.outputs.end, k, columns, panel);
                        let sums = sums.as_mut_ptr().cast::<f32>().add(line * n * LINE * lanes::<D>());
                        let mut r = 0;
                        while r < n {
                            let (x, pitch) = D::row(task.input, first_row + r);
                            let part = Part {
                                panel,
                                x: x.cast::<f32>().add(k),
                                pitch: pitch / 4,
                                sums: sums.add(r * LINE * lanes::<D>()),
                                steps,
                                resume: k > 0,
                            };
                            r += match (n - r, lanes::<D>()) {
                                (1, _) => part.multiply::<D, 1>(),
                                (2, _) => part.multiply::<D, 2>(),
                                (3.., 8) | (3..6, _) => part.multiply::<D, 3>(),
                                _ => part.multiply::<D, 6>(),
                            };
                        }
                    }
                }
                k += columns;
            }
            // SAFETY: sums and results as laid out above; all sums of outputs that exist are written.
            unsafe { gather::<D>(sums.as_ptr().cast(), n, tiles, task.outputs.len(), results) };
        }
        // SAFETY: lines are 16 numbers each.
        let (_, results, _) = unsafe { results.align_to_mut::<MaybeUninit<f32>>() };
        let (a, b) = results.split_at_mut(tiles * n * TILE);
        for tile in 0..tiles {
            let first = task.outputs.start + tile * TILE;
            let of = tile * n * TILE..(tile + 1) * n * TILE;
            let b = b.get(of.clone()).unwrap_or_default();
            // SAFETY: these rows and outputs are the task's, and their results are written.
            unsafe {
                results::take_effect::<<D::T as Target>::S>(
                    task,
                    0,
                    first,
                    TILE.min(task.outputs.end - first),
                    &mut a[of],
                    b,
                );
            }
        }
        SPACE.set(space);
    }
}

/// Widens columns `k .. k + columns` of four outputs from `first` on into a panel `[vectors][4 outputs]`. Outputs from
/// `end` on repeat the last. Gives the number of vectors of an output.
#[inline(always)]
unsafe fn fill<D: Widen>(
    weights: &Weights,
    first: usize,
    end: usize,
    k: usize,
    columns: usize,
    panel: *mut f32,
) -> usize {
    let (row_bytes, step) = (D::SIZE * weights.inputs(), D::VECTORS * lanes::<D>());
    let data = weights.data();
    let steps = columns.div_ceil(step);
    for i in 0..LINE {
        let output = (first + i).min(end - 1);
        let row = &data[output * row_bytes + D::SIZE * k..][..D::SIZE * columns];
        for s in 0..steps {
            let rest = &row[s * step * D::SIZE..];
            // SAFETY: a whole step, or what is left of one in a padded copy; the panel has room.
            unsafe {
                let vectors = if rest.len() >= step * D::SIZE {
                    D::widen(rest.as_ptr())
                } else {
                    let mut padded = [0u8; STEP_BYTES];
                    padded[..rest.len()].copy_from_slice(rest);
                    D::widen(padded.as_ptr())
                };
                for (v, vector) in vectors.into_iter().take(D::VECTORS).enumerate() {
                    let to = panel.add(((s * D::VECTORS + v) * LINE + i) * lanes::<D>());
                    <D::T as Target>::S::store(to, vector);
                }
            }
        }
    }
    steps * D::VECTORS
}

/// Four outputs and a few rows over a stretch.
struct Part {
    panel: *const f32,
    x: *const f32,
    /// Numbers from one row to the next.
    pitch: usize,
    /// `[rows][4 outputs]` vectors.
    sums: *mut f32,
    /// Vectors of the stretch.
    steps: usize,
    /// Whether to go on from the sums of the stretch before.
    resume: bool,
}

impl Part {
    /// R rows. Returns R.
    #[inline(always)]
    unsafe fn multiply<D: Widen, const R: usize>(&self) -> usize {
        let lanes = lanes::<D>();
        // SAFETY: the caller's promise.
        unsafe {
            let mut acc = [[<D::T as Target>::S::zero(); R]; LINE];
            if self.resume {
                for r in 0..R {
                    for i in 0..LINE {
                        acc[i][r] = <D::T as Target>::S::load(self.sums.add((r * LINE + i) * lanes));
                    }
                }
            }
            let (mut w, mut x) = (self.panel, self.x);
            for _ in 0..self.steps {
                let mut inputs = [<D::T as Target>::S::zero(); R];
                for r in 0..R {
                    inputs[r] = <D::T as Target>::S::load(x.add(r * self.pitch));
                }
                for i in 0..LINE {
                    let w = <D::T as Target>::S::load(w.add(i * lanes));
                    for r in 0..R {
                        acc[i][r] = <D::T as Target>::S::fma(w, inputs[r], acc[i][r]);
                    }
                }
                (w, x) = (w.add(LINE * lanes), x.add(lanes));
            }
            for r in 0..R {
                for i in 0..LINE {
                    <D::T as Target>::S::store(self.sums.add((r * LINE + i) * lanes), acc[i][r]);
                }
            }
        }
        R
    }
}

/// Sums the lanes: results `[tiles][rows][16]`.
#[inline(always)]
unsafe fn gather<D: Widen>(sums: *const f32, n: usize, tiles: usize, outputs: usize, results: &mut [Line]) {
    let lanes = lanes::<D>();
    for tile in 0..tiles {
        for r in 0..n {
            let to = results[tile * n + r].0.as_mut_ptr().cast::<f32>();
            for line in 0..TILE / LINE {
                let index = tile * TILE / LINE + line;
                if index * LINE >= outputs {
                    break;
                }
                // SAFETY: the caller's promise.
                unsafe {
                    let at = sums.add((index * n + r) * LINE * lanes);
                    let mut four = [<D::T as Target>::S::zero(); LINE];
                    for (i, v) in four.iter_mut().enumerate() {
                        *v = <D::T as Target>::S::load(at.add(i * lanes));
                    }
                    let four = <D::T as Target>::S::reduce_add4(four);
                    to.add(line * LINE).cast::<[f32; LINE]>().write(four);
                }
            }
        }
    }
}

/// Independent chains of the peak's measurement, enough to hide an instruction's latency.
const CHAINS: usize = 12;

struct Peak<D>(usize, PhantomData<D>);

impl<D: Widen> Work for Peak<D> {
    #[inline(always)]
    unsafe fn run(self) {
        use std::hint::black_box;
        // SAFETY: the caller's promise.
        unsafe {
            let x = <D::T as Target>::S::splat(black_box(0.5));
            let w = <D::T as Target>::S::splat(black_box(1.0));
            let mut acc = [<D::T as Target>::S::zero(); CHAINS];
            for _ in 0..self.0 {
                for a in &mut acc {
                    *a = <D::T as Target>::S::fma(x, w, *a);
                }
            }
            for v in acc {
                black_box(<D::T as Target>::S::reduce_add(v));
            }
        }
    }
}
