//! The gradients of a step, one flat tensor for each parameter in visiting order.

use crate::model::LoopModel;
use crate::ops;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Gradients as AllGradients, Tensor};

/// Gradients of all parameters; `None` where the loss does not depend on one (a gate in a model of one loop).
pub struct Gradients {
    pub(super) flat: Vec<Option<Tensor<1>>>,
    /// Those of the factors of adapted matrices (`lora.rs`), in place of the matrices' own.
    pub(super) low_rank: Vec<Option<Tensor<1>>>,
    /// First dimension of each parameter, for sums of a fixed order.
    rows: Vec<usize>,
    /// Multiplies all of them; applied by the optimiser, in the sweep that reads them anyway.
    pub(super) factor: f64,
}

impl Gradients {
    /// Back-propagates a loss of shape `[1]`.
    pub fn of(model: &LoopModel, loss: &Tensor<1>) -> Self {
        let found = Self { flat: Vec::new(), low_rank: Vec::new(), rows: Vec::new(), factor: 1.0 };
        let mut collect = Collect { grads: loss.backward(), found };
        model.visit(&mut collect);
        collect.found
    }

    /// Adds the gradients of another batch, before either is scaled.
    pub fn add(&mut self, other: Self) {
        for (sum, grad) in self.flat.iter_mut().zip(other.flat) {
            *sum = match (sum.take(), grad) {
                (Some(sum), Some(grad)) => Some(sum + grad),
                (sum, grad) => sum.or(grad),
            };
        }
    }

    /// Multiplies every gradient.
    pub fn scale(&mut self, factor: f64) {
        self.factor *= factor;
    }

    /// The square root of the sum of all squares, over all parameters together.
    ///
    /// Parts of fixed size are summed first and then added in f64 in a fixed order, so that the same gradients always
    /// give the same norm.
    pub fn norm(&self) -> f64 {
        let squares = self.flat.iter().zip(&self.rows).filter_map(|(grad, rows)| {
            let grad = grad.as_ref()?;
            Some(ops::squares(grad, *rows))
        });
        let low_rank: f64 = self.low_rank.iter().flatten().map(|grad| ops::squares(grad, 1)).sum();
        (squares.sum::<f64>() + low_rank).sqrt() * self.factor
    }
}

struct Collect {
    grads: AllGradients,
    found: Gradients,
}

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let dims = value.dims();
        let size = dims.iter().product::<usize>();
        self.found.flat.push(value.grad_remove(&mut self.grads).map(|grad| grad.reshape([size])));
        self.found.rows.push(dims[0]);
    }
}
