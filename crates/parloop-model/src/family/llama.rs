//! `llama`: a plain transformer, one loop.

use super::{Family, llama_like};
use crate::config::Fields;
use crate::{ModelConfig, Recipe, Result};

pub(super) static FAMILY: Family =
    Family { model_type: "llama", title: "Llama, a plain transformer", read, write: None, aliases: &[] };

fn read(mut fields: Fields) -> Result<ModelConfig> {
    // The oldest configurations of this family leave out what Hugging Face's class has by default.
    fields.set_default("rms_norm_eps", 1e-6.into());
    if !fields.has("rope_parameters") {
        fields.set_default("rope_theta", 10000.0.into());
    }
    llama_like(fields, Recipe::vanilla())
}
