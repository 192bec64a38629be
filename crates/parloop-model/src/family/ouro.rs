//! `ouro`: Ouro (LoopLM, arXiv 2510.25741). Sandwich norms, the final norm after every loop, K/V of its own for each
//! loop, and an exit gate.

use super::{Family, llama_like};
use crate::config::Fields;
use crate::{Exit, ModelConfig, Recipe, Result};

pub(super) static FAMILY: Family = Family {
    model_type: "ouro",
    title: "Ouro, a looped language model with an exit gate",
    read,
    write: None,
    aliases: &[],
};

fn read(mut fields: Fields) -> Result<ModelConfig> {
    let count = fields.required("total_ut_steps")?;
    // Null leaves the choice to the last loop, as 1 does.
    let threshold = fields.optional("early_exit_threshold")?.unwrap_or(1.0);
    fields.switched_off(&["early_exit_step", "use_sliding_window"])?;
    // These mean something only together with use_sliding_window; the last is a detail of training.
    fields.ignore(&["sliding_window", "max_window_layers", "chunk_size"]);
    let recipe = Recipe { norm: true, exit: Some(Exit { threshold }), ..Recipe::vanilla_loop(count) };
    let mut config = llama_like(fields, recipe)?;
    config.block.sandwich_norms = true;
    Ok(config)
}
