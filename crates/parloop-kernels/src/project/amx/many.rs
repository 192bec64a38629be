//! Prefill: as few loads for a tile instruction as eight tiles allow.
//!
//! Two tiles of weights (32 outputs) meet two blocks of rows (32 rows) in four tiles of results. Loops go over the
//! inner dimension in stretches of [`DEPTH`] steps, for which the weights of 32 outputs are copied side by side into a
//! panel that stays in the first-level cache while all rows pass by from the second. Between stretches the results
//! are put aside as f32 and taken up again, which changes no bit.

use super::{BLOCK, Config, DEPTH, Layout, STEP, TASK, TILE_LINES, peak};
use crate::memory::{Line, Lines};
use crate::project::form::FormId;
use crate::project::kernel::{Kernel, Shape, Task};
use crate::project::results::{self, TILE};
use crate::simd::{Avx512Vnni, Simd, Target, Work, transpose};
use crate::weights::Weights;
use std::arch::asm;
use std::cell::RefCell;
use std::mem::MaybeUninit;

/// Bytes of a tile.
const TILE_BYTES: usize = 64 * TILE_LINES;

thread_local! {
    /// Panel and results, kept from task to task.
    static SPACE: RefCell<Lines> = const { RefCell::new(Lines::NONE) };
}

/// bf16 weights for many rows.
pub(in crate::project) struct Many;

impl Kernel for Many {
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
        // What is worth taking with few rows is too little here.
        let _ = (shape, outputs);
        TASK
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
        // SAFETY: the caller's promise.
        unsafe { many(self.0) }
    }
}

type S = <Avx512Vnni as Target>::S;

#[inline(always)]
unsafe fn many(task: &Task<'_>) {
    let rows = task.input_rows();
    let (first_block, blocks) = (rows.start / BLOCK, rows.end.div_ceil(BLOCK) - rows.start / BLOCK);
    let tiles = task.outputs.len().div_ceil(TILE);
    let steps = task.weights.inputs().div_ceil(STEP);
    let matrices = task.matrices();
    let count = matrices.iter().flatten().count();
    let mut space = SPACE.take();
    let (panel_lines, result_lines) = (2 * DEPTH * TILE_LINES, count * tiles * blocks * TILE_LINES);
    let (panel, results) = space.at_least(panel_lines + result_lines).split_at_mut(panel_lines);
    let mut config = Config::new();
    (0..8).for_each(|tile| config.tile(tile, TILE_LINES, 64));
    // SAFETY: a valid configuration: eight tiles of 16 lines.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
    let layout = Layout::new(task.input.shape.rows, task.input.shape.stride);
    let mut step = 0;
    while step < steps {
        let depth = DEPTH.min(steps - step);
        for (m, weights) in matrices.iter().flatten().enumerate() {
            let mut tile = 0;
            while tile < tiles {
                let pair = 2.min(tiles - tile);
                for i in 0..pair {
                    let panel = &mut panel[i * depth * TILE_LINES..][..depth * TILE_LINES];
                    fill(weights, task.outputs.start + (tile + i) * TILE, task.outputs.end, step, panel);
                }
                let w = panel.as_ptr().cast::<u8>();
                // Meanwhile the weights of the next panel come near.
                let (next, next_step) = if tile + 2 < tiles { (tile + 2, step) } else { (0, step + depth) };
                let next = task.outputs.start + next * TILE;
                let share = (2 * TILE).div_ceil(blocks.div_ceil(2));
                let mut block = 0;
                while block < blocks {
                    for o in next + block / 2 * share..next + (block / 2 + 1) * share {
                        let row = weights.data().as_ptr().wrapping_add(2 * (o * weights.inputs() + next_step * STEP));
                        for line in 0..depth {
                            // SAFETY: fetching is harmless at any address.
                            unsafe { S::prefetch(row.wrapping_add(64 * line)) };
                        }
                    }
                    let x = |i| task.input.at.wrapping_add(64 * layout.tile(first_block + block + i, step));
                    let at = ((m * tiles + tile) * blocks + block) * TILE_LINES;
                    let part = Part {
                        w: [w, w.wrapping_add(depth * TILE_BYTES)],
                        x: [x(0), x(1)],
                        out: results[at..].as_mut_ptr().cast(),
                        across: blocks * TILE_BYTES,
                        depth,
                        resume: step > 0,
                    };
                    // SAFETY: the panel holds `pair` tiles of `depth` steps; the blocks of rows exist as far as
                    // they are asked for, and so do their results.
                    unsafe {
                        match (pair, blocks - block) {
                            (1, 1) => multiply::<1, 1>(&part),
                            (1, _) => multiply::<1, 2>(&part),
                            (_, 1) => multiply::<2, 1>(&part),
                            _ => multiply::<2, 2>(&part),
                        }
                    }
                    block += 2;
                }
                tile += 2;
            }
        }
        step += depth;
    }
    // SAFETY: gives the tiles back, so that the system need not save them.
    unsafe { asm!("tilerelease", options(nostack)) };

    for tile in 0..tiles {
        let first = task.outputs.start + tile * TILE;
        for block in 0..blocks {
            let mut turned = [[MaybeUninit::<f32>::uninit(); TILE * BLOCK]; 2];
            for m in 0..count {
                let at = ((m * tiles + tile) * blocks + block) * TILE_LINES;
                // SAFETY: 16 lines of results, and as much room.
                unsafe { transpose(results[at..].as_ptr().cast(), BLOCK, turned[m].as_mut_ptr().cast(), TILE) };
            }
            let begin = (first_block + block) * BLOCK;
            let (from, to) = (rows.start.max(begin), rows.end.min(begin + BLOCK));
            let of = (from - begin) * TILE..(to - begin) * TILE;
            let [a, b] = &mut turned;
            // SAFETY: these rows and outputs are the task's; the results are written (b only where it is read).
            unsafe {
                results::take_effect::<S>(
                    task,
                    from - rows.start,
                    first,
                    TILE.min(task.outputs.end - first),
                    &mut a[of.clone()],
                    &b[of],
                );
            }
        }
    }
    SPACE.set(space);
}

/// Copies 16 outputs from `first` on, for the steps from `step` on, into tiles `[steps][16 outputs][32]`. Outputs from
/// `end` on and inputs past the last are zeros.
#[inline(always)]
fn fill(weights: &Weights, first: usize, end: usize, step: usize, panel: &mut [Line]) {
    let (width, data) = (weights.inputs(), weights.data());
    for o in 0..TILE {
        if first + o >= end {
            panel.iter_mut().skip(o).step_by(TILE_LINES).for_each(|line| *line = Line::ZERO);
            continue;
        }
        let row = &data[(first + o) * 2 * width..][..2 * width];
        for (i, line) in panel.iter_mut().skip(o).step_by(TILE_LINES).enumerate() {
            let at = (step + i) * 2 * STEP;
            match row.get(at..at + 64) {
                // SAFETY: 64 bytes on either side, the instruction set the caller's promise.
                Some(whole) => unsafe {
                    S::store(line.0.as_mut_ptr().cast(), S::load(whole.as_ptr().cast()));
                },
                None => {
                    *line = Line::ZERO;
                    let rest = &row[at..];
                    line.0[..rest.len()].copy_from_slice(rest);
                }
            }
        }
    }
}

/// Up to two tiles of weights and two blocks of rows over a stretch of the inner dimension.
struct Part {
    w: [*const u8; 2],
    x: [*const u8; 2],
    /// Results of the first tile; those of its second block follow.
    out: *mut u8,
    /// Bytes to the results of the second tile.
    across: usize,
    depth: usize,
    /// Whether to go on from the results of the stretch before.
    resume: bool,
}

/// Tiles: 0 to 3 results (outputs 0 x blocks 0, 1; outputs 1 x blocks 0, 1), 4 and 5 weights, 6 and 7 inputs.
#[inline(always)]
unsafe fn multiply<const W: usize, const X: usize>(part: &Part) {
    let out = [
        part.out,
        part.out.wrapping_add(TILE_BYTES),
        part.out.wrapping_add(part.across),
        part.out.wrapping_add(part.across + TILE_BYTES),
    ];
    let (mut w, mut x) = (part.w, part.x);
    // SAFETY: the caller's promise.
    unsafe {
        // Loads or stores the results in use.
        macro_rules! results {
            ($before:literal, $after:literal) => {
                asm!(concat!($before, "0", $after), in(reg) out[0], in(reg) 64usize, options(nostack));
                if X > 1 {
                    asm!(concat!($before, "1", $after), in(reg) out[1], in(reg) 64usize, options(nostack));
                }
                if W > 1 {
                    asm!(concat!($before, "2", $after), in(reg) out[2], in(reg) 64usize, options(nostack));
                }
                if W > 1 && X > 1 {
                    asm!(concat!($before, "3", $after), in(reg) out[3], in(reg) 64usize, options(nostack));
                }
            };
        }
        if part.resume {
            results!("tileloadd tmm", ", [{} + {}*1]");
        } else {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack));
        }
        for _ in 0..part.depth {
            asm!("tileloadd tmm4, [{} + {}*1]", "tileloadd tmm6, [{} + {}*1]", "tdpbf16ps tmm0, tmm4, tmm6",
                in(reg) w[0], in(reg) 64usize, in(reg) x[0], in(reg) 64usize, options(nostack, readonly));
            if X > 1 {
                asm!("tileloadd tmm7, [{} + {}*1]", "tdpbf16ps tmm1, tmm4, tmm7",
                    in(reg) x[1], in(reg) 64usize, options(nostack, readonly));
            }
            if W > 1 {
                asm!("tileloadd tmm5, [{} + {}*1]", "tdpbf16ps tmm2, tmm5, tmm6",
                    in(reg) w[1], in(reg) 64usize, options(nostack, readonly));
            }
            if W > 1 && X > 1 {
                asm!("tdpbf16ps tmm3, tmm5, tmm7", options(nostack));
            }
            for i in 0..2 {
                w[i] = w[i].wrapping_add(TILE_BYTES);
                x[i] = x[i].wrapping_add(TILE_BYTES);
            }
        }
        results!("tilestored [{} + {}*1], tmm", "");
    }
}
