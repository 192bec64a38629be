//! The description of a model, validated: what everything behind the reading of files works with.

pub use crate::fields::TokenIds;

use crate::rope::{self, MAX_CONTEXT, RopeScaling};
use crate::{Error, ExpertMode, Moe, Recipe, Result};
use serde::Serialize;

/// Sizes above which a configuration is refused before anything is allocated.
mod limits {
    pub const VOCAB: usize = 1 << 24;
    pub const WIDTH: usize = 1 << 20;
    pub const LAYERS: usize = 1 << 12;
    pub const HEADS: usize = 1 << 14;
}

/// A looped model: its sizes, its numbers, what it adds to the plain block, and its recipe. The feed-forward's
/// activation is SiLU. Field names are those of `config.json`, which [`crate::family`] reads and writes.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// V, rows of the embedding and of the head.
    pub vocab_size: usize,
    /// d, the width of the residual stream.
    pub hidden_size: usize,
    /// Width of the SwiGLU feed-forward; with a mixture of experts, that of layers without experts.
    pub intermediate_size: usize,
    /// N, physical layers; each runs once per loop.
    pub num_hidden_layers: usize,
    /// H, query heads.
    pub num_attention_heads: usize,
    /// G, key/value heads; divides H.
    pub num_key_value_heads: usize,
    /// D, the size of a head; even.
    pub head_dim: usize,
    /// Epsilon of every RMSNorm.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// The longest sequence the model may see.
    pub max_position_embeddings: usize,
    /// Whether the head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// First token of a text, if the model uses one.
    pub bos_token_id: Option<u32>,
    /// Token(s) that end a text.
    pub eos_token_id: Option<TokenIds>,
    /// What the model adds to the plain block.
    pub extras: Extras,
    /// The mixture of experts in the place of the feed-forward, if there is one.
    pub moe: Option<Moe>,
    /// The loop recipe.
    pub recipe: Recipe,
}

/// The sizes that a model is made of; the other fields of a [`ModelConfig`] have usual values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// V, rows of the embedding and of the head.
    pub vocab_size: usize,
    /// d, the width of the residual stream.
    pub hidden_size: usize,
    /// Width of the SwiGLU feed-forward.
    pub intermediate_size: usize,
    /// N, physical layers.
    pub num_hidden_layers: usize,
    /// H, query heads.
    pub num_attention_heads: usize,
    /// G, key/value heads; divides H.
    pub num_key_value_heads: usize,
    /// D, the size of a head; even.
    pub head_dim: usize,
}

/// What a model adds to the plain pre-norm Llama block. By default nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Extras {
    /// Vectors added to the results of `q_proj`, `k_proj` and `v_proj`.
    pub attention_bias: bool,
    /// A vector added to the result of `o_proj`.
    pub attention_output_bias: bool,
    /// Vectors added to the results of `gate_proj`, `up_proj` and `down_proj`.
    pub mlp_bias: bool,
    /// RMSNorms of queries and keys before RoPE.
    pub qk_norms: QkNorms,
    /// A second norm in each branch, before its result joins the residual stream (Ouro):
    /// `x += input_layernorm_2(Attn(input_layernorm(x)))`, and likewise `post_attention_layernorm_2` after the
    /// feed-forward.
    pub sandwich_norms: bool,
    /// Changed rotary frequencies, for longer contexts.
    pub rope_scaling: Option<RopeScaling>,
    /// How many of the first dimensions of a head rotary embedding turns; all if absent (GLM-4.5 turns half).
    pub rotary_dims: Option<usize>,
    /// Factors in four places (Granite).
    pub multipliers: Option<Multipliers>,
}

/// Factors that a model has beside its weights (Granite).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Multipliers {
    /// Of embeddings, before anything else sees them.
    pub embedding: f32,
    /// Of scores of attention, in the place of D^-1/2.
    pub attention: f32,
    /// Of what each branch adds to the residual stream.
    pub residual: f32,
    /// What logits are divided by.
    pub logits: f32,
}

/// RMSNorms of queries and keys before RoPE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QkNorms {
    /// None.
    #[default]
    None,
    /// Of each query head and of each key head, over D (Qwen3).
    Head,
    /// Of all heads together, over H x D and G x D (OLMoE).
    Whole,
}

impl Extras {
    /// What is added, in a few words; `None` where nothing is.
    pub fn describe(&self) -> Option<String> {
        let scaling = self.rope_scaling.map(|scaling| format!("RoPE scaling {}", scaling.name()));
        let attention = match (self.attention_bias, self.attention_output_bias) {
            (true, true) => Some("biases in attention".into()),
            (true, false) => Some("biases of queries, keys and values".into()),
            (false, true) => Some("a bias of attention's output".into()),
            (false, false) => None,
        };
        let added: Vec<String> = [
            match self.qk_norms {
                QkNorms::None => None,
                QkNorms::Head => Some("norms of queries and keys".into()),
                QkNorms::Whole => Some("norms of queries and keys over all heads".into()),
            },
            self.sandwich_norms.then(|| "sandwich norms".into()),
            attention,
            self.mlp_bias.then(|| "biases in the feed-forward".into()),
            self.rotary_dims.map(|dims| format!("rotary embedding of {dims} dimensions of a head")),
            self.multipliers.map(|_| "multipliers".into()),
            scaling,
        ]
        .into_iter()
        .flatten()
        .collect();
        (!added.is_empty()).then(|| added.join(", "))
    }
}

impl ModelConfig {
    /// A model of these sizes under a recipe: a plain block, epsilon 1e-5, rotary base 10000, a context of 4096 tokens,
    /// a head of its own, no special tokens. Set what is to be otherwise.
    pub fn new(sizes: Sizes, recipe: Recipe) -> Self {
        let Sizes {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
        } = sizes;
        Self {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            rms_norm_eps: 1e-5,
            rope_theta: 10000.0,
            max_position_embeddings: 4096,
            tie_word_embeddings: false,
            bos_token_id: None,
            eos_token_id: None,
            extras: Extras::default(),
            moe: None,
            recipe,
        }
    }

    /// Checks every size and relation, so that later code may rely on them.
    ///
    /// # Errors
    /// Names the field, the value found and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let range = |field: &str, found: usize, most: usize| {
            if found == 0 || found > most {
                return Err(Error::Config(format!("{field} is {found}, expected 1 to {most}")));
            }
            Ok(())
        };
        range("vocab_size", self.vocab_size, limits::VOCAB)?;
        range("hidden_size", self.hidden_size, limits::WIDTH)?;
        range("intermediate_size", self.intermediate_size, limits::WIDTH)?;
        range("num_hidden_layers", self.num_hidden_layers, limits::LAYERS)?;
        range("num_attention_heads", self.num_attention_heads, limits::HEADS)?;
        range("num_key_value_heads", self.num_key_value_heads, limits::HEADS)?;
        range("head_dim", self.head_dim, limits::HEADS)?;
        range("num_attention_heads x head_dim", self.query_width(), limits::WIDTH)?;
        range("max_position_embeddings", self.max_position_embeddings, MAX_CONTEXT)?;
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(Error::Config(format!(
                "num_key_value_heads is {}, expected a divisor of num_attention_heads ({})",
                self.num_key_value_heads, self.num_attention_heads
            )));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::Config(format!(
                "head_dim is {}, expected an even number: rotary embedding turns pairs",
                self.head_dim
            )));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps > 0.0) {
            return Err(Error::Config(format!(
                "rms_norm_eps is {}, expected a small positive number",
                self.rms_norm_eps
            )));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta >= 1.0) {
            return Err(Error::Config(format!("rope_theta is {}, expected at least 1", self.rope_theta)));
        }
        for id in self.bos_token_id.iter().chain(self.eos_ids()) {
            if *id as usize >= self.vocab_size {
                return Err(Error::Config(format!(
                    "a special token has id {id}, expected below vocab_size ({})",
                    self.vocab_size
                )));
            }
        }
        let rotary = self.rotary_dims();
        if rotary == 0 || rotary > self.head_dim || !rotary.is_multiple_of(2) {
            return Err(Error::Config(format!(
                "rotary_dims is {rotary}, expected an even number from 2 to head_dim ({})",
                self.head_dim
            )));
        }
        if let Some(Multipliers { embedding, attention, residual, logits }) = self.extras.multipliers {
            let list = [embedding, attention, residual, logits];
            if let Some(bad) = list.into_iter().find(|m| !m.is_finite() || *m == 0.0) {
                return Err(Error::Config(format!("a multiplier is {bad}, expected a finite number other than 0")));
            }
        }
        self.extras.rope_scaling.map_or(Ok(()), |scaling| scaling.validate(self.rope_theta))?;
        if let Some(moe) = &self.moe {
            moe.validate(self.num_hidden_layers)?;
            if self.extras.mlp_bias {
                let message = "mlp_bias is true, expected false beside moe: experts with biases are not implemented";
                return Err(Error::Config(message.into()));
            }
        } else if self.recipe.experts == ExpertMode::Shared {
            return Err(Error::Config(
                "loop.experts is \"shared\", expected \"own\" where there is no moe: the block has no experts".into(),
            ));
        }
        self.recipe.validate()
    }

    /// Whether layer `n` has an ordinary feed-forward.
    pub fn is_dense(&self, n: usize) -> bool {
        self.moe.as_ref().is_none_or(|moe| !moe.in_layer(n))
    }

    /// Whether this is a plain transformer: one loop, no window, no exit gate. Its recipe says nothing else then.
    pub fn is_plain(&self) -> bool {
        let Recipe { count, local, exit, .. } = &self.recipe;
        *count == 1 && local.is_none() && exit.is_none()
    }

    /// What decides, beside the tensors, which numbers come out, as text: two models of the same tensors and the same
    /// text compute the same. Neither special tokens nor the length of the context are part of it.
    pub fn computed(&self) -> String {
        // Written out in full, so that a new field cannot be forgotten here.
        let Self {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            rms_norm_eps,
            rope_theta,
            max_position_embeddings: _,
            tie_word_embeddings,
            bos_token_id: _,
            eos_token_id: _,
            extras,
            moe,
            recipe,
        } = self;
        let dense = (0..*num_hidden_layers).any(|n| self.is_dense(n));
        let sizes = [
            vocab_size,
            hidden_size,
            // Nothing has this width in a model of experts only.
            if dense { intermediate_size } else { &0 },
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
        ];
        let recipe = if self.is_plain() { &Recipe::vanilla() } else { recipe };
        // What came later is said only where it is there, so that the states that earlier versions saved stay valid.
        let extras = format!("{extras:?}");
        let extras = extras.replace("qk_norms: None", "qk_norms: false").replace("qk_norms: Head", "qk_norms: true");
        let extras = extras.replace(", rotary_dims: None", "").replace(", multipliers: None", "");
        let recipe = format!("{recipe:?}").replace(", experts: Own", "");
        let moe = moe.as_ref().map_or(String::new(), |moe| format!(" {moe:?}"));
        format!("{sizes:?} {rms_norm_eps} {rope_theta} {tie_word_embeddings} {extras} {recipe}{moe}")
    }

    /// The rotary frequencies of this model ([`rope::frequencies`]).
    pub fn frequencies(&self) -> (Vec<f64>, f32) {
        rope::frequencies(self.rotary_dims(), self.rope_theta, self.extras.rope_scaling)
    }

    /// How many dimensions of a head rotary embedding turns.
    pub fn rotary_dims(&self) -> usize {
        self.extras.rotary_dims.unwrap_or(self.head_dim)
    }

    /// H x D, the width of the query projection.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads.saturating_mul(self.head_dim)
    }

    /// G x D, the width of the key and of the value projection.
    pub fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Ids that end a text.
    pub fn eos_ids(&self) -> &[u32] {
        self.eos_token_id.as_ref().map_or(&[], TokenIds::as_slice)
    }

    /// Refuses ids outside the vocabulary, an empty sequence, and one longer than the context.
    ///
    /// # Errors
    /// Names the id or the length, and the limit.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::Input("there are no tokens: give at least one".into()));
        }
        if tokens.len() > self.max_position_embeddings {
            return Err(Error::Input(format!(
                "{} tokens are more than the model's context of {}: shorten the input",
                tokens.len(),
                self.max_position_embeddings
            )));
        }
        match tokens.iter().find(|t| **t as usize >= self.vocab_size) {
            Some(id) => Err(Error::Input(format!(
                "token id {id} is outside the vocabulary: ids run from 0 to {}",
                self.vocab_size - 1
            ))),
            None => Ok(()),
        }
    }
}
