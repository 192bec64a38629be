//! `llama`: a plain transformer, one loop.

use super::{Family, llama_like, usual};
use crate::fields::Fields;
use crate::{ModelConfig, Recipe, Result};

pub(super) static FAMILY: Family = Family {
    model_type: "llama",
    title: "Llama, a plain transformer",
    class: "LlamaForCausalLM",
    read,
    write: |_, _| (),
    stacks: &[],
    names: &[],
    aliases: &[],
};

fn read(fields: &mut Fields) -> Result<ModelConfig> {
    // The oldest configurations of this family leave out what Hugging Face's class has by default.
    usual(fields);
    llama_like(fields, Recipe::vanilla())
}
