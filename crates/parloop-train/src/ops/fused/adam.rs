//! AdamW's update and the sum of squares, one sweep each.

use super::simd;
use crate::ops::AdamStep;
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

/// Elements of a unit of work; fixed, so that sums do not depend on the number of threads.
const UNIT: usize = 1 << 13;

/// Takes the step for one parameter (value, first and second moment), or gives the three to `otherwise` if a tensor is
/// not f32 on flex.
pub(crate) fn adam(
    step: AdamStep,
    grad: &Tensor<1>,
    [value, first, second]: [Tensor<1>; 3],
    otherwise: impl FnOnce([Tensor<1>; 3]) -> [Tensor<1>; 3],
) -> [Tensor<1>; 3] {
    let parts = [&value, &first, &second].map(|t| flex(t.clone()));
    let ([Some(mut p), Some(mut m), Some(mut v)], Some(grad)) = (parts, flex(grad.clone())) else {
        return otherwise([value, first, second]);
    };
    // Without these, the parts are the only owners and are written in place.
    drop([value, first, second]);
    let grad = grad.as_slice::<f32>().unwrap_or(&[]);
    let units = p.storage_mut::<f32>().par_chunks_mut(UNIT).zip(grad.par_chunks(UNIT));
    let moments = m.storage_mut::<f32>().par_chunks_mut(UNIT).zip(v.storage_mut::<f32>().par_chunks_mut(UNIT));
    units.zip(moments).for_each(|((value, grad), (first, second))| {
        simd::fast(|| {
            for (((p, g), m), v) in value.iter_mut().zip(grad).zip(first).zip(second) {
                let g = g * step.factor;
                *m = step.beta1 * *m + (1.0 - step.beta1) * g;
                *v = step.beta2 * *v + (1.0 - step.beta2) * g * g;
                *p = step.keep * *p - step.rate * *m / ((*v * step.correction).sqrt() + step.epsilon);
            }
        });
    });
    [p, m, v].map(Tensor::from_primitive::<Flex>)
}

/// The sum of squares; `None` if the tensor is not f32 on flex.
pub(crate) fn squares(x: &Tensor<1>) -> Option<f64> {
    let x = flex(x.clone())?;
    let parts: Vec<f64> =
        x.as_slice::<f32>()?.par_chunks(UNIT).map(|x| f64::from(simd::fast(|| simd::dot(x, x)))).collect();
    Some(parts.into_iter().sum())
}

/// The flex tensor behind a tensor, made contiguous from its start.
fn flex(tensor: Tensor<1>) -> Option<FlexTensor> {
    if tensor.dtype() != DType::F32 || tensor.is_autodiff() {
        return None;
    }
    let tensor = tensor.try_into_primitive::<Flex>().ok()?;
    let size = tensor.layout().num_elements();
    let whole = tensor.layout().contiguous_offsets() == Some((0, size)) && tensor.storage::<f32>().len() == size;
    Some(if whole { tensor } else { tensor.to_contiguous() })
}
