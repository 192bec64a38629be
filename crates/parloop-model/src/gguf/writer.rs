//! Writes a GGUF file: the header at once, then tensor after tensor, to a temporary file that takes its name last.

use super::container::{ALIGNMENT, MAGIC, VERSION, type_number};
use super::value::{Value, put_string};
use crate::{DType, Error, Result};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the file.
    pub name: String,
    /// Row-major shape; the width must be whole blocks of the type.
    pub shape: Vec<usize>,
    /// Its type.
    pub kind: DType,
}

impl Entry {
    /// Bytes of the tensor; `None` if rows are not whole blocks, or the size is absurd.
    pub fn bytes(&self) -> Option<usize> {
        let row = self.kind.row_bytes(*self.shape.last()?)?;
        self.shape.iter().rev().skip(1).try_fold(row, |n, s| n.checked_mul(*s))
    }
}

/// Writes one GGUF file of version 3. Dropped before [`Writer::finish`], it leaves nothing behind.
pub struct Writer {
    target: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    /// Bytes of the tensors still to come, in order.
    left: std::vec::IntoIter<usize>,
}

impl Writer {
    /// Starts a file with this metadata and these tensors, whose bytes follow through [`Writer::tensor`] in this order.
    ///
    /// # Errors
    /// The file cannot be written, or a tensor's rows are not whole blocks of its type.
    pub fn create(path: &Path, metadata: &[(String, Value)], tensors: &[Entry]) -> Result<Self> {
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .ok_or_else(|| Error::file(path, "has no file name to write to; give the name of a file to be created"))?;
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_string(key, &mut header);
            header.extend(value.kind().to_le_bytes());
            value.put(&mut header);
        }
        let (mut offset, mut sizes) = (0, Vec::with_capacity(tensors.len()));
        for entry in tensors {
            let bytes = entry.bytes().ok_or_else(|| {
                let message = format!("of shape {:?} cannot be stored as {}", entry.shape, entry.kind.name());
                Error::tensor(&entry.name, message)
            })?;
            put_string(&entry.name, &mut header);
            header.extend((entry.shape.len() as u32).to_le_bytes());
            entry.shape.iter().rev().for_each(|s| header.extend((*s as u64).to_le_bytes()));
            header.extend(type_number(entry.kind).to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            offset += bytes.next_multiple_of(ALIGNMENT);
            sizes.push(bytes);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
        }
        let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let file = File::create(&temporary).map_err(|e| Error::io("write", path, e))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        let mut writer = Self { target: path.to_owned(), temporary, file, left: sizes.into_iter() };
        writer.write(&header)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.target, e))
    }

    /// Writes the next tensor's bytes.
    ///
    /// # Errors
    /// The file cannot be written, or these are not the bytes of the next tensor.
    pub fn tensor(&mut self, bytes: &[u8]) -> Result<()> {
        let expected = self.left.next();
        if expected != Some(bytes.len()) {
            let message = format!("was given {} bytes for a tensor, expected {expected:?}", bytes.len());
            return Err(Error::file(&self.target, message));
        }
        self.write(bytes)?;
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        self.write(&[0; ALIGNMENT][..padding])
    }

    /// Flushes the file to disk and gives it its name, replacing an older file of that name. Returns its size.
    ///
    /// # Errors
    /// A tensor is missing, or the system refuses; the older file, if any, then still stands under its name.
    pub fn finish(mut self) -> Result<u64> {
        if let Some(bytes) = self.left.next() {
            return Err(Error::file(&self.target, format!("still lacks a tensor of {bytes} bytes")));
        }
        let mut finish = || {
            self.file.flush()?;
            self.file.get_ref().sync_all()?;
            let size = self.file.get_ref().metadata()?.len();
            fs::rename(&self.temporary, &self.target)?;
            if let Some(parent) = self.target.parent().filter(|p| !p.as_os_str().is_empty()) {
                File::open(parent)?.sync_all()?;
            }
            Ok(size)
        };
        finish().map_err(|e| Error::io("finish", &self.target, e))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // After `finish` the temporary file no longer exists; otherwise writing failed and it is of no use.
        let _ = fs::remove_file(&self.temporary);
    }
}
