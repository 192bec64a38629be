//! The optimiser's state and its step: AdamW (Loshchilov and Hutter, 2019, algorithm 2) as PyTorch computes it, for all
//! parameters or for those that are no matrices of a layer.

use super::lora::{Lora, LoraSettings};
use super::{Gradients, muon};
use crate::host::host;
use crate::model::LoopModel;
use crate::ops::{self, AdamStep};
use crate::weights::{NamedTensor, SCALES, Slot};
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

/// The optimiser with what it remembers of each parameter.
pub struct Optimiser {
    settings: AdamWSettings,
    /// The momentum of Muon, if it is to take the matrices of the layers.
    muon: Option<f64>,
    /// Whether only what an ordinary model lacks is changed.
    only_new: bool,
    /// Learning rate of learned scales against the others'.
    scales: f32,
    /// How matrices are adapted, and the adapters once a step has been prepared.
    lora: Option<LoraSettings>,
    adapters: Option<Lora>,
    /// Steps taken.
    time: usize,
    moments: Vec<Option<Moments>>,
}

/// Running means of a parameter's gradients and, with AdamW, of their squares.
pub(super) struct Moments {
    pub first: Tensor<1>,
    pub second: Option<Tensor<1>>,
}

/// AdamW for one flat parameter.
pub(super) struct AdamW(pub AdamStep);

impl AdamW {
    pub(super) fn take(&self, value: Tensor<1>, grad: Tensor<1>, moments: &mut Option<Moments>) -> Tensor<1> {
        let (first, second) = match moments.take() {
            Some(Moments { first, second }) => (first, second),
            None => (value.zeros_like(), None),
        };
        let second = second.unwrap_or_else(|| value.zeros_like());
        let [value, first, second] = ops::adam(self.0, grad, [value, first, second]);
        *moments = Some(Moments { first, second: Some(second) });
        value
    }
}

impl Optimiser {
    /// AdamW that has taken no step.
    pub fn new(settings: AdamWSettings) -> Self {
        Self {
            settings,
            muon: None,
            only_new: false,
            scales: 1.0,
            lora: None,
            adapters: None,
            time: 0,
            moments: Vec::new(),
        }
    }

    /// With Muon (`muon.rs`) for the matrices of the layers; AdamW keeps the embedding, the head, norms and gates.
    #[must_use]
    pub fn with_muon(self, momentum: f64) -> Self {
        Self { muon: Some(momentum), ..self }
    }

    /// With another learning rate for learned scales, as a multiple.
    #[must_use]
    pub fn with_scales_rate(self, factor: f64) -> Self {
        Self { scales: factor as f32, ..self }
    }

    /// Changes only gates and learned scales.
    #[must_use]
    pub fn only_new(self) -> Self {
        Self { only_new: true, ..self }
    }

    /// Changes matrices of the layers by factors of low rank beside them (`lora.rs`), and gates and learned scales.
    #[must_use]
    pub fn with_lora(self, settings: LoraSettings) -> Self {
        Self { lora: Some(settings), ..self.only_new() }
    }

    /// Of a step's gradients those that this optimiser uses: their norm is the one to clip by.
    ///
    /// # Errors
    /// With lora: no matrix has one of the names of its targets.
    pub fn wanted(&mut self, model: &LoopModel, mut grads: Gradients) -> Result<Gradients> {
        if !self.only_new {
            return Ok(grads);
        }
        let slots = model.slots();
        if let Some(settings) = &self.lora {
            let adapters = match self.adapters.take() {
                Some(adapters) => adapters,
                None => Lora::new(settings, model)?,
            };
            grads.low_rank = adapters.gradients(&slots, &grads.flat);
            self.adapters = Some(adapters);
        }
        grads.flat.iter_mut().zip(&slots).filter(|(_, slot)| !slot.new).for_each(|(grad, _)| *grad = None);
        Ok(grads)
    }

    /// The factors of adapted matrices, as `lora_A.NAME` and `lora_B.NAME`; none without lora or before its first step.
    pub fn factors(&self) -> Vec<NamedTensor> {
        self.adapters.as_ref().map(Lora::factors).unwrap_or_default()
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
            rate: rate as f32,
            muon: self.muon.map(|momentum| momentum as f32),
            scales: self.scales,
            slots: model.slots().into_iter(),
            parts: grads.flat.into_iter().zip(&mut self.moments),
        };
        let step = AdamStep { keep: update.keep, ..update.step };
        let model = model.map(&mut update);
        match &mut self.adapters {
            Some(adapters) => adapters.step(step, grads.low_rank, model),
            None => model,
        }
    }

    /// Steps taken.
    pub fn time(&self) -> usize {
        self.time
    }

    /// The moments under the checkpoint's tensor names, as `exp_avg.NAME` and, with AdamW, `exp_avg_sq.NAME`.
    pub fn to_tensors(&self, model: &LoopModel) -> Vec<NamedTensor> {
        let slots = model.slots();
        let mut tensors = self.adapters.as_ref().map(|adapters| adapters.to_tensors(&slots)).unwrap_or_default();
        for (slot, moments) in slots.iter().zip(&self.moments) {
            let Some(moments) = moments else { continue };
            let second = moments.second.iter().map(|values| ("exp_avg_sq", values));
            for (prefix, values) in [("exp_avg", &moments.first)].into_iter().chain(second) {
                let parts = slot.split(&host(values.clone()));
                tensors.extend(parts.into_iter().map(|t| NamedTensor { name: format!("{prefix}.{}", t.name), ..t }));
            }
        }
        tensors
    }

    /// Restores an optimiser that had taken `time` steps on this model.
    ///
    /// # Errors
    /// A moment has another shape than its parameter, or others are there than `new` would keep.
    pub fn from_tensors(new: Self, time: usize, tensors: &[NamedTensor], model: &LoopModel) -> Result<Self> {
        let (device, muon) = (model.device().inner(), new.muon);
        let by_name: HashMap<&str, &NamedTensor> = tensors.iter().map(|t| (t.name.as_str(), t)).collect();
        let mut moments = Vec::new();
        for slot in model.slots() {
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
                (Some(first), second) if second.is_some() != (muon.is_some() && muon::takes(&slot)) => {
                    Some(Moments { first, second })
                }
                (None, None) => None,
                _ => return Err(Error::tensor(&slot.parts[0].name, "has other moments than its optimiser keeps")),
            });
        }
        let adapters = match &new.lora {
            // A run that was stopped before its first step has none yet.
            Some(settings) if time > 0 => Some(Lora::restored(settings, model, &by_name)?),
            _ => None,
        };
        Ok(Self { time, moments, adapters, ..new })
    }
}

struct Update<I> {
    step: AdamStep,
    /// `AdamStep::keep` of the parameters that decay.
    keep: f32,
    /// The learning rate, and the momentum of those that are not AdamW's.
    rate: f32,
    muon: Option<f32>,
    /// What learned scales' rate is multiplied by.
    scales: f32,
    slots: std::vec::IntoIter<Slot>,
    parts: I,
}

impl<'a, I: Iterator<Item = (Option<Tensor<1>>, &'a mut Option<Moments>)>> ModuleMapper for Update<I> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let slot = self.slots.next();
        let Some((Some(grad), moments)) = self.parts.next() else { return param };
        let momentum = self.muon.filter(|_| slot.as_ref().is_some_and(muon::takes));
        let mut step = AdamStep { keep: if D >= 2 { self.keep } else { 1.0 }, ..self.step };
        if slot.as_ref().is_some_and(|slot| slot.parts[0].name == SCALES) {
            step.rate *= self.scales;
        }
        param.map(|value| {
            let (dims, tracked) = (value.dims(), value.is_require_grad());
            let value = value.inner().reshape(grad.dims());
            let value = match (momentum, &slot) {
                (Some(momentum), Some(slot)) => {
                    let first = moments.take().map_or_else(|| value.zeros_like(), |moments| moments.first);
                    let grad = grad.mul_scalar(step.factor);
                    let first = first.mul_scalar(momentum) + grad.clone();
                    let change = muon::change(slot, grad + first.clone().mul_scalar(momentum));
                    *moments = Some(Moments { first, second: None });
                    value.mul_scalar(step.keep) - change.mul_scalar(self.rate)
                }
                _ => AdamW(step).take(value, grad, moments),
            };
            let value = value.reshape(dims);
            if tracked { Tensor::from_inner(value).require_grad() } else { value }
        })
    }
}
