//! A checkpoint made ready for the row pass.

use crate::exit::ExitGate;
use crate::packed::Packed;
use crate::stored::{self, Embedding};
use crate::{Error, Result};
use parloop_kernels::ops::Rope;
use parloop_kernels::weights::WeightsError;
use parloop_kernels::{Pool, WeightType, Weights};
use parloop_model::layer::{FeedForward, LayerParts, Part};
use parloop_model::tensors::{self, Role, Spec};
use parloop_model::{Checkpoint, Extras, ModelConfig, Stops, Tokenizer};
use std::sync::Arc;

/// One physical layer: its matrices, and as numbers its norms, biases and the weight of a query gate.
pub type Layer = LayerParts<Weights, Vec<f32>>;

/// A model's weights as the kernels use them. f32 and bf16 matrices stay where the checkpoint has them.
pub struct Model {
    config: ModelConfig,
    tokenizer: Option<Tokenizer>,
    stops: Stops,
    pub(crate) embedding: Embedding,
    pub(crate) layers: Arc<Vec<Layer>>,
    pub(crate) final_norm: Vec<f32>,
    pub(crate) head: Weights,
    pub(crate) rope: Rope,
    pub(crate) exit_gate: Option<ExitGate>,
}

fn rotation(config: &ModelConfig) -> Rope {
    let (frequencies, factor) = config.frequencies();
    Rope::new(frequencies, factor, config.head_dim)
}

/// Sees how far loading has come: matrices done, matrices in all.
pub type LoadProgress<'a> = &'a mut dyn FnMut(usize, usize);

impl Model {
    /// Takes over a checkpoint's weights in the types it has, or the nearest (f16 becomes f32, most block types q8).
    ///
    /// # Errors
    /// A tensor is missing or of the wrong size.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self> {
        Self::load(checkpoint, None, &mut Pool::new(1), &mut |_, _| ())
    }

    /// Takes over a checkpoint's weights, its matrices converted to `kind` if given, or taken from the packed weights
    /// beside it if there are any ([`crate::packed`]). The embedding stays as it is: only rows of it are looked up.
    /// Norms and gates are always f32.
    ///
    /// # Errors
    /// A tensor is missing, of the wrong size, cannot be stored as `kind`, or holds a number that is not finite, or
    /// the packed weights cannot be used; the message names it.
    pub fn load(
        checkpoint: &Checkpoint,
        kind: Option<WeightType>,
        pool: &mut Pool,
        progress: LoadProgress<'_>,
    ) -> Result<Self> {
        let config = checkpoint.config().clone();
        let vector = |name: &str| -> Result<Vec<f32>> {
            let values = checkpoint.tensor(name)?.to_f32();
            match values.iter().position(|v| !v.is_finite()) {
                None => Ok(values),
                Some(index) => Err(Error::Weights {
                    name: name.into(),
                    source: WeightsError::NotFinite { row: 0, index, value: values[index] },
                }),
            }
        };
        let packed = Packed::open(checkpoint, kind, pool)?;
        let specs = tensors::expected(&config);
        let total = specs.iter().filter(|spec| spec.role == Role::Matrix).count() + 1;
        let mut done = 0;
        let mut matrix = |name: &str| -> Result<Weights> {
            let tensor = checkpoint.tensor(name)?;
            let kind = kind.unwrap_or(stored::nearest(tensor.dtype));
            let ready = packed.as_ref().map(|p| p.weights(name, tensor, kind)).transpose()?.flatten();
            let weights = match ready {
                Some(weights) => weights,
                None => {
                    stored::matrix(tensor, kind, pool).map_err(|source| Error::Weights { name: name.into(), source })?
                }
            };
            // A tied head goes on being looked up in the file, and so do weights in place.
            if !stored::in_place(tensor.dtype, kind) && name != tensors::EMBEDDING {
                tensor.release();
            }
            done += 1;
            progress(done, total);
            Ok(weights)
        };
        let mut part = |spec: &Spec| match spec.role {
            // Small, and errors in it act on everything.
            Role::Gate | Role::Router => {
                let values = vector(&spec.name)?;
                Weights::from_f32(spec.shape[0], spec.shape[1], &values)
                    .map_err(|source| Error::Weights { name: spec.name.clone(), source })
            }
            _ => matrix(&spec.name),
        };
        let layers: Result<Vec<Layer>> = (0..config.num_hidden_layers)
            .map(|n| LayerParts::of(&config, n).specs(n).try_map(&mut part, |spec| vector(&spec.name)))
            .collect();
        let layers = layers?;
        Ok(Self {
            head: matrix(if config.tie_word_embeddings { tensors::EMBEDDING } else { tensors::HEAD })?,
            embedding: Embedding::Stored(checkpoint.tensor(tensors::EMBEDDING)?.clone()),
            layers: Arc::new(layers),
            final_norm: vector(tensors::FINAL_NORM)?,
            rope: rotation(&config),
            exit_gate: match config.recipe.exit {
                None => None,
                Some(_) => Some(ExitGate { weight: vector(tensors::EXIT_GATE)?, bias: vector(tensors::EXIT_BIAS)?[0] }),
            },
            tokenizer: checkpoint.tokenizer().cloned(),
            stops: checkpoint.stops(),
            config,
        })
    }

    /// A model of pseudo-random weights, for measurements: nobody needs a large file to know how fast it would run.
    ///
    /// # Errors
    /// The configuration is out of range or does not suit the type, or there is not enough memory.
    pub fn random(config: ModelConfig, kind: WeightType) -> Result<Self> {
        config.validate()?;
        if config.extras != Extras::default() || config.recipe.exit.is_some() {
            let message = "random weights are only made for plain blocks, without biases, sandwich norms, RoPE scaling \
                           or exit gate";
            return Err(Error::Input(message.into()));
        }
        let d = config.hidden_size;
        let specs = tensors::expected(&config);
        let mut inputs = specs.iter().filter(|spec| spec.role == Role::Matrix).map(|spec| spec.shape[1]);
        if let (Some(_), Some(inputs)) = (kind.bits(), inputs.find(|n| !n.is_multiple_of(32))) {
            return Err(Error::Weights {
                name: "of the random model".into(),
                source: WeightsError::Blocks { kind: kind.name(), inputs },
            });
        }
        let random = |n: usize, part: &Part, kind| -> std::io::Result<Weights> {
            // A number of its own for each matrix that a layer may have, whatever this model has.
            let drawn = |part: &&Part| matches!(part.role, Role::Matrix | Role::Gate);
            let i = LayerParts::every().iter().filter(drawn).position(|p| p.name == part.name);
            // Of experts only the first are in the list, and routers come after all that drew before there were any.
            let other = || part.name.bytes().fold(1 << 20, |hash: usize, b| hash * 31 % (1 << 40) + usize::from(b));
            Weights::random(kind, part.shape[0], part.shape[1], (16 * n + 1 + i.unwrap_or_else(other)) as u64)
        };
        let layer = |n: usize| -> std::io::Result<Layer> {
            let matrix = |part: &Part| random(n, part, if part.role == Role::Matrix { kind } else { WeightType::F32 });
            let vector = |part: &Part| {
                let mut values = vec![if part.role == Role::Norm { 1.0 } else { 0.0 }; part.shape.iter().product()];
                if part.role == Role::Gate {
                    let weight = random(n, part, WeightType::F32)?;
                    values.chunks_exact_mut(part.shape[1]).enumerate().for_each(|(i, row)| weight.row(i, row));
                }
                Ok(values)
            };
            LayerParts::of(&config, n).try_map(matrix, vector)
        };
        let memory = |e| Error::Machine(format!("there is not enough memory for the random weights: {e}"));
        Ok(Self {
            embedding: Embedding::Random(Weights::random(WeightType::Bf16, config.vocab_size, d, 9).map_err(memory)?),
            layers: Arc::new(
                (0..config.num_hidden_layers).map(layer).collect::<std::io::Result<Vec<_>>>().map_err(memory)?,
            ),
            final_norm: vec![1.0; d],
            head: Weights::random(kind, config.vocab_size, d, 10).map_err(memory)?,
            rope: rotation(&config),
            exit_gate: None,
            tokenizer: None,
            stops: Stops::default(),
            config,
        })
    }

    /// The same weights under another recipe that needs no other tensors: to compare numbers of loops on one model.
    ///
    /// # Errors
    /// The recipe is out of range, or needs a gate that the model lacks.
    pub fn with_recipe(&self, recipe: parloop_model::Recipe) -> Result<Self> {
        let config = ModelConfig { recipe, ..self.config.clone() };
        config.validate()?;
        let recipe = &config.recipe;
        let (has, needs) = (self.layers[0].gate.as_ref().map(|g| g.kind()), recipe.local.map(|l| l.gate));
        if needs.is_some() && has != needs {
            return Err(Error::Input("the recipe needs gate tensors that the model lacks".into()));
        }
        if recipe.exit.is_some() && self.exit_gate.is_none() {
            return Err(Error::Input("the recipe needs an exit gate that the model lacks".into()));
        }
        Ok(Self {
            config,
            tokenizer: self.tokenizer.clone(),
            stops: self.stops.clone(),
            embedding: self.embedding.clone(),
            layers: self.layers.clone(),
            final_norm: self.final_norm.clone(),
            head: self.head.clone(),
            rope: self.rope.clone(),
            exit_gate: self.exit_gate.clone(),
        })
    }

    /// The model of a checkpoint folder.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open(folder: &std::path::Path) -> Result<Arc<Self>> {
        Ok(Arc::new(Self::new(&Checkpoint::open(folder)?)?))
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Writes the embedding of a token to `out`, as the first layer sees it.
    pub(crate) fn embed(&self, token: usize, out: &mut [f32]) {
        self.embedding.row(token, out);
        if let Some(m) = self.config.extras.multipliers {
            out.iter_mut().for_each(|x| *x *= m.embedding);
        }
    }

    /// The physical layers.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// `[d]`, the norm before the head.
    pub fn final_norm(&self) -> &[f32] {
        &self.final_norm
    }

    /// `[V, d]`
    pub fn head(&self) -> &Weights {
        &self.head
    }

    /// The rotary embedding.
    pub fn rope(&self) -> &Rope {
        &self.rope
    }

    /// The tokens that end a text.
    pub fn stops(&self) -> &Stops {
        &self.stops
    }

    /// The tokenizer, if the checkpoint has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// The type of the layers' matrices; the head may have another.
    pub fn weight_type(&self) -> WeightType {
        match &self.layers[0].feed_forward {
            FeedForward::Dense { up_proj, .. } => up_proj.weight.kind(),
            // There are experts in a mixture.
            FeedForward::Experts(parts) => parts.experts[0].up_proj.kind(),
        }
    }

    /// Number of weights in matrices that a row meets: each is one multiply and add.
    pub fn matrix_weights(&self) -> usize {
        let k = self.config.moe.as_ref().map_or(0, |moe| moe.top_k);
        self.sum(k as f64, |w| w.outputs() * w.inputs()) as usize
    }

    /// A sum over all matrices, of whose experts so many are counted in each layer.
    fn sum(&self, experts: f64, of: impl Fn(&Weights) -> usize) -> f64 {
        let all: usize = self.matrices().map(&of).sum();
        let parts = self.layers.iter().filter_map(|layer| match &layer.feed_forward {
            FeedForward::Dense { .. } => None,
            FeedForward::Experts(parts) => Some(&parts.experts),
        });
        let mixed = parts.map(|experts| {
            let all: usize = experts.iter().map(|e| of(&e.gate_proj) + of(&e.up_proj) + of(&e.down_proj)).sum();
            (all as f64, experts.len() as f64)
        });
        mixed.fold(all as f64, |sum, (all, count)| sum - all * (1.0 - experts / count))
    }

    /// What rows are multiplied with, layer by layer, then the head.
    fn matrices(&self) -> impl Iterator<Item = &Weights> {
        self.layers.iter().flat_map(Layer::matrices).chain([&self.head])
    }

    /// Bytes of the head's weights.
    pub fn head_bytes(&self) -> usize {
        self.head.bytes()
    }

    /// Bytes of weights that a pass of one row over the layers and the head reads.
    pub fn bytes_per_pass(&self) -> usize {
        self.bytes_of_pass(self.config.moe.as_ref().map_or(0, |moe| moe.top_k) as f64) as usize
    }

    /// Bytes of weights that a pass reads whose rows take so many different experts in each layer that has them.
    pub fn bytes_of_pass(&self, experts: f64) -> f64 {
        self.sum(experts, Weights::bytes)
    }
}
