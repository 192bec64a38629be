//! Between the module's parameters and the checkpoint's tensors.
//!
//! A parameter holds one tensor of the checkpoint, or several side by side (q/k/v, gate/up); matrices are transposed.
//! `slots` says which, in the order in which Burn visits the module, so that weights, gradients and optimiser
//! moments all travel by the same table.

use crate::block::{Block, Gate};
use crate::host::host;
use crate::model::LoopModel;
use crate::{Error, Result};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use parloop_eval::Rng;
use parloop_model::layer::{self, FeedForward, LayerParts};
use parloop_model::tensors::{self, Role, Spec};
use parloop_model::{Checkpoint, Extras, GateKind, ModelConfig, QkNorms};
use std::collections::HashMap;
use std::path::Path;

/// A tensor on the host, by its checkpoint name.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// The checkpoint's name.
    pub name: String,
    /// Row-major shape, `[out, in]` for matrices.
    pub shape: Vec<usize>,
    /// The elements.
    pub values: Vec<f32>,
}

/// The checkpoint tensors that make up one parameter.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub parts: Vec<Spec>,
    pub transposed: bool,
    /// Whether an ordinary model has no such parameter: gates and learned scales.
    pub new: bool,
}

impl Slot {
    /// Shape of the parameter.
    pub(crate) fn shape(&self) -> Vec<usize> {
        let first = &self.parts[0].shape;
        match (self.transposed, first.len()) {
            (true, 2) => vec![first[1], self.parts.iter().map(|p| p.shape[0]).sum()],
            _ => first.clone(),
        }
    }

    /// The parameter's values from those of its parts.
    pub(crate) fn join(&self, parts: &[&[f32]]) -> Vec<f32> {
        if !self.transposed {
            return parts[0].to_vec();
        }
        let (shape, mut column) = (self.shape(), 0);
        let (rows, width) = (shape[0], shape[1]);
        let mut joined = vec![0.0; rows * width];
        for (values, part) in parts.iter().zip(&self.parts) {
            for o in 0..part.shape[0] {
                for i in 0..rows {
                    joined[i * width + column + o] = values[o * rows + i];
                }
            }
            column += part.shape[0];
        }
        joined
    }

    /// The parts' tensors from the parameter's values.
    pub(crate) fn split(&self, values: &[f32]) -> Vec<NamedTensor> {
        let shape = self.shape();
        let mut column = 0;
        self.parts
            .iter()
            .map(|part| {
                let values = if self.transposed {
                    let (rows, width) = (shape[0], shape[1]);
                    let start = column;
                    column += part.shape[0];
                    (start..column).flat_map(|o| (0..rows).map(move |i| values[i * width + o])).collect()
                } else {
                    values.to_vec()
                };
                NamedTensor { name: part.name.clone(), shape: part.shape.clone(), values }
            })
            .collect()
    }
}

/// The name of the learned scales between loops: `hidden_scale` and, if the recipe has it, `embedding_scale`. They are
/// no tensor of the checkpoint, whose configuration has them as fields.
pub(crate) const SCALES: &str = "loop.scales";

/// What the names of a gate's tensors hold.
pub(crate) const GATE: &str = ".plt_gate";

/// Refuses descriptions that the module cannot compute.
fn trainable(config: &ModelConfig) -> Result<()> {
    config.validate()?;
    known(&config.extras)?;
    if config.moe.is_some() {
        return Err(Error::NotTrainable { part: "moe" });
    }
    if config.recipe.exit.is_some() { Err(Error::NotTrainable { part: "loop.exit" }) } else { Ok(()) }
}

/// Refuses parts of a layer that the module does not have.
fn known(extras: &Extras) -> Result<()> {
    let Extras {
        attention_bias,
        attention_output_bias,
        mlp_bias,
        qk_norms,
        sandwich_norms,
        rope_scaling,
        rotary_dims,
        multipliers,
    } = extras;
    let found = [
        ("attention_bias", *attention_bias || *attention_output_bias),
        ("mlp_bias", *mlp_bias),
        ("qk_norms", *qk_norms != QkNorms::None),
        ("sandwich_norms", *sandwich_norms),
        ("rope_scaling", rope_scaling.is_some()),
        ("rotary_dims", rotary_dims.is_some()),
        ("multipliers", multipliers.is_some()),
    ];
    match found.into_iter().find(|(_, there)| *there) {
        Some((part, _)) => Err(Error::NotTrainable { part }),
        None => Ok(()),
    }
}

/// The tensor number `i` of a model to be trained from scratch ([`LoopModel::init`]).
fn fresh(config: &ModelConfig, i: usize, spec: Spec, std: f64, gate: f32, seed: u64) -> NamedTensor {
    let mut rng = Rng::new(seed, 0x1217, i as u64);
    let writes = spec.name.ends_with("o_proj.weight") || spec.name.ends_with("down_proj.weight");
    let std = if writes { std / (2.0 * config.num_hidden_layers as f64).sqrt() } else { std };
    let values = match spec.role {
        Role::Norm => vec![1.0; spec.elements()],
        Role::Gate => vec![0.0; spec.elements()],
        // Of the parts that can be trained only gates have one.
        Role::Bias => vec![gate; spec.elements()],
        Role::Embedding | Role::Matrix | Role::Head | Role::Router => {
            (0..spec.elements()).map(|_| (std * rng.normal()) as f32).collect()
        }
    };
    NamedTensor { name: spec.name, shape: spec.shape, values }
}

/// One slot for each parameter that a checkpoint holds, in visiting order.
fn slots(config: &ModelConfig) -> Vec<Slot> {
    let mut slots = Vec::new();
    let mut add = |parts: &[&Spec], transposed| {
        let new = parts.iter().all(|spec| spec.name.contains(GATE));
        slots.push(Slot { parts: parts.iter().map(|spec| (*spec).clone()).collect(), transposed, new });
    };
    let globals = tensors::expected(config);
    let global = |name: &str| globals.iter().find(|spec| spec.name == name);
    global(tensors::EMBEDDING).into_iter().for_each(|spec| add(&[spec], false));
    for n in 0..config.num_hidden_layers {
        let LayerParts { input_norm, q, k, v, o, gate, post_norm, feed_forward, .. } =
            &LayerParts::of(config, n).specs(n);
        add(&[input_norm], false);
        add(&[&q.weight, &k.weight, &v.weight], true);
        add(&[&o.weight], true);
        match gate {
            None => {}
            Some(layer::Gate::Hidden { weight, bias, norm }) => {
                add(&[weight], true);
                [bias, norm].into_iter().for_each(|spec| add(&[spec], false));
            }
            Some(layer::Gate::Query { weight, bias }) => {
                [weight, bias].into_iter().for_each(|spec| add(&[spec], false));
            }
        }
        add(&[post_norm], false);
        // Mixtures of experts are refused before ([`trainable`]).
        if let FeedForward::Dense { gate_proj, up_proj, down_proj } = feed_forward {
            add(&[&gate_proj.weight, &up_proj.weight], true);
            add(&[&down_proj.weight], true);
        }
    }
    global(tensors::FINAL_NORM).into_iter().for_each(|spec| add(&[spec], false));
    global(tensors::HEAD).into_iter().for_each(|spec| add(&[spec], true));
    slots
}

/// Visits float parameters and hands each one's values to a function, in slot order.
pub(crate) struct EachParam<F>(pub F);

impl<F: FnMut(&[usize], Vec<f32>)> ModuleVisitor for EachParam<F> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        (self.0)(&param.val().dims(), host(param.val()));
    }
}

struct EachGradient<'a> {
    grads: Gradients,
    slots: std::slice::Iter<'a, Slot>,
    found: Vec<NamedTensor>,
}

impl ModuleVisitor for EachGradient<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(slot) = self.slots.next() {
            let values = match param.val().grad_remove(&mut self.grads) {
                Some(grad) => host(grad),
                None => vec![0.0; param.val().shape().num_elements()],
            };
            self.found.extend(slot.split(&values));
        }
    }
}

struct Fill<I>(I);

impl<I: Iterator<Item = Vec<f32>>> ModuleMapper for Fill<I> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.0.next() {
            Some(values) => param.map(|old| {
                let device = old.device();
                let new = Tensor::from_data(TensorData::new(values, old.dims()), &device);
                if device.is_autodiff() { new.require_grad() } else { new }
            }),
            None => param,
        }
    }
}

impl LoopModel {
    /// A model with the given weights, one for each tensor that the configuration expects.
    ///
    /// # Errors
    /// The configuration is invalid, or a tensor is missing or of another shape.
    pub fn from_tensors(config: &ModelConfig, weights: &[NamedTensor], device: &Device) -> Result<Self> {
        trainable(config)?;
        let by_name: HashMap<&str, &NamedTensor> = weights.iter().map(|w| (w.name.as_str(), w)).collect();
        let mut joined = Vec::new();
        for slot in slots(config) {
            let mut parts = Vec::new();
            for part in &slot.parts {
                let found = by_name.get(part.name.as_str()).ok_or_else(|| {
                    Error::tensor(
                        &part.name,
                        format!("is missing; the configuration needs it with shape {:?}", part.shape),
                    )
                })?;
                if found.shape != part.shape || found.values.len() != part.elements() {
                    let message = format!("has shape {:?}, the configuration needs {:?}", found.shape, part.shape);
                    return Err(Error::tensor(&part.name, message));
                }
                parts.push(found.values.as_slice());
            }
            joined.push(slot.join(&parts));
        }
        Ok(Self::zeros(config, device).map(&mut Fill(joined.into_iter())))
    }

    /// Loads a checkpoint folder's weights as f32, whatever type they are stored in.
    ///
    /// # Errors
    /// The folder is not a whole checkpoint.
    pub fn load(folder: &Path, device: &Device) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let weights = tensors::expected(checkpoint.config())
            .into_iter()
            .map(|spec| {
                let values = checkpoint.tensor(&spec.name)?.to_f32();
                Ok(NamedTensor { name: spec.name, shape: spec.shape, values })
            })
            .collect::<Result<Vec<_>>>()?;
        Self::from_tensors(checkpoint.config(), &weights, device)
    }

    /// A model to be trained from scratch. Matrices and the embedding are normal with standard deviation `std`, those
    /// that write to the residual stream std / sqrt(2 N) (GPT-2, section 2.3, with 0.02); norms are 1; gates look at
    /// nothing and start at sigmoid(`gate`). Each tensor draws from a stream of its own.
    ///
    /// # Errors
    /// The configuration is invalid.
    pub fn init(config: &ModelConfig, std: f64, gate: f32, seed: u64, device: &Device) -> Result<Self> {
        trainable(config)?;
        let specs = tensors::expected(config).into_iter().enumerate();
        let weights: Vec<NamedTensor> = specs.map(|(i, spec)| fresh(config, i, spec, std, gate, seed)).collect();
        Self::from_tensors(config, &weights, device)
    }

    /// A model that starts from the weights of another: each of its layers is the mean of those that `layers` names. Tensors that the other lacks, the
    /// gates of a window, start as in [`LoopModel::init`].
    ///
    /// # Errors
    /// The configuration is invalid; the other has parts that training does not know, or a tensor of another shape.
    pub fn start(
        config: &ModelConfig,
        (other, layers): (&Checkpoint, &[Vec<usize>]),
        gate: f32,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        trainable(config)?;
        known(&other.config().extras)?;
        if other.config().moe.is_some() {
            return Err(Error::NotTrainable { part: "moe" });
        }
        let there: HashMap<String, Spec> =
            tensors::expected(other.config()).into_iter().map(|spec| (spec.name.clone(), spec)).collect();
        let sources = |name: &str| -> Vec<String> {
            let parts = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
            let found = parts.and_then(|(n, ending)| Some((layers.get(n.parse::<usize>().ok()?)?, ending)));
            match found {
                Some((mean, ending)) => mean.iter().map(|n| layer::layer_name(*n, ending)).collect(),
                None => vec![name.to_owned()],
            }
        };
        let weights = tensors::expected(config).into_iter().enumerate().map(|(i, spec)| {
            let names = sources(&spec.name);
            let mut values: Vec<f32> = Vec::new();
            for name in &names {
                match there.get(name) {
                    Some(found) if found.shape == spec.shape => {
                        let new = other.tensor(name)?.to_f32();
                        if values.is_empty() {
                            values = new;
                        } else {
                            values.iter_mut().zip(new.iter()).for_each(|(sum, x)| *sum += x);
                        }
                    }
                    Some(found) => {
                        let message = format!("has shape {:?} in `init`, expected {:?}", found.shape, spec.shape);
                        return Err(Error::tensor(name, message));
                    }
                    None => return Ok(fresh(config, i, spec, 0.02, gate, seed)),
                }
            }
            if names.len() > 1 {
                values.iter_mut().for_each(|x| *x /= names.len() as f32);
            }
            Ok(NamedTensor { name: spec.name, shape: spec.shape, values })
        });
        Self::from_tensors(config, &weights.collect::<Result<Vec<_>>>()?, device)
    }

    /// The model with the scales between its loops as parameters, from those of its recipe.
    #[must_use]
    pub fn with_learned_scales(mut self) -> Self {
        let recipe = &self.config.recipe;
        let values: Vec<f32> = [Some(recipe.hidden_scale), recipe.embedding_scale].into_iter().flatten().collect();
        let size = values.len();
        let device = self.device();
        let tensor = Tensor::<1>::from_data(TensorData::new(values, [size]), &device);
        self.scales = Some(Param::from_tensor(tensor));
        self
    }

    /// Writes learned scales into the recipe, from where a checkpoint has them.
    pub(crate) fn fold_scales(&mut self) {
        let Some(scales) = &self.scales else { return };
        let values = host(scales.val());
        let recipe = &mut self.config.recipe;
        recipe.hidden_scale = values[0];
        recipe.embedding_scale = values.get(1).copied();
    }

    /// One slot for each parameter, in visiting order.
    pub(crate) fn slots(&self) -> Vec<Slot> {
        let mut slots = slots(&self.config);
        if let Some(scales) = &self.scales {
            let spec = Spec { name: SCALES.into(), shape: scales.val().dims().to_vec(), role: Role::Bias };
            slots.push(Slot { parts: vec![spec], transposed: false, new: true });
        }
        slots
    }

    /// The weights under their checkpoint names, in the order in which checkpoints are written.
    pub fn to_tensors(&self) -> Vec<NamedTensor> {
        let slots = self.slots();
        let mut parts = HashMap::new();
        let mut next = slots.iter();
        self.visit(&mut EachParam(|_: &[usize], values: Vec<f32>| {
            if let Some(slot) = next.next() {
                parts.extend(slot.split(&values).into_iter().map(|t| (t.name.clone(), t)));
            }
        }));
        tensors::expected(&self.config).into_iter().filter_map(|spec| parts.remove(&spec.name)).collect()
    }

    /// The loss of a batch (see [`LoopModel::loss`]) and its gradient by checkpoint name. The model must live on an
    /// autodiff device; a weight that the loss does not depend on has the gradient zero.
    pub fn loss_and_gradients(&self, ids: Tensor<2, Int>, targets: Tensor<2, Int>) -> (f32, Vec<NamedTensor>) {
        let loss = self.loss(ids, targets);
        let grads = loss.backward();
        let slots = self.slots();
        let mut visitor = EachGradient { grads, slots: slots.iter(), found: Vec::new() };
        self.visit(&mut visitor);
        (host(loss)[0], visitor.found)
    }

    fn zeros(config: &ModelConfig, device: &Device) -> Self {
        let vector = |n: usize| Param::from_tensor(Tensor::<1>::zeros([n], device));
        let matrix = |rows: usize, columns: usize| Param::from_tensor(Tensor::<2>::zeros([rows, columns], device));
        let (d, ff, v) = (config.hidden_size, config.intermediate_size, config.vocab_size);
        let (q, kv, h) = (config.query_width(), config.kv_width(), config.num_attention_heads);
        let gate = || {
            config.recipe.local.map(|local| match local.gate {
                GateKind::Hidden => Gate { weight: matrix(d, h), bias: vector(h), norm: Some(vector(d)) },
                GateKind::Query => Gate { weight: matrix(h, config.head_dim), bias: vector(h), norm: None },
            })
        };
        let layer = || Block {
            input_layernorm: vector(d),
            qkv: matrix(d, q + 2 * kv),
            output: matrix(q, d),
            gate: gate(),
            post_attention_layernorm: vector(d),
            gate_up: matrix(d, 2 * ff),
            down: matrix(ff, d),
        };
        Self {
            embedding: matrix(v, d),
            layers: (0..config.num_hidden_layers).map(|_| layer()).collect(),
            norm: vector(d),
            head: (!config.tie_word_embeddings).then(|| matrix(d, v)),
            scales: None,
            config: config.clone(),
        }
    }
}
