//! AdamW (Loshchilov and Hutter, 2019, algorithm 2), as PyTorch computes it.

use super::Gradients;
use crate::host::host;
use crate::model::LoopModel;
use crate::ops::{self, AdamStep};
use crate::weights::{NamedTensor, slots};
use crate::{Error, Result};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use std::collections::HashMap;

/// Constants of the optimiser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWSettings {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay of parameters of two dimensions.
    pub weight_decay: f64,
}

/// The optimiser with its two moments for each parameter.
pub struct AdamW {
    settings: AdamWSettings,
    /// Steps taken.
    time: usize,
    moments: Vec<Option<Moments>>,
}

struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
}

impl AdamW {
    /// An optimiser that has taken no step.
    pub fn new(settings: AdamWSettings) -> Self {
        Self { settings, time: 0, moments: Vec::new() }
    }

    /// Takes one step and returns the changed model. With t the step, g the gradient, a = learning rate:
    ///
    /// ```text
    /// m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
    /// p = (1 - a decay) p - a (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
    /// ```
    ///
    /// A parameter without a gradient is left alone, decay included.
    pub fn step(&mut self, model: LoopModel, grads: Gradients, rate: f64) -> LoopModel {
        self.time += 1;
        self.moments.resize_with(grads.flat.len(), || None);
        let power = i32::try_from(self.time).unwrap_or(i32::MAX);
        let AdamWSettings { beta1, beta2, epsilon, .. } = self.settings;
        let mut update = Update {
            step: AdamStep {
                factor: grads.factor as f32,
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                epsilon: epsilon as f32,
                keep: 1.0,
                rate: (rate / (1.0 - beta1.powi(power))) as f32,
                correction: (1.0 / (1.0 - beta2.powi(power))) as f32,
            },
            keep: (1.0 - rate * self.settings.weight_decay) as f32,
            parts: grads.flat.into_iter().zip(&mut self.moments),
        };
        model.map(&mut update)
    }

    /// Steps taken.
    pub fn time(&self) -> usize {
        self.time
    }

    /// The moments under the checkpoint's tensor names, as `exp_avg.NAME` and `exp_avg_sq.NAME`.
    pub fn to_tensors(&self, model: &LoopModel) -> Vec<NamedTensor> {
        let mut tensors = Vec::new();
        for (slot, moments) in slots(model.config()).iter().zip(&self.moments) {
            let Some(moments) = moments else { continue };
            for (prefix, values) in [("exp_avg", &moments.first), ("exp_avg_sq", &moments.second)] {
                let parts = slot.split(&host(values.clone()));
                tensors.extend(parts.into_iter().map(|t| NamedTensor { name: format!("{prefix}.{}", t.name), ..t }));
            }
        }
        tensors
    }

    /// Restores an optimiser that had taken `time` steps on this model.
    ///
    /// # Errors
    /// A moment has another shape than its parameter, or only one of the two is there.
    pub fn from_tensors(
        settings: AdamWSettings,
        time: usize,
        tensors: &[NamedTensor],
        model: &LoopModel,
    ) -> Result<Self> {
        let device = model.device().inner();
        let by_name: HashMap<&str, &NamedTensor> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let mut moments = Vec::new();
        for slot in slots(model.config()) {
            let load = |prefix: &str| -> Result<Option<Tensor<1>>> {
                let mut parts = Vec::new();
                for part in &slot.parts {
                    let name = format!("{prefix}.{}", part.name);
                    match by_name.get(name.as_str()) {
                        Some(found) if found.shape == part.shape && found.values.len() == part.elements() => {
                            parts.push(found.values.as_slice());
                        }
                        Some(found) => {
                            let message = format!("has shape {:?}, expected {:?}", found.shape, part.shape);
                            return Err(Error::tensor(&name, message));
                        }
                        None if parts.is_empty() => return Ok(None),
                        None => return Err(Error::tensor(&name, "is missing from the optimiser's state")),
                    }
                }
                let values = slot.join(&parts);
                let size = values.len();
                Ok(Some(Tensor::from_data(TensorData::new(values, [size]), &device)))
            };
            moments.push(match (load("exp_avg")?, load("exp_avg_sq")?) {
                (Some(first), Some(second)) => Some(Moments { first, second }),
                (None, None) => None,
                _ => return Err(Error::tensor(&slot.parts[0].name, "has only one of its two moments")),
            });
        }
        Ok(Self { settings, time, moments })
    }
}

struct Update<I> {
    step: AdamStep,
    /// `AdamStep::keep` of the parameters that decay.
    keep: f32,
    parts: I,
}

impl<'a, I: Iterator<Item = (Option<Tensor<1>>, &'a mut Option<Moments>)>> ModuleMapper for Update<I> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some((Some(grad), moments)) = self.parts.next() else { return param };
        let step = AdamStep { keep: if D >= 2 { self.keep } else { 1.0 }, ..self.step };
        param.map(|value| {
            let (dims, tracked) = (value.dims(), value.is_require_grad());
            let value = value.inner().reshape(grad.dims());
            let (first, second) = match moments.take() {
                Some(moments) => (moments.first, moments.second),
                None => (value.zeros_like(), value.zeros_like()),
            };
            let [value, first, second] = ops::adam(step, grad, [value, first, second]);
            *moments = Some(Moments { first, second });
            let value = value.reshape(dims);
            if tracked { Tensor::from_inner(value).require_grad() } else { value }
        })
    }
}
