//! `qwen2_moe`: Qwen1.5-MoE and Qwen2-MoE, with biases of queries, keys and values, and a shared expert with a gate.

use super::{Family, llama_like, mixture, qwen2, usual, whole_context};
use crate::fields::Fields;
use crate::{ModelConfig, Moe, Recipe, Result, SharedExpert};
use serde_json::{Map, Value};

pub(super) static FAMILY: Family = Family {
    model_type: "qwen2_moe",
    title: "Qwen2-MoE, a plain transformer with experts",
    class: "Qwen2MoeForCausalLM",
    read,
    write,
    stacks: &[],
    names: &[],
    aliases: &[],
};

/// The width of the shared expert.
const SHARED: &str = "shared_expert_intermediate_size";

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    usual(fields);
    // Hugging Face's class has 16 by default, whatever the number of heads.
    fields.needs(&["num_key_value_heads"])?;
    let window = qwen2::window(fields)?;
    let bias = fields.optional("qkv_bias")?.unwrap_or(true);
    let dense_layers = mixture::read_dense_layers(fields)?;
    let shared = Some(SharedExpert { width: fields.required(SHARED)?, gate: true });
    let moe = Moe { dense_layers, shared, ..mixture::read_qwen(fields, "moe_intermediate_size")? };
    let mut config = llama_like(fields, Recipe::vanilla())?;
    whole_context(window, &config)?;
    (config.extras.attention_bias, config.extras.attention_output_bias) = (bias, false);
    Ok(ModelConfig { moe: Some(moe), ..config })
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    map.shift_remove("attention_bias");
    map.insert("qkv_bias".into(), config.extras.attention_bias.into());
    mixture::write_qwen(config, "moe_intermediate_size", map);
    mixture::write_dense_layers(config, map);
    let shared = config.moe.as_ref().and_then(|moe| moe.shared);
    map.insert(SHARED.into(), shared.map_or(0, |shared| shared.width).into());
}
