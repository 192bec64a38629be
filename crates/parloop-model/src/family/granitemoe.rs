//! `granitemoe`: Granite 3 with experts, which files hold stacked, and four multipliers.

use super::{Family, llama_like, mixture, plain, usual};
use crate::fields::Fields;
use crate::{ModelConfig, Moe, Multipliers, Recipe, Result};
use serde_json::{Map, Value};

pub(super) static FAMILY: Family = Family {
    model_type: "granitemoe",
    title: "GraniteMoE, a plain transformer with experts",
    class: "GraniteMoeForCausalLM",
    read,
    write,
    stacks: &[
        ("model.layers.{n}.block_sparse_moe.input_linear.weight", &["gate_proj", "up_proj"]),
        ("model.layers.{n}.block_sparse_moe.output_linear.weight", &["down_proj"]),
    ],
    names: &[("model.layers.{n}.block_sparse_moe.router.layer.", "model.layers.{n}.mlp.gate.")],
    aliases: &[
        ("model.layers.{n}.block_sparse_moe.input_linear.", "model.layers.{n}.mlp.experts.gate_up_proj."),
        ("model.layers.{n}.block_sparse_moe.output_linear.", "model.layers.{n}.mlp.experts.down_proj."),
    ],
};

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    usual(fields);
    mixture::without_training(fields);
    let experts = fields.required("num_local_experts")?;
    let moe = Moe::new(experts, fields.required("num_experts_per_tok")?, fields.peek("intermediate_size")?);
    let mut factor = |key: &str| Ok(fields.optional(key)?.unwrap_or(1.0));
    let multipliers = Multipliers {
        embedding: factor("embedding_multiplier")?,
        attention: factor("attention_multiplier")?,
        residual: factor("residual_multiplier")?,
        logits: factor("logits_scaling")?,
    };
    let mut config = llama_like(fields, Recipe::vanilla())?;
    config.extras.multipliers = Some(multipliers);
    Ok(ModelConfig { moe: Some(moe), ..config })
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    if let Some(Multipliers { embedding, attention, residual, logits }) = config.extras.multipliers {
        for (key, value) in [
            ("embedding_multiplier", embedding),
            ("attention_multiplier", attention),
            ("residual_multiplier", residual),
            ("logits_scaling", logits),
        ] {
            map.insert(key.into(), plain(&value));
        }
    }
    let Some(moe) = &config.moe else { return };
    for (key, value) in
        [("num_local_experts", moe.experts), ("num_experts_per_tok", moe.top_k), ("intermediate_size", moe.width)]
    {
        map.insert(key.into(), value.into());
    }
}
