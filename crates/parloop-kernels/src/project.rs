//! Matrix products of many rows, with what stands before and after them: an RMSNorm on the way in; a bias, the
//! residual or SwiGLU on the way out.
//!
//! Products that share their input (q, k and v; gate and up) go into one call, so that the input is prepared once and
//! the workers meet once.
//!
//! | part | idea |
//! |---|---|
//! | `kernel` | what a kernel is: the form of its input, how it cuts a product into tasks, how it runs one |
//! | `table` | which kernel serves which weights on which machine |
//! | `form` | input rows in the forms that kernels take them |
//! | `results` | tiles of results and what becomes of them |
//! | `dense`, `packed`, `panels`, `avx2`, `amx` | the kernels |

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod dense;
mod form;
mod kernel;
mod packed;
#[cfg(target_arch = "x86_64")]
mod panels;
mod results;
mod table;

use crate::isa::Isa;
use crate::machine::Machine;
use crate::pool::Pool;
use crate::profile::{Op, Profile};
use crate::quant;
use crate::simd::f32_to_bf16;
use crate::weights::{WeightType, Weights};
use crate::{SharedMut, simd};
use form::{FormId, Prepared, Rows};
use kernel::{Input, Kernel, Shape, Task};
use results::TILE;
use std::ops::Range;

/// An RMSNorm applied to every input row.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// One weight per column.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

/// One number for each output, added to its sum; empty for none.
pub type Bias<'a> = &'a [f32];

/// What becomes of a product's result.
#[derive(Clone, Copy, Debug)]
pub enum Effect<'a> {
    /// `out = W x`
    Store,
    /// `out += W x`: the residual stream.
    Add,
    /// `out = silu(W x) * (U x)` with U this matrix.
    SwiGlu(&'a Weights),
    /// `out = W x + bias`
    StoreBiased(Bias<'a>),
    /// `out = (out + W x) + bias`
    AddBiased(Bias<'a>),
    /// `out = silu(W x + bias) * (U x + up_bias)`
    SwiGluBiased {
        /// U
        up: &'a Weights,
        /// Added to W x.
        bias: Bias<'a>,
        /// Added to U x.
        up_bias: Bias<'a>,
    },
}

impl<'a> Effect<'a> {
    /// SwiGLU's second matrix.
    fn up(self) -> Option<&'a Weights> {
        match self {
            Self::SwiGlu(up) | Self::SwiGluBiased { up, .. } => Some(up),
            _ => None,
        }
    }

    /// What is added to the results of each matrix.
    fn biases(self) -> [Bias<'a>; 2] {
        match self {
            Self::StoreBiased(bias) | Self::AddBiased(bias) => [bias, &[]],
            Self::SwiGluBiased { bias, up_bias, .. } => [bias, up_bias],
            _ => [&[], &[]],
        }
    }
}

/// One matrix product of a call.
#[derive(Debug)]
pub struct Product<'a> {
    /// W, `[outputs, inputs]`.
    pub weights: &'a Weights,
    /// Which input rows take part.
    pub rows: Range<usize>,
    /// What becomes of the result.
    pub effect: Effect<'a>,
    /// `[rows][outputs]`
    pub out: &'a mut [f32],
}

/// A matrix and its bias: `W x + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// W
    pub weight: Weights,
    /// b, a number for each output; empty for none.
    pub bias: Vec<f32>,
}

impl Linear {
    /// A matrix without a bias.
    pub fn plain(weight: Weights) -> Self {
        Self { weight, bias: vec![] }
    }

    /// `out = W x + b` for these rows.
    pub fn store<'a>(&'a self, rows: Range<usize>, out: &'a mut [f32]) -> Product<'a> {
        Product { weights: &self.weight, rows, effect: Effect::StoreBiased(&self.bias), out }
    }

    /// `out = (out + W x) + b` for these rows.
    pub fn add<'a>(&'a self, rows: Range<usize>, out: &'a mut [f32]) -> Product<'a> {
        Product { weights: &self.weight, rows, effect: Effect::AddBiased(&self.bias), out }
    }

    /// `out = silu(W x + b) * (U x + c)` for these rows, with `up` for U and c.
    pub fn swiglu<'a>(&'a self, up: &'a Self, rows: Range<usize>, out: &'a mut [f32]) -> Product<'a> {
        let effect = Effect::SwiGluBiased { up: &up.weight, bias: &self.bias, up_bias: &up.bias };
        Product { weights: &self.weight, rows, effect, out }
    }
}

impl From<Weights> for Linear {
    fn from(weight: Weights) -> Self {
        Self::plain(weight)
    }
}

/// Bytes of weights of one task: large enough to hide the cost of taking it, small enough to balance.
const TASK_BYTES: usize = 96 << 10;
/// Below this many bytes of weights a call is not worth waking the workers.
const ALONE_BYTES: usize = 24 << 10;
/// Columns of a prepared input row are padded with zeros to a multiple of this.
const PADDING: usize = quant::SUPER;

/// The pool, the instruction set, and the scratch space of calls.
pub struct Projector {
    /// The worker threads, for other calls too.
    pub pool: Pool,
    /// Where the time goes, if asked for.
    pub profile: Profile,
    prepared: Prepared,
}

impl Projector {
    /// A projector with `threads` threads, and a profile if the environment asks for one.
    ///
    /// # Panics
    /// If `isa` is not available on this machine: its kernels would be unsound.
    pub fn new(isa: Isa, threads: usize) -> Self {
        Self::on(Machine { isa, threads, profile: crate::profile::asked_for() })
    }

    /// A projector that uses the machine so.
    ///
    /// # Panics
    /// If the instruction set is not available on this machine: its kernels would be unsound.
    pub fn on(machine: Machine) -> Self {
        Self::over(Pool::on(machine.isa, machine.threads), machine.profile)
    }

    /// A projector over the threads that have loaded a model, say; `profile` as in [`Machine`].
    pub fn over(pool: Pool, profile: bool) -> Self {
        Self { pool, profile: Profile::new(profile), prepared: Prepared::default() }
    }

    /// The instruction set in use; guaranteed to be available.
    pub fn isa(&self) -> Isa {
        self.pool.isa()
    }

    /// Multiplies the rows of `x` (each `width` long), after `norm`, with every product's matrix. `op` is the name
    /// under which the profile counts the call.
    ///
    /// # Panics
    /// If a shape does not fit: `x` not a whole number of rows, a matrix of another width, rows out of range, or a
    /// result or bias of another length.
    pub fn project(&mut self, op: Op, x: &[f32], width: usize, norm: Option<Norm<'_>>, products: &mut [Product<'_>]) {
        self.multiply(op, Rows { x, width, picked: None }, norm, products);
    }

    /// [`Projector::project`] of picked rows of `x`: row `i` of the products is row `picked[i]` of `x`. Experts whose rows
    /// stand together are products of one call, so that all of them share one list of tasks.
    ///
    /// # Panics
    /// As [`Projector::project`], or if a row is not in `x`.
    pub fn project_picked(
        &mut self,
        op: Op,
        (x, picked): (&[f32], &[u32]),
        width: usize,
        norm: Option<Norm<'_>>,
        products: &mut [Product<'_>],
    ) {
        self.multiply(op, Rows { x, width, picked: Some(picked) }, norm, products);
    }

    fn multiply(&mut self, op: Op, x: Rows<'_>, norm: Option<Norm<'_>>, products: &mut [Product<'_>]) {
        let width = x.width;
        assert!(width > 0 && x.x.len().is_multiple_of(width), "input is not a whole number of rows");
        let shape = Shape { rows: x.count(), stride: width.next_multiple_of(PADDING) };
        for p in products.iter() {
            let outputs = p.weights.outputs();
            assert_eq!(p.weights.inputs(), width, "width of the matrix");
            assert!(p.rows.start <= p.rows.end && p.rows.end <= shape.rows, "rows of a product");
            assert_eq!(p.out.len(), p.rows.len() * outputs, "length of a result");
            assert!(p.effect.biases().iter().all(|b| b.is_empty() || b.len() == outputs), "length of a bias");
            if let Some(up) = p.effect.up() {
                assert_eq!((up.inputs(), up.outputs(), up.kind()), (width, outputs, p.weights.kind()));
            }
        }
        if shape.rows == 0 {
            return;
        }
        let began = self.profile.start();
        let isa = self.pool.isa();
        let kernel = |p: &Product<'_>| table::kernel(p.weights.kind(), isa, shape.rows, p.rows.len());
        let needed: Vec<FormId> = products.iter().map(|p| kernel(p).form()).collect();
        self.prepared.fill(&mut self.pool, isa, x, norm, &needed);

        let matrices = |p: &Product<'_>| if p.effect.up().is_some() { 2 } else { 1 };
        let all_bytes: usize =
            products.iter().filter(|p| !p.rows.is_empty()).map(|p| matrices(p) * p.weights.bytes()).sum();
        let share = (all_bytes / self.pool.threads()).clamp(1, TASK_BYTES);
        let mut spans: Vec<Span> = Vec::with_capacity(products.len());
        let mut total = 0;
        for p in products.iter_mut() {
            let kernel = kernel(p);
            let per_output = p.weights.kind().row_bytes(width) * matrices(p);
            let worth = (share / per_output).next_multiple_of(2 * TILE).max(2 * TILE);
            let (step, row_step) = kernel.cut(Shape { rows: p.rows.len().max(1), ..shape }, worth);
            let tasks = p.weights.outputs().div_ceil(step) * p.rows.len().div_ceil(row_step);
            let input = Input { first: p.rows.start, ..self.prepared.input(kernel.form(), shape) };
            let (weights, rows, effect, out) = (p.weights, p.rows.len(), p.effect, SharedMut::new(p.out));
            spans.push(Span { first: total, step, row_step, kernel, input, out, weights, rows, effect });
            total += tasks;
        }
        let run = |i: usize| {
            let span = &spans[spans.partition_point(|s| s.first <= i) - 1];
            // SAFETY: `isa` is available (checked by the pool); the prepared rows live in `self` until the call ends and
            // are padded; tasks of a product cover disjoint outputs or rows.
            unsafe { span.kernel.run(&span.task(i)) };
        };
        if all_bytes < ALONE_BYTES && shape.rows <= form::SHARED {
            (0..total).for_each(run);
        } else {
            self.pool.run(total, run);
        }
        self.profile.add(op, began, all_bytes);
    }

    /// The inner instruction that products with weights of a type use when they have so many rows.
    pub fn kernel_name(&self, kind: WeightType, rows: usize) -> &'static str {
        table::kernel(kind, self.pool.isa(), rows, rows).name()
    }

    /// Runs the inner instruction for a weight type and many rows `rounds` times on this thread: how many operations
    /// that were.
    pub(crate) fn peak(isa: Isa, kind: WeightType, rounds: usize) -> usize {
        assert!(Isa::found().has(isa), "{} is not available on this machine", isa.name());
        // SAFETY: just checked.
        unsafe { table::kernel(kind, isa, usize::MAX, usize::MAX).peak(rounds) }
    }
}

/// The tasks of one product: a grid of output ranges and row ranges.
struct Span<'a> {
    first: usize,
    step: usize,
    row_step: usize,
    kernel: &'static dyn Kernel,
    input: Input,
    out: SharedMut<f32>,
    weights: &'a Weights,
    rows: usize,
    effect: Effect<'a>,
}

impl Span<'_> {
    fn task(&self, i: usize) -> Task<'_> {
        let per_column = self.rows.div_ceil(self.row_step);
        let (column, block) = ((i - self.first) / per_column, (i - self.first) % per_column);
        let outputs = column * self.step..((column + 1) * self.step).min(self.weights.outputs());
        let first = block * self.row_step;
        let rows = first..(first + self.row_step).min(self.rows);
        let Self { weights, effect, input, out, .. } = *self;
        Task { weights, up: effect.up(), effect, input, rows, outputs, out }
    }
}

/// `W x` for one row by the plainest loop: the twin that the kernels are tested against. The input is rounded as the
/// weight type's kernels may round it.
pub fn scalar_product(weights: &Weights, x: &[f32]) -> Vec<f32> {
    let mut row = vec![0.0; weights.inputs()];
    let x: Vec<f32> = match weights.kind() {
        WeightType::F32 => x.to_vec(),
        WeightType::Bf16 => x.iter().map(|x| simd::bf16_to_f32(f32_to_bf16(*x))).collect(),
        WeightType::Q8 | WeightType::Q4Min | WeightType::Q4 => {
            let n = x.len().div_ceil(quant::BLOCK);
            let (mut values, mut blocks) = (vec![0; n * quant::BLOCK], vec![[0.0; 2]; n]);
            quant::quantize_row(x, &mut values, &mut blocks);
            (0..x.len()).map(|i| f32::from(values[i]) * blocks[i / quant::BLOCK][0]).collect()
        }
    };
    (0..weights.outputs())
        .map(|i| {
            weights.row(i, &mut row);
            x.iter().zip(&row).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() as f32
        })
        .collect()
}
