//! `iquestpltcoder`: LoopCoder-V2, a Parallel Loop Transformer (arXiv 2606.18023).
//!
//! | key | absent or null |
//! |---|---|
//! | `plt_num_loops` | an error: without it the same tensors silently mean another model |
//! | `plt_window_size` `[left, right]` | `[64, 0]`; `left` keys and the query's own |
//! | `plt_emb_scale`, `plt_hidden_scale` | 1 |
//! | `plt_normalize_per_loop` | true |
//! | `plt_gate_use_hidden_states` | false: the gate looks at the query |

use super::{Family, llama_like, plain};
use crate::fields::Fields;
use crate::{ExpertMode, GateKind, KvMode, Local, ModelConfig, Recipe, Result};
use serde_json::{Map, Value};

pub(super) static FAMILY: Family = Family {
    model_type: "iquestpltcoder",
    title: "LoopCoder-V2, a Parallel Loop Transformer",
    class: "IQuestPLTCoderForCausalLM",
    read,
    write,
    stacks: &[],
    names: &[],
    aliases: &[
        ("model.layers.{n}.self_attn.loop_gate_proj.", "model.layers.{n}.self_attn.plt_gate."),
        ("model.gate_projections.{n}.", "model.layers.{n}.self_attn.plt_gate."),
    ],
};

fn read(fields: &mut Fields) -> Result<ModelConfig> {
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
        experts: ExpertMode::Own,
    };
    llama_like(fields, recipe)
}

/// Its tensor names are ours.
fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    let recipe = &config.recipe;
    map.insert("plt_num_loops".into(), recipe.count.into());
    if let Some(local) = recipe.local {
        map.insert("plt_window_size".into(), vec![local.left, 0].into());
        map.insert("plt_gate_use_hidden_states".into(), (local.gate == GateKind::Hidden).into());
    }
    map.insert("plt_emb_scale".into(), plain(&recipe.embedding_scale));
    map.insert("plt_hidden_scale".into(), plain(&recipe.hidden_scale));
    map.insert("plt_normalize_per_loop".into(), recipe.norm.into());
    // The class wants to be told that there are none.
    for (key, there) in [("attention_bias", config.extras.attention_bias), ("mlp_bias", config.extras.mlp_bias)] {
        map.insert(key.into(), there.into());
    }
}
