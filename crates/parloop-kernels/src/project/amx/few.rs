//! Decode: weights are loaded into tiles where they lie (16 rows of a row-major matrix, 64 bytes of each) and read
//! once for up to three blocks of rows.

use super::{BLOCK, Config, Layout, STEP, TILE_LINES, peak};
use crate::project::form::FormId;
use crate::project::kernel::{Kernel, Shape, Task, row_block};
use crate::project::results::{self, Results, TILE, Tiles};
use crate::simd::{Avx512Vnni, Target, Work};
use crate::weights::Weights;
use std::arch::asm;

/// bf16 weights for few rows.
pub(in crate::project) struct Few;

impl Kernel for Few {
    fn name(&self) -> &'static str {
        "matrix tiles of bf16"
    }

    fn form(&self) -> FormId {
        FormId::HalfTiles
    }

    fn laid_out_by_call(&self) -> bool {
        true
    }

    fn cut(&self, shape: Shape, outputs: usize) -> (usize, usize) {
        (outputs, row_block(shape.stride, BLOCK))
    }

    unsafe fn run(&self, task: &Task<'_>) {
        // SAFETY: the caller's promise; matrix tiles come with AVX-512.
        unsafe { Avx512Vnni::compiled(Run(task)) }
    }

    unsafe fn peak(&self, rounds: usize) -> usize {
        // SAFETY: the caller's promise.
        unsafe { peak::rounds(false, rounds) };
        rounds * peak::OPERATIONS
    }
}

struct Run<'a, 'b>(&'a Task<'b>);

impl Work for Run<'_, '_> {
    #[inline(always)]
    unsafe fn run(self) {
        // SAFETY: the caller's promise; the tiles are given back so that the system need not save them.
        unsafe {
            results::each_tile::<Few>(self.0);
            asm!("tilerelease", options(nostack));
        }
    }
}

impl Tiles for Few {
    type T = Avx512Vnni;

    #[inline(always)]
    unsafe fn tile(task: &Task<'_>, weights: &Weights, first: usize, count: usize, out: &mut Results) {
        // Up to three blocks of rows share the loaded weights.
        let std::ops::Range { start, end } = task.input_rows();
        let layout = Layout::new(task.input.shape.rows, task.input.shape.stride);
        let mut row = start;
        while row < end {
            let mut blocks = [Block::default(); 3];
            let mut n = 0;
            let from = row;
            while n < 3 && row < end {
                let (inside, index) = (row % BLOCK, row / BLOCK);
                let size = BLOCK.min(task.input.shape.rows - index * BLOCK);
                let rows = (size - inside).min(end - row);
                let at = 64 * layout.tile(index, 0) + inside * 4;
                blocks[n] = Block { at: task.input.at.wrapping_add(at), pitch: layout.pitch(), rows };
                row += rows;
                n += 1;
            }
            let to = &mut out[(from - start) * TILE..];
            // SAFETY: the blocks lie inside the packed rows; `first + count` outputs exist; `to` has room.
            unsafe {
                match n {
                    1 => blocks_of::<1>(weights, first, count, &blocks, to.as_mut_ptr().cast()),
                    2 => blocks_of::<2>(weights, first, count, &blocks, to.as_mut_ptr().cast()),
                    _ => blocks_of::<3>(weights, first, count, &blocks, to.as_mut_ptr().cast()),
                }
            }
        }
    }
}

/// Some rows of a packed block.
#[derive(Clone, Copy)]
struct Block {
    at: *const u8,
    /// Bytes from one pair of columns to the next.
    pitch: usize,
    rows: usize,
}

impl Default for Block {
    fn default() -> Self {
        Self { at: std::ptr::null(), pitch: 0, rows: 1 }
    }
}

/// `count` outputs for N blocks of rows, into `out [rows][TILE]`.
#[inline(always)]
unsafe fn blocks_of<const N: usize>(
    weights: &Weights,
    first: usize,
    count: usize,
    blocks: &[Block; 3],
    mut out: *mut f32,
) {
    let width = weights.inputs();
    let row_bytes = 2 * width;
    // Tiles: 0 to 2 results, 3 weights, 4 to 6 inputs.
    let mut config = Config::new();
    config.tile(3, count, 64);
    for i in 0..N {
        config.tile(i, count, 4 * blocks[i].rows);
        config.tile(4 + i, TILE_LINES, 4 * blocks[i].rows);
    }
    let data = weights.data();
    let mut w = data[first * row_bytes..(first + count) * row_bytes].as_ptr();
    let mut x = [blocks[0].at, blocks[1].at, blocks[2].at];
    // The weights' last columns, where the width is no whole number of steps.
    let mut tail = [0u8; 64 * TILE];
    let rest = width % STEP;
    if rest > 0 {
        for o in 0..count {
            let from = &data[(first + o) * row_bytes + 2 * (width - rest)..][..2 * rest];
            tail[o * 64..][..2 * rest].copy_from_slice(from);
        }
    }
    // SAFETY: the configuration is valid (palette 1, at most 16 rows of 64 bytes); tile loads stay inside the weight
    // rows, the tail buffer, and the packed rows, which are padded to whole steps.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly));
        asm!("tilezero tmm0", out("tmm0") _, options(nostack));
        if N > 1 {
            asm!("tilezero tmm1", out("tmm1") _, options(nostack));
        }
        if N > 2 {
            asm!("tilezero tmm2", out("tmm2") _, options(nostack));
        }
        let steps = width / STEP + usize::from(rest > 0);
        for step in 0..steps {
            let last = rest > 0 && step + 1 == steps;
            let (from, stride) = if last { (tail.as_ptr(), 64) } else { (w, row_bytes) };
            asm!("tileloadd tmm3, [{w} + {s}*1]", w = in(reg) from, s = in(reg) stride, out("tmm3") _, options(nostack, readonly));
            asm!(
                "tileloadd tmm4, [{x} + {p}*1]",
                "tdpbf16ps tmm0, tmm3, tmm4",
                x = in(reg) x[0], p = in(reg) blocks[0].pitch, out("tmm0") _, out("tmm4") _, options(nostack, readonly)
            );
            if N > 1 {
                asm!(
                    "tileloadd tmm5, [{x} + {p}*1]",
                    "tdpbf16ps tmm1, tmm3, tmm5",
                    x = in(reg) x[1], p = in(reg) blocks[1].pitch, out("tmm1") _, out("tmm5") _, options(nostack, readonly)
                );
            }
            if N > 2 {
                asm!(
                    "tileloadd tmm6, [{x} + {p}*1]",
                    "tdpbf16ps tmm2, tmm3, tmm6",
                    x = in(reg) x[2], p = in(reg) blocks[2].pitch, out("tmm2") _, out("tmm6") _, options(nostack, readonly)
                );
            }
            w = w.wrapping_add(2 * STEP);
            for i in 0..N {
                x[i] = x[i].wrapping_add(BLOCK * blocks[i].pitch);
            }
        }
        let mut result = [0.0f32; TILE * BLOCK];
        for i in 0..N {
            let n = blocks[i].rows;
            let to = result.as_mut_ptr();
            match i {
                0 => asm!("tilestored [{r} + {p}*1], tmm0", r = in(reg) to, p = in(reg) 4 * n, options(nostack)),
                1 => asm!("tilestored [{r} + {p}*1], tmm1", r = in(reg) to, p = in(reg) 4 * n, options(nostack)),
                _ => asm!("tilestored [{r} + {p}*1], tmm2", r = in(reg) to, p = in(reg) 4 * n, options(nostack)),
            }
            for r in 0..n {
                for o in 0..TILE {
                    // Columns past the last output are never read, but must hold something.
                    *out.add(r * TILE + o) = if o < count { result[o * n + r] } else { 0.0 };
                }
            }
            out = out.add(n * TILE);
        }
    }
}
