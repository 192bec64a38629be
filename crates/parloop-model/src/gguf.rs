//! GGUF files: a whole model in one file, as llama.cpp reads and writes it (`docs/gguf.md` has what we add to it).
//!
//! | part | idea |
//! |---|---|
//! | [`Container`], [`Value`], [`Array`] | the format: metadata and tensors, checked |
//! | [`Writer`] | the other way round |
//! | [`quantize()`] | a checkpoint as a GGUF file |
//!
//! [`crate::Checkpoint::open`] takes such a file. Known are the architectures of plain transformers that every engine
//! runs, and `parloop`, a looped one with the recipe in keys of ours.

mod config;
mod container;
mod experts;
mod metadata;
mod names;
mod quantize;
mod reader;
mod recipe;
mod rope;
mod split;
mod text;
mod tokenizer;
mod value;
mod writer;

pub use container::Container;
pub use quantize::{Written, quantize};
pub use value::{Array, Value};
pub use writer::{Entry, Writer};

use crate::family::{self, Description};
use crate::mapped::MappedFile;
use crate::tensor::stored_row;
use crate::{Error, Result, Tensor, TextSettings, Tokenizer};
use metadata::Metadata;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// What a file holds, in the terms of a checkpoint folder. Tensors are not yet held against the configuration.
pub(crate) struct Model {
    pub described: Description,
    pub tokenizer: Option<Tokenizer>,
    pub tensors: HashMap<String, Tensor>,
    pub settings: TextSettings,
}

/// Maps and reads a GGUF file.
pub(crate) fn read(path: &Path) -> Result<Model> {
    let fail = |message: String| Error::file(path, message);
    let open =
        |path: &Path| Container::read(Arc::new(MappedFile::open(path)?)).map_err(|message| Error::file(path, message));
    let container = split::join(open(path)?, path, open)?;
    let metadata = Metadata(&container.metadata);
    let arch = config::architecture(&metadata).map_err(fail)?;
    let mut tensors = HashMap::new();
    for (name, tensor) in container.tensors {
        let full = names::to_hugging_face(&name);
        let tensor = if full.ends_with(quantize::SHARED_GATE) { tensor.into_row() } else { tensor };
        if tensors.insert(full.clone(), tensor).is_some() {
            return Err(fail(format!("has the tensor {full} under two names")));
        }
    }
    let ends = tokenizer::ends(&metadata).map_err(fail)?;
    let json = config::to_json(&metadata, arch, &tensors, &ends).map_err(fail)?;
    let described = family::describe(json, &[]).map_err(|e| e.in_file(path))?;
    let config = &described.config;
    tensors.remove(rope::FACTORS);
    if arch.paired {
        tensors = unpaired(tensors, config.head_dim).map_err(fail)?;
    }
    let tokenizer = tokenizer::read(&metadata, described.config.vocab_size).map_err(fail)?;
    let settings = text::read(&metadata, tokenizer.as_ref()).map_err(fail)?;
    Ok(Model { described, tokenizer, tensors, settings })
}

/// The rows of query and key heads, stored for rotary embedding of neighbours, read as halves again.
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
