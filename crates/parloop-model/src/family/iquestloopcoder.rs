//! `iquestloopcoder`: IQuest-Coder-V1-40B-Loop. Two loops over the same token; the second mixes loop 1's keys and
//! values with a window of its own by a query gate.
//!
//! `loop_window_size` counts the query's own key, so `left` is one less.

use super::{Family, llama_like};
use crate::fields::Fields;
use crate::{GateKind, KvMode, Local, ModelConfig, Recipe, Result};
use serde_json::{Map, Value};

pub(super) static FAMILY: Family = Family {
    model_type: "iquestloopcoder",
    title: "IQuest-Coder-V1 Loop",
    class: "IQuestLoopCoderForCausalLM",
    read,
    write,
    stacks: &[],
    names: &[("model.gate_projections.{n}.", "model.layers.{n}.self_attn.plt_gate.")],
    aliases: &[],
};

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    let count = fields.required("loop_num")?;
    let window = fields.optional("loop_window_size")?.unwrap_or(64usize);
    let Some(left) = window.checked_sub(1) else {
        return fields.error("loop_window_size", window, "at least 1: the query's own key is counted");
    };
    let local = Some(Local { left, gate: GateKind::Query });
    llama_like(fields, Recipe { kv: KvMode::Shared, local, ..Recipe::vanilla_loop(count) })
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    map.insert("loop_num".into(), config.recipe.count.into());
    if let Some(local) = config.recipe.local {
        map.insert("loop_window_size".into(), (local.left + 1).into());
    }
}
