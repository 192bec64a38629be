//! `qwen2`: Qwen2 and Qwen2.5, a plain transformer with biases of queries, keys and values.

use super::{Family, llama_like, usual, whole_context};
use crate::fields::Fields;
use crate::{ModelConfig, Recipe, Result};

pub(super) static FAMILY: Family = Family {
    model_type: "qwen2",
    title: "Qwen2, a plain transformer",
    class: "Qwen2ForCausalLM",
    read,
    // The class has these biases always, and no key for them.
    write: |_, map| _ = map.shift_remove("attention_bias"),
    stacks: &[],
    names: &[],
    aliases: &[],
};

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    usual(fields);
    // Hugging Face's class has 32 by default, whatever the number of heads.
    fields.needs(&["num_key_value_heads"])?;
    let window = window(fields)?;
    let mut config = llama_like(fields, Recipe::vanilla())?;
    whole_context(window, &config)?;
    (config.extras.attention_bias, config.extras.attention_output_bias) = (true, false);
    Ok(config)
}

/// The sliding window of Qwen's classes: it counts only with `use_sliding_window`.
pub(super) fn window(fields: &mut Fields) -> Result<Option<usize>> {
    let used = fields.optional("use_sliding_window")?.unwrap_or(false);
    let window = fields.optional("sliding_window")?;
    fields.ignore(&["max_window_layers"]);
    Ok(window.filter(|_| used))
}
