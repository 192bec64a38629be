//! Families: kinds of published checkpoints, each a mapping of its configuration and tensor names onto ours and back.
//!
//! A family is a file and a row of [`FAMILIES`]. What it needs beyond the plain block is a field of [`ModelConfig`],
//! so nothing behind this module asks for a family's name.

mod dots1;
mod form;
mod glm4_moe;
mod granitemoe;
mod iquestloopcoder;
mod iquestpltcoder;
mod keys;
mod llama;
mod mistral;
mod mixtral;
mod mixture;
mod nanbeige;
mod olmoe;
mod ouro;
mod parloop;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
#[cfg(test)]
mod tests;

pub use form::Notes;

use crate::fields::Fields;
use crate::layer::EXPERTS;
use crate::{Checkpoint, Error, ModelConfig, Result, Tensor, tensors};
use form::{llama_like, plain, usual, whole_context};
use serde_json::{Map, Value};
use std::path::Path;

/// A kind of checkpoint.
#[derive(Debug)]
pub struct Family {
    /// `model_type` in its `config.json`.
    pub model_type: &'static str,
    /// What it is, in a few words.
    pub title: &'static str,
    /// Hugging Face's name of its class.
    class: &'static str,
    /// Maps its configuration onto ours; what it leaves is judged by [`keys`].
    read: fn(&mut Fields) -> Result<ModelConfig>,
    /// Puts what is its own into the keys that all families have. Whether they say all of the model is found by reading
    /// them again.
    write: fn(&ModelConfig, &mut Map<String, Value>),
    /// Tensors that hold a layer's experts together, by their names, and which of their matrices follow one another in it.
    stacks: &'static [(&'static str, &'static [&'static str])],
    /// Beginnings of tensor names, theirs and ours; `{n}` stands for a number: of a layer, of an expert in it.
    names: &'static [(&'static str, &'static str)],
    /// Other beginnings that are read, theirs and ours, and not written.
    aliases: &'static [(&'static str, &'static str)],
}

/// The families that are known.
pub static FAMILIES: [&Family; 16] = [
    &parloop::FAMILY,
    &iquestpltcoder::FAMILY,
    &iquestloopcoder::FAMILY,
    &ouro::FAMILY,
    &nanbeige::FAMILY,
    &llama::FAMILY,
    &mistral::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &mixtral::FAMILY,
    &qwen2_moe::FAMILY,
    &qwen3_moe::FAMILY,
    &olmoe::FAMILY,
    &granitemoe::FAMILY,
    &dots1::FAMILY,
    &glm4_moe::FAMILY,
];

/// What a `config.json` says.
#[derive(Debug)]
pub struct Description {
    /// The model.
    pub config: ModelConfig,
    /// In whose form it is written.
    pub family: &'static Family,
    /// What it says besides.
    pub notes: Notes,
}

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

/// The family of our own checkpoints, which holds any model.
pub fn own() -> &'static Family {
    &parloop::FAMILY
}

/// Bytes of the longest `config.json` that is read.
const CONFIG_BYTES: u64 = 16 << 20;

/// Reads `config.json` in a checkpoint folder. Keys in `ignored` count as absent.
///
/// # Errors
/// The file is missing, too large or not JSON, or as [`describe`]; the message names the file.
pub fn read(folder: &Path, ignored: &[String]) -> Result<Description> {
    let path = folder.join("config.json");
    let text = crate::files::read_text(&path, CONFIG_BYTES)?;
    value_of(&text).and_then(|value| describe(value, ignored)).map_err(|e| e.in_file(&path))
}

/// The description of a model, from the text of a `config.json`.
///
/// # Errors
/// The text is not JSON, or as [`describe`].
pub fn parse(text: &str) -> Result<Description> {
    describe(value_of(text)?, &[])
}

fn value_of(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|e| Error::Config(format!("is not a JSON configuration: {e}")))
}

/// The description of a model, from a `config.json` of any family. Keys in `ignored` count as absent.
///
/// # Errors
/// The model type, a key or a value is not known, missing or out of range; the message names it.
pub fn describe(value: Value, ignored: &[String]) -> Result<Description> {
    let mut fields = Fields::of_file(value)?;
    ignored.iter().for_each(|key| fields.ignore(&[key]));
    let family = named(&fields.required::<String>("model_type")?)?;
    let notes = Notes::take(&mut fields)?;
    let config = (family.read)(&mut fields)?;
    config.validate()?;
    let other = fields.rest();
    keys::judge(&other)?;
    Ok(Description { config, family, notes: Notes { other, ..notes } })
}

impl Family {
    /// The `config.json` of this family for a model.
    ///
    /// # Errors
    /// The family cannot express the model.
    pub fn write(&self, config: &ModelConfig, notes: &Notes) -> Result<Value> {
        let mut map = form::common(config, notes, self.model_type, self.class);
        (self.write)(config, &mut map);
        // Read again it must be the same model, or it would silently be another one.
        let cannot =
            |what: String| Err(Error::Config(format!("{} cannot express this model: {what}", self.model_type)));
        match describe(Value::Object(map.clone()), &[]) {
            Err(e) => cannot(e.to_string()),
            Ok(again) if !same(&again.config, config) => {
                cannot(format!("it would be \"{}\" instead of \"{}\"", in_words(&again.config), in_words(config)))
            }
            Ok(_) => {
                // Keys that mean something to other programs only.
                for (key, value) in &notes.other {
                    map.entry(key).or_insert_with(|| value.clone());
                }
                Ok(Value::Object(map))
            }
        }
    }

    /// [`Family::write`] as text.
    ///
    /// # Errors
    /// As [`Family::write`].
    pub fn to_json(&self, config: &ModelConfig, notes: &Notes) -> Result<String> {
        Ok(format!("{:#}\n", self.write(config, notes)?))
    }

    /// Our name of a tensor of this family.
    pub fn our_name(&self, name: &str) -> String {
        let both = self.names.iter().chain(self.aliases);
        both.into_iter().find_map(|(theirs, ours)| renamed(name, theirs, ours)).unwrap_or_else(|| name.into())
    }

    /// Every tensor of a checkpoint as this family has it: its name, and the tensor in place, or put together where the
    /// family holds experts together.
    ///
    /// # Errors
    /// Experts that stand together are not of one type.
    pub fn tensors(&self, checkpoint: &Checkpoint) -> Result<Vec<(String, Tensor)>> {
        let mut list = Vec::new();
        for spec in tensors::expected(checkpoint.config()) {
            let tensor = checkpoint.tensor(&spec.name)?;
            let expert = spec.name.split_once(EXPERTS).and_then(|(layer, rest)| Some((layer, rest.split_once('.')?)));
            let Some((layer, (e, part))) = expert.filter(|_| !self.stacks.is_empty()) else {
                list.push((self.their_name(&spec.name), tensor.clone()));
                continue;
            };
            let first = |(_, parts): &&(&str, &[&str])| e == "0" && part.strip_suffix(".weight") == Some(parts[0]);
            let Some((theirs, parts)) = self.stacks.iter().find(first) else { continue };
            let experts = checkpoint.config().moe.as_ref().map_or(0, |moe| moe.experts);
            let names = (0..experts).flat_map(|e| parts.iter().map(move |part| (e, part)));
            let all = names.map(|(e, part)| checkpoint.tensor(&format!("{layer}{EXPERTS}{e}.{part}.weight")));
            let all = all.collect::<Result<Vec<&Tensor>>>()?;
            let shape = vec![experts, parts.len() * tensor.rows(), tensor.width()];
            let stacked = Tensor::stacked(&all, shape).ok_or_else(|| {
                Error::tensor(&spec.name, "is of another type than other experts of its layer; expected one type")
            })?;
            let number = layer.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
            list.push((theirs.replace("{n}", number), stacked));
        }
        Ok(list)
    }

    /// This family's name of a tensor, of which `name` is ours.
    pub fn their_name(&self, name: &str) -> String {
        self.names.iter().find_map(|(theirs, ours)| renamed(name, ours, theirs)).unwrap_or_else(|| name.into())
    }
}

/// A name that begins with `from`, with `to` in its place; each `{n}` stands for a number, in both in the same order.
fn renamed(name: &str, from: &str, to: &str) -> Option<String> {
    let (mut rest, mut new) = (name, to.to_owned());
    let mut parts = from.split("{n}");
    rest = rest.strip_prefix(parts.next()?)?;
    for after in parts {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|n| *n > 0)?;
        new = new.replacen("{n}", &rest[..digits], 1);
        rest = rest[digits..].strip_prefix(after)?;
    }
    Some(new + rest)
}

/// Whether two descriptions mean the same model.
fn same(a: &ModelConfig, b: &ModelConfig) -> bool {
    let rest = |c: &ModelConfig| (c.computed(), c.max_position_embeddings, c.bos_token_id, c.eos_ids().to_vec());
    rest(a) == rest(b)
}

fn in_words(config: &ModelConfig) -> String {
    let extras = config.extras.describe().map_or(String::new(), |extras| format!(" with {extras}"));
    let moe = config.moe.as_ref().map_or(String::new(), |moe| format!(" and {}", moe.describe()));
    config.recipe.describe() + &extras + &moe
}
