//! A model in several files, `NAME-00001-of-00003.gguf` and so on, as `llama-gguf-split` writes it: the first has the
//! metadata, all have tensors.

use super::container::Container;
use super::metadata::Metadata;
use super::reader::Result;
use std::path::{Path, PathBuf};

/// Keys that a part has: its number from 0, their count, the tensors of all.
const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";
/// Most parts of a model.
const MOST: usize = 1000;

/// Adds the tensors of the other parts to those of the first, which was read from `path`. A model in one file stays as
/// it is. `read` reads a part; its error names the file.
pub(super) fn join(
    mut first: Container,
    path: &Path,
    read: impl Fn(&Path) -> crate::Result<Container>,
) -> crate::Result<Container> {
    let fail = |message: String| crate::Error::file(path, message);
    let (number, count) = place(&first).map_err(fail)?;
    if count < 2 {
        return Ok(first);
    }
    if number != 0 {
        let message = format!("is part {} of {count} of a model; give the first part", number + 1);
        return Err(fail(message));
    }
    for i in 1..count {
        let other = part(path, i, count).map_err(fail)?;
        if !other.exists() {
            return Err(crate::Error::file(&other, format!("is missing: the model is in {count} parts")));
        }
        let container = read(&other)?;
        let fail = |message: String| crate::Error::file(&other, message);
        let found = place(&container).map_err(fail)?;
        if found != (i, count) {
            let message = format!("is part {} of {} of a model, expected {} of {count}", found.0 + 1, found.1, i + 1);
            return Err(fail(message));
        }
        for (name, tensor) in container.tensors {
            if first.tensors.contains_key(&name) {
                return Err(fail(format!("has the tensor {name}, which an earlier part has too")));
            }
            first.tensors.insert(name, tensor);
        }
    }
    let (claimed, found) = (Metadata(&first.metadata).size(TENSORS).map_err(fail)?, first.tensors.len());
    match claimed.filter(|claimed| *claimed != found) {
        Some(claimed) => Err(fail(format!("claims {claimed} tensors in all its parts, they hold {found}"))),
        None => Ok(first),
    }
}

/// Which part of how many a file is, counted from 0.
fn place(container: &Container) -> Result<(usize, usize)> {
    let metadata = Metadata(&container.metadata);
    let count = metadata.size(COUNT)?.unwrap_or(1);
    if count > MOST {
        return Err(format!("has {COUNT} = {count}, expected at most {MOST}"));
    }
    Ok((metadata.size(NUMBER)?.unwrap_or(0), count))
}

/// The file of part `i`, beside the first.
fn part(first: &Path, i: usize, count: usize) -> Result<PathBuf> {
    let name = first.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let ending = |i: usize| format!("-{:05}-of-{count:05}.gguf", i + 1);
    let Some(stem) = name.strip_suffix(&ending(0)) else {
        return Err(format!("is the first of {count} parts of a model, expected a name that ends in {}", ending(0)));
    };
    Ok(first.with_file_name(stem.to_owned() + &ending(i)))
}
