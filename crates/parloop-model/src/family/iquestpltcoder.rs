//! `iquestpltcoder`: LoopCoder-V2, a Parallel Loop Transformer (arXiv 2606.18023).
//!
//! | key | absent or null |
//! |---|---|
//! | `plt_num_loops` | an error: without it the same tensors silently mean another model |
//! | `plt_window_size` `[left, right]` | `[64, 0]`; `left` keys and the query's own |
//! | `plt_emb_scale`, `plt_hidden_scale` | 1 |
//! | `plt_normalize_per_loop` | true |
//! | `plt_gate_use_hidden_states` | false: the gate looks at the query |

use super::{Family, llama_like};
use crate::config::Fields;
use crate::{Error, GateKind, KvMode, Local, ModelConfig, Recipe, Result};
use serde_json::{Map, Value, json};

pub(super) static FAMILY: Family = Family {
    model_type: "iquestpltcoder",
    title: "LoopCoder-V2, a Parallel Loop Transformer",
    read,
    write: Some(write),
    aliases: &[
        ("model.layers.{n}.self_attn.loop_gate_proj.", "model.layers.{n}.self_attn.plt_gate."),
        ("model.gate_projections.{n}.", "model.layers.{n}.self_attn.plt_gate."),
    ],
};

fn read(mut fields: Fields) -> Result<ModelConfig> {
    let count = fields.required("plt_num_loops")?;
    let window: Vec<usize> = fields.optional("plt_window_size")?.unwrap_or_else(|| vec![64, 0]);
    let left = match window[..] {
        [left, 0] => left,
        _ => return fields.error("plt_window_size", format!("{window:?}"), "[left, 0]: keys to the left of the query"),
    };
    let hidden_gate = fields.optional("plt_gate_use_hidden_states")?.unwrap_or(false);
    let recipe = Recipe {
        count,
        shift: true,
        embedding_scale: Some(fields.optional("plt_emb_scale")?.unwrap_or(1.0)),
        hidden_scale: fields.optional("plt_hidden_scale")?.unwrap_or(1.0),
        norm: fields.optional("plt_normalize_per_loop")?.unwrap_or(true),
        kv: KvMode::Shared,
        local: Some(Local { left, gate: if hidden_gate { GateKind::Hidden } else { GateKind::Query } }),
        exit: None,
    };
    llama_like(fields, recipe)
}

/// Writes a PLT as this family's configuration. Its tensor names are ours.
fn write(config: &ModelConfig) -> Result<String> {
    let recipe = &config.recipe;
    let cannot = |what: &str| Err(Error::Config(format!("{what}, which {} cannot express", FAMILY.model_type)));
    let (Some(embedding), Some(local)) = (recipe.embedding_scale, recipe.local) else {
        return cannot("the recipe has no gated window or adds no embedding");
    };
    if !recipe.shift || recipe.kv != KvMode::Shared {
        return cannot("the recipe has no shift or no shared K/V");
    }
    if recipe.exit.is_some() || config.block.sandwich_norms {
        return cannot("the model has an exit gate or sandwich norms");
    }
    let own = json!({
        "model_type": FAMILY.model_type,
        "architectures": ["IQuestPLTCoderForCausalLM"],
        "plt_num_loops": recipe.count,
        "plt_window_size": [local.left, 0],
        "plt_emb_scale": number(embedding),
        "plt_hidden_scale": number(recipe.hidden_scale),
        "plt_normalize_per_loop": recipe.norm,
        "plt_gate_use_hidden_states": local.gate == GateKind::Hidden,
        "attention_bias": config.block.attention_bias,
        "mlp_bias": config.block.mlp_bias,
    });
    let mut map: Map<String, Value> = serde_json::from_str(&config.to_json())
        .map_err(|e| Error::Config(format!("cannot be written as {}: {e}", FAMILY.model_type)))?;
    map.remove("loop");
    if let Value::Object(own) = own {
        map.extend(own);
    }
    Ok(format!("{:#}\n", Value::Object(map)))
}

/// A number as its shortest decimal: 0.707 rather than 0.7070000171661377, which is the same f32.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}
