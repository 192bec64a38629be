//! `mixtral`: Mistral with a mixture of experts in every layer, of which the softmax of the best k logits weighs k.

use super::{Family, llama_like, mixture, usual, whole_context};
use crate::fields::Fields;
use crate::{ModelConfig, Moe, Recipe, Result};
use serde_json::{Map, Value};

pub(super) static FAMILY: Family = Family {
    model_type: "mixtral",
    title: "Mixtral, a plain transformer with experts",
    class: "MixtralForCausalLM",
    read,
    write,
    stacks: &[],
    names: &[
        ("model.layers.{n}.block_sparse_moe.gate.", "model.layers.{n}.mlp.gate."),
        ("model.layers.{n}.block_sparse_moe.experts.{n}.w1.", "model.layers.{n}.mlp.experts.{n}.gate_proj."),
        ("model.layers.{n}.block_sparse_moe.experts.{n}.w3.", "model.layers.{n}.mlp.experts.{n}.up_proj."),
        ("model.layers.{n}.block_sparse_moe.experts.{n}.w2.", "model.layers.{n}.mlp.experts.{n}.down_proj."),
    ],
    aliases: &[],
};

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    fields.set_default("rms_norm_eps", 1e-5.into());
    usual(fields);
    mixture::without_training(fields);
    // Hugging Face's class has 8 by default, whatever the number of heads.
    fields.needs(&["num_key_value_heads"])?;
    let window = fields.optional("sliding_window")?;
    let experts = fields.required("num_local_experts")?;
    let moe = Moe::new(experts, fields.required("num_experts_per_tok")?, fields.peek("intermediate_size")?);
    let config = llama_like(fields, Recipe::vanilla())?;
    whole_context(window, &config)?;
    Ok(ModelConfig { moe: Some(moe), ..config })
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    map.insert("sliding_window".into(), Value::Null);
    let Some(moe) = &config.moe else { return };
    let keys = [
        ("num_local_experts", moe.experts),
        ("num_experts_per_tok", moe.top_k),
        // No layer is without experts.
        ("intermediate_size", moe.width),
    ];
    keys.into_iter().for_each(|(key, value)| _ = map.insert(key.into(), value.into()));
}
