//! The description of a model, and `config.json`, from which it is read.
//!
//! Our own checkpoints hold a Llama configuration with `"model_type": "parloop"` and one object `loop`; those of other
//! families are mapped onto the same description by [`crate::family`].

mod fields;

pub(crate) use fields::{Fields, is_off};

use crate::rope::RopeScaling;
use crate::{Error, Recipe, Result, family};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// Sizes above which a configuration is refused before anything is allocated.
mod limits {
    pub const VOCAB: usize = 1 << 24;
    pub const WIDTH: usize = 1 << 20;
    pub const LAYERS: usize = 1 << 12;
    pub const HEADS: usize = 1 << 14;
}

/// The longest context that a configuration may claim.
pub(crate) const MAX_CONTEXT: usize = 1 << 26;

/// The shape of a looped model. Field names are those of our `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelConfig {
    /// Always `parloop`: other families are described in our terms once they are read.
    pub model_type: String,
    /// Hugging Face's class name; informative.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// V, rows of the embedding and of the head.
    pub vocab_size: usize,
    /// d, the width of the residual stream.
    pub hidden_size: usize,
    /// Width of the SwiGLU feed-forward.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<u32>,
    /// Token(s) that end a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<TokenIds>,
    /// Activation of the feed-forward: `silu`.
    pub hidden_act: String,
    /// Type the checkpoint was written in; informative, each tensor says its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub torch_dtype: Option<String>,
    /// What the model adds to the plain block.
    #[serde(flatten)]
    pub block: Block,
    /// The loop recipe.
    #[serde(rename = "loop")]
    pub recipe: Recipe,
    /// Whatever else the file holds; [`ModelConfig::validate`] refuses what would change the model.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
}

/// What a model adds to the plain pre-norm Llama block. By default nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Block {
    /// Vectors added to the results of `q_proj`, `k_proj`, `v_proj` and `o_proj`.
    #[serde(skip_serializing_if = "is_false")]
    pub attention_bias: bool,
    /// Vectors added to the results of `gate_proj`, `up_proj` and `down_proj`.
    #[serde(skip_serializing_if = "is_false")]
    pub mlp_bias: bool,
    /// A second norm in each branch, before its result joins the residual stream (Ouro):
    /// `x += input_layernorm_2(Attn(input_layernorm(x)))`, and likewise `post_attention_layernorm_2` after the
    /// feed-forward.
    #[serde(skip_serializing_if = "is_false")]
    pub sandwich_norms: bool,
    /// Changed rotary frequencies, for longer contexts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
}

impl Block {
    /// What is added, in a few words; `None` where nothing is.
    pub fn describe(&self) -> Option<String> {
        let scaling = self.rope_scaling.map(|scaling| format!("RoPE scaling {}", scaling.name()));
        let parts: Vec<String> = [
            self.sandwich_norms.then(|| "sandwich norms".into()),
            self.attention_bias.then(|| "biases in attention".into()),
            self.mlp_bias.then(|| "biases in the feed-forward".into()),
            scaling,
        ]
        .into_iter()
        .flatten()
        .collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// One id or several, as configuration files have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIds {
    /// A single id.
    One(u32),
    /// A list of ids.
    Many(Vec<u32>),
}

impl TokenIds {
    /// The ids as a slice.
    pub fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

/// Keys of Hugging Face configurations that do not change what is computed here.
const HARMLESS: [&str; 21] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_name_or_path",
    "attention_dropout",
    "auto_map",
    "dtype",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_cache",
];

/// Keys that are harmless only while they are absent, null, false or empty.
const MUST_BE_OFF: [&str; 9] = [
    "is_encoder_decoder",
    "layer_types",
    "qk_norm",
    "quantization",
    "quantization_config",
    "rope_interleaved",
    "sliding_window",
    "use_qk_norm",
    "use_sliding_window",
];

impl ModelConfig {
    /// Reads and validates `config.json` in a checkpoint folder, of any [`family`].
    ///
    /// # Errors
    /// The file is missing, too large, not JSON, or describes something that cannot be computed; the message names
    /// the file and the field.
    pub fn read(folder: &Path) -> Result<Self> {
        Ok(family::read(folder)?.0)
    }

    /// Parses and validates the text of a `config.json` of any [`family`].
    ///
    /// # Errors
    /// As [`ModelConfig::read`], without the file's name.
    pub fn from_json(text: &str) -> Result<Self> {
        Ok(family::parse(text)?.0)
    }

    /// [`ModelConfig::from_json`] of a value that is parsed already.
    ///
    /// # Errors
    /// As [`ModelConfig::from_json`].
    pub fn from_value(value: Value) -> Result<Self> {
        Ok(family::describe(value)?.0)
    }

    /// The configuration as the text of our own `config.json`.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
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
        if self.hidden_act != "silu" {
            return Err(Error::Config(format!("hidden_act is \"{}\", expected \"silu\"", self.hidden_act)));
        }
        for id in self.bos_token_id.iter().chain(self.eos_ids()) {
            if *id as usize >= self.vocab_size {
                return Err(Error::Config(format!(
                    "a special token has id {id}, expected below vocab_size ({})",
                    self.vocab_size
                )));
            }
        }
        for (key, value) in &self.other {
            if !(HARMLESS.contains(&key.as_str()) || MUST_BE_OFF.contains(&key.as_str()) && is_off(value)) {
                return Err(fields::unknown(key, value));
            }
        }
        self.block.rope_scaling.map_or(Ok(()), |scaling| scaling.validate(self.rope_theta))?;
        self.recipe.validate()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn golden() -> Value {
        serde_json::from_str(include_str!("../../../tests/goldens/plt2/config.json")).unwrap()
    }

    fn parse(change: impl Fn(&mut Value)) -> Result<ModelConfig> {
        let mut value = golden();
        change(&mut value);
        ModelConfig::from_json(&value.to_string())
    }

    #[test]
    fn the_goldens_config_survives_a_round_trip() {
        let config = parse(|_| {}).unwrap();
        assert_eq!(config, ModelConfig::from_json(&config.to_json()).unwrap());
        assert_eq!(config.eos_ids(), [2]);
    }

    #[test]
    fn every_bad_field_is_refused_by_name() {
        let cases: [(&str, Value, &str); 20] = [
            ("vocab_size", 0.into(), "is 0"),
            ("vocab_size", (1u64 << 40).into(), "expected 1 to"),
            ("hidden_size", (-3).into(), "is -3, expected a whole number"),
            ("hidden_size", "wide".into(), "is \"wide\", expected a whole number"),
            ("hidden_size", 24.5.into(), "is 24.5, expected a whole number"),
            ("hidden_size", Value::Null, "has no hidden_size"),
            ("tie_word_embeddings", 1.into(), "is 1, expected true or false"),
            ("num_key_value_heads", 3.into(), "divisor"),
            ("head_dim", 7.into(), "even"),
            ("num_hidden_layers", 1_000_000.into(), "expected 1 to"),
            ("rms_norm_eps", 0.0.into(), "positive"),
            ("rope_theta", 0.5.into(), "at least 1"),
            ("hidden_act", "gelu".into(), "\"gelu\", expected \"silu\""),
            ("eos_token_id", 61.into(), "special token has id 61"),
            ("eos_token_id", "end".into(), "is \"end\", expected a token id or a list"),
            ("model_type", "mystery".into(), "\"mystery\", expected"),
            ("loop", 2.into(), "is 2, expected an object"),
            ("qk_norm", true.into(), "will not ignore"),
            ("sliding_window", 128.into(), "will not ignore"),
            ("surprise", "x".repeat(1000).into(), "xxx..., which this version does not know"),
        ];
        for (field, value, words) in cases {
            let message = match parse(|c| c[field] = value.clone()) {
                Ok(_) => panic!("{field} = {value} was accepted"),
                Err(e) => e.to_string(),
            };
            assert!(message.contains(field) || message.contains("special token"), "{field}: {message}");
            assert!(message.contains(words) && message.len() < 400, "{field}: {message}");
        }
        let looped = |key: &str, value: Value| parse(|c| c["loop"][key] = value.clone()).unwrap_err().to_string();
        assert!(looped("count", "two".into()).contains("loop.count is \"two\", expected a whole number"));
        assert!(looped("kv", "own".into()).contains("loop.kv is \"own\", expected \"per_loop\" or \"shared\""));
        assert!(looped("local", true.into()).contains("loop.local is true, expected an object"));
        assert!(looped("exit", serde_json::json!({"threshold": 2})).contains("loop.exit.threshold is 2"));
        assert!(looped("exit", serde_json::json!({"limit": 1})).contains("loop.exit.limit"));
        assert!(parse(|c| c["loop"]["count"] = 0.into()).is_err());
        assert!(parse(|c| c["loop"]["hop"] = 0.into()).unwrap_err().to_string().contains("hop"));
        assert!(parse(|c| c["loop"]["kv"] = "per_loop".into()).is_err(), "a window needs shared K/V");
        assert!(ModelConfig::from_json("{").is_err() && ModelConfig::from_json("[]").is_err());
    }

    #[test]
    fn a_description_with_everything_survives_a_round_trip() {
        for scaling in [
            serde_json::json!({"rope_type": "linear", "factor": 4.0}),
            serde_json::json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                               "original_max_position_embeddings": 64}),
            serde_json::json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
        ] {
            let config = parse(|c| {
                c["attention_bias"] = true.into();
                c["mlp_bias"] = true.into();
                c["sandwich_norms"] = true.into();
                c["rope_scaling"] = scaling.clone();
                c["loop"]["exit"] = serde_json::json!({"threshold": 0.3});
            })
            .unwrap();
            assert!(config.block.attention_bias && config.block.mlp_bias && config.block.sandwich_norms);
            assert_eq!(config.recipe.exit.unwrap().threshold, 0.3);
            assert_eq!(config, ModelConfig::from_json(&config.to_json()).unwrap(), "{scaling}");
        }
    }
}
