//! Families: kinds of published checkpoints, each a mapping of its configuration and tensor names onto ours.
//!
//! A family is a file and a row of [`FAMILIES`]. What it needs beyond the plain block is a field of [`ModelConfig`],
//! so nothing behind this module asks for a family's name.

mod iquestloopcoder;
mod iquestpltcoder;
mod llama;
mod nanbeige;
mod ouro;
mod parloop;

use crate::config::{Block, Fields};
use crate::rope::RopeScaling;
use crate::{Error, ModelConfig, Recipe, Result};
use serde_json::Value;
use std::path::Path;

/// A kind of checkpoint.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in its `config.json`.
    pub model_type: &'static str,
    /// What it is, in a few words.
    pub title: &'static str,
    /// Maps its configuration onto ours.
    read: fn(Fields) -> Result<ModelConfig>,
    /// Writes a description as its configuration, where that can be done exactly.
    write: Option<fn(&ModelConfig) -> Result<String>>,
    /// Beginnings of tensor names, theirs and ours; `{n}` stands for the number of a layer.
    aliases: &'static [(&'static str, &'static str)],
}

/// The families that can be read.
pub static FAMILIES: [&Family; 6] = [
    &parloop::FAMILY,
    &iquestpltcoder::FAMILY,
    &iquestloopcoder::FAMILY,
    &ouro::FAMILY,
    &nanbeige::FAMILY,
    &llama::FAMILY,
];

/// The family of a `model_type`.
///
/// # Errors
/// There is none; the message lists those there are.
pub fn named(model_type: &str) -> Result<&'static Family> {
    FAMILIES.into_iter().find(|family| family.model_type == model_type).ok_or_else(|| {
        let known: Vec<_> = FAMILIES.iter().map(|family| family.model_type).collect();
        Error::Config(format!("model_type is \"{model_type}\", expected one of {}", known.join(", ")))
    })
}

/// Bytes of the longest `config.json` that is read.
const CONFIG_BYTES: u64 = 16 << 20;

/// Reads `config.json` in a checkpoint folder.
///
/// # Errors
/// The file is missing, too large or not JSON, or as [`describe`]; the message names the file.
pub fn read(folder: &Path) -> Result<(ModelConfig, &'static Family)> {
    let path = folder.join("config.json");
    let text = crate::files::read_text(&path, CONFIG_BYTES)?;
    parse(&text).map_err(|e| Error::file(&path, e.to_string()))
}

/// The description of a model, from the text of a `config.json`.
///
/// # Errors
/// The text is not JSON, or as [`describe`].
pub fn parse(text: &str) -> Result<(ModelConfig, &'static Family)> {
    let value = serde_json::from_str(text).map_err(|e| Error::Config(format!("is not a JSON configuration: {e}")))?;
    describe(value)
}

/// The description of a model, from a `config.json` of any family.
///
/// # Errors
/// The model type, a key or a value is not known, missing or out of range; the message names it.
pub fn describe(value: Value) -> Result<(ModelConfig, &'static Family)> {
    let mut fields = Fields::of_file(value)?;
    let family = named(&fields.required::<String>("model_type")?)?;
    let mut config = (family.read)(fields)?;
    if family.model_type != config.model_type {
        // The model is described in our terms now, which its own class and Python files do not fit.
        config.architectures = vec![parloop::ARCHITECTURE.into()];
        config.other.remove("auto_map");
    }
    config.validate()?;
    Ok((config, family))
}

impl Family {
    /// Whether models can be written in this form.
    pub fn is_writable(&self) -> bool {
        self.write.is_some()
    }

    /// The `config.json` text of this family for a model.
    ///
    /// # Errors
    /// The family cannot express the model.
    pub fn write(&self, config: &ModelConfig) -> Result<String> {
        let write = self.write.ok_or_else(|| {
            let known: Vec<_> = FAMILIES.iter().filter(|f| f.is_writable()).map(|f| f.model_type).collect();
            Error::Config(format!("{} cannot be written, expected {}", self.model_type, known.join(" or ")))
        })?;
        write(config)
    }

    /// Our name of a tensor of this family.
    pub fn our_name(&self, name: &str) -> String {
        let renamed = |(theirs, ours): &(&str, &str)| {
            let (before, after) = theirs.split_once("{n}")?;
            let rest = name.strip_prefix(before)?;
            let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|n| *n > 0)?;
            let ending = rest[digits..].strip_prefix(after)?;
            Some(ours.replace("{n}", &rest[..digits]) + ending)
        };
        self.aliases.iter().find_map(renamed).unwrap_or_else(|| name.into())
    }
}

/// Reads what all families have from Llama; `recipe` is theirs. Keys that nobody took go to `other`, where validation
/// judges them.
fn llama_like(mut fields: Fields, recipe: Recipe) -> Result<ModelConfig> {
    let hidden_size: usize = fields.required("hidden_size")?;
    let heads: usize = fields.required("num_attention_heads")?;
    let head_dim = match fields.optional("head_dim")? {
        Some(size) => size,
        None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            let expected = format!("a divisor of hidden_size ({hidden_size}), as there is no head_dim");
            return fields.error("num_attention_heads", heads, &expected);
        }
    };
    let max_position_embeddings = fields.required("max_position_embeddings")?;
    let (rope_theta, rope_scaling) = RopeScaling::read(&mut fields, max_position_embeddings)?;
    if fields.optional::<Vec<String>>("layer_types")?.is_some_and(|types| types.iter().any(|t| t != "full_attention")) {
        return fields.error("layer_types", "not \"full_attention\" everywhere", "no other kind of layer");
    }
    Ok(ModelConfig {
        model_type: parloop::FAMILY.model_type.into(),
        architectures: fields.optional("architectures")?.unwrap_or_default(),
        vocab_size: fields.required("vocab_size")?,
        hidden_size,
        intermediate_size: fields.required("intermediate_size")?,
        num_hidden_layers: fields.required("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: fields.optional("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        rms_norm_eps: fields.required("rms_norm_eps")?,
        rope_theta,
        max_position_embeddings,
        tie_word_embeddings: fields.optional("tie_word_embeddings")?.unwrap_or(false),
        bos_token_id: fields.optional("bos_token_id")?,
        eos_token_id: fields.optional("eos_token_id")?,
        hidden_act: fields.optional("hidden_act")?.unwrap_or_else(|| "silu".into()),
        torch_dtype: fields.optional("torch_dtype")?.or(fields.optional("dtype")?),
        block: Block {
            attention_bias: fields.optional("attention_bias")?.unwrap_or(false),
            mlp_bias: fields.optional("mlp_bias")?.unwrap_or(false),
            sandwich_norms: false,
            rope_scaling,
        },
        recipe,
        other: fields.rest(),
    })
}
