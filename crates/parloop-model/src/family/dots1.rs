//! `dots1`: dots.llm1, DeepSeek-V3's experts with grouped attention; norms of queries and keys.

use super::{Family, llama_like, mixture, usual, whole_context};
use crate::fields::Fields;
use crate::{ModelConfig, QkNorms, Recipe, Result};
use serde_json::{Map, Value};

pub(super) static FAMILY: Family = Family {
    model_type: "dots1",
    title: "dots.llm1, a plain transformer with experts",
    class: "Dots1ForCausalLM",
    read,
    write,
    stacks: &[],
    names: mixture::DEEPSEEK_NAMES,
    aliases: &[],
};

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    usual(fields);
    let moe = mixture::read_deepseek(fields)?;
    // The window is that of the layers from `max_window_layers` on.
    let (window, from) = (fields.optional("sliding_window")?, fields.optional::<usize>("max_window_layers")?);
    let mut config = llama_like(fields, Recipe::vanilla())?;
    whole_context(window.filter(|_| from.is_some_and(|from| from < config.num_hidden_layers)), &config)?;
    config.extras.qk_norms = QkNorms::Head;
    Ok(ModelConfig { moe: Some(moe), ..config })
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    mixture::write_deepseek(config, map);
    map.insert("sliding_window".into(), Value::Null);
}
