//! `olmoe`: OLMoE, experts in every layer, norms of queries and keys over all heads.

use super::{Family, llama_like, mixture, usual};
use crate::fields::Fields;
use crate::{ModelConfig, QkNorms, Recipe, Result};
use serde_json::{Map, Value};

pub(super) static FAMILY: Family = Family {
    model_type: "olmoe",
    title: "OLMoE, a plain transformer with experts",
    class: "OlmoeForCausalLM",
    read,
    write,
    stacks: &[],
    names: &[],
    aliases: &[],
};

/// An expert's width; no layer is without experts.
const WIDTH: &str = "intermediate_size";

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    fields.set_default("rms_norm_eps", 1e-5.into());
    usual(fields);
    // Clipping of queries, keys and values.
    fields.switched_off(&["clip_qkv"])?;
    let moe = mixture::read_qwen(fields, WIDTH)?;
    let mut config = llama_like(fields, Recipe::vanilla())?;
    config.extras.qk_norms = QkNorms::Whole;
    Ok(ModelConfig { moe: Some(moe), ..config })
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    mixture::write_qwen(config, WIDTH, map);
    // The class takes this size from the others.
    if config.query_width() == config.hidden_size {
        map.shift_remove("head_dim");
    }
}
