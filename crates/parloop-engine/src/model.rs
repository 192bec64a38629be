//! A checkpoint made ready for the row pass.

use crate::exit::ExitGate;
use crate::packed::Packed;
use crate::stored::{self, Embedding};
use crate::{Error, Result};
use parloop_kernels::ops::Rope;
use parloop_kernels::weights::WeightsError;
use parloop_kernels::{Pool, WeightType, Weights};
use parloop_model::{Block, Checkpoint, GateKind, ModelConfig, Stops, Tokenizer, rope, tensors};
use std::sync::Arc;

/// The gate of G-SWA in one layer.
pub(crate) struct Gate {
    pub kind: GateKind,
    /// `[H, d]` (hidden gate) or `[H, D]` (query gate), always f32.
    pub weight: Weights,
    /// The same values as numbers, for the query gate's dot products.
    pub values: Vec<f32>,
    /// `[H]`
    pub bias: Vec<f32>,
    /// `[d]`; empty for the query gate.
    pub norm: Vec<f32>,
}

/// Vectors added to the results of a layer's products; empty where the model has none.
#[derive(Default)]
pub(crate) struct Biases {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub o: Vec<f32>,
    pub ff_gate: Vec<f32>,
    pub ff_up: Vec<f32>,
    pub ff_down: Vec<f32>,
}

/// Norms of the results of a layer's two branches, `[d]` each.
pub(crate) struct Sandwich {
    pub attention: Vec<f32>,
    pub feed_forward: Vec<f32>,
}

/// One physical layer.
pub(crate) struct Layer {
    pub input_norm: Vec<f32>,
    pub q: Weights,
    pub k: Weights,
    pub v: Weights,
    pub o: Weights,
    pub gate: Option<Gate>,
    pub post_norm: Vec<f32>,
    pub ff_gate: Weights,
    pub ff_up: Weights,
    pub ff_down: Weights,
    pub biases: Biases,
    pub sandwich: Option<Sandwich>,
}

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
    let (frequencies, factor) = rope::frequencies(config);
    Rope::new(frequencies, factor)
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
        let total = 7 * config.num_hidden_layers + 1;
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
        let mut layer = |n: usize| -> Result<Layer> {
            let name = |ending: &str| tensors::layer(n, ending);
            let gate = match config.recipe.local {
                None => None,
                Some(local) => {
                    let weight = name("self_attn.plt_gate.weight");
                    let (values, heads) = (vector(&weight)?, config.num_attention_heads);
                    Some(Gate {
                        kind: local.gate,
                        weight: Weights::from_f32(heads, values.len() / heads, &values)
                            .map_err(|source| Error::Weights { name: weight, source })?,
                        values,
                        bias: vector(&name("self_attn.plt_gate.bias"))?,
                        norm: match local.gate {
                            GateKind::Hidden => vector(&name("self_attn.plt_gate.gate_norm.weight"))?,
                            GateKind::Query => Vec::new(),
                        },
                    })
                }
            };
            let bias = |product: &str, there: bool| match there {
                true => vector(&name(&format!("{product}.bias"))),
                false => Ok(Vec::new()),
            };
            let (attention, mlp) = (config.block.attention_bias, config.block.mlp_bias);
            Ok(Layer {
                biases: Biases {
                    q: bias("self_attn.q_proj", attention)?,
                    k: bias("self_attn.k_proj", attention)?,
                    v: bias("self_attn.v_proj", attention)?,
                    o: bias("self_attn.o_proj", attention)?,
                    ff_gate: bias("mlp.gate_proj", mlp)?,
                    ff_up: bias("mlp.up_proj", mlp)?,
                    ff_down: bias("mlp.down_proj", mlp)?,
                },
                sandwich: match config.block.sandwich_norms {
                    false => None,
                    true => Some(Sandwich {
                        attention: vector(&name("input_layernorm_2.weight"))?,
                        feed_forward: vector(&name("post_attention_layernorm_2.weight"))?,
                    }),
                },
                input_norm: vector(&name("input_layernorm.weight"))?,
                q: matrix(&name("self_attn.q_proj.weight"))?,
                k: matrix(&name("self_attn.k_proj.weight"))?,
                v: matrix(&name("self_attn.v_proj.weight"))?,
                o: matrix(&name("self_attn.o_proj.weight"))?,
                gate,
                post_norm: vector(&name("post_attention_layernorm.weight"))?,
                ff_gate: matrix(&name("mlp.gate_proj.weight"))?,
                ff_up: matrix(&name("mlp.up_proj.weight"))?,
                ff_down: matrix(&name("mlp.down_proj.weight"))?,
            })
        };
        let layers = (0..config.num_hidden_layers).map(&mut layer).collect::<Result<Vec<_>>>()?;
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
        if config.block != Block::default() || config.recipe.exit.is_some() {
            let message = "random weights are only made for plain blocks, without biases, sandwich norms, RoPE scaling \
                           or exit gate";
            return Err(Error::Input(message.into()));
        }
        let (d, ff, heads) = (config.hidden_size, config.intermediate_size, config.num_attention_heads);
        let (q, kv) = (config.query_width(), config.kv_width());
        if let (Some(_), Some(inputs)) = (kind.bits(), [d, ff, q].into_iter().find(|n| !n.is_multiple_of(32))) {
            return Err(Error::Weights {
                name: "of the random model".into(),
                source: WeightsError::Blocks { kind: kind.name(), inputs },
            });
        }
        let gate = |n: u64, local: parloop_model::Local| -> std::io::Result<Gate> {
            let width = if local.gate == GateKind::Hidden { d } else { config.head_dim };
            let weight = Weights::random(WeightType::F32, heads, width, n)?;
            let mut values = vec![0.0; heads * width];
            values.chunks_exact_mut(width).enumerate().for_each(|(i, row)| weight.row(i, row));
            let norm = if local.gate == GateKind::Hidden { vec![1.0; d] } else { Vec::new() };
            Ok(Gate { kind: local.gate, weight, values, bias: vec![0.0; heads], norm })
        };
        let layer = |n: usize| -> std::io::Result<Layer> {
            let seed = 16 * n as u64;
            let matrix = |i: u64, outputs, inputs| Weights::random(kind, outputs, inputs, seed + i);
            Ok(Layer {
                input_norm: vec![1.0; d],
                q: matrix(1, q, d)?,
                k: matrix(2, kv, d)?,
                v: matrix(3, kv, d)?,
                o: matrix(4, d, q)?,
                gate: config.recipe.local.map(|local| gate(seed + 5, local)).transpose()?,
                post_norm: vec![1.0; d],
                ff_gate: matrix(6, ff, d)?,
                ff_up: matrix(7, ff, d)?,
                ff_down: matrix(8, d, ff)?,
                biases: Biases::default(),
                sandwich: None,
            })
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
        recipe.validate()?;
        let (has, needs) = (self.layers[0].gate.as_ref().map(|g| g.kind), recipe.local.map(|l| l.gate));
        if needs.is_some() && has != needs {
            return Err(Error::Input("the recipe needs gate tensors that the model lacks".into()));
        }
        if recipe.exit.is_some() && self.exit_gate.is_none() {
            return Err(Error::Input("the recipe needs an exit gate that the model lacks".into()));
        }
        Ok(Self {
            config: ModelConfig { recipe, ..self.config.clone() },
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
        self.layers[0].ff_up.kind()
    }

    /// Number of weights in matrices: each is one multiply and add for a row.
    pub fn matrix_weights(&self) -> usize {
        let size = |w: &Weights| w.outputs() * w.inputs();
        let layer =
            |l: &Layer| [&l.q, &l.k, &l.v, &l.o, &l.ff_gate, &l.ff_up, &l.ff_down].map(size).iter().sum::<usize>();
        self.layers.iter().map(layer).sum::<usize>() + size(&self.head)
    }

    /// Bytes of the head's weights.
    pub fn head_bytes(&self) -> usize {
        self.head.bytes()
    }

    /// Bytes of weights that one pass over the layers and the head reads.
    pub fn bytes_per_pass(&self) -> usize {
        let layer = |l: &Layer| {
            let gate = l.gate.as_ref().map_or(0, |g| g.weight.bytes());
            [&l.q, &l.k, &l.v, &l.o, &l.ff_gate, &l.ff_up, &l.ff_down].iter().map(|w| w.bytes()).sum::<usize>() + gate
        };
        self.layers.iter().map(layer).sum::<usize>() + self.head.bytes()
    }
}
