//! `mistral`: a plain transformer. A sliding window must be as long as the context, where it changes nothing.

use super::{Family, llama_like, usual, whole_context};
use crate::fields::Fields;
use crate::{ModelConfig, Recipe, Result};
use serde_json::Value;

pub(super) static FAMILY: Family = Family {
    model_type: "mistral",
    title: "Mistral, a plain transformer",
    class: "MistralForCausalLM",
    read,
    write: |_, map| _ = map.insert(WINDOW.into(), Value::Null),
    stacks: &[],
    names: &[],
    aliases: &[],
};

const WINDOW: &str = "sliding_window";
/// The window where a configuration has no such key; null is none.
const ABSENT: usize = 4096;

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    usual(fields);
    // Hugging Face's class has 8 by default, whatever the number of heads.
    fields.needs(&["num_key_value_heads"])?;
    let window = if fields.names(WINDOW) { fields.optional(WINDOW)? } else { Some(ABSENT) };
    let config = llama_like(fields, Recipe::vanilla())?;
    whole_context(window, &config)?;
    Ok(config)
}
