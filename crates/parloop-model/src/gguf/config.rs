//! Metadata and configuration: from keys to the JSON value of a Hugging Face `config.json`, and back.
//!
//! A plain transformer has an architecture that other engines know. A looped model has the architecture `parloop` and
//! the keys of [`recipe`]; they refuse it instead of running another model.

use super::experts::{self, Routing};
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
    /// Its name in files.
    pub name: &'static str,
    /// The family whose configuration it is read as.
    family: &'static str,
    /// Whether the rows of query and key heads are stored for rotary embedding of neighbours.
    pub paired: bool,
    /// Whether it holds a recipe and all that a model may add to the plain block.
    looped: bool,
    /// How it routes rows to experts, if that is taken for granted; `None` where the file says it, or there are none.
    pub routing: Option<Routing>,
    /// Whether other engines compute a model under this name as it is meant.
    holds: fn(&ModelConfig) -> bool,
}

// As llama.cpp routes them.
const MIXTRAL: Routing = Routing { normalize: true, shared: false, plain_width: true };
const QWEN2: Routing = Routing { normalize: false, shared: true, plain_width: false };
const QWEN3: Routing = Routing { normalize: true, shared: false, plain_width: false };
const OLMOE: Routing = Routing { normalize: false, shared: false, plain_width: true };

/// The architectures that are read; a model is written in the first that holds it.
static ARCHITECTURES: [Architecture; 8] = [
    Architecture {
        name: "llama",
        family: "llama",
        paired: true,
        looped: false,
        routing: None,
        holds: |c| {
            let Extras { attention_bias, attention_output_bias, mlp_bias, rope_scaling, .. } = c.extras;
            let extras = Extras { attention_bias, attention_output_bias, mlp_bias, rope_scaling, ..Extras::default() };
            c.is_plain() && c.moe.is_none() && attention_bias == attention_output_bias && c.extras == extras
        },
    },
    Architecture {
        name: "qwen2",
        family: "qwen2",
        paired: false,
        looped: false,
        routing: None,
        holds: |c| {
            let extras = Extras { attention_bias: true, rope_scaling: c.extras.rope_scaling, ..Extras::default() };
            c.is_plain() && c.moe.is_none() && c.extras == extras
        },
    },
    Architecture {
        name: "qwen3",
        family: "qwen3",
        paired: false,
        looped: false,
        routing: None,
        holds: |c| {
            let extras = Extras { qk_norms: QkNorms::Head, rope_scaling: c.extras.rope_scaling, ..Extras::default() };
            c.is_plain() && c.moe.is_none() && c.extras == extras
        },
    },
    Architecture {
        name: "llama",
        family: "mixtral",
        paired: true,
        looped: false,
        routing: Some(MIXTRAL),
        holds: |c| experts::plain(c, MIXTRAL, QkNorms::None, Some(false)),
    },
    Architecture {
        name: "qwen2moe",
        family: "qwen2_moe",
        paired: false,
        looped: false,
        routing: Some(QWEN2),
        holds: |c| experts::plain(c, QWEN2, QkNorms::None, Some(true)),
    },
    Architecture {
        name: "qwen3moe",
        family: "qwen3_moe",
        paired: false,
        looped: false,
        routing: Some(QWEN3),
        holds: |c| experts::plain(c, QWEN3, QkNorms::Head, Some(false)),
    },
    Architecture {
        name: "olmoe",
        family: "olmoe",
        paired: false,
        looped: false,
        routing: Some(OLMOE),
        // Other engines take the widths of both norms from the model's.
        holds: |c| {
            let square = c.query_width() == c.hidden_size && c.kv_width() == c.hidden_size;
            experts::plain(c, OLMOE, QkNorms::Whole, Some(false)) && square
        },
    },
    Architecture { name: "parloop", family: "parloop", paired: false, looped: true, routing: None, holds: |_| true },
];

/// Keys after `{arch}.` that are read here or change nothing.
const KNOWN: [&str; 23] = [
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
];

/// Factors beside the weights: all of them or none.
const MULTIPLIERS: [&str; 4] = ["attention.scale", "embedding_scale", "residual_scale", "logit_scale"];

/// A key of a looped model beside those of its recipe: whether norms of queries and keys are over all heads.
const WHOLE: &str = "attention.norms_whole";

/// The file's architecture, one that can be read.
pub(super) fn architecture(metadata: &Metadata<'_>) -> Result<&'static Architecture> {
    let found = metadata.required("general.architecture", metadata.text("general.architecture")?)?;
    let experts = metadata.size(&format!("{found}.expert_count"))?.is_some_and(|count| count > 0);
    let mut named = ARCHITECTURES.iter().filter(|arch| arch.name == found);
    // One name may stand for models with experts and without.
    let first = named.clone().find(|arch| arch.looped || arch.routing.is_some() == experts).or(named.next());
    first.ok_or_else(|| {
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
    let own: Vec<&str> = if looped { [&recipe::KEYS[..], &MULTIPLIERS, &[WHOLE]].concat() } else { Vec::new() };
    metadata.only(&key(""), &[&KNOWN[..], &experts::KEYS, &own].concat())?;
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
    let (hidden, heads) = (size("embedding_length")?, size("attention.head_count")?);
    let head_dim = match metadata.size(&key("attention.key_length"))? {
        Some(found) => found,
        None => hidden.checked_div(heads).ok_or_else(|| format!("has {} = 0", key("attention.head_count")))?,
    };
    let rotary = metadata.size(&key("rope.dimension_count"))?.unwrap_or(head_dim);
    let partial = looped && rotary < head_dim;
    for (name, found) in [
        ("attention.value_length", metadata.size(&key("attention.value_length"))?),
        ("rope.dimension_count", Some(rotary)),
    ] {
        if let Some(found) = found.filter(|found| *found != head_dim && !(partial && name.starts_with("rope"))) {
            return Err(format!("has {} = {found}, expected the size of a head, {head_dim}", key(name)));
        }
    }
    let layers = size("block_count")?;
    // The number is checked with the configuration; tensors are looked for in no more layers than any model has.
    let moe = experts::to_json(metadata, architecture, tensors, layers.min(1 << 12))?;
    // Writers leave the width of dense layers out where there are none.
    let width = match (metadata.size(&key("feed_forward_length"))?, &moe) {
        (None | Some(0), Some(moe)) => moe["width"].as_u64().unwrap_or(0) as usize,
        _ => size("feed_forward_length")?,
    };
    let embedding = tensors.get(crate::tensors::EMBEDDING).ok_or("lacks the tensor token_embd.weight")?;
    let mut config = json!({
        "model_type": architecture.family,
        "vocab_size": embedding.shape[0],
        "hidden_size": hidden,
        "intermediate_size": width,
        "num_hidden_layers": layers,
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
    if let Some(scaling) = rope::to_json(metadata, arch, tensors, rotary)? {
        config["rope_scaling"] = scaling;
    }
    // These need no keys: their tensors are there or not, and all of them must be.
    let has = |name: &str| tensors.contains_key(&crate::tensors::layer_name(0, name));
    let mut says = |key: &str, name: &str| config[key] = has(name).into();
    // A bias of queries is what makes the architecture qwen2.
    match architecture.family {
        "qwen2" => {}
        "qwen2_moe" => says("qkv_bias", "self_attn.q_proj.bias"),
        _ => {
            says("attention_bias", "self_attn.q_proj.bias");
            says("mlp_bias", "mlp.gate_proj.bias");
        }
    }
    if looped {
        says("attention_output_bias", "self_attn.o_proj.bias");
        let whole = metadata.bool(&key(WHOLE))?.unwrap_or(false);
        says(if whole { "qk_norms_whole" } else { "qk_norms" }, "self_attn.q_norm.weight");
        says("sandwich_norms", "input_layernorm_2.weight");
        config["loop"] = recipe::to_json(metadata, arch)?;
        if partial {
            config["rotary_dims"] = rotary.into();
        }
        if MULTIPLIERS.iter().any(|name| metadata.0.contains_key(&key(name))) {
            let factor = |name: &str| metadata.required(&key(name), metadata.number(&key(name))?);
            let [attention, embedding, residual, logits] = MULTIPLIERS.map(factor);
            config["multipliers"] =
                json!({ "embedding": embedding?, "attention": attention?, "residual": residual?, "logits": logits? });
        }
    }
    if let Some(moe) = moe {
        in_the_family(architecture, &mut config, moe);
    }
    Ok(config)
}

/// Puts a mixture into a configuration in the words of the architecture's family.
fn in_the_family(architecture: &Architecture, config: &mut Json, moe: Json) {
    let Some(routing) = architecture.routing else {
        config["moe"] = moe;
        return;
    };
    let count = if architecture.family == "mixtral" { "num_local_experts" } else { "num_experts" };
    config[count] = moe["experts"].clone();
    config["num_experts_per_tok"] = moe["top_k"].clone();
    if routing.plain_width {
        config["intermediate_size"] = moe["width"].clone();
    } else {
        config["moe_intermediate_size"] = moe["width"].clone();
    }
    if architecture.family != "mixtral" {
        config["norm_topk_prob"] = routing.normalize.into();
    }
    if routing.shared {
        config["shared_expert_intermediate_size"] = moe["shared"]["width"].clone();
    }
}

/// The architecture that a model is written in: the first that holds it.
pub(super) fn architecture_of(config: &ModelConfig) -> &'static Architecture {
    let [rest @ .., last] = &ARCHITECTURES;
    rest.iter().find(|arch| (arch.holds)(config)).unwrap_or(last)
}

/// Metadata keys of a configuration, those of its recipe included.
pub(super) fn to_metadata(config: &ModelConfig) -> Pairs {
    let Architecture { name: arch, looped, routing, .. } = architecture_of(config);
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
        size("rope.dimension_count", config.rotary_dims()),
        size("vocab_size", config.vocab_size),
        number("attention.layer_norm_rms_epsilon", config.rms_norm_eps),
        number("rope.freq_base", config.rope_theta),
    ];
    if *looped {
        pairs.extend(recipe::to_metadata(&config.recipe, arch));
        if config.extras.qk_norms == QkNorms::Whole {
            pairs.push((format!("{arch}.{WHOLE}"), Value::Bool(true)));
        }
        if let Some(m) = config.extras.multipliers {
            let factors = [m.attention, m.embedding, m.residual, m.logits];
            pairs.extend(MULTIPLIERS.into_iter().zip(factors).map(|(name, factor)| number(name, factor)));
        }
    }
    if let Some(moe) = &config.moe {
        pairs.extend(experts::to_metadata(moe, arch));
        if routing.is_some_and(|routing| routing.plain_width) {
            // What other engines take an expert's width from.
            let width = format!("{arch}.feed_forward_length");
            pairs.iter_mut().filter(|(key, _)| *key == width).for_each(|(_, v)| *v = Value::U32(moe.width as u32));
        }
    }
    pairs
}
