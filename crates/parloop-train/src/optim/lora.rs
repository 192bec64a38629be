//! Low-rank adaptation (Hu and others, 2021): the change of a matrix W `[out, in]` is `alpha / rank B A`.
//!
//! The model computes with merged matrices, so a step costs what it does without; what is saved is memory, since of
//! the large matrices only the values are kept. From the gradient of a merged matrix follow those of its factors: with
//! s = alpha / rank, `dB = s dW A^T` and `dA = s B^T dW`. As in PEFT, A begins uniform in +-1 / sqrt(in) and B with zeros,
//! so that a run begins as the model that it adapts.

use super::state::{AdamW, Moments};
use crate::host::host;
use crate::model::LoopModel;
use crate::ops::{self, AdamStep};
use crate::weights::{EachParam, NamedTensor, Slot};
use crate::{Error, Result};
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use parloop_eval::Rng;
use std::collections::HashMap;

const DRAW: u64 = 0x10a;
/// How the factors are called in files, before the name of their matrix.
const NAMES: [&str; 2] = ["lora_A", "lora_B"];

/// What is adapted, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraSettings {
    /// r.
    pub rank: usize,
    /// The change is multiplied by alpha / r.
    pub alpha: f64,
    /// Endings of the names of the matrices, such as `q_proj`; every matrix of the layers if empty.
    pub targets: Vec<String>,
    /// Seed of A.
    pub seed: u64,
}

impl LoraSettings {
    fn scale(&self) -> f32 {
        (self.alpha / self.rank as f64) as f32
    }

    /// Whether the matrix of this name is adapted.
    fn takes(&self, name: &str) -> bool {
        let matrix = name.trim_end_matches(".weight");
        self.targets.is_empty() || self.targets.iter().any(|target| matrix.ends_with(&format!(".{target}")))
    }
}

/// The factors of all adapted matrices, and the matrices as they were.
pub(super) struct Lora {
    scale: f32,
    adapters: Vec<Adapter>,
    /// By slot, the values before the change.
    bases: HashMap<usize, Tensor<2>>,
}

struct Adapter {
    slot: usize,
    name: String,
    /// Columns of the parameter, which is `[in, out]` and may hold several matrices.
    first: usize,
    columns: usize,
    /// `A^T` `[in, r]` and `B^T` `[r, out]`.
    factors: [Tensor<2>; 2],
    moments: [Option<Moments>; 2],
}

impl Lora {
    /// Factors that change nothing yet, of the model as it is.
    ///
    /// # Errors
    /// No matrix has one of the names.
    pub(super) fn new(settings: &LoraSettings, model: &LoopModel) -> Result<Self> {
        Self::build(settings, model, |_, [inputs, outputs], nth| {
            let mut rng = Rng::new(settings.seed, DRAW, nth as u64);
            let bound = 1.0 / (inputs as f64).sqrt();
            let a = (0..inputs * settings.rank).map(|_| ((2.0 * rng.unit() - 1.0) * bound) as f32).collect();
            Ok([(a, None), (vec![0.0; settings.rank * outputs], None)])
        })
    }

    /// Factors, moments and matrices as [`Lora::to_tensors`] wrote them.
    pub(super) fn restored(
        settings: &LoraSettings,
        model: &LoopModel,
        found: &HashMap<&str, &NamedTensor>,
    ) -> Result<Self> {
        let rank = settings.rank;
        let read = |name: String, [rows, columns]: [usize; 2]| -> Result<Option<Vec<f32>>> {
            match found.get(name.as_str()) {
                None => Ok(None),
                // Files have factors as PEFT has them, transposed.
                Some(t) if t.shape == [columns, rows] => Ok(Some(transposed(&t.values, columns, rows))),
                Some(t) => {
                    Err(Error::tensor(&name, format!("has shape {:?}, expected {:?}", t.shape, [columns, rows])))
                }
            }
        };
        let mut lora = Self::build(settings, model, |name, [inputs, outputs], _| {
            let factor = |which: usize, shape: [usize; 2]| -> Result<Factor> {
                let name = format!("{}.{name}", NAMES[which]);
                let missing = || Error::tensor(&name, "is missing from the optimiser's state");
                let values = read(name.clone(), shape)?.ok_or_else(missing)?;
                let first = read(format!("exp_avg.{name}"), shape)?;
                let second = read(format!("exp_avg_sq.{name}"), shape)?;
                Ok((values, first.zip(second)))
            };
            Ok([factor(0, [inputs, rank])?, factor(1, [rank, outputs])?])
        })?;
        let slots = model.slots();
        for (slot, base) in &mut lora.bases {
            let slot = &slots[*slot];
            let mut parts = Vec::new();
            for part in &slot.parts {
                let name = format!("base.{}", part.name);
                match found.get(name.as_str()) {
                    Some(t) if t.shape == part.shape => parts.push(t.values.as_slice()),
                    _ => {
                        return Err(Error::tensor(&name, "is missing from the optimiser's state, or of another shape"));
                    }
                }
            }
            *base = Tensor::from_data(TensorData::new(slot.join(&parts), base.dims()), &base.device());
        }
        Ok(lora)
    }

    fn build(
        settings: &LoraSettings,
        model: &LoopModel,
        mut factors: impl FnMut(&str, [usize; 2], usize) -> Result<[Factor; 2]>,
    ) -> Result<Self> {
        let (slots, device) = (model.slots(), model.device().inner());
        let mut adapters = Vec::new();
        for (n, slot) in slots.iter().enumerate().filter(|(_, slot)| super::muon::takes(slot)) {
            let (inputs, mut first) = (slot.shape()[0], 0);
            for part in &slot.parts {
                let columns = part.shape[0];
                if settings.takes(&part.name) {
                    let [a, b] = factors(&part.name, [inputs, columns], adapters.len())?;
                    let rank = settings.rank;
                    let (a, a_moments) = on(&device, a, [inputs, rank]);
                    let (b, b_moments) = on(&device, b, [rank, columns]);
                    let (factors, moments) = ([a, b], [a_moments, b_moments]);
                    adapters.push(Adapter { slot: n, name: part.name.clone(), first, columns, factors, moments });
                }
                first += columns;
            }
        }
        if adapters.is_empty() {
            let expected = "names of matrices of the layers, such as q_proj,v_proj";
            return Err(Error::option("lora_targets", format!("\"{}\"", settings.targets.join(",")), expected));
        }
        let (mut bases, mut n) = (HashMap::new(), 0);
        model.visit(&mut EachParam(|dims: &[usize], values: Vec<f32>| {
            if adapters.iter().any(|adapter| adapter.slot == n) {
                bases.insert(n, Tensor::from_data(TensorData::new(values, [dims[0], dims[1]]), &device));
            }
            n += 1;
        }));
        Ok(Self { scale: settings.scale(), adapters, bases })
    }

    /// The gradients of all factors, flat, from those of the merged parameters; none where a parameter has none.
    pub(super) fn gradients(&self, slots: &[Slot], flat: &[Option<Tensor<1>>]) -> Vec<Option<Tensor<1>>> {
        let mut found = Vec::with_capacity(2 * self.adapters.len());
        for adapter in &self.adapters {
            let shape = slots[adapter.slot].shape();
            let Some(grad) = flat.get(adapter.slot).and_then(Option::as_ref) else {
                found.extend([None, None]);
                continue;
            };
            let grad = grad.clone().reshape([shape[0], shape[1]]).narrow(1, adapter.first, adapter.columns);
            let [a, b] = &adapter.factors;
            let of_a = ops::linear(grad.clone(), b.clone().transpose()).mul_scalar(self.scale);
            let of_b = ops::linear(a.clone().transpose(), grad).mul_scalar(self.scale);
            let sizes = adapter.factors.each_ref().map(|factor| factor.shape().num_elements());
            found.extend([Some(of_a.reshape([sizes[0]])), Some(of_b.reshape([sizes[1]]))]);
        }
        found
    }

    /// AdamW's step for the factors, and the model with the matrices that follow from them.
    pub(super) fn step(&mut self, step: AdamStep, grads: Vec<Option<Tensor<1>>>, model: LoopModel) -> LoopModel {
        let mut grads = grads.into_iter();
        for adapter in &mut self.adapters {
            for (factor, moments) in adapter.factors.iter_mut().zip(&mut adapter.moments) {
                let Some(Some(grad)) = grads.next() else { continue };
                let shape = factor.dims();
                let value = std::mem::replace(factor, Tensor::zeros([1, 1], &grad.device())).reshape(grad.dims());
                *factor = AdamW(step).take(value, grad, moments).reshape(shape);
            }
        }
        model.map(&mut Merge { lora: self, slot: 0 })
    }

    /// The parameter of a slot with its change.
    fn merged(&self, slot: usize, base: &Tensor<2>) -> Tensor<2> {
        let (width, mut column) = (base.dims()[1], 0);
        let mut parts = Vec::new();
        for adapter in self.adapters.iter().filter(|adapter| adapter.slot == slot) {
            if adapter.first > column {
                parts.push(base.clone().narrow(1, column, adapter.first - column));
            }
            let [a, b] = adapter.factors.clone();
            let old = base.clone().narrow(1, adapter.first, adapter.columns);
            parts.push(old + ops::linear(a, b).mul_scalar(self.scale));
            column = adapter.first + adapter.columns;
        }
        if column < width {
            parts.push(base.clone().narrow(1, column, width - column));
        }
        Tensor::cat(parts, 1)
    }

    /// The factors by the names `lora_A.NAME` and `lora_B.NAME`, `[r, in]` and `[out, r]` as PEFT has them.
    pub(super) fn factors(&self) -> Vec<NamedTensor> {
        self.each(|adapter, which| Some(adapter.factors[which].clone()), "")
    }

    /// Factors, their moments, and the matrices without their change (`base.NAME`).
    pub(super) fn to_tensors(&self, slots: &[Slot]) -> Vec<NamedTensor> {
        let mut tensors = self.factors();
        let moment = |adapter: &Adapter, which: usize, second: bool| {
            let moments = adapter.moments[which].as_ref()?;
            let values = if second { moments.second.as_ref()? } else { &moments.first };
            Some(values.clone().reshape(adapter.factors[which].dims()))
        };
        tensors.extend(self.each(|adapter, which| moment(adapter, which, false), "exp_avg."));
        tensors.extend(self.each(|adapter, which| moment(adapter, which, true), "exp_avg_sq."));
        let mut bases: Vec<_> = self.bases.iter().collect();
        bases.sort_by_key(|(slot, _)| **slot);
        for (slot, base) in bases {
            let parts = slots[*slot].split(&host(base.clone()));
            tensors.extend(parts.into_iter().map(|t| NamedTensor { name: format!("base.{}", t.name), ..t }));
        }
        tensors
    }

    fn each(&self, of: impl Fn(&Adapter, usize) -> Option<Tensor<2>>, prefix: &str) -> Vec<NamedTensor> {
        let mut tensors = Vec::new();
        for adapter in &self.adapters {
            for (which, name) in NAMES.into_iter().enumerate() {
                let Some(values) = of(adapter, which) else { continue };
                let [rows, columns] = values.dims();
                tensors.push(NamedTensor {
                    name: format!("{prefix}{name}.{}", adapter.name),
                    shape: vec![columns, rows],
                    values: transposed(&host(values), rows, columns),
                });
            }
        }
        tensors
    }
}

/// A factor's values and, once it has taken a step, its moments.
type Factor = (Vec<f32>, Option<(Vec<f32>, Vec<f32>)>);

fn on(device: &Device, (values, moments): Factor, shape: [usize; 2]) -> (Tensor<2>, Option<Moments>) {
    let flat = |values: Vec<f32>| {
        let size = values.len();
        Tensor::<1>::from_data(TensorData::new(values, [size]), device)
    };
    let moments = moments.map(|(first, second)| Moments { first: flat(first), second: Some(flat(second)) });
    (Tensor::from_data(TensorData::new(values, shape), device), moments)
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|c| (0..rows).map(move |r| values[r * columns + c])).collect()
}

struct Merge<'a> {
    lora: &'a Lora,
    slot: usize,
}

impl ModuleMapper for Merge<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let slot = self.slot;
        self.slot += 1;
        let Some(base) = self.lora.bases.get(&slot) else { return param };
        param.map(|value| {
            let tracked = value.is_require_grad();
            let merged = self.lora.merged(slot, base).reshape(value.dims());
            if tracked { Tensor::from_inner(merged).require_grad() } else { merged }
        })
    }
}
