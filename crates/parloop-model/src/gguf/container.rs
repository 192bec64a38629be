//! The GGUF container: a header of metadata and tensor descriptions, then the tensors' bytes.
//!
//! Format: `docs/gguf.md` of the ggml project, versions 2 and 3. A file is untrusted: every count, length and offset is
//! held against the file's size before it is used, and after [`Container::read`] every tensor lies inside the file and
//! overlaps no other.

use super::reader::{Reader, Result};
use super::value::{DEPTH, Value};
use crate::bytes::SharedBytes;
use crate::{DType, Tensor};
use std::collections::HashMap;

/// The first four bytes.
pub(super) const MAGIC: &[u8; 4] = b"GGUF";
/// The version that is written.
pub(super) const VERSION: u32 = 3;
/// Where tensors start unless `general.alignment` says otherwise.
pub(super) const ALIGNMENT: usize = 32;
/// Most dimensions of a tensor.
const DIMENSIONS: usize = 4;
/// Fewest bytes of a metadata pair and of a tensor's description.
const LEAST_PAIR: usize = 13;
const LEAST_TENSOR: usize = 32;

/// The types by ggml's numbers (`enum ggml_type` in ggml.h).
const TYPES: [(u32, DType); 11] = [
    (0, DType::F32),
    (1, DType::F16),
    (2, DType::Q4_0),
    (3, DType::Q4_1),
    (6, DType::Q5_0),
    (7, DType::Q5_1),
    (8, DType::Q8_0),
    (12, DType::Q4K),
    (13, DType::Q5K),
    (14, DType::Q6K),
    (30, DType::BF16),
];

/// Names of ggml's other types, for messages.
const OTHER_TYPES: [(u32, &str); 21] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

/// ggml's number of a type.
pub(super) fn type_number(kind: DType) -> u32 {
    TYPES.iter().find(|(_, k)| *k == kind).map_or(u32::MAX, |(n, _)| *n)
}

fn type_of(number: u32) -> std::result::Result<DType, String> {
    TYPES.iter().find(|(n, _)| *n == number).map(|(_, kind)| *kind).ok_or_else(|| {
        let name = OTHER_TYPES.iter().find(|(n, _)| *n == number).map_or("unknown", |(_, name)| name);
        let known: Vec<&str> = DType::ALL.iter().map(|k| k.name()).collect();
        format!("has type {number} ({name}), expected one of {}; quantise the model to one of these", known.join(", "))
    })
}

/// What a GGUF file holds.
#[derive(Debug)]
pub struct Container {
    /// Metadata by key.
    pub metadata: HashMap<String, Value>,
    /// Tensors by name; shapes are row-major, the file's dimensions in reverse.
    pub tensors: HashMap<String, Tensor>,
}

/// A tensor's description.
struct Info {
    name: String,
    shape: Vec<usize>,
    kind: DType,
    offset: usize,
    bytes: usize,
}

impl Container {
    /// Checks a file's bytes and makes its metadata and tensors accessible. No tensor is copied.
    ///
    /// # Errors
    /// The end of a sentence about the file: what was found and what was expected.
    pub fn read(source: SharedBytes) -> Result<Self> {
        let file: &[u8] = (*source).as_ref();
        let mut reader = Reader::new(file);
        let magic = reader.u32()?.to_le_bytes();
        if &magic != MAGIC {
            return Err(format!("starts with the bytes {magic:02x?}, expected \"GGUF\"; it is no GGUF file"));
        }
        match reader.u32()? {
            2 | 3 => {}
            1 => return Err("is GGUF version 1, expected 2 or 3; convert it with a current llama.cpp".into()),
            v if matches!(v.swap_bytes(), 1..=3) => {
                return Err("is big-endian, expected little-endian; convert it with gguf_convert_endian.py".into());
            }
            v => return Err(format!("is GGUF version {v}, expected 2 or 3; it is broken or newer than this program")),
        }
        let tensors = reader.count("tensors", LEAST_TENSOR)?;
        let pairs = reader.count("metadata pairs", LEAST_PAIR)?;
        let mut metadata = HashMap::new();
        for _ in 0..pairs {
            let key = reader.string()?;
            let kind = reader.u32()?;
            let value = reader.value(kind, DEPTH).map_err(|e| format!("{e} (metadata key \"{key}\")"))?;
            if metadata.contains_key(&key) {
                return Err(format!("has the metadata key \"{key}\" twice"));
            }
            metadata.insert(key, value);
        }
        let alignment = alignment(&metadata)?;
        let infos = (0..tensors).map(|_| info(&mut reader, alignment)).collect::<Result<Vec<_>>>()?;
        let base = reader.position().next_multiple_of(alignment);
        let tensors = place(source.clone(), base, infos)?;
        Ok(Self { metadata, tensors })
    }
}

fn alignment(metadata: &HashMap<String, Value>) -> Result<usize> {
    match metadata.get("general.alignment") {
        None => Ok(ALIGNMENT),
        Some(value) => value
            .integer()
            .and_then(|v| usize::try_from(v).ok())
            .filter(|v| v.is_power_of_two() && (8..=1 << 16).contains(v))
            .ok_or_else(|| format!("has general.alignment = {value:?}, expected a power of two from 8 to 65536")),
    }
}

/// Reads one tensor's description and checks all that concerns it alone.
fn info(reader: &mut Reader<'_>, alignment: usize) -> Result<Info> {
    let name = reader.string()?;
    let fail = |message: String| Err(format!("tensor {name} {message}"));
    let dimensions = reader.u32()? as usize;
    if !(1..=DIMENSIONS).contains(&dimensions) {
        return fail(format!("has {dimensions} dimensions, expected 1 to {DIMENSIONS}"));
    }
    let mut shape = Vec::with_capacity(dimensions);
    for _ in 0..dimensions {
        let size = reader.u64()?;
        match usize::try_from(size).ok().filter(|s| *s > 0) {
            Some(size) => shape.insert(0, size),
            None => return fail(format!("has a dimension of {size}, expected at least 1")),
        }
    }
    let kind = match type_of(reader.u32()?) {
        Ok(kind) => kind,
        Err(message) => return fail(message),
    };
    let offset = reader.u64()?;
    let width = shape[dimensions - 1];
    let Some(row) = kind.row_bytes(width) else {
        let block = kind.block().0;
        return fail(format!("has rows of {width} elements, expected a multiple of {block} for type {}", kind.name()));
    };
    let Some(bytes) = shape[..dimensions - 1].iter().try_fold(row, |n, s| n.checked_mul(*s)) else {
        return fail(format!("has the absurd shape {shape:?}"));
    };
    match usize::try_from(offset).ok().filter(|o| o.is_multiple_of(alignment)) {
        Some(offset) => Ok(Info { name, shape, kind, offset, bytes }),
        None => fail(format!("starts at offset {offset}, expected a multiple of the alignment, {alignment}")),
    }
}

/// Cuts the tensors out of the file; they must lie inside it, apart from one another, under different names.
fn place(source: SharedBytes, base: usize, mut infos: Vec<Info>) -> Result<HashMap<String, Tensor>> {
    infos.sort_by_key(|info| info.offset);
    for pair in infos.windows(2) {
        if pair[1].offset - pair[0].offset < pair[0].bytes {
            return Err(format!("tensor {} overlaps tensor {}", pair[1].name, pair[0].name));
        }
    }
    let mut tensors = HashMap::new();
    for info in infos {
        let start = base.checked_add(info.offset);
        let range = start.and_then(|start| Some(start..start.checked_add(info.bytes)?));
        let tensor = range.and_then(|range| Tensor::new(info.kind, info.shape, source.clone(), range));
        let Some(tensor) = tensor else {
            let (needed, found) = (info.bytes, (*source).as_ref().len());
            return Err(format!(
                "tensor {} needs {needed} bytes at offset {}, but the file ends at {found}; fetch it again",
                info.name, info.offset
            ));
        };
        if tensors.contains_key(&info.name) {
            return Err(format!("has two tensors of the name {}", info.name));
        }
        tensors.insert(info.name, tensor);
    }
    Ok(tensors)
}
