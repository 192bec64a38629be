//! GGUF files: a whole model in one file, as llama.cpp reads and writes it (`docs/gguf.md` has what we add to it).
//!
//! | part | idea |
//! |---|---|
//! | [`Container`], [`Value`], [`Array`] | the format: metadata and tensors, checked |
//! | [`Writer`] | the other way round |
//! | [`blocks`] | types whose elements share scales |
//! | [`quantize()`] | a checkpoint as a GGUF file |
//!
//! [`crate::Checkpoint::open`] takes such a file. Two architectures are known: `llama`, a plain transformer that every
//! engine runs, and `parloop`, a looped one with the recipe in keys of ours.

pub mod blocks;
mod config;
mod container;
mod metadata;
mod names;
mod quantize;
mod reader;
mod recipe;
mod rope;
mod tokenizer;
mod value;
mod writer;

pub use container::Container;
pub use quantize::{Written, quantize};
pub use value::{Array, Value};
pub use writer::{Entry, Writer};

use crate::chat::ChatSource;
use crate::checkpoint::TextSettings;
use crate::family::{self, Family};
use crate::mapped::MappedFile;
use crate::tensor::stored_row;
use crate::{Error, ModelConfig, Result, Tensor, Tokenizer};
use metadata::Metadata;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

/// What a file holds, in the terms of a checkpoint folder. Tensors are not yet held against the configuration.
pub(crate) struct Model {
    pub config: ModelConfig,
    pub family: &'static Family,
    pub tokenizer: Option<Tokenizer>,
    pub tensors: HashMap<String, Tensor>,
    pub settings: TextSettings,
}

/// Maps and reads a GGUF file.
pub(crate) fn read(path: &Path) -> Result<Model> {
    let fail = |message: String| Error::file(path, message);
    let container = Container::read(Arc::new(MappedFile::open(path)?)).map_err(fail)?;
    let metadata = Metadata(&container.metadata);
    let arch = config::architecture(&metadata).map_err(fail)?;
    let mut tensors = HashMap::new();
    for (name, tensor) in container.tensors {
        let full = names::to_hugging_face(&name);
        if tensors.insert(full.clone(), tensor).is_some() {
            return Err(fail(format!("has the tensor {full} under two names")));
        }
    }
    let ends = tokenizer::ends(&metadata).map_err(fail)?;
    let json = config::to_json(&metadata, arch, &tensors, &ends).map_err(fail)?;
    let (config, family) = family::describe(json).map_err(|e| fail(e.to_string()))?;
    tensors.remove(rope::FACTORS);
    if arch == config::LLAMA {
        tensors = unpaired(tensors, config.head_dim).map_err(fail)?;
    }
    let tokenizer = tokenizer::read(&metadata).map_err(fail)?;
    if let Some(found) = tokenizer.as_ref().map(Tokenizer::vocab_size).filter(|n| *n > config.vocab_size) {
        return Err(fail(format!("has a tokenizer of {found} ids, but only {} embeddings", config.vocab_size)));
    }
    let settings = text_settings(&metadata, tokenizer.as_ref()).map_err(fail)?;
    Ok(Model { config, family, tokenizer, tensors, settings })
}

/// The chat template, with the texts of the special tokens that it may name.
fn text_settings(metadata: &Metadata<'_>, tokenizer: Option<&Tokenizer>) -> reader::Result<TextSettings> {
    let Some(template) = metadata.text("tokenizer.chat_template")? else { return Ok(TextSettings::default()) };
    let mut tokens = BTreeMap::new();
    for (key, name) in [("bos", "bos_token"), ("eos", "eos_token"), ("unknown", "unk_token"), ("padding", "pad_token")]
    {
        let id = metadata.id(&format!("tokenizer.ggml.{key}_token_id"))?;
        let text = id.and_then(|id| tokenizer?.token(id));
        tokens.extend(text.map(|text| (name.to_owned(), text)));
    }
    let chat = ChatSource { template: template.to_owned(), tool_use: None, tokens };
    Ok(TextSettings { chat: Some(chat), ..TextSettings::default() })
}

/// The architecture `llama` stores the rows of query and key heads for rotary embedding of neighbours; reads them as
/// halves again.
fn unpaired(tensors: HashMap<String, Tensor>, head: usize) -> reader::Result<HashMap<String, Tensor>> {
    let turned = |name: &str, tensor: Tensor| match tensor.shape[..] {
        _ if names::rotated(name).is_none() => Some(tensor),
        // A bias is small: it is put in order at once.
        [length] if length.is_multiple_of(head) => {
            let stored = tensor.to_f32();
            let values: Vec<f32> = (0..length).map(|i| stored[stored_row(i, head)]).collect();
            Tensor::from_f32(tensor.shape, &values)
        }
        [_, _] => tensor.paired(head),
        _ => None,
    };
    let all = tensors.into_iter().map(|(name, tensor)| {
        let shape = tensor.shape.clone();
        let tensor = turned(&name, tensor);
        let tensor =
            tensor.ok_or_else(|| format!("tensor {name} has shape {shape:?}, expected whole heads of {head} rows"))?;
        Ok((name, tensor))
    });
    all.collect()
}
