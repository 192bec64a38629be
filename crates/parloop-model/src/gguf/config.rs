//! Metadata and configuration: from keys to the JSON value of a Hugging Face `config.json`, and back.
//!
//! A plain transformer has an architecture that other engines know. A looped model has the architecture `parloop` and
//! the keys of [`recipe`]; they refuse it instead of running another model.

use super::metadata::Metadata;
use super::reader::Result;
use super::value::{Pairs, Value};
use super::{recipe, rope};
use crate::config::{Extras, QkNorms};
use crate::{ModelConfig, Tensor};
use serde_json::{Value as Json, json};
use std::collections::HashMap;

/// An architecture: a form in which a file holds a model.
#[derive(Debug)]
pub(super) struct Architecture {
    /// Its name in files, and the family's whose configuration it is read as.
    pub name: &'static str,
    /// Whether the rows of query and key heads are stored for rotary embedding of neighbours.
    pub paired: bool,
    /// Whether it holds a recipe and all that a model may add to the plain block.
    looped: bool,
    /// Whether other engines compute a model under this name as it is meant.
    holds: fn(&ModelConfig) -> bool,
}

/// The architectures that are read; a model is written in the first that holds it.
static ARCHITECTURES: [Architecture; 4] = [
    Architecture {
        name: "llama",
        paired: true,
        looped: false,
        holds: |c| {
            let extras = &c.extras;
            let fits = extras.attention_bias == extras.attention_output_bias && extras.qk_norms == QkNorms::None;
            c.is_plain() && fits && !extras.sandwich_norms
        },
    },
    Architecture {
        name: "qwen2",
        paired: false,
        looped: false,
        holds: |c| {
            let extras = Extras { attention_bias: true, rope_scaling: c.extras.rope_scaling, ..Extras::default() };
            c.is_plain() && c.extras == extras
        },
    },
    Architecture {
        name: "qwen3",
        paired: false,
        looped: false,
        holds: |c| {
            let extras = Extras { qk_norms: QkNorms::Head, rope_scaling: c.extras.rope_scaling, ..Extras::default() };
            c.is_plain() && c.extras == extras
        },
    },
    Architecture { name: "parloop", paired: false, looped: true, holds: |_| true },
];

/// Keys after `{arch}.` that are read here or change nothing.
const KNOWN: [&str; 25] = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.causal",
    "attention.sliding_window",
    "rope.freq_base",
    "rope.dimension_count",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scale_linear",
    "vocab_size",
    "expert_count",
    "expert_used_count",
];

/// The file's architecture, one that can be read.
pub(super) fn architecture(metadata: &Metadata<'_>) -> Result<&'static Architecture> {
    let found = metadata.required("general.architecture", metadata.text("general.architecture")?)?;
    ARCHITECTURES.iter().find(|arch| arch.name == found).ok_or_else(|| {
        let known: Vec<_> = ARCHITECTURES.iter().map(|arch| arch.name).collect();
        format!("has the architecture \"{found}\", expected one of {}", known.join(", "))
    })
}

/// The `config.json` that describes the file's model. `ends` are the ids that end a text.
pub(super) fn to_json(
    metadata: &Metadata<'_>,
    architecture: &Architecture,
    tensors: &HashMap<String, Tensor>,
    ends: &[u32],
) -> Result<Json> {
    let (arch, looped) = (architecture.name, architecture.looped);
    let key = |name: &str| format!("{arch}.{name}");
    let size = |name: &str| metadata.required(&key(name), metadata.size(&key(name))?);
    let recipe_keys: Vec<&str> = if looped { recipe::KEYS.to_vec() } else { Vec::new() };
    metadata.only(&key(""), &[&KNOWN[..], &recipe_keys].concat())?;
    for (name, plain) in [("attention.causal", true)] {
        if metadata.bool(&key(name))?.is_some_and(|found| found != plain) {
            return Err(format!("has {} = {}, expected {plain}", key(name), !plain));
        }
    }
    // Engines that know this key for these architectures take 0 as none.
    let (context, window) = (size("context_length")?, metadata.size(&key("attention.sliding_window"))?);
    if let Some(window) = window.filter(|window| *window > 0 && *window < context) {
        let key = key("attention.sliding_window");
        return Err(format!("has {key} = {window}, expected 0 or at least the context, {context}"));
    }
    if let Some(experts @ 1..) = metadata.size(&key("expert_count"))? {
        return Err(format!("has {experts} experts, expected a model without a mixture of experts"));
    }
    let (hidden, heads) = (size("embedding_length")?, size("attention.head_count")?);
    let head_dim = match metadata.size(&key("attention.key_length"))? {
        Some(found) => found,
        None => hidden.checked_div(heads).ok_or_else(|| format!("has {} = 0", key("attention.head_count")))?,
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if let Some(found) = metadata.size(&key(name))?.filter(|found| *found != head_dim) {
            return Err(format!("has {} = {found}, expected the size of a head, {head_dim}", key(name)));
        }
    }
    let embedding = tensors.get(crate::tensors::EMBEDDING).ok_or("lacks the tensor token_embd.weight")?;
    let mut config = json!({
        "model_type": arch,
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": size("feed_forward_length")?,
        "num_hidden_layers": size("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": metadata.size(&key("attention.head_count_kv"))?.unwrap_or(heads),
        "head_dim": head_dim,
        "rms_norm_eps": metadata.required(
            &key("attention.layer_norm_rms_epsilon"),
            metadata.number(&key("attention.layer_norm_rms_epsilon"))?,
        )?,
        "rope_theta": metadata.number(&key("rope.freq_base"))?.unwrap_or(10000.0),
        "max_position_embeddings": size("context_length")?,
        "tie_word_embeddings": !tensors.contains_key(crate::tensors::HEAD),
        "hidden_act": "silu",
    });
    if let Some(id) = metadata.id("tokenizer.ggml.bos_token_id")? {
        config["bos_token_id"] = id.into();
    }
    if !ends.is_empty() {
        config["eos_token_id"] = ends.into();
    }
    if let Some(scaling) = rope::to_json(metadata, arch, tensors, head_dim)? {
        config["rope_scaling"] = scaling;
    }
    // These need no keys: their tensors are there or not, and all of them must be.
    let has = |name: &str| tensors.contains_key(&crate::tensors::layer_name(0, name));
    let mut says = |key: &str, name: &str| config[key] = has(name).into();
    // A bias of queries is what makes the architecture qwen2.
    if arch != "qwen2" {
        says("attention_bias", "self_attn.q_proj.bias");
        says("mlp_bias", "mlp.gate_proj.bias");
    }
    if looped {
        says("attention_output_bias", "self_attn.o_proj.bias");
        says("qk_norms", "self_attn.q_norm.weight");
        says("sandwich_norms", "input_layernorm_2.weight");
        config["loop"] = recipe::to_json(metadata, arch)?;
    }
    Ok(config)
}

/// The architecture that a model is written in: the first that holds it.
pub(super) fn architecture_of(config: &ModelConfig) -> &'static Architecture {
    let [rest @ .., last] = &ARCHITECTURES;
    rest.iter().find(|arch| (arch.holds)(config)).unwrap_or(last)
}

/// Metadata keys of a configuration, those of its recipe included.
pub(super) fn to_metadata(config: &ModelConfig) -> Pairs {
    let Architecture { name: arch, looped, .. } = architecture_of(config);
    let size = |name: &str, value: usize| (format!("{arch}.{name}"), Value::U32(value as u32));
    let number = |name: &str, value: f32| (format!("{arch}.{name}"), Value::F32(value));
    let mut pairs = vec![
        ("general.architecture".into(), Value::String((*arch).into())),
        ("general.type".into(), Value::String("model".into())),
        size("context_length", config.max_position_embeddings),
        size("embedding_length", config.hidden_size),
        size("block_count", config.num_hidden_layers),
        size("feed_forward_length", config.intermediate_size),
        size("attention.head_count", config.num_attention_heads),
        size("attention.head_count_kv", config.num_key_value_heads),
        size("attention.key_length", config.head_dim),
        size("attention.value_length", config.head_dim),
        size("rope.dimension_count", config.head_dim),
        size("vocab_size", config.vocab_size),
        number("attention.layer_norm_rms_epsilon", config.rms_norm_eps),
        number("rope.freq_base", config.rope_theta),
    ];
    if *looped {
        pairs.extend(recipe::to_metadata(&config.recipe, arch));
    }
    pairs
}
