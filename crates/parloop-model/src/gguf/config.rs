//! Metadata and configuration: from keys to the JSON value of a Hugging Face `config.json`, and back.
//!
//! Architecture `llama` is a plain transformer. A looped model has the architecture `parloop` and the keys of
//! [`recipe`]; other engines refuse it instead of running another model.

use super::metadata::Metadata;
use super::reader::Result;
use super::value::{Pairs, Value};
use super::{recipe, rope};
use crate::{ModelConfig, Tensor};
use serde_json::{Value as Json, json};
use std::collections::HashMap;

/// The architecture of plain transformers.
pub(super) const LLAMA: &str = "llama";
/// The architecture of looped models.
pub(super) const PARLOOP: &str = "parloop";

/// Keys after `{arch}.` that are read here or change nothing.
const KNOWN: [&str; 24] = [
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
pub(super) fn architecture<'a>(metadata: &Metadata<'a>) -> Result<&'a str> {
    if let Some(parts @ 2..) = metadata.size("split.count")? {
        return Err(format!("is one of {parts} parts of a model; join them with llama-gguf-split --merge first"));
    }
    let found = metadata.required("general.architecture", metadata.text("general.architecture")?)?;
    match found {
        LLAMA | PARLOOP => Ok(found),
        other => Err(format!("has the architecture \"{other}\", expected \"{LLAMA}\" or \"{PARLOOP}\"")),
    }
}

/// The `config.json` that describes the file's model. `ends` are the ids that end a text.
pub(super) fn to_json(
    metadata: &Metadata<'_>,
    arch: &str,
    tensors: &HashMap<String, Tensor>,
    ends: &[u32],
) -> Result<Json> {
    let key = |name: &str| format!("{arch}.{name}");
    let size = |name: &str| metadata.required(&key(name), metadata.size(&key(name))?);
    let recipe_keys: Vec<&str> = if arch == PARLOOP { recipe::KEYS.to_vec() } else { Vec::new() };
    metadata.only(&key(""), &[&KNOWN[..], &recipe_keys].concat())?;
    for (name, plain) in [("attention.causal", true)] {
        if metadata.bool(&key(name))?.is_some_and(|found| found != plain) {
            return Err(format!("has {} = {}, expected {plain}", key(name), !plain));
        }
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
    let has = |ending: &str| tensors.contains_key(&crate::tensors::layer(0, ending));
    config["attention_bias"] = has("self_attn.q_proj.bias").into();
    config["mlp_bias"] = has("mlp.gate_proj.bias").into();
    if arch == PARLOOP {
        config["sandwich_norms"] = has("input_layernorm_2.weight").into();
        config["loop"] = recipe::to_json(metadata, arch)?;
    }
    Ok(config)
}

/// The architecture a configuration is written under: a plain transformer is one that every engine knows.
pub(super) fn architecture_of(config: &ModelConfig) -> &'static str {
    let recipe = &config.recipe;
    let plain = recipe.count == 1 && recipe.local.is_none() && recipe.exit.is_none() && !config.block.sandwich_norms;
    if plain { LLAMA } else { PARLOOP }
}

/// Metadata keys of a configuration, those of its recipe included.
pub(super) fn to_metadata(config: &ModelConfig) -> Pairs {
    let arch = architecture_of(config);
    let size = |name: &str, value: usize| (format!("{arch}.{name}"), Value::U32(value as u32));
    let number = |name: &str, value: f32| (format!("{arch}.{name}"), Value::F32(value));
    let mut pairs = vec![
        ("general.architecture".into(), Value::String(arch.into())),
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
    if arch == PARLOOP {
        pairs.extend(recipe::to_metadata(&config.recipe, arch));
    }
    pairs
}
