//! `qwen3_moe`: Qwen3 with experts and no shared one; norms of queries and keys.

use super::{Family, llama_like, mixture, qwen2, usual, whole_context};
use crate::fields::Fields;
use crate::{ModelConfig, Moe, QkNorms, Recipe, Result};
use serde_json::{Map, Value};

pub(super) static FAMILY: Family = Family {
    model_type: "qwen3_moe",
    title: "Qwen3-MoE, a plain transformer with experts",
    class: "Qwen3MoeForCausalLM",
    read,
    write,
    stacks: &[],
    names: &[],
    aliases: &[],
};

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    usual(fields);
    // Hugging Face's class has 4 by default, whatever the number of heads.
    fields.needs(&["num_key_value_heads"])?;
    let window = qwen2::window(fields)?;
    let dense_layers = mixture::read_dense_layers(fields)?;
    let moe = Moe { dense_layers, ..mixture::read_qwen(fields, "moe_intermediate_size")? };
    let mut config = llama_like(fields, Recipe::vanilla())?;
    whole_context(window, &config)?;
    config.extras.qk_norms = QkNorms::Head;
    Ok(ModelConfig { moe: Some(moe), ..config })
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    mixture::write_qwen(config, "moe_intermediate_size", map);
    mixture::write_dense_layers(config, map);
}
