//! The operations as single sweeps over memory with backward passes of their own, for f32 tensors on Burn's flex
//! backend (CPU).
//!
//! Composed of Burn operations, a block spends more time in element-wise passes over memory, each single-threaded
//! and each with an allocation, than in its matrix products. Here each operation reads its inputs once, in parallel
//! over rows or heads. Whatever is not f32 on flex (other devices, gradient
//! checkpointing) takes the composed path.
//!
//! Results do not depend on the number of threads: work is cut into units of fixed size and partial sums are added
//! in the units' order.

pub(super) mod adam;
pub(super) mod attention;
pub(super) mod loss;
pub(super) mod matmul;
pub(super) mod norm;
mod pool;
pub(super) mod project;
pub(super) mod simd;
mod swiglu;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, Tensor, TensorData};
use std::fmt::Debug;

/// A flex tensor that autodiff follows.
type Followed = FloatTensor<Autodiff<Flex>>;

/// An operation on host memory. Inputs and gradients are row-major f32.
pub(super) trait HostOp<const N: usize>: Clone + Debug + Send + 'static {
    /// What the backward pass needs beside the inputs.
    type Saved: Clone + Debug + Send + 'static;
    /// The output and what to keep.
    fn forward(&self, inputs: [&[f32]; N]) -> (Vec<f32>, Self::Saved);
    /// The gradient of each input, given that of the output.
    fn backward(&self, inputs: [&[f32]; N], saved: Self::Saved, grad: &[f32]) -> [Vec<f32>; N];
}

/// An input of a [`HostOp`], with or without a gradient to come.
pub(super) enum Input {
    Plain(FlexTensor),
    Tracked(Followed),
}

/// The tensor as an input, if it is f32 on flex.
pub(super) fn input<const D: usize>(tensor: &Tensor<D>) -> Option<Input> {
    if tensor.dtype() != DType::F32 {
        return None;
    }
    if tensor.is_autodiff() {
        tensor.clone().try_into_primitive::<Autodiff<Flex>>().ok().map(Input::Tracked)
    } else {
        tensor.clone().try_into_primitive::<Flex>().ok().map(Input::Plain)
    }
}

/// Applies an operation; `None` if the inputs are of mixed kinds.
pub(super) fn apply<O: HostOp<N>, const N: usize, const D: usize>(
    op: O,
    inputs: [Input; N],
    shape: [usize; D],
) -> Option<Tensor<D>> {
    let output = |values: Vec<f32>| FlexTensor::from_data(TensorData::new(values, shape));
    let (mut plain, mut tracked) = (Vec::new(), Vec::new());
    for input in inputs {
        match input {
            Input::Plain(tensor) => plain.push(contiguous(tensor)),
            Input::Tracked(tensor) => tracked.push(tensor),
        }
    }
    if let Ok(plain) = <[FlexTensor; N]>::try_from(plain) {
        let (values, _) = op.forward(plain.each_ref().map(values));
        return Some(Tensor::from_primitive::<Flex>(output(values)));
    }
    let tracked = <[Followed; N]>::try_from(tracked).ok()?;
    let guards = tracked.each_ref().map(Followed::node);
    let inputs = tracked.map(|tensor| contiguous(tensor.into_primitive()));
    let (values, saved) = op.forward(inputs.each_ref().map(values));
    let output = output(values);
    let result = match Step::<O>(std::marker::PhantomData).prepare::<NoCheckpointing>(guards).compute_bound().stateful()
    {
        OpsKind::Tracked(prep) => prep.finish((op, inputs, saved), output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(result))
}

fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.as_slice::<f32>().is_some() { tensor } else { tensor.to_contiguous() }
}

fn values(tensor: &FlexTensor) -> &[f32] {
    // `contiguous` made it so; an empty slice would only give a wrong length, which no operation gets past.
    tensor.as_slice().unwrap_or(&[])
}

struct Step<O>(std::marker::PhantomData<fn() -> O>);

impl<O> Debug for Step<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HostOp")
    }
}

impl<O: HostOp<N>, const N: usize> Backward<Flex, N> for Step<O> {
    type State = (O, [FlexTensor; N], O::Saved);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let (op, inputs, saved) = ops.state;
        let found = op.backward(inputs.each_ref().map(values), saved, values(&grad));
        for ((parent, values), input) in ops.parents.into_iter().zip(found).zip(&inputs) {
            if let Some(parent) = parent {
                let shape = input.layout().shape().clone();
                grads.register::<Flex>(parent.id, FlexTensor::from_data(TensorData::new(values, shape)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn what_is_fused_and_what_is_composed() {
        let flex = Device::flex();
        let on = |device: &Device| input(&Tensor::<2>::zeros([2, 3], device));
        assert!(matches!(on(&flex), Some(Input::Plain(_))));
        assert!(matches!(on(&flex.clone().autodiff()), Some(Input::Tracked(_))));
        assert!(on(&flex.clone().autodiff().gradient_checkpointing()).is_none());
        assert!(input(&Tensor::<2>::zeros([2, 3], (&flex, DType::F64))).is_none());
    }
}
