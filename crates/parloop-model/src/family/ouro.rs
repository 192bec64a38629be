//! `ouro`: Ouro (LoopLM, arXiv 2510.25741). Sandwich norms, the final norm after every loop, K/V of its own for each
//! loop, and an exit gate.

use super::{Family, llama_like, plain};
use crate::fields::Fields;
use crate::{Exit, ModelConfig, Recipe, Result};
use serde_json::{Map, Value};

pub(super) static FAMILY: Family = Family {
    model_type: "ouro",
    title: "Ouro, a looped language model with an exit gate",
    class: "OuroForCausalLM",
    read,
    write,
    stacks: &[],
    names: &[],
    aliases: &[],
};

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    let count = fields.required("total_ut_steps")?;
    // Null leaves the choice to the last loop, as 1 does.
    let threshold = fields.optional("early_exit_threshold")?.unwrap_or(1.0);
    fields.switched_off(&["early_exit_step", "use_sliding_window"])?;
    // These mean something only together with use_sliding_window; the last is a detail of training.
    fields.ignore(&["sliding_window", "max_window_layers", "chunk_size"]);
    let recipe = Recipe { norm: true, exit: Some(Exit { threshold }), ..Recipe::vanilla_loop(count) };
    let mut config = llama_like(fields, recipe)?;
    config.extras.sandwich_norms = true;
    Ok(config)
}

fn write(config: &ModelConfig, map: &mut Map<String, Value>) {
    map.insert("total_ut_steps".into(), config.recipe.count.into());
    map.insert("early_exit_threshold".into(), plain(&config.recipe.exit.map(|exit| exit.threshold)));
}
