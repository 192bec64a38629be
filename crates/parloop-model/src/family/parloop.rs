//! Our own checkpoints: a Llama configuration and the object `loop`, which together hold any model.

use super::{Family, llama_like, plain};
use crate::fields::Fields;
use crate::{Error, ModelConfig, Moe, Multipliers, QkNorms, Recipe, Result};
use serde_json::{Map, Value};

pub(super) static FAMILY: Family = Family {
    model_type: "parloop",
    title: "a checkpoint of parloop's own form",
    class: "ParloopForCausalLM",
    read,
    write,
    stacks: &[],
    names: &[],
    aliases: &[],
};

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    // Nothing is guessed in our own files.
    fields.needs(&["num_key_value_heads", "head_dim"])?;
    let Some(recipe) = fields.object("loop")? else {
        return Err(Error::Config("has no loop, expected an object in { } with the loop recipe".into()));
    };
    let recipe = Recipe::read(recipe)?;
    let output_bias = fields.optional("attention_output_bias")?;
    let qk_norms = match (fields.optional("qk_norms")?, fields.optional("qk_norms_whole")?) {
        (_, Some(true)) => QkNorms::Whole,
        (Some(true), _) => QkNorms::Head,
        _ => QkNorms::None,
    };
    let sandwich_norms = fields.optional("sandwich_norms")?.unwrap_or(false);
    let rotary_dims = fields.optional("rotary_dims")?;
    let multipliers = fields.object("multipliers")?.map(multipliers).transpose()?;
    let moe = fields.object("moe")?.map(Moe::read).transpose()?;
    let mut config = llama_like(fields, recipe)?;
    config.moe = moe;
    (config.extras.rotary_dims, config.extras.multipliers) = (rotary_dims, multipliers);
    let extras = &mut config.extras;
    (extras.qk_norms, extras.sandwich_norms) = (qk_norms, sandwich_norms);
    extras.attention_output_bias = output_bias.unwrap_or(extras.attention_bias);
    Ok(config)
}

fn multipliers(mut fields: Fields) -> Result<Multipliers> {
    fields.known(&["embedding", "attention", "residual", "logits"])?;
    Ok(Multipliers {
        embedding: fields.required("embedding")?,
        attention: fields.required("attention")?,
        residual: fields.required("residual")?,
        logits: fields.required("logits")?,
    })
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    let extras = &config.extras;
    if extras.attention_output_bias != extras.attention_bias {
        map.insert("attention_output_bias".into(), extras.attention_output_bias.into());
    }
    for (key, there) in [
        ("qk_norms", extras.qk_norms == QkNorms::Head),
        ("qk_norms_whole", extras.qk_norms == QkNorms::Whole),
        ("sandwich_norms", extras.sandwich_norms),
    ] {
        if there {
            map.insert(key.into(), true.into());
        }
    }
    for (key, value) in [("rotary_dims", plain(&extras.rotary_dims)), ("multipliers", plain(&extras.multipliers))] {
        if !value.is_null() {
            map.insert(key.into(), value);
        }
    }
    map.insert("loop".into(), plain(&config.recipe));
    if let Some(moe) = &config.moe {
        map.insert("moe".into(), plain(moe));
    }
}
