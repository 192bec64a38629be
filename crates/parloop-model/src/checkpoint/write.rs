//! Writing checkpoint folders: everything goes to a temporary sibling, is flushed to disk, and takes its final name
//! only when it is whole.

use super::{DType, Tensor, files};
use crate::dtype::codec;
use crate::family::{self, Notes};
use crate::{Error, ModelConfig, Result, Tokenizer};
use safetensors::tensor::{Dtype, SafeTensorError, View};
use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A tensor to be written.
pub struct TensorData<'a> {
    /// The checkpoint's name.
    pub name: String,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// The type to store.
    pub dtype: DType,
    /// Elements; rounded to `dtype` while writing.
    pub values: Cow<'a, [f32]>,
}

/// A tensor of another checkpoint, to be written as it is or in another type; read and converted only when its turn
/// comes, so that a large checkpoint is never in memory as a whole.
pub struct TensorCopy<'a> {
    /// The name to write.
    pub name: String,
    /// The type to store.
    pub dtype: DType,
    /// What is copied.
    pub tensor: &'a Tensor,
}

/// What the writer asks of a tensor.
pub trait ToWrite {
    /// The checkpoint's name.
    fn name(&self) -> &str;
    /// Row-major shape.
    fn shape(&self) -> &[usize];
    /// The type to store.
    fn dtype(&self) -> DType;
    /// The elements, rounded to the type, as little-endian bytes.
    fn bytes(&self) -> Cow<'_, [u8]>;
    /// A finite number among the elements that the type cannot hold.
    fn beyond_range(&self) -> Option<f32>;
}

impl ToWrite for TensorData<'_> {
    fn name(&self) -> &str {
        &self.name
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn bytes(&self) -> Cow<'_, [u8]> {
        Cow::Owned(rounded(&self.values, self.dtype))
    }
    fn beyond_range(&self) -> Option<f32> {
        beyond_range(&self.values, self.dtype)
    }
}

impl ToWrite for TensorCopy<'_> {
    fn name(&self) -> &str {
        &self.name
    }
    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn bytes(&self) -> Cow<'_, [u8]> {
        match self.tensor.dtype == self.dtype {
            true => self.tensor.bytes(),
            false => Cow::Owned(rounded(&self.tensor.to_f32(), self.dtype)),
        }
    }
    fn beyond_range(&self) -> Option<f32> {
        let narrower = self.dtype == DType::F16 && self.tensor.dtype != DType::F16;
        narrower.then(|| beyond_range(&self.tensor.to_f32(), self.dtype)).flatten()
    }
}

fn rounded(values: &[f32], dtype: DType) -> Vec<u8> {
    let mut bytes = vec![0; dtype.row_bytes(values.len()).unwrap_or(0)];
    codec::encode(dtype, values, &mut bytes);
    bytes
}

fn beyond_range(values: &[f32], dtype: DType) -> Option<f32> {
    let large = |v: &f32| v.is_finite() && half::f16::from_f32(*v).is_infinite();
    values.iter().copied().filter(|_| dtype == DType::F16).find(large)
}

/// Bytes of a tensor of a plain type once it is written.
fn size<T: ToWrite>(tensor: &T) -> usize {
    tensor.shape().iter().product::<usize>() * tensor.dtype().block().1
}

/// A tensor as the safetensors library takes it.
struct AsView<'a, T> {
    tensor: &'a T,
    dtype: Dtype,
}

impl<'a, T: ToWrite> AsView<'a, T> {
    fn new(tensor: &'a T) -> Result<Self> {
        let dtype = match tensor.dtype() {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            other => {
                let message = format!("cannot stand in a safetensors file as {}; use bf16, f16 or f32", other.name());
                return Err(Error::tensor(tensor.name(), message));
            }
        };
        Ok(Self { tensor, dtype })
    }
}

impl<T: ToWrite> View for AsView<'_, T> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        self.tensor.shape()
    }
    fn data(&self) -> Cow<'_, [u8]> {
        self.tensor.bytes()
    }
    fn data_len(&self) -> usize {
        size(self.tensor)
    }
}

/// Writes one checkpoint folder. Dropped before [`CheckpointWriter::finish`], it leaves nothing behind.
pub struct CheckpointWriter {
    target: PathBuf,
    temporary: PathBuf,
}

impl CheckpointWriter {
    /// Starts writing what will become `folder`. Parent folders are created.
    ///
    /// # Errors
    /// The temporary folder beside it cannot be created.
    pub fn create(folder: &Path) -> Result<Self> {
        let name = folder.file_name().and_then(|n| n.to_str()).ok_or_else(|| {
            Error::file(folder, "has no folder name to write to; give the name of a folder to be created")
        })?;
        only_a_model(folder)?;
        let temporary = folder.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(|e| Error::io("remove", &temporary, e))?;
        }
        fs::create_dir_all(&temporary).map_err(|e| Error::io("create", &temporary, e))?;
        Ok(Self { target: folder.to_owned(), temporary })
    }

    /// Writes `config.json` in our own form and the tokenizer's files.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn model(&self, config: &ModelConfig, tokenizer: Option<&Tokenizer>) -> Result<()> {
        let text = family::own().to_json(config, &Notes::default())?;
        self.file("config.json", text.as_bytes())?;
        tokenizer.map_or(Ok(()), |t| t.files().iter().try_for_each(|(name, bytes)| self.file(name, bytes)))
    }

    /// Writes the model's weights: one file, or shards of about `shard_bytes` with an index.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn weights<T: ToWrite>(&self, tensors: &[T], shard_bytes: Option<u64>) -> Result<()> {
        let size = |t: &T| size(t) as u64;
        let total: u64 = tensors.iter().map(size).sum();
        let Some(limit) = shard_bytes.filter(|limit| *limit < total) else {
            return self.tensors(files::SINGLE, tensors);
        };
        let mut shards: Vec<&[T]> = Vec::new();
        let (mut first, mut filled) = (0, 0);
        for (i, tensor) in tensors.iter().enumerate() {
            if filled > 0 && filled + size(tensor) > limit {
                shards.push(&tensors[first..i]);
                (first, filled) = (i, 0);
            }
            filled += size(tensor);
        }
        shards.push(&tensors[first..]);
        let mut map = serde_json::Map::new();
        for (i, shard) in shards.iter().enumerate() {
            let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
            self.tensors(&file, shard)?;
            map.extend(shard.iter().map(|t| (t.name().to_owned(), file.clone().into())));
        }
        let index = serde_json::json!({ "metadata": { "total_size": total }, "weight_map": map });
        self.file(files::INDEX, format!("{index:#}\n").as_bytes())
    }

    /// Where a file is written; the folder that its name has is created.
    fn place(&self, name: &str) -> std::io::Result<PathBuf> {
        let path = self.temporary.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        Ok(path)
    }

    /// Writes one safetensors file; its name may have a folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn tensors<T: ToWrite>(&self, name: &str, tensors: &[T]) -> Result<()> {
        let path = self.place(name).map_err(|e| Error::io("write", &self.target.join(name), e))?;
        let views = tensors.iter().map(|t| Ok((t.name(), AsView::new(t)?))).collect::<Result<Vec<_>>>()?;
        for tensor in tensors {
            if let Some(value) = tensor.beyond_range() {
                let message = format!("holds {value}, beyond the range of float16 (65504); use bfloat16 or float32");
                return Err(Error::tensor(tensor.name(), message));
            }
        }
        // The library writes through a temporary file that only its owner may read; a model is an ordinary file.
        let usual = File::create(&path).and_then(|f| f.metadata()).map_err(|e| Error::io("write", &path, e))?;
        let info = std::collections::HashMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::serialize_to_file(views, Some(info), &path).map_err(|e| match e {
            SafeTensorError::IoError(e) => Error::io("write", &self.target.join(name), e),
            other => Error::file(&self.target.join(name), other.to_string()),
        })?;
        let finish = |f: File| f.set_permissions(usual.permissions()).and_then(|()| f.sync_all());
        File::open(&path).and_then(finish).map_err(|e| Error::io("flush", &self.target.join(name), e))
    }

    /// Writes any further file; its name may have a folder.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn file(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let write = || {
            let mut file = File::create(self.place(name)?)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|e| Error::io("write", &self.target.join(name), e))
    }

    /// Gives the folder its final name, replacing an older one of that name only after the new one is on disk.
    ///
    /// # Errors
    /// A rename or flush fails; the older folder, if any, then still stands under its name.
    pub fn finish(self) -> Result<()> {
        let error = |e| Error::io("finish", &self.target, e);
        let sync = |path: &Path| File::open(path).and_then(|f| f.sync_all());
        sync(&self.temporary).map_err(error)?;
        let old = self.temporary.with_extension("old.tmp");
        if self.target.exists() {
            fs::rename(&self.target, &old).map_err(error)?;
        }
        if let Err(e) = fs::rename(&self.temporary, &self.target) {
            if old.exists() {
                fs::rename(&old, &self.target).map_err(error)?;
            }
            return Err(error(e));
        }
        if let Some(parent) = self.target.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync(parent).map_err(error)?;
        }
        if old.exists() {
            fs::remove_dir_all(&old).map_err(error)?;
        }
        Ok(())
    }
}

/// Refuses a target that holds anything but the files of one model: replacing it would lose them.
fn only_a_model(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    if !folder.is_dir() {
        return Err(Error::file(folder, "is a file; give the name of a folder to be created"));
    }
    for entry in fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = ["config.json", "generation_config.json", "trainer.json", "chat_template.jinja", files::INDEX]
            .contains(&name.as_str())
            || name.ends_with(".safetensors")
            || name.starts_with("tokenizer")
            // Packed weights are made from the model, and made again at will.
            || name.starts_with("packed") && name.ends_with(".parloop");
        if !known || entry.path().is_dir() {
            return Err(Error::file(
                folder,
                format!("holds {name}, which is not part of a model, so it is not replaced; give another folder"),
            ));
        }
    }
    Ok(())
}

impl Drop for CheckpointWriter {
    fn drop(&mut self) {
        // After `finish` the temporary folder no longer exists; otherwise writing failed and it is of no use.
        let _ = fs::remove_dir_all(&self.temporary);
    }
}
