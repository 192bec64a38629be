//! Tensors on the host.

use burn::tensor::Tensor;

/// A tensor's elements, row-major.
pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
