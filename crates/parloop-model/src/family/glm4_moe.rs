//! `glm4_moe`: GLM-4.5, DeepSeek-V3's experts with grouped attention; rotary embedding of a part of each head.

use super::{Family, llama_like, mixture, usual};
use crate::fields::Fields;
use crate::{ModelConfig, QkNorms, Recipe, Result};
use serde_json::{Map, Value};

pub(super) static FAMILY: Family = Family {
    model_type: "glm4_moe",
    title: "GLM-4.5, a plain transformer with experts",
    class: "Glm4MoeForCausalLM",
    read,
    write,
    stacks: &[],
    names: mixture::DEEPSEEK_NAMES,
    aliases: &[],
};

/// The part of a head that is turned.
const PART: &str = "partial_rotary_factor";

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    fields.set_default("rms_norm_eps", 1e-5.into());
    usual(fields);
    fields.needs(&["num_key_value_heads"])?;
    // What the class takes where nothing is said.
    fields.set_default("first_k_dense_replace", 1.into());
    fields.set_default("n_shared_experts", 1.into());
    fields.set_default("norm_topk_prob", true.into());
    let moe = mixture::read_deepseek(fields)?;
    let inside = fields.inside("rope_parameters", PART)?;
    let part: f32 = fields.optional(PART)?.or(inside).unwrap_or(0.5);
    let qk_norms = fields.optional("use_qk_norm")?.unwrap_or(false);
    // Layers that guess further tokens are no part of the model proper.
    fields.ignore(&["num_nextn_predict_layers", "num_mtp_layers"]);
    let mut config = llama_like(fields, Recipe::vanilla())?;
    config.extras.attention_output_bias = false;
    let dims = (config.head_dim as f32 * part) as usize;
    config.extras.rotary_dims = (dims != config.head_dim).then_some(dims);
    config.extras.qk_norms = if qk_norms { QkNorms::Head } else { QkNorms::None };
    Ok(ModelConfig { moe: Some(moe), ..config })
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    mixture::write_deepseek(config, map);
    map.insert(PART.into(), (config.rotary_dims() as f32 / config.head_dim as f32).into());
    map.insert("use_qk_norm".into(), (config.extras.qk_norms == QkNorms::Head).into());
}
