//! The keys that all families have from Llama: read and written in one place.

use crate::config::{Extras, Sizes};
use crate::fields::{Fields, TokenIds};
use crate::rope::RopeScaling;
use crate::{DType, Error, ModelConfig, Recipe, Result};
use serde::Serialize;
use serde_json::{Map, Value};

/// What a `config.json` says besides the model: nothing in it changes what is computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Notes {
    /// The type that the checkpoint was written in; each tensor says its own.
    pub torch_dtype: Option<String>,
    /// Keys that mean something to other programs, such as `pad_token_id`.
    pub other: Map<String, Value>,
}

impl Notes {
    /// Of a checkpoint that is written in one type.
    pub fn of_type(dtype: DType) -> Self {
        Self { torch_dtype: Some(dtype.name().into()), other: Map::new() }
    }

    /// Takes what is known of it; keys that nobody takes are added later.
    pub(super) fn take(fields: &mut Fields) -> Result<Self> {
        // The class is the family's, and Python files of a checkpoint do not travel with it.
        fields.optional::<Vec<String>>("architectures")?;
        fields.ignore(&["auto_map"]);
        let (old, new) = (fields.optional("torch_dtype")?, fields.optional("dtype")?);
        Ok(Self { torch_dtype: old.or(new), other: Map::new() })
    }
}

/// Sets what Hugging Face's classes take where a plain family's configuration says nothing.
pub(super) fn usual(fields: &mut Fields) {
    fields.set_default("rms_norm_eps", 1e-6.into());
    let inside = ["rope_parameters", "rope_scaling"].into_iter().any(|key| fields.has_inside(key, "rope_theta"));
    if !inside {
        fields.set_default("rope_theta", 10000.0.into());
    }
}

/// Reads the keys that all families have; `recipe` is the family's.
pub(super) fn llama_like(fields: &mut Fields, recipe: Recipe) -> Result<ModelConfig> {
    let hidden_size: usize = fields.required("hidden_size")?;
    let heads: usize = fields.required("num_attention_heads")?;
    let head_dim = match fields.optional("head_dim")? {
        Some(size) => size,
        None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let expected = format!("a divisor of hidden_size ({hidden_size}), as there is no head_dim");
            return fields.error("num_attention_heads", heads, &expected);
        }
    };
    let sizes = Sizes {
        vocab_size: fields.required("vocab_size")?,
        hidden_size,
        intermediate_size: fields.required("intermediate_size")?,
        num_hidden_layers: fields.required("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: fields.optional("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
    };
    let max_position_embeddings = fields.required("max_position_embeddings")?;
    let (rope_theta, rope_scaling) = RopeScaling::read(fields, max_position_embeddings)?;
    if fields.optional::<Vec<String>>("layer_types")?.is_some_and(|types| types.iter().any(|t| t != "full_attention")) {
        return fields.error("layer_types", "not \"full_attention\" everywhere", "no other kind of layer");
    }
    if let Some(activation) = fields.optional::<String>("hidden_act")?.filter(|name| name != SILU) {
        return fields.error("hidden_act", format!("\"{activation}\""), "\"silu\"");
    }
    let attention_bias = fields.optional("attention_bias")?.unwrap_or(false);
    Ok(ModelConfig {
        rms_norm_eps: fields.required("rms_norm_eps")?,
        rope_theta,
        max_position_embeddings,
        tie_word_embeddings: fields.optional("tie_word_embeddings")?.unwrap_or(false),
        bos_token_id: fields.optional("bos_token_id")?,
        eos_token_id: fields.optional("eos_token_id")?,
        extras: Extras {
            attention_bias,
            attention_output_bias: attention_bias,
            mlp_bias: fields.optional("mlp_bias")?.unwrap_or(false),
            rope_scaling,
            ..Extras::default()
        },
        ..ModelConfig::new(sizes, recipe)
    })
}

/// Refuses a sliding window, in every loop, that is shorter than the context; a longer one changes nothing.
pub(super) fn whole_context(window: Option<usize>, config: &ModelConfig) -> Result<()> {
    let context = config.max_position_embeddings;
    match window.filter(|window| *window < context) {
        None => Ok(()),
        Some(window) => Err(Error::Config(format!(
            "sliding_window is {window}, shorter than the context of {context} (max_position_embeddings): attention over \
             a window in the first loop is not implemented; expected null or at least the context"
        ))),
    }
}

/// The activation of every feed-forward.
const SILU: &str = "silu";

/// The keys that all families have, as they are written.
#[derive(Serialize)]
struct Common<'a> {
    architectures: [&'a str; 1],
    model_type: &'a str,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    hidden_act: &'a str,
    rms_norm_eps: f32,
    rope_theta: f32,
    rope_scaling: Option<RopeScaling>,
    max_position_embeddings: usize,
    tie_word_embeddings: bool,
    bos_token_id: Option<u32>,
    eos_token_id: Option<&'a TokenIds>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    torch_dtype: Option<&'a str>,
}

/// These keys of a model, those that say something.
pub(super) fn common(config: &ModelConfig, notes: &Notes, model_type: &str, class: &str) -> Map<String, Value> {
    let common = Common {
        architectures: [class],
        model_type,
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        hidden_act: SILU,
        rms_norm_eps: config.rms_norm_eps,
        rope_theta: config.rope_theta,
        rope_scaling: config.extras.rope_scaling,
        max_position_embeddings: config.max_position_embeddings,
        tie_word_embeddings: config.tie_word_embeddings,
        bos_token_id: config.bos_token_id,
        eos_token_id: config.eos_token_id.as_ref(),
        attention_bias: config.extras.attention_bias.then_some(true),
        mlp_bias: config.extras.mlp_bias.then_some(true),
        torch_dtype: notes.torch_dtype.as_deref(),
    };
    let Value::Object(mut map) = plain(&common) else { return Map::new() };
    map.retain(|_, value| !value.is_null());
    map
}

/// A value with every number in its shortest decimal: 0.707 rather than 0.7070000171661377, which is the same f32.
pub(super) fn plain(value: &impl Serialize) -> Value {
    serde_json::to_string(value).ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}
