//! Matrix products of many rows, with what stands before and after them: an RMSNorm on the way in, the residual or
//! SwiGLU on the way out.
//!
//! Products that share their input (q, k and v; gate and up) go into one call, so that the input is prepared once and
//! the workers meet once.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
mod dense;
mod packed;
mod prepare;

use crate::isa::Isa;
use crate::memory::Lines;
use crate::pool::Pool;
use crate::profile::{Op, Profile};
use crate::quant;
use crate::simd::f32_to_bf16;
use crate::weights::{WeightType, Weights};
use crate::{SharedMut, simd};
use dense::{Input, Task};
use prepare::Forms;
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
/// Rows from which matrix tiles are faster for 8 and 4 bits than dot products of vectors.
const I8_TILES: usize = 16;
/// Bytes of weights of one task: large enough to hide the cost of taking it, small enough to balance.
const TASK_BYTES: usize = 96 << 10;
/// Below this many bytes of weights a call is not worth waking the workers.
const ALONE_BYTES: usize = 24 << 10;
/// Columns of a prepared input row are padded with zeros to a multiple of this.
const PADDING: usize = quant::SUPER;

/// The pool, the instruction set, and the scratch space of calls.
pub struct Projector {
    isa: Isa,
    /// The worker threads, for other calls too.
    pub pool: Pool,
    /// Where the time goes, if asked for.
    pub profile: Profile,
    f32_rows: Vec<f32>,
    bf16_rows: Vec<u16>,
    /// Blocks of 16 rows, packed for matrix tiles.
    tile_rows: Lines,
    /// Rows in 8 bits, and for each block of 32 its scale and sum.
    i8_rows: Vec<i8>,
    i8_blocks: Vec<[f32; 2]>,
}

/// The form in which a product takes its input rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    F32,
    Bf16,
    /// bf16 in blocks of rows, for matrix tiles.
    Tiles,
    I8,
    /// 8 bits in blocks of rows, for matrix tiles.
    I8Tiles,
}

impl Form {
    /// For products of a weight type with so many rows.
    fn of(kind: WeightType, isa: Isa, rows: usize) -> Self {
        match kind {
            WeightType::Bf16 if isa == Isa::Amx => Self::Tiles,
            WeightType::Bf16 if isa == Isa::Avx512 => Self::Bf16,
            WeightType::F32 | WeightType::Bf16 => Self::F32,
            WeightType::Q8 | WeightType::Q4Min | WeightType::Q4 if isa == Isa::Amx && rows >= I8_TILES => Self::I8Tiles,
            WeightType::Q8 | WeightType::Q4Min | WeightType::Q4 => Self::I8,
        }
    }
}

impl Projector {
    /// A projector with `threads` threads.
    ///
    /// # Panics
    /// If `isa` is not available on this machine: its kernels would be unsound.
    pub fn new(isa: Isa, threads: usize) -> Self {
        assert!(Isa::available().contains(&isa), "{} is not available on this machine", isa.name());
        Self {
            isa,
            pool: Pool::new(threads),
            profile: Profile::from_environment(),
            f32_rows: vec![],
            bf16_rows: vec![],
            tile_rows: Lines::NONE,
            i8_rows: vec![],
            i8_blocks: vec![],
        }
    }

    /// The instruction set in use; guaranteed to be available.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Multiplies the rows of `x` (each `width` long), after `norm`, with every product's matrix. `op` is the name
    /// under which the profile counts the call.
    ///
    /// # Panics
    /// If a shape does not fit: `x` not a whole number of rows, a matrix of another width, rows out of range, or a
    /// result of another length.
    pub fn project(&mut self, op: Op, x: &[f32], width: usize, norm: Option<Norm<'_>>, products: &mut [Product<'_>]) {
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
        let began = self.profile.start();
        let isa = self.isa;
        let uses = |form| products.iter().any(|p| Form::of(p.weights.kind(), isa, rows) == form);
        let bf16 = uses(Form::Bf16) || uses(Form::Tiles);
        self.prepare(
            x,
            width,
            norm,
            Needs { f32: uses(Form::F32), bf16, i8: uses(Form::I8), i8_tiles: uses(Form::I8Tiles) },
        );
        if uses(Form::Tiles) {
            self.pack_tiles(rows, width);
        }

        let stride = width.next_multiple_of(PADDING);
        let plain = |rows: *const u8, size: usize| Input {
            rows,
            stride: size * stride,
            blocks: std::ptr::null(),
            offset: 0,
            total: 0,
        };
        let tiles = self.tile_rows.at_least(0).as_ptr().cast();
        let inputs = |form| match form {
            Form::F32 => plain(self.f32_rows.as_ptr().cast(), 4),
            Form::Bf16 => plain(self.bf16_rows.as_ptr().cast(), 2),
            Form::Tiles => Input { total: rows, ..plain(tiles, 2) },
            Form::I8 => Input { blocks: self.i8_blocks.as_ptr(), ..plain(self.i8_rows.as_ptr().cast(), 1) },
            Form::I8Tiles => Input { total: rows, ..plain(tiles, 1) },
        };
        let mut tasks: Vec<Span> = Vec::with_capacity(products.len());
        let mut total = 0;
        let bytes = |p: &Product<'_>| match p.effect {
            _ if p.rows.is_empty() => 0,
            Effect::SwiGlu(up) => p.weights.bytes() + up.bytes(),
            Effect::Store | Effect::Add => p.weights.bytes(),
        };
        let all_bytes: usize = products.iter().map(bytes).sum();
        let share = (all_bytes / self.pool.threads()).clamp(1, TASK_BYTES);
        for p in products.iter_mut() {
            let (outputs, count) = (p.weights.outputs(), p.rows.len());
            let per_output =
                p.weights.kind().row_bytes(width) * if matches!(p.effect, Effect::SwiGlu(_)) { 2 } else { 1 };
            let step = (share / per_output).next_multiple_of(2 * dense::TILE).max(2 * dense::TILE);
            let (step, row_step) = match Form::of(p.weights.kind(), isa, rows) {
                #[cfg(target_arch = "x86_64")]
                Form::Tiles if rows > amx::FEW => (amx::MANY.1, amx::MANY.0),
                #[cfg(target_arch = "x86_64")]
                Form::I8Tiles => (step.min(amx::MANY.1 / 2), amx::MANY.0),
                Form::Tiles => (step, dense::row_block(width, 16)),
                _ => (step, dense::row_block(width, 6)),
            };
            let spans = outputs.div_ceil(step) * count.div_ceil(row_step);
            let input = inputs(Form::of(p.weights.kind(), isa, rows));
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
            unsafe {
                match span.product.0.kind() {
                    #[cfg(target_arch = "x86_64")]
                    WeightType::Q8 | WeightType::Q4Min | WeightType::Q4 if span.input.total > 0 => {
                        amx::integer::run(isa, &span.task(i))
                    }
                    WeightType::Q8 | WeightType::Q4Min | WeightType::Q4 => packed::run(isa, &span.task(i)),
                    #[cfg(target_arch = "x86_64")]
                    WeightType::Bf16 if isa == Isa::Amx => amx::run(isa, &span.task(i)),
                    WeightType::F32 | WeightType::Bf16 => dense::run(isa, &span.task(i)),
                }
            }
        };
        if all_bytes < ALONE_BYTES && rows <= SHARED_PREPARATION {
            (0..total).for_each(run);
        } else {
            self.pool.run(total, run);
        }
        self.profile.add(op, began, all_bytes);
    }

    /// Norms the rows and brings them into the forms that the products need, padded with zeros.
    fn prepare(&mut self, x: &[f32], width: usize, norm: Option<Norm<'_>>, needs: Needs) {
        let (rows, stride) = (x.len() / width, width.next_multiple_of(PADDING));
        if let Some(norm) = norm {
            assert_eq!(norm.weight.len(), width, "length of the norm's weight");
        }
        let grow = |needed: bool, len: usize| if needed { rows * len } else { 0 };
        let floats = shared(&mut self.f32_rows, grow(needs.f32, stride), 0.0);
        let halves = shared(&mut self.bf16_rows, grow(needs.bf16, stride), 0);
        let bytes = shared(&mut self.i8_rows, grow(needs.i8, stride), 0);
        let blocks = shared(&mut self.i8_blocks, grow(needs.i8, stride / quant::BLOCK), [0.0; 2]);
        #[cfg(target_arch = "x86_64")]
        let tiles = needs.i8_tiles.then(|| {
            let layout = amx::integer::Layout::new(rows, stride);
            (layout, SharedMut::new(self.tile_rows.at_least(layout.lines())))
        });
        let isa = self.isa;
        let one = |r: usize| {
            let x = &x[r * width..(r + 1) * width];
            let part = |needed: bool, len: usize| if needed { (r * len, len) } else { (0, 0) };
            let (f, h, i) = (part(needs.f32, stride), part(needs.bf16, stride), part(needs.i8, stride));
            let b = part(needs.i8, stride / quant::BLOCK);
            // SAFETY: each row is prepared by one task only; `isa` is available.
            unsafe {
                let forms = Forms {
                    f32: floats.slice(f.0, f.1),
                    bf16: halves.slice(h.0, h.1),
                    i8: bytes.slice(i.0, i.1),
                    blocks: blocks.slice(b.0, b.1),
                    #[cfg(target_arch = "x86_64")]
                    tiles: tiles.map(|(layout, out)| (layout, r, out)),
                };
                prepare::row(isa, x, norm, forms);
            }
        };
        if rows <= SHARED_PREPARATION {
            (0..rows).for_each(one);
        } else {
            self.pool.run(rows, one);
        }
    }

    /// Packs the prepared bf16 rows for matrix tiles.
    fn pack_tiles(&mut self, rows: usize, width: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            let stride = width.next_multiple_of(PADDING);
            let layout = amx::Layout::new(rows, stride);
            let out = SharedMut::new(self.tile_rows.at_least(layout.lines()));
            let halves = &self.bf16_rows[..rows * stride];
            let one = |block: usize| {
                let n = amx::BLOCK.min(rows - block * amx::BLOCK);
                let rows = &halves[block * amx::BLOCK * stride..][..n * stride];
                // SAFETY: each block is packed by one task only; tiles are used where AVX-512 is available.
                unsafe { layout.pack(block, rows, out) };
            };
            // A single block, as in decode, runs here without waking a worker.
            self.pool.run(layout.blocks(), one);
        }
    }
}

/// The forms that rows are wanted in.
#[derive(Clone, Copy)]
struct Needs {
    f32: bool,
    bf16: bool,
    i8: bool,
    i8_tiles: bool,
}

/// A buffer of at least `len` elements, to be written by several workers.
fn shared<T: Clone>(buffer: &mut Vec<T>, len: usize, zero: T) -> SharedMut<T> {
    if buffer.len() < len {
        buffer.resize(len, zero);
    }
    SharedMut::new(buffer)
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
