//! What a kernel is: a way to compute products with weights of one format on one instruction set.
//!
//! A kernel takes input rows in a [`Form`](super::form::Form), cuts a product into tasks, and runs one task. Which
//! kernel serves which format and machine is a table ([`super::table`]); a new format or instruction set is a file
//! with an implementation, and a row there.
//!
//! Products towards inputs (`dX = dY W`) and towards weights (`dW += dY^T X`), which training needs, fit the same
//! trait: their kernels take other [`Shape`]s and stand in tables of their own; `Task::outputs` then counts columns of
//! their results.

use super::form::FormId;
use super::{Bias, Effect};
use crate::SharedMut;
use crate::weights::Weights;
use std::ops::Range;

/// A kernel.
pub(super) trait Kernel: Sync {
    /// As reports name it.
    fn name(&self) -> &'static str;

    /// The form in which it takes input rows.
    fn form(&self) -> FormId;

    /// Whether its input is laid out by the number of rows of the whole call, so that it is chosen by that number, and not by
    /// the rows of a product.
    fn laid_out_by_call(&self) -> bool {
        false
    }

    /// Outputs and rows of a task at most, where `outputs` make a task that is worth taking.
    fn cut(&self, shape: Shape, outputs: usize) -> (usize, usize) {
        (outputs, row_block(shape.stride, 6))
    }

    /// Computes a task.
    ///
    /// # Safety
    /// The instructions that the table names must be available; the input must be prepared in the kernel's form; no
    /// one else may use the task's outputs.
    unsafe fn run(&self, task: &Task<'_>);

    /// Runs the inner instruction from registers so many times: how many operations that were (a multiply and an add
    /// are two). For [`crate::measure`].
    ///
    /// # Safety
    /// The instructions that the table names must be available.
    unsafe fn peak(&self, rounds: usize) -> usize;
}

/// Rows of a task: as many as leave room in a core's second-level cache, in whole units of rows in flight.
pub(super) fn row_block(width: usize, unit: usize) -> usize {
    ((256 << 10) / width).clamp(unit, super::results::ROWS) / unit * unit
}

/// The rows of a call: how many, and their columns, padded to a multiple of [`super::PADDING`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub rows: usize,
    pub stride: usize,
}

/// Prepared input rows, in the kernel's form.
#[derive(Clone, Copy)]
pub(super) struct Input {
    pub at: *const u8,
    pub shape: Shape,
    /// The first row that belongs to the product.
    pub first: usize,
}

// SAFETY: the rows are only read while the call that prepared them runs.
unsafe impl Send for Input {}
// SAFETY: as above.
unsafe impl Sync for Input {}

/// A range of outputs for a range of rows.
pub(super) struct Task<'a> {
    pub weights: &'a Weights,
    /// SwiGLU's second matrix.
    pub up: Option<&'a Weights>,
    pub effect: Effect<'a>,
    pub input: Input,
    pub rows: Range<usize>,
    pub outputs: Range<usize>,
    /// `[all rows][all outputs]`
    pub out: SharedMut<f32>,
}

impl<'a> Task<'a> {
    /// The rows as the form counts them.
    pub fn input_rows(&self) -> Range<usize> {
        self.rows.start + self.input.first..self.rows.end + self.input.first
    }

    /// The matrices: one, or two for SwiGLU.
    pub fn matrices(&self) -> [Option<&'a Weights>; 2] {
        [Some(self.weights), self.up]
    }

    /// What is added to the results of each matrix.
    pub fn biases(&self) -> [Bias<'a>; 2] {
        self.effect.biases()
    }
}
