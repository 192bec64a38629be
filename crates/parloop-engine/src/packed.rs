//! Packed weights kept in a file, so that a model that is converted or repacked while loading is so only once.
//!
//! The file lies beside the checkpoint (`packed-q4.parloop` in its folder, `model.gguf.packed.parloop` beside a GGUF
//! file) and holds the matrices as the kernels read them ([`parloop_kernels::quant`]); everything else still comes from
//! the checkpoint. Loading maps it and uses it in place.
//!
//! ```text
//! "plppack2"  zeros to the next multiple of 4096
//! matrices    each from a multiple of 4096 on
//! index       JSON: whose weights these are; name, type, shape, place and checksums of every matrix
//! trailer     checksum of the index  length of the index u64  "plppack2"
//! ```
//!
//! Checksums are XXH3 of 128 bits, of every 8 MB of a matrix, and are held against the file on every load: that costs
//! one read, which decode does with every token.

use crate::error::PackedFault;
use crate::files::{bad, begins_with, io, replace};
use crate::stored;
use crate::{Error, Result};
use parloop_kernels::{Pool, WeightType, Weights};
use parloop_model::mapped::MappedFile;
use parloop_model::tensors::{self, Role};
use parloop_model::{Checkpoint, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use twox_hash::xxhash3_128::Hasher;

/// The first and the last bytes; the digit changes whenever the content comes to mean something else.
const MAGIC: &[u8; 8] = b"plppack2";
/// Where matrices begin.
const ALIGN: usize = 4096;
/// Bytes of a checksum's share of a matrix.
const PIECE: usize = 8 << 20;
/// Checksum, length and magic.
const TRAILER: usize = 16 + 8 + 8;
/// Longest index that is read.
const LIMIT: u64 = 64 << 20;

/// What the file says about itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    /// [`fingerprint`] of the checkpoint.
    checkpoint: String,
    matrices: Vec<Matrix>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Matrix {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    outputs: usize,
    inputs: usize,
    offset: usize,
    bytes: usize,
    checksums: Vec<String>,
}

/// What was written.
#[derive(Debug)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// Its matrices.
    pub matrices: usize,
}

/// Packed weights of a checkpoint, mapped from a file.
pub(crate) struct Packed {
    path: PathBuf,
    /// By name.
    matrices: HashMap<String, Matrix>,
    source: Arc<MappedFile>,
}

/// Where the packed weights of a checkpoint are kept for matrices of a type (its own types if `None`); `None` for a
/// model that lies in no file.
pub fn path(checkpoint: &Checkpoint, kind: Option<WeightType>) -> Option<PathBuf> {
    let name = match kind {
        Some(kind) => format!("packed-{}.parloop", kind.name()),
        None => "packed.parloop".into(),
    };
    let model = checkpoint.path()?;
    if model.is_dir() {
        return Some(model.join(name));
    }
    Some(model.with_file_name(format!("{}.{name}", model.file_name()?.to_str()?)))
}

/// Packs a checkpoint's matrices into its file ([`path`]), written beside it, flushed, and renamed. Matrices that are
/// used where the checkpoint has them are left out. `progress` sees matrices done, and matrices in all.
///
/// # Errors
/// The model lies in no file, or all its matrices are used in place; a tensor cannot be stored as `kind`; the file
/// cannot be written, or is there and holds something else.
pub fn write(
    checkpoint: &Checkpoint,
    kind: Option<WeightType>,
    pool: &mut Pool,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Written> {
    let path = path(checkpoint, kind).ok_or_else(|| {
        Error::Input("the built-in model lies in no file that packed weights could lie beside".into())
    })?;
    if path.exists() && !begins_with(&path, MAGIC)? {
        return Err(bad(&path, "exists and holds no packed weights; move it away"));
    }
    let matrices: Vec<_> = matrices(checkpoint)?
        .into_iter()
        .map(|(name, tensor)| (name, tensor, kind.unwrap_or(stored::nearest(tensor.dtype))))
        .filter(|(_, tensor, kind)| !stored::in_place(tensor.dtype, *kind))
        .collect();
    if matrices.is_empty() {
        return Err(Error::NothingToPack);
    }
    let count = matrices.len();
    let bytes = replace(&path, |beside| {
        let file = File::create(beside).map_err(|e| io("create", beside, e))?;
        let mut out = Out { file: BufWriter::new(file), count: 0 };
        let put = |out: &mut Out, bytes: &[u8]| out.put(bytes).map_err(|e| io("write", &path, e));
        put(&mut out, MAGIC)?;
        let mut index = Index { checkpoint: fingerprint(checkpoint)?, matrices: Vec::new() };
        for (done, (name, tensor, kind)) in matrices.into_iter().enumerate() {
            progress(done, count);
            let weights =
                stored::matrix(tensor, kind, pool).map_err(|source| Error::Weights { name: name.clone(), source })?;
            tensor.release();
            let padding = out.count.next_multiple_of(ALIGN) - out.count;
            put(&mut out, &[0; ALIGN][..padding])?;
            let offset = out.count;
            put(&mut out, weights.data())?;
            index.matrices.push(Matrix {
                name,
                kind: kind.name().into(),
                outputs: weights.outputs(),
                inputs: weights.inputs(),
                offset,
                bytes: weights.bytes(),
                checksums: weights.data().chunks(PIECE).map(checksum).collect(),
            });
        }
        progress(count, count);
        let text = serde_json::to_vec(&index).map_err(|e| io("write", &path, e.into()))?;
        put(&mut out, &text)?;
        put(&mut out, &Hasher::oneshot(&text).to_le_bytes())?;
        put(&mut out, &(text.len() as u64).to_le_bytes())?;
        put(&mut out, MAGIC)?;
        let bytes = out.count as u64;
        let flush = |out: Out| out.file.into_inner()?.sync_all();
        flush(out).map_err(|e| io("write", &path, e))?;
        Ok(bytes)
    })?;
    Ok(Written { bytes, path, matrices: count })
}

impl Packed {
    /// The packed weights that lie beside a checkpoint, if there are any.
    ///
    /// # Errors
    /// The file is cut, altered, or was made from other weights.
    pub fn open(checkpoint: &Checkpoint, kind: Option<WeightType>, pool: &mut Pool) -> Result<Option<Self>> {
        let Some(path) = path(checkpoint, kind).filter(|path| path.exists()) else { return Ok(None) };
        let source = Arc::new(MappedFile::open(&path)?);
        let data: &[u8] = (*source).as_ref();
        let fail = |fault| Error::Packed { path: path.clone(), fault };
        let text = index_of(data).ok_or_else(|| fail(PackedFault::Cut))?;
        let index: Index = serde_json::from_slice(&text).map_err(|e| fail(PackedFault::Index(e)))?;
        if index.checkpoint != fingerprint(checkpoint)? {
            return Err(fail(PackedFault::OtherWeights));
        }
        let mut pieces = Vec::new();
        for m in &index.matrices {
            let place = m.offset.checked_add(m.bytes).and_then(|end| data.get(m.offset..end));
            let pairs = place.map(|data| (data.chunks(PIECE), &m.checksums));
            match pairs {
                Some((chunks, sums)) if chunks.len() == sums.len() => pieces.extend(chunks.zip(sums)),
                _ => return Err(fail(PackedFault::NoRoom { matrix: m.name.clone() })),
            }
        }
        let damaged = AtomicBool::new(false);
        pool.run(pieces.len(), |i| {
            if checksum(pieces[i].0) != *pieces[i].1 {
                damaged.store(true, Ordering::Relaxed);
            }
        });
        if damaged.into_inner() {
            return Err(fail(PackedFault::Damaged));
        }
        let matrices = index.matrices.into_iter().map(|m| (m.name.clone(), m)).collect();
        Ok(Some(Self { path, matrices, source }))
    }

    /// A matrix in place, if it was packed.
    ///
    /// # Errors
    /// It was packed with another type or shape.
    pub fn weights(&self, name: &str, tensor: &Tensor, kind: WeightType) -> Result<Option<Weights>> {
        let Some(m) = self.matrices.get(name) else { return Ok(None) };
        if (m.kind.as_str(), m.outputs, m.inputs) != (kind.name(), tensor.rows(), tensor.width()) {
            let fault = PackedFault::OtherShape {
                matrix: name.into(),
                found: format!("{} {} x {}", m.kind, m.outputs, m.inputs),
                expected: format!("{} {} x {}", kind.name(), tensor.rows(), tensor.width()),
            };
            return Err(Error::Packed { path: self.path.clone(), fault });
        }
        let range = m.offset..m.offset + m.bytes;
        let weights = Weights::in_place(kind, m.outputs, m.inputs, self.source.clone(), range)
            .map_err(|source| Error::Weights { name: name.into(), source })?;
        Ok(Some(weights))
    }
}

/// The index of a whole file, copied: another process may write the file while it is read.
fn index_of(data: &[u8]) -> Option<Vec<u8>> {
    let (rest, trailer) = data.split_last_chunk::<TRAILER>()?;
    let (sum, trailer) = trailer.split_first_chunk::<16>()?;
    let (length, magic) = trailer.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    if magic != MAGIC || !data.starts_with(MAGIC) || length > LIMIT {
        return None;
    }
    let text = rest[rest.len().checked_sub(length as usize)?..].to_vec();
    (Hasher::oneshot(&text).to_le_bytes() == *sum).then_some(text)
}

/// The matrices that rows are multiplied with, by name.
fn matrices(checkpoint: &Checkpoint) -> Result<Vec<(String, &Tensor)>> {
    let config = checkpoint.config();
    let head = if config.tie_word_embeddings { Role::Embedding } else { Role::Head };
    let specs = tensors::expected(config).into_iter().filter(|spec| spec.role == Role::Matrix || spec.role == head);
    specs.map(|spec| Ok((spec.name.clone(), checkpoint.tensor(&spec.name)?))).collect()
}

/// Whose weights these are: of every matrix name, type, shape and 16 rows as they are stored. Nothing else is in the
/// file, so nothing else can make it wrong.
///
/// It guards against mistakes (another model, another training step), not against forgery, and reads some 30 MB.
fn fingerprint(checkpoint: &Checkpoint) -> Result<String> {
    let mut hash = Hasher::new();
    let matrices = matrices(checkpoint)?;
    let most = stored::telling(matrices.len());
    for (name, tensor) in matrices {
        hash.write(format!("{name} {} {:?}", tensor.dtype.name(), tensor.shape).as_bytes());
        stored::telling_rows(tensor.rows(), most).for_each(|i| hash.write(tensor.row_bytes(i)));
    }
    Ok(format!("{:032x}", hash.finish_128()))
}

fn checksum(data: &[u8]) -> String {
    format!("{:032x}", Hasher::oneshot(data))
}

/// A file that counts what it is given.
struct Out {
    file: BufWriter<File>,
    count: usize,
}

impl Out {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.count += bytes.len();
        self.file.write_all(bytes)
    }
}
