//! Finding and checking the safetensors files of a checkpoint folder.

use super::{DType, SharedBytes, Tensor};
use crate::mapped::MappedFile;
use crate::{Error, Result};
use safetensors::tensor::{Dtype, Metadata};
use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path};
use std::sync::Arc;

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// Longest header of a safetensors file, as the format has it.
const MAX_HEADER_BYTES: usize = 100_000_000;

#[derive(serde::Deserialize)]
struct Index {
    weight_map: Entries,
}

/// Tensors and their shards as the index lists them, one listed twice included.
struct Entries(Vec<(String, String)>);

impl<'de> serde::Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Pairs;
        impl<'de> serde::de::Visitor<'de> for Pairs {
            type Value = Entries;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensor names and file names")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Entries(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// Every tensor of the folder's safetensors files.
pub(super) fn open_folder(folder: &Path) -> Result<HashMap<String, Tensor>> {
    let mut found = HashMap::new();
    let index_path = folder.join(INDEX);
    if !index_path.exists() {
        let path = folder.join(SINGLE);
        add_tensors(&path, Arc::new(MappedFile::open(&path)?), &mut found)?;
        return Ok(found);
    }
    let text = crate::files::read_text(&index_path, MAX_INDEX_BYTES)?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|e| Error::file(&index_path, format!("is not an index with a weight_map: {e}")))?;
    let mut listed = HashMap::new();
    for (name, file) in index.weight_map.0 {
        if let Some(other) = listed.insert(name.clone(), file.clone()) {
            return Err(Error::tensor(&name, format!("is listed twice in {INDEX}: in {other} and in {file}")));
        }
    }
    let mut place = HashMap::new();
    for file in listed.values().collect::<BTreeSet<_>>() {
        // The index is untrusted: a shard must be a plain file name, never a path out of the folder.
        let mut parts = Path::new(file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(Error::file(&index_path, format!("names the shard \"{file}\", expected a plain file name")));
        }
        let path = folder.join(file);
        if !path.exists() {
            let message = format!("is missing, though {INDEX} names it; fetch the checkpoint again");
            return Err(Error::file(&path, message));
        }
        let before: BTreeSet<String> = found.keys().cloned().collect();
        add_tensors(&path, Arc::new(MappedFile::open(&path)?), &mut found)?;
        place.extend(found.keys().filter(|k| !before.contains(*k)).map(|k| (k.clone(), file.clone())));
    }
    for (name, file) in &listed {
        if place.get(name) != Some(file) {
            return Err(Error::tensor(name, format!("is not in {file}, where {INDEX} says it is")));
        }
    }
    match place.keys().find(|name| !listed.contains_key(*name)) {
        Some(name) => Err(Error::tensor(name, format!("lies in {} but {INDEX} does not list it", place[name]))),
        None => Ok(found),
    }
}

/// Adds the tensors of one safetensors file, whose header is validated first.
pub(super) fn add_tensors(path: &Path, bytes: SharedBytes, into: &mut HashMap<String, Tensor>) -> Result<()> {
    let data: &[u8] = (*bytes).as_ref();
    let (base, metadata) = header(data).map_err(|e| {
        let message = format!("is not a whole safetensors file of {} bytes: {e}; fetch or write it again", data.len());
        Error::file(path, message)
    })?;
    for (name, info) in metadata.tensors() {
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            other => return Err(Error::tensor(&name, format!("has type {other:?}, expected F32, F16 or BF16"))),
        };
        let range = base + info.data_offsets.0..base + info.data_offsets.1;
        let Some(tensor) = Tensor::new(dtype, info.shape.clone(), bytes.clone(), range) else {
            return Err(Error::tensor(&name, format!("has shape {:?}, which its bytes do not hold", info.shape)));
        };
        if into.insert(name.clone(), tensor).is_some() {
            return Err(Error::tensor(&name, format!("stands in two files; one of them is {}", path.display())));
        }
    }
    Ok(())
}

/// Where the tensors of a safetensors file begin, and what its header says of them: sizes that fit the shapes, one
/// tensor after the other, from there to the file's end.
fn header(data: &[u8]) -> std::result::Result<(usize, Metadata), String> {
    let (length, rest) = data.split_first_chunk::<8>().ok_or("it has no room for a header")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|n| *n <= MAX_HEADER_BYTES.min(rest.len()));
    let length = length.ok_or("its header would be longer than the file")?;
    // A copy: another process may write the file while it is parsed.
    let text = rest[..length].to_vec();
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    let (found, needed) = (rest.len() - length, metadata.data_len());
    if found != needed {
        return Err(format!("its tensors take {needed} bytes, {found} follow the header"));
    }
    Ok((8 + length, metadata))
}
