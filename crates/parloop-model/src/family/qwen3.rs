//! `qwen3`: Qwen3, a plain transformer with norms of queries and keys.

use super::{Family, llama_like, qwen2, usual, whole_context};
use crate::fields::Fields;
use crate::{ModelConfig, QkNorms, Recipe, Result};

pub(super) static FAMILY: Family = Family {
    model_type: "qwen3",
    title: "Qwen3, a plain transformer",
    class: "Qwen3ForCausalLM",
    read,
    write: |_, _| (),
    stacks: &[],
    names: &[],
    aliases: &[],
};

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    usual(fields);
    // Hugging Face's class has 32 and 128 by default, whatever the other sizes.
    fields.needs(&["num_key_value_heads", "head_dim"])?;
    let window = qwen2::window(fields)?;
    let mut config = llama_like(fields, Recipe::vanilla())?;
    whole_context(window, &config)?;
    config.extras.qk_norms = QkNorms::Head;
    Ok(config)
}
