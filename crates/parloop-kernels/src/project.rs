//! Matrix products of many rows, with what stands before and after them: an RMSNorm on the way in, the residual or
//! SwiGLU on the way out.
//!
//! Products that share their input (q, k and v; gate and up) go into one call, so that the input is prepared once and
//! the workers meet once.

mod dense;

use crate::isa::Isa;
use crate::ops;
use crate::pool::Pool;
use crate::simd::f32_to_bf16;
use crate::weights::{WeightType, Weights};
use crate::{SharedMut, simd};
use dense::{Input, Task};
use std::ops::Range;

/// An RMSNorm applied to every input row.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// One weight per column.
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

/// What becomes of a product's result.
#[derive(Clone, Copy, Debug)]
pub enum Effect<'a> {
    /// `out = W x`
    Store,
    /// `out += W x`: the residual stream.
    Add,
    /// `out = silu(W x) * (U x)` with U this matrix.
    SwiGlu(&'a Weights),
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

/// Rows above which preparing the input is shared among the workers.
const SHARED_PREPARATION: usize = 16;
/// Bytes of weights of one task: large enough to hide the cost of taking it, small enough to balance.
const TASK_BYTES: usize = 96 << 10;
/// Below this many bytes of weights a call is not worth waking the workers.
const ALONE_BYTES: usize = 24 << 10;
/// Columns of a prepared input row are padded with zeros to a multiple of this.
const PADDING: usize = 32;

/// The pool, the instruction set, and the scratch space of calls.
pub struct Projector {
    isa: Isa,
    /// The worker threads, for other calls too.
    pub pool: Pool,
    f32_rows: Vec<f32>,
    bf16_rows: Vec<u16>,
}

impl Projector {
    /// A projector with `threads` threads.
    ///
    /// # Panics
    /// If `isa` is not available on this machine: its kernels would be unsound.
    pub fn new(isa: Isa, threads: usize) -> Self {
        assert!(Isa::available().contains(&isa), "{} is not available on this machine", isa.name());
        Self { isa, pool: Pool::new(threads), f32_rows: Vec::new(), bf16_rows: Vec::new() }
    }

    /// The instruction set in use; guaranteed to be available.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Multiplies the rows of `x` (each `width` long), after `norm`, with every product's matrix.
    ///
    /// # Panics
    /// If a shape does not fit: `x` not a whole number of rows, a matrix of another width, rows out of range, or a
    /// result of another length.
    pub fn project(&mut self, x: &[f32], width: usize, norm: Option<Norm<'_>>, products: &mut [Product<'_>]) {
        assert!(width > 0 && x.len().is_multiple_of(width), "input is not a whole number of rows");
        let rows = x.len() / width;
        for p in products.iter() {
            assert_eq!(p.weights.inputs(), width, "width of the matrix");
            assert!(p.rows.start <= p.rows.end && p.rows.end <= rows, "rows of a product");
            assert_eq!(p.out.len(), p.rows.len() * p.weights.outputs(), "length of a result");
            if let Effect::SwiGlu(up) = p.effect {
                assert_eq!((up.inputs(), up.outputs(), up.kind()), (width, p.weights.outputs(), p.weights.kind()));
            }
        }
        if rows == 0 {
            return;
        }
        let isa = self.isa;
        let bf16 = |p: &Product<'_>| p.weights.kind() == WeightType::Bf16 && isa == Isa::Avx512;
        let need_bf16 = products.iter().any(bf16);
        self.prepare(x, width, norm, need_bf16);

        let stride = width.next_multiple_of(PADDING);
        let (f32_rows, bf16_rows) = (self.f32_rows.as_ptr(), self.bf16_rows.as_ptr());
        let mut tasks: Vec<Span> = Vec::with_capacity(products.len());
        let mut total = 0;
        let all_bytes: usize = products.iter().map(|p| p.weights.bytes() * usize::from(!p.rows.is_empty())).sum();
        let share = (all_bytes / self.pool.threads()).clamp(1, TASK_BYTES);
        for p in products.iter_mut() {
            let (outputs, count) = (p.weights.outputs(), p.rows.len());
            let per_output =
                p.weights.kind().row_bytes(width) * if matches!(p.effect, Effect::SwiGlu(_)) { 2 } else { 1 };
            let step = (share / per_output).next_multiple_of(dense::TILE).max(dense::TILE);
            let row_step = dense::row_block(width);
            let spans = outputs.div_ceil(step) * count.div_ceil(row_step);
            let input = if bf16(p) {
                Input { rows: bf16_rows.cast(), stride: 2 * stride }
            } else {
                Input { rows: f32_rows.cast(), stride: 4 * stride }
            };
            let out = SharedMut::new(p.out);
            tasks.push(Span {
                first: total,
                step,
                row_step,
                input,
                out,
                product: (p.weights, p.rows.clone(), p.effect),
            });
            total += spans;
        }
        let run = |i: usize| {
            let span = &tasks[tasks.partition_point(|s| s.first <= i) - 1];
            // SAFETY: `isa` is available (checked in `new`); the prepared rows live in `self` until the call ends
            // and are padded; tasks of a product cover disjoint outputs or rows.
            unsafe { dense::run(isa, &span.task(i)) }
        };
        if all_bytes < ALONE_BYTES && rows <= SHARED_PREPARATION {
            (0..total).for_each(run);
        } else {
            self.pool.run(total, run);
        }
    }

    /// Norms the rows and brings them into the types that the products need, padded with zeros.
    fn prepare(&mut self, x: &[f32], width: usize, norm: Option<Norm<'_>>, need_bf16: bool) {
        let (rows, stride) = (x.len() / width, width.next_multiple_of(PADDING));
        if let Some(norm) = norm {
            assert_eq!(norm.weight.len(), width, "length of the norm's weight");
        }
        // Rows in f32 are a stage on the way to bf16 rows.
        if self.f32_rows.len() < rows * stride {
            self.f32_rows.resize(rows * stride, 0.0);
        }
        if need_bf16 && self.bf16_rows.len() < rows * stride {
            self.bf16_rows.resize(rows * stride, 0);
        }
        let (floats, halves) = (SharedMut::new(&mut self.f32_rows), SharedMut::new(&mut self.bf16_rows));
        let isa = self.isa;
        let one = |r: usize| {
            let x = &x[r * width..(r + 1) * width];
            // SAFETY: each row is prepared by one task only.
            let row = unsafe { floats.slice(r * stride, stride) };
            let (head, tail) = row.split_at_mut(width);
            match norm {
                // SAFETY: `isa` is available.
                Some(norm) => unsafe { ops::rms_norm(isa, x, norm.weight, norm.eps, head) },
                None => head.copy_from_slice(x),
            }
            tail.fill(0.0);
            if need_bf16 {
                // SAFETY: as above.
                let half = unsafe { halves.slice(r * stride, stride) };
                half.iter_mut().zip(row).for_each(|(h, v)| *h = f32_to_bf16(*v));
            }
        };
        if rows <= SHARED_PREPARATION {
            (0..rows).for_each(one);
        } else {
            self.pool.run(rows, one);
        }
    }
}

/// The tasks of one product: a grid of output ranges and row ranges.
struct Span<'a> {
    first: usize,
    step: usize,
    row_step: usize,
    input: Input,
    out: SharedMut<f32>,
    product: (&'a Weights, Range<usize>, Effect<'a>),
}

impl Span<'_> {
    fn task(&self, i: usize) -> Task<'_> {
        let (weights, rows, effect) = &self.product;
        let per_column = rows.len().div_ceil(self.row_step);
        let (column, block) = ((i - self.first) / per_column, (i - self.first) % per_column);
        let outputs = column * self.step..((column + 1) * self.step).min(weights.outputs());
        let first = block * self.row_step;
        let block = first..(first + self.row_step).min(rows.len());
        Task { weights, effect: *effect, input: self.input.skip_rows(rows.start), rows: block, outputs, out: self.out }
    }
}

/// `W x` for one row by the plainest loop: the twin that the kernels are tested against.
pub fn scalar_product(weights: &Weights, x: &[f32]) -> Vec<f32> {
    let mut row = vec![0.0; weights.inputs()];
    let bf16 = weights.kind() == WeightType::Bf16;
    (0..weights.outputs())
        .map(|i| {
            weights.row(i, &mut row);
            let dot = |x: &f32, w: &f32| f64::from(*x) * f64::from(*w);
            let round = |x: &f32| if bf16 { simd::bf16_to_f32(f32_to_bf16(*x)) } else { *x };
            x.iter().map(round).zip(&row).map(|(x, w)| dot(&x, w)).sum::<f64>() as f32
        })
        .collect()
}
