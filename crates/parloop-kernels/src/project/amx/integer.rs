//! Many rows against weights of 8 or 4 bits: integer tile products of blocks of 32, scaled and summed in f32.
//!
//! A tile instruction takes 16 rows x 32 inputs and 32 inputs x 16 outputs; that is one block of the quantised weights
//! ([`crate::quant`]), so its integers are the dot products that [`crate::project::packed`] computes, and each is
//! scaled and added in the same order: the bits are the same.
//!
//! Loops go over the inner dimension in stretches of [`DEPTH`] blocks. The weights of 16 outputs are unpacked to signed
//! bytes once a stretch, into a panel that stays in the first-level cache while all rows pass by.

use super::{BLOCK, Config, TASK, peak};
use crate::SharedMut;
use crate::isa::Isa;
use crate::memory::{Line, Lines};
use crate::project::form::{self, Form, FormId};
use crate::project::kernel::{Kernel, Shape, Task};
use crate::project::packed::block_sum;
use crate::project::results::{self, TILE};
use crate::quant::{self, Bits};
use crate::simd::{Avx512Vnni, ByteDot, Simd, Target, Work};
use crate::weights::{WeightType, Weights};
use std::arch::asm;
use std::cell::RefCell;
use std::mem::MaybeUninit;

/// Rows from which matrix tiles are faster than dot products of vectors.
pub(in crate::project) const LEAST: usize = 16;
/// Blocks of a stretch.
const DEPTH: usize = 16;
/// Lines of a block, of 16 rows or of 16 outputs: 512 bytes, 16 scales, and 16 sums or minima.
const BLOCK_LINES: usize = 10;
/// Blocks between a tile product and the use of its result: what a tile instruction stores cannot be loaded at once.
const LAG: usize = 2;
/// Places for results on their way; a power of two above [`LAG`].
const SLOTS: usize = 4;
/// The line of the scales.
const SCALES: usize = 8;
/// The line of the sums of a row's block, or of the minima of weights.
const SUMS: usize = 9;

/// Where the quantised inputs of some rows lie: `[stretches][groups of 16 rows][DEPTH]` blocks, each `[16 rows][32]` bytes
/// `[16 rows]` scales and `[16 rows]` sums.
#[derive(Clone, Copy)]
struct Layout {
    groups: usize,
    blocks: usize,
}

impl Layout {
    /// For rows of `stride` inputs, a multiple of 32.
    pub fn new(rows: usize, stride: usize) -> Self {
        Self { groups: rows.div_ceil(BLOCK), blocks: stride / quant::BLOCK }
    }

    /// Lines of all blocks.
    pub fn lines(self) -> usize {
        self.groups * self.blocks * BLOCK_LINES
    }

    /// The first line of a block.
    fn block(self, group: usize, block: usize) -> usize {
        let first = block / DEPTH * DEPTH;
        let depth = DEPTH.min(self.blocks - first);
        (first * self.groups + group * depth + block - first) * BLOCK_LINES
    }

    /// Puts a block of a row in its place.
    ///
    /// # Safety
    /// No one else may write this row; `out` has [`Layout::lines`].
    #[inline(always)]
    pub unsafe fn put(self, row: usize, block: usize, values: &[i8], [scale, sum]: [f32; 2], out: SharedMut<Line>) {
        let at = self.block(row / BLOCK, block);
        assert!(values.len() == quant::BLOCK && at + BLOCK_LINES <= out.1, "place of a block");
        // SAFETY: in range by the assertion; exclusive by the caller's promise. Written through pointers, because the
        // rows of a group share lines.
        unsafe {
            let to = out.0.add(at);
            let place = to.cast::<[i8; quant::BLOCK]>().add(row % BLOCK);
            std::ptr::copy_nonoverlapping(values.as_ptr(), place.cast(), quant::BLOCK);
            to.add(SCALES).cast::<f32>().add(row % BLOCK).write(scale);
            to.add(SUMS).cast::<f32>().add(row % BLOCK).write(block_sum(scale, sum));
        }
    }
}

/// 8 bits in blocks of 16 rows, as [`Layout`] says.
pub(in crate::project) struct ByteTiles;

impl Form for ByteTiles {
    fn lines(&self, shape: Shape) -> usize {
        Layout::new(shape.rows, shape.stride).lines()
    }

    unsafe fn put(&self, isa: Isa, shape: Shape, row: usize, first: usize, part: &[f32], out: SharedMut<Line>) {
        let layout = Layout::new(shape.rows, shape.stride);
        for (i, part) in part.chunks_exact(quant::SUPER).enumerate() {
            let (mut values, mut blocks) = ([0; quant::SUPER], [[0.0; 2]; 2]);
            // SAFETY: the caller's promise.
            unsafe { form::quantize(isa, part, &mut values, &mut blocks) };
            for (b, (values, block)) in values.chunks_exact(quant::BLOCK).zip(blocks).enumerate() {
                // SAFETY: the caller's promise.
                unsafe { layout.put(row, first / quant::BLOCK + 2 * i + b, values, block, out) };
            }
        }
    }
}

thread_local! {
    /// Panel and results, kept from task to task.
    static SPACE: RefCell<Lines> = const { RefCell::new(Lines::NONE) };
}

/// Weights of 8 or 4 bits for many rows.
pub(in crate::project) struct Integer;

impl Kernel for Integer {
    fn name(&self) -> &'static str {
        "matrix tiles of bytes"
    }

    fn form(&self) -> FormId {
        FormId::ByteTiles
    }

    fn cut(&self, shape: Shape, outputs: usize) -> (usize, usize) {
        let _ = shape;
        (outputs.min(TASK.0 / 2), TASK.1)
    }

    unsafe fn run(&self, task: &Task<'_>) {
        // SAFETY: the caller's promise; matrix tiles come with AVX-512.
        unsafe { Avx512Vnni::compiled(Run(task)) }
    }

    unsafe fn peak(&self, rounds: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe { peak::rounds(true, rounds) };
        rounds * peak::OPERATIONS
    }
}

struct Run<'a, 'b>(&'a Task<'b>);

impl Work for Run<'_, '_> {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the caller's promise.
        unsafe { many(self.0) }
    }
}

type S = <Avx512Vnni as Target>::S;
type B = Avx512Vnni;

#[inline(always)]
unsafe fn many(task: &Task<'_>) {
    let rows = task.input_rows();
    let (first_group, groups) = (rows.start / BLOCK, rows.end.div_ceil(BLOCK) - rows.start / BLOCK);
    let tiles = task.outputs.len().div_ceil(TILE);
    let layout = Layout::new(task.input.shape.rows, task.input.shape.stride);
    let matrices = task.matrices();
    let count = matrices.iter().flatten().count();
    let mut space = SPACE.take();
    // Results `[matrices][tiles][rows][16 outputs]`: a line a row.
    let (panel_lines, result_lines) = (2 * DEPTH * BLOCK_LINES, count * tiles * groups * BLOCK);
    let (panel, results) = space.at_least(panel_lines + result_lines).split_at_mut(panel_lines);
    let results = &mut results[..result_lines];
    results.fill(Line::ZERO);
    // Tiles: 0 to 3 results, 4 and 5 inputs, 6 and 7 weights.
    let mut config = Config::new();
    (0..4).for_each(|tile| config.tile(tile, BLOCK, 64));
    (4..6).for_each(|tile| config.tile(tile, BLOCK, quant::BLOCK));
    (6..8).for_each(|tile| config.tile(tile, quant::BLOCK / quant::GROUP, 64));
    // SAFETY: a valid configuration: no more than 16 lines of 64 bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
    let mut block = 0;
    while block < layout.blocks {
        let depth = DEPTH.min(layout.blocks - block);
        for (m, weights) in matrices.iter().flatten().enumerate() {
            let mut tile = 0;
            while tile < tiles {
                let pair = 2.min(tiles - tile);
                for i in 0..pair {
                    let panel = &mut panel[i * depth * BLOCK_LINES..][..depth * BLOCK_LINES];
                    fill(weights, task.outputs.start / TILE + tile + i, block, panel);
                }
                for group in 0..groups {
                    let x = task.input.at.cast::<Line>().wrapping_add(layout.block(first_group + group, block));
                    for i in 0..pair {
                        let out = &mut results[((m * tiles + tile + i) * groups + group) * BLOCK..][..BLOCK];
                        let w = panel[i * depth * BLOCK_LINES..].as_ptr();
                        // SAFETY: `depth` blocks of inputs from `x` on and as many of weights in the panel.
                        unsafe {
                            match weights.kind() {
                                WeightType::Q4Min => multiply::<true>(w, x, depth, out.as_mut_ptr().cast()),
                                _ => multiply::<false>(w, x, depth, out.as_mut_ptr().cast()),
                            }
                        }
                    }
                }
                tile += pair;
            }
        }
        block += depth;
    }
    // SAFETY: gives the tiles back, so that the system need not save them.
    unsafe { asm!("tilerelease", options(nostack)) };

    let lead = rows.start - first_group * BLOCK;
    // SAFETY: lines are 16 numbers each.
    let (_, results, _) = unsafe { results.align_to_mut::<MaybeUninit<f32>>() };
    let (a, b) = results.split_at_mut(tiles * groups * BLOCK * TILE);
    for tile in 0..tiles {
        let first = task.outputs.start + tile * TILE;
        let at = (tile * groups * BLOCK + lead) * TILE;
        let of = at..at + rows.len() * TILE;
        let b = b.get(of.clone()).unwrap_or_default();
        // SAFETY: these rows and outputs are the task's, and their results are written.
        unsafe { results::take_effect::<S>(task, 0, first, TILE.min(task.outputs.end - first), &mut a[of], b) };
    }
    SPACE.set(space);
}

/// Unpacks blocks of a tile of 16 outputs, from `block` on, to signed bytes `[8 groups][16 outputs][4 inputs]` and scales.
#[inline(always)]
fn fill(weights: &Weights, tile: usize, block: usize, panel: &mut [Line]) {
    let bits = weights.kind().bits().unwrap_or(Bits::Eight);
    let bytes = TILE * weights.kind().row_bytes(weights.inputs());
    let data = &weights.data()[tile * bytes..][..bytes];
    for (i, out) in panel.chunks_exact_mut(BLOCK_LINES).enumerate() {
        let (s, half) = ((block + i) / 2, (block + i) % 2);
        let from = &data[s * bits.super_bytes()..][..bits.super_bytes()];
        let (header, values) = from.split_at(bits.header());
        let values = &values[half * bits.block_bytes()..][..bits.block_bytes()];
        match bits {
            Bits::Eight => {
                for (out, line) in out.iter_mut().zip(values.chunks_exact(64)) {
                    out.0.iter_mut().zip(line).for_each(|(o, v)| *o = v ^ 0x80);
                }
            }
            Bits::Four | Bits::FourMin => {
                let (offset, (low, high)) = (bits.offset() as u8, out.split_at_mut(4));
                for ((low, high), line) in low.iter_mut().zip(high).zip(values.chunks_exact(64)) {
                    for j in 0..64 {
                        low.0[j] = (line[j] & 0xF).wrapping_sub(offset);
                        high.0[j] = (line[j] >> 4).wrapping_sub(offset);
                    }
                }
            }
        }
        let halves = |line: &mut Line, at: usize| {
            let from = header[at + half * 2 * TILE..][..2 * TILE].chunks_exact(2);
            for (out, x) in line.0.chunks_exact_mut(4).zip(from) {
                out.copy_from_slice(&half::f16::from_le_bytes([x[0], x[1]]).to_f32().to_le_bytes());
            }
        };
        halves(&mut out[SCALES], 0);
        if bits.has_min() {
            halves(&mut out[SUMS], quant::SCALES);
        }
    }
}

/// Adds `depth` blocks of 16 rows x 16 outputs to `out [16 rows][16]`.
#[inline(always)]
unsafe fn multiply<const MIN: bool>(w: *const Line, x: *const Line, depth: usize, out: *mut f32) {
    let mut dots = [[Line::ZERO; BLOCK]; SLOTS];
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [S::zero(); BLOCK];
        for r in 0..BLOCK {
            acc[r] = <S as Simd>::load(out.add(r * TILE));
        }
        for i in 0..depth + LAG {
            if i < depth {
                let (w, x) = (w.add(i * BLOCK_LINES), x.add(i * BLOCK_LINES));
                let dots = dots[i % SLOTS].as_mut_ptr();
                if i % 2 == 0 {
                    asm!("tilezero tmm0", "tileloadd tmm4, [{} + {}*1]", "tileloadd tmm6, [{} + {}*1]",
                        "tdpbssd tmm0, tmm4, tmm6", "tilestored [{} + {}*1], tmm0",
                        in(reg) x, in(reg) quant::BLOCK, in(reg) w, in(reg) 64usize, in(reg) dots, in(reg) 64usize,
                        options(nostack));
                } else {
                    asm!("tilezero tmm1", "tileloadd tmm5, [{} + {}*1]", "tileloadd tmm7, [{} + {}*1]",
                        "tdpbssd tmm1, tmm5, tmm7", "tilestored [{} + {}*1], tmm1",
                        in(reg) x, in(reg) quant::BLOCK, in(reg) w, in(reg) 64usize, in(reg) dots, in(reg) 64usize,
                        options(nostack));
                }
            }
            if i >= LAG {
                let i = i - LAG;
                let (w, x) = (w.add(i * BLOCK_LINES), x.add(i * BLOCK_LINES));
                let scales = <S as Simd>::load(w.add(SCALES).cast());
                let x_scales = x.add(SCALES).cast::<f32>();
                let minima = if MIN { <S as Simd>::load(w.add(SUMS).cast()) } else { S::zero() };
                let x_sums = x.add(SUMS).cast::<f32>();
                for r in 0..BLOCK {
                    let dot = B::to_float(<B as ByteDot>::load(dots[i % SLOTS].as_ptr().add(r).cast()));
                    acc[r] = S::fma(dot, S::mul(scales, <S as Simd>::splat(*x_scales.add(r))), acc[r]);
                    if MIN {
                        acc[r] = S::fma(minima, <S as Simd>::splat(*x_sums.add(r)), acc[r]);
                    }
                }
            }
        }
        for r in 0..BLOCK {
            S::store(out.add(r * TILE), acc[r]);
        }
    }
}
