//! bf16 products on Intel's matrix tiles (AMX).
//!
//! A tile instruction multiplies 16 outputs x 32 inputs of weights with 32 inputs of up to 16 rows in the time that
//! it takes for one row. Input rows are packed in pairs of columns ([`Layout`]). An output sums its products step by
//! step in an order that the instruction fixes, whatever the other rows, so [`few`] rows, whose weights are loaded
//! where they lie and read once, and [`many`], whose weights and results stay in cache, give the same bits.
//!
//! Rust's stable intrinsics do not cover the tiles, hence the inline assembly.

mod few;
pub(super) mod integer;
mod many;
mod peak;

pub(super) use few::Few;
pub(super) use many::Many;

use super::form::{self, Form};
use super::kernel::Shape;
use crate::SharedMut;
use crate::isa::Isa;
use crate::memory::Line;
use crate::simd::transpose;

/// Inputs of a step.
const STEP: usize = 32;
/// Rows of a packed block.
pub(super) const BLOCK: usize = 16;
/// Steps of a stretch of the inner dimension ([`many`]).
const DEPTH: usize = 8;
/// Lines of a tile: 16 outputs, or 16 pairs of columns, or 16 results.
const TILE_LINES: usize = 16;

/// Rows above which it is worth bringing weights into panels.
pub(super) const FEW: usize = 48;
/// Outputs and rows of a task with many rows: its results stay in a core's second-level cache.
const TASK: (usize, usize) = (256, 512);

/// bf16 in tiles of 16 rows, as [`Layout`] says; behind them the rows that they are packed from.
pub(super) struct HalfTiles;

impl Form for HalfTiles {
    fn lines(&self, shape: Shape) -> usize {
        Layout::new(shape.rows, shape.stride).lines() + shape.rows * shape.stride / 32
    }

    unsafe fn put(&self, isa: Isa, shape: Shape, row: usize, first: usize, part: &[f32], out: SharedMut<Line>) {
        let behind = 32 * Layout::new(shape.rows, shape.stride).lines();
        // SAFETY: the caller's promise; a line holds 32 numbers.
        unsafe { form::halves(isa, part, out.cast::<u16>().slice(behind + row * shape.stride + first, part.len())) };
    }

    fn groups(&self, shape: Shape) -> usize {
        Layout::new(shape.rows, shape.stride).blocks()
    }

    unsafe fn pack(&self, shape: Shape, group: usize, out: SharedMut<Line>) {
        let layout = Layout::new(shape.rows, shape.stride);
        let n = BLOCK.min(shape.rows - group * BLOCK);
        let from = 32 * layout.lines() + group * BLOCK * shape.stride;
        // SAFETY: all rows are in place and are only read now; each group has tiles of its own; tiles are used where
        // AVX-512 is available.
        unsafe { layout.pack(group, out.cast::<u16>().slice(from, n * shape.stride), out) };
    }
}

/// Where the packed inputs of some rows lie.
///
/// Few rows: `[blocks][steps]` tiles, each `[16 pairs of columns][rows][2]`. Many: `[stretches][blocks][DEPTH]` tiles, so
/// that what [`many`] reads one after the other lies one after the other.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Rows of all blocks.
    pub rows: usize,
    /// Steps of a row.
    pub steps: usize,
}

impl Layout {
    /// For rows of `stride` inputs, a multiple of [`STEP`].
    pub fn new(rows: usize, stride: usize) -> Self {
        assert!(stride.is_multiple_of(STEP), "rows are padded to whole steps");
        Self { rows, steps: stride / STEP }
    }

    /// Blocks of rows.
    pub fn blocks(self) -> usize {
        self.rows.div_ceil(BLOCK)
    }

    /// Lines of all tiles.
    pub fn lines(self) -> usize {
        self.blocks() * self.steps * self.tile_lines()
    }

    /// Lines of a tile: a single block of few rows is packed densely.
    fn tile_lines(self) -> usize {
        self.rows.min(BLOCK)
    }

    /// The first line of a tile.
    fn tile(self, block: usize, step: usize) -> usize {
        let index = if self.rows > FEW {
            let first = step / DEPTH * DEPTH;
            let depth = DEPTH.min(self.steps - first);
            first * self.blocks() + block * depth + step - first
        } else {
            block * self.steps + step
        };
        index * self.tile_lines()
    }

    /// Bytes from one pair of columns to the next.
    fn pitch(self) -> usize {
        4 * self.tile_lines()
    }

    /// Packs a block of prepared bf16 rows `[rows of the block][stride]`. Places of rows that do not exist keep what they
    /// held: a tile's columns never mix.
    ///
    /// # Safety
    /// AVX-512 must be available; no one else may use the block's tiles in `out`, which has [`Layout::lines`].
    #[target_feature(enable = "avx512f")]
    pub unsafe fn pack(self, block: usize, rows: &[u16], out: SharedMut<Line>) {
        let (stride, pitch) = (self.steps * STEP, self.pitch());
        let n = rows.len() / stride;
        for step in 0..self.steps {
            // SAFETY: the caller's promise; tiles of different blocks and steps are disjoint. A line is 32 elements.
            let (tile, from) = unsafe { (out.slice(self.tile(block, step), self.tile_lines()), &rows[step * STEP..]) };
            let to = tile.as_mut_ptr().cast::<[u16; 2]>();
            if n == BLOCK {
                // SAFETY: 16 rows of 32 columns from `from` on, and 16 lines at `to`.
                unsafe { transpose(from.as_ptr().cast(), stride / 2, to.cast(), STEP / 2) };
                continue;
            }
            for pair in 0..STEP / 2 {
                for r in 0..n {
                    let columns = &from[r * stride + 2 * pair..][..2];
                    // SAFETY: inside the tile: `r` is below the rows of a pitch.
                    unsafe { to.add(pair * pitch / 4 + r).write([columns[0], columns[1]]) };
                }
            }
        }
    }
}

/// Shapes of the tiles, as `ldtilecfg` takes them.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    /// No tiles yet.
    fn new() -> Self {
        Self { palette: 1, start: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] }
    }

    /// Sets the shape of a tile.
    fn tile(&mut self, index: usize, rows: usize, bytes: usize) {
        (self.rows[index], self.bytes[index]) = (rows as u8, bytes as u16);
    }
}
