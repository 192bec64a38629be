//! Our own checkpoints: a Llama configuration and the object `loop`.

use super::{Family, llama_like};
use crate::config::Fields;
use crate::{Error, ModelConfig, Recipe, Result};

pub(super) static FAMILY: Family = Family {
    model_type: "parloop",
    title: "a checkpoint of parloop's own form",
    read,
    write: Some(write),
    aliases: &[],
};

/// The class name in configurations that we write.
pub(super) const ARCHITECTURE: &str = "ParloopForCausalLM";

fn read(mut fields: Fields) -> Result<ModelConfig> {
    // Nothing is guessed in our own files.
    for key in ["num_key_value_heads", "head_dim"] {
        if !fields.has(key) {
            return Err(Error::Config(format!("has no {key}, expected a whole number")));
        }
    }
    let Some(recipe) = fields.object("loop")? else {
        return Err(Error::Config("has no loop, expected an object in { } with the loop recipe".into()));
    };
    let recipe = Recipe::read(recipe)?;
    let sandwich_norms = fields.optional("sandwich_norms")?.unwrap_or(false);
    let mut config = llama_like(fields, recipe)?;
    config.block.sandwich_norms = sandwich_norms;
    Ok(config)
}

fn write(config: &ModelConfig) -> Result<String> {
    Ok(config.to_json())
}
