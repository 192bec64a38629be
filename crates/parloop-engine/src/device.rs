//! What computes a pass: the seam between rows and the hardware that pushes them through the layers.
//!
//! Everything above it is the same for every device: which rows a turn has, where truncated loops start, sampling, forks,
//! state files, the index of prefixes, the budget of keys and values. A [`Device`] gets the rows of one pass with their
//! inputs and gives back the outputs of those that went through all layers; and it computes logits. [`Cpu`] is the one
//! that exists; the tests hold a deliberately naive one against it.
//!
//! The unit is the *pass* and not the single operation, because what to fuse is the device's own business: the CPU
//! hides SwiGLU in a product, a GPU would put norm, product, bias and rotation into one launch and record the pass as a
//! graph. A seam between operations would fix those borders for all. What devices would otherwise repeat is here:
//! [`Pass::store`], [`Pass::sight`], [`Pass::leave_out`].
//!
//! Embeddings are looked up and mixed with carried vectors on the host: d numbers a row, against the whole of the
//! weights that the row then meets.

mod cpu;
mod made_up;

pub use cpu::Cpu;
pub use made_up::MadeUp;

use crate::{Model, Sequence};
use parloop_kernels::{Branch, KvTiles, Projector, Spares};
use parloop_model::experts::Space;
use parloop_model::{ExpertMode, KvMode};
use std::ops::Range;

/// Where a row belongs, and how far it goes. Rows of a pass are ordered by loop, and within a loop by sequence and
/// position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Index into the sequences of the pass.
    pub sequence: usize,
    /// Loop, counted from 0.
    pub r: usize,
    /// Position in the sequence; the rotary embedding uses it in every loop.
    pub position: usize,
    /// Layers that the row goes through. In the next one, if there is one, it only gives keys and values.
    pub depth: usize,
}

/// Something that computes passes, with the help of the host's threads.
pub trait Device: Send {
    /// Pushes the rows of a pass through the layers. In the end `pass.rows` are those that went through all of them
    /// and `pass.x` their outputs `[rows][d]`.
    ///
    /// A row's result must depend on nothing but the row and what its sequence holds: not on its company.
    fn pass(&mut self, host: &mut Projector, pass: Pass<'_, '_>);

    /// Logits of rows: `Head(FinalNorm(x))`, from `x [rows][d]` to `logits [rows][V]`.
    fn head(&mut self, host: &mut Projector, model: &Model, x: &[f32], logits: &mut [f32]);
}

/// The rows of one pass, and what they read and write.
pub struct Pass<'a, 'b> {
    /// The weights.
    pub model: &'a Model,
    /// The rows.
    pub rows: &'a mut Vec<Row>,
    /// Their residual stream `[rows][d]`.
    pub x: &'a mut [f32],
    pub(crate) sequences: &'a mut [&'b mut Sequence],
    pub(crate) spares: &'a mut Spares,
    /// How rows are routed instead, for measurements.
    pub(crate) made_up: Option<MadeUp>,
    /// Experts whose weights were read, counted in every layer.
    pub(crate) experts_read: &'a mut u64,
}

/// Consecutive rows of one (sequence, loop) at consecutive positions, whose keys and values were written.
pub struct Written {
    sequence: usize,
    r: usize,
    rows: Range<usize>,
    first: usize,
}

/// The positions that a row attends.
pub struct Sight<'a> {
    /// Loop 1's keys and values (the loop's own, with `kv = per_loop`), from the first position on.
    pub global: Branch<'a>,
    /// The loop's own window, where the recipe has one.
    pub local: Option<Branch<'a>>,
}

/// Where [`Pass::route`] puts the experts of a row.
pub struct Routed<'a> {
    /// `[k]`
    pub experts: &'a mut [u16],
    /// `[k]`
    pub weights: &'a mut [f32],
    /// Kept from row to row.
    pub space: &'a mut Space,
}

fn runs(rows: &[Row]) -> Vec<Written> {
    let mut runs: Vec<Written> = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        match runs.last_mut() {
            Some(run)
                if (run.sequence, run.r) == (row.sequence, row.r) && run.first + run.rows.len() == row.position =>
            {
                run.rows.end += 1;
            }
            _ => runs.push(Written { sequence: row.sequence, r: row.r, rows: i..i + 1, first: row.position }),
        }
    }
    runs
}

impl Pass<'_, '_> {
    /// How many rows have keys and values of their own; they come first, since rows are ordered by loop.
    pub fn own(&self) -> usize {
        self.rows.partition_point(|row| self.model.config().recipe.has_own_kv(row.r))
    }

    /// How many rows go through layer `n`; the others only give it keys and values.
    pub fn through(&self, n: usize) -> usize {
        self.rows.iter().filter(|row| row.depth > n).count()
    }

    /// Leaves out the rows that do not go through layer `n`. `moved(to, from)` is told of each that stays, in order, for
    /// what the device keeps beside the residual stream.
    pub fn leave_out(&mut self, n: usize, mut moved: impl FnMut(usize, usize)) {
        let d = self.model.config().hidden_size;
        let mut kept = 0;
        for i in 0..self.rows.len() {
            if self.rows[i].depth > n {
                self.rows[kept] = self.rows[i];
                self.x.copy_within(i * d..(i + 1) * d, kept * d);
                moved(kept, i);
                kept += 1;
            }
        }
        self.rows.truncate(kept);
    }

    /// The experts of row `i` in layer `n`, in ascending order, and their weights, from the logits of the layer's router
    /// `[E]`. Where later loops take loop 1's experts, those of the row of the same token are found or kept here.
    ///
    /// # Panics
    /// If the model has no experts, or a length does not fit.
    pub fn route(&mut self, i: usize, n: usize, logits: &[f32], bias: Option<&[f32]>, to: &mut Routed<'_>) {
        let (row, config) = (&self.rows[i], self.model.config());
        let moe = config.moe.as_ref().expect("only a mixture is routed");
        let shared = config.recipe.experts == ExpertMode::Shared;
        let choices = &mut self.sequences[row.sequence].choices;
        if let Some(made_up) = self.made_up {
            let r = if shared { 0 } else { row.r };
            made_up.choose((row.sequence, row.position, n, r), moe.experts, to.experts);
            return moe.route(logits, bias, true, to.space, to.experts, to.weights);
        }
        let given = shared && row.r > 0;
        if given {
            to.experts.copy_from_slice(choices.at(n, row.position));
        }
        moe.route(logits, bias, given, to.space, to.experts, to.weights);
        if shared && row.r == 0 {
            choices.at(n, row.position).copy_from_slice(to.experts);
        }
    }

    /// Says that a layer has read the weights of so many experts.
    pub fn read_experts(&mut self, count: usize) {
        *self.experts_read += count as u64;
    }

    /// Writes keys and values `[own][G * D]` of layer `n`, after norms and rotation, to caches and rings.
    ///
    /// # Panics
    /// If the two do not hold [`Pass::own`] rows.
    pub fn store(&mut self, n: usize, keys: &[f32], values: &[f32]) -> Vec<Written> {
        let (width, own) = (self.model.config().kv_width(), self.own());
        assert!(keys.len() == own * width && values.len() == keys.len(), "keys and values of the rows that have them");
        let written = runs(&self.rows[..own]);
        for run in &written {
            let kv = &mut self.sequences[run.sequence].kv[run.r][n];
            kv.reserve(run.first, run.rows.len(), self.spares).expect("room was made when the turn was planned");
            for (t, i) in (run.first..).zip(run.rows.clone()) {
                kv.write(t, &keys[i * width..][..width], &values[i * width..][..width]);
            }
        }
        written
    }

    /// Gives back what rings no longer need, once layer `n` has attended.
    pub fn shrink(&mut self, n: usize, written: &[Written]) {
        for run in written {
            self.sequences[run.sequence].kv[run.r][n].shrink(self.spares);
        }
    }

    /// What row `i` attends in layer `n`, once keys and values are stored.
    pub fn sight(&self, i: usize, n: usize) -> Sight<'_> {
        let (row, recipe) = (&self.rows[i], &self.model.config().recipe);
        let kv: &Vec<Vec<KvTiles>> = &self.sequences[row.sequence].kv;
        let shared = recipe.kv == KvMode::Shared;
        let cache = if shared { 0 } else { row.r };
        let local = recipe.local.filter(|_| shared && row.r > 0).map(|local| {
            let ring = &kv[row.r][n];
            let first = row.position.saturating_sub(local.left).max(ring.range().start);
            Branch { kv: ring, first, last: row.position }
        });
        Sight { global: Branch { kv: &kv[cache][n], first: 0, last: row.position }, local }
    }
}
