//! A checkpoint made ready for the row pass.

use crate::Result;
use parloop_kernels::ops::Rope;
use parloop_kernels::{WeightType, Weights};
use parloop_model::{Checkpoint, DType, GateKind, ModelConfig, Tokenizer, tensors};
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
}

/// A model's weights as the kernels use them. f32 and bf16 matrices stay where the checkpoint has them.
pub struct Model {
    config: ModelConfig,
    tokenizer: Option<Tokenizer>,
    pub(crate) embedding: Weights,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Vec<f32>,
    pub(crate) head: Weights,
    pub(crate) rope: Rope,
}

impl Model {
    /// Takes over a checkpoint's weights.
    ///
    /// # Errors
    /// A tensor is missing or of the wrong size.
    pub fn new(checkpoint: &Checkpoint) -> Result<Self> {
        let config = checkpoint.config().clone();
        let vector = |name: &str| -> Result<Vec<f32>> { Ok(checkpoint.tensor(name)?.to_f32()) };
        let matrix = |name: &str| -> Result<Weights> {
            let tensor = checkpoint.tensor(name)?;
            let (outputs, inputs) = (tensor.shape[0], tensor.shape.get(1).copied().unwrap_or(1));
            let (owner, range) = tensor.shared();
            Ok(match tensor.dtype {
                DType::F32 => Weights::in_place(WeightType::F32, outputs, inputs, owner, range)?,
                DType::BF16 => Weights::in_place(WeightType::Bf16, outputs, inputs, owner, range)?,
                // bf16 would lose three bits of an f16's fraction, so it becomes f32.
                DType::F16 => Weights::from_f32(outputs, inputs, &tensor.to_f32())?,
            })
        };
        let layer = |n: usize| -> Result<Layer> {
            let name = |ending: &str| tensors::layer(n, ending);
            let gate = match config.recipe.local {
                None => None,
                Some(local) => {
                    let weight = checkpoint.tensor(&name("self_attn.plt_gate.weight"))?;
                    let values = weight.to_f32();
                    Some(Gate {
                        kind: local.gate,
                        weight: Weights::from_f32(weight.shape[0], weight.shape[1], &values)?,
                        values,
                        bias: vector(&name("self_attn.plt_gate.bias"))?,
                        norm: match local.gate {
                            GateKind::Hidden => vector(&name("self_attn.plt_gate.gate_norm.weight"))?,
                            GateKind::Query => Vec::new(),
                        },
                    })
                }
            };
            Ok(Layer {
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
        let embedding = matrix(tensors::EMBEDDING)?;
        Ok(Self {
            head: if config.tie_word_embeddings { embedding.clone() } else { matrix(tensors::HEAD)? },
            embedding,
            layers: (0..config.num_hidden_layers).map(layer).collect::<Result<_>>()?,
            final_norm: vector(tensors::FINAL_NORM)?,
            rope: Rope::new(config.head_dim, config.rope_theta),
            tokenizer: checkpoint.tokenizer().cloned(),
            config,
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

    /// The tokenizer, if the checkpoint has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
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
