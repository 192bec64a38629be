//! `config.json` of our own checkpoints: a Llama configuration with `"model_type": "parloop"` and one object `loop`.

use crate::{Error, Recipe, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::Path;

/// Sizes above which a configuration is refused before anything is allocated.
mod limits {
    pub const VOCAB: usize = 1 << 24;
    pub const WIDTH: usize = 1 << 20;
    pub const LAYERS: usize = 1 << 12;
    pub const HEADS: usize = 1 << 14;
    pub const CONTEXT: usize = 1 << 26;
    pub const CONFIG_BYTES: u64 = 16 << 20;
}

/// The shape of a looped model. Field names are those of `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Always `parloop`.
    pub model_type: String,
    /// Hugging Face's class name; informative.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
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
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// First token of a text, if the model uses one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<u32>,
    /// Token(s) that end a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<TokenIds>,
    /// Activation of the feed-forward: `silu`.
    #[serde(default = "silu")]
    pub hidden_act: String,
    /// Type the checkpoint was written in; informative, each tensor says its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub torch_dtype: Option<String>,
    /// The loop recipe.
    #[serde(rename = "loop")]
    pub recipe: Recipe,
    /// Whatever else the file holds; [`ModelConfig::validate`] refuses what would change the model.
    #[serde(flatten)]
    pub other: serde_json::Map<String, Value>,
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

fn silu() -> String {
    "silu".into()
}

/// Keys of Hugging Face configurations that do not change what is computed here.
const HARMLESS: [&str; 15] = [
    "_name_or_path",
    "attention_dropout",
    "auto_map",
    "dtype",
    "initializer_range",
    "pad_token_id",
    "pretraining_tp",
    "transformers_version",
    "unk_token_id",
    "use_cache",
    "id2label",
    "label2id",
    "problem_type",
    "return_dict",
    "output_attentions",
];

/// Keys that are harmless only while they are absent, null or false.
const MUST_BE_OFF: [&str; 5] = ["attention_bias", "mlp_bias", "rope_scaling", "qk_norm", "sliding_window"];

impl ModelConfig {
    /// Reads and validates `config.json` in a checkpoint folder.
    ///
    /// # Errors
    /// The file is missing, too large, not JSON, or describes something that cannot be computed; the message names
    /// the file and the field.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let size = std::fs::metadata(&path).map_err(|e| Error::io("read", &path, e))?.len();
        if size > limits::CONFIG_BYTES {
            return Err(Error::file(
                &path,
                format!("is {size} bytes long, expected a configuration of a few kilobytes"),
            ));
        }
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        Self::from_json(&text).map_err(|e| Error::file(&path, e.to_string()))
    }

    /// Parses and validates a configuration.
    ///
    /// # Errors
    /// As [`ModelConfig::read`], without the file's name.
    pub fn from_json(text: &str) -> Result<Self> {
        let value: Value =
            serde_json::from_str(text).map_err(|e| Error::Config(format!("is not a JSON configuration: {e}")))?;
        match value.get("model_type").and_then(Value::as_str) {
            Some("parloop") => {}
            Some(other) => {
                return Err(Error::Config(format!("model_type is \"{other}\", expected \"parloop\"")));
            }
            None => return Err(Error::Config("has no model_type; expected \"model_type\": \"parloop\"".into())),
        }
        let config: Self = serde_json::from_value(value).map_err(|e| Error::Config(e.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// The configuration as `config.json` text.
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
        range("max_position_embeddings", self.max_position_embeddings, limits::CONTEXT)?;
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
            let off = value.is_null() || value == &Value::Bool(false);
            if !(HARMLESS.contains(&key.as_str()) || MUST_BE_OFF.contains(&key.as_str()) && off) {
                return Err(Error::Config(format!(
                    "has the key \"{key}\" = {value}, which this version does not know and will not ignore"
                )));
            }
        }
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
        let cases: [(&str, Value); 14] = [
            ("vocab_size", 0.into()),
            ("vocab_size", (1u64 << 40).into()),
            ("hidden_size", (-3).into()),
            ("num_key_value_heads", 3.into()),
            ("head_dim", 7.into()),
            ("num_hidden_layers", 1_000_000.into()),
            ("rms_norm_eps", 0.0.into()),
            ("rope_theta", 0.5.into()),
            ("hidden_act", "gelu".into()),
            ("eos_token_id", 61.into()),
            ("model_type", "mystery".into()),
            ("rope_scaling", serde_json::json!({"type": "yarn"})),
            ("qk_norm", true.into()),
            ("surprise", 1.into()),
        ];
        for (field, value) in cases {
            let message = match parse(|c| c[field] = value.clone()) {
                Ok(_) => panic!("{field} = {value} was accepted"),
                Err(e) => e.to_string(),
            };
            // serde names the type it wanted rather than the field; everything else names the field.
            assert!(
                message.contains(field) || message.contains("special token") || message.contains("invalid value"),
                "{field}: {message}"
            );
        }
        assert!(parse(|c| c["loop"]["count"] = 0.into()).is_err());
        assert!(parse(|c| c["loop"]["hop"] = 0.into()).unwrap_err().to_string().contains("hop"));
        assert!(parse(|c| c["loop"]["kv"] = "per_loop".into()).is_err(), "a window needs shared K/V");
        assert!(ModelConfig::from_json("{").is_err() && ModelConfig::from_json("[]").is_err());
    }
}
