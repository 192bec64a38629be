//! `iquestloopcoder`: IQuest-Coder-V1-40B-Loop. Two loops over the same token; the second mixes loop 1's keys and
//! values with a window of its own by a query gate.
//!
//! `loop_window_size` counts the query's own key, so `left` is one less.

use super::{Family, llama_like};
use crate::config::Fields;
use crate::{GateKind, KvMode, Local, ModelConfig, Recipe, Result};

pub(super) static FAMILY: Family = Family {
    model_type: "iquestloopcoder",
    title: "IQuest-Coder-V1 Loop",
    read,
    write: None,
    aliases: &[("model.gate_projections.{n}.", "model.layers.{n}.self_attn.plt_gate.")],
};

fn read(mut fields: Fields) -> Result<ModelConfig> {
    let count = fields.required("loop_num")?;
    let window = fields.optional("loop_window_size")?.unwrap_or(64usize);
    let Some(left) = window.checked_sub(1) else {
        return fields.error("loop_window_size", window, "at least 1: the query's own key is counted");
    };
    let local = Some(Local { left, gate: GateKind::Query });
    llama_like(fields, Recipe { kv: KvMode::Shared, local, ..Recipe::vanilla_loop(count) })
}
