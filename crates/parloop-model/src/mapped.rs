//! Memory-mapped files: the one place outside the kernels where `unsafe` is allowed.
#![allow(unsafe_code)]

use crate::{Error, Result};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// A file's bytes, mapped read-only. Clones share the mapping.
#[derive(Clone, Debug)]
pub struct MappedFile {
    bytes: Arc<memmap2::Mmap>,
}

impl MappedFile {
    /// Maps a whole file. An empty file gives an empty slice.
    ///
    /// The file must not be shortened while it is mapped: the system ends a process that reads past a shortened
    /// file. Writers in this project replace files by renaming and never shorten one in place.
    ///
    /// # Errors
    /// The file cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let kind = file.metadata().map_err(|e| Error::io("read", path, e))?;
        if !kind.is_file() {
            return Err(Error::file(path, "is not a regular file"));
        }
        // SAFETY: the mapping is private and read-only. The bytes could change only if another process writes the
        // file in place; every reader of these bytes treats them as untrusted data of no particular invariant
        // (integers and floats of any bit pattern), so a change cannot break a Rust guarantee that we rely on.
        let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        Ok(Self { bytes: Arc::new(bytes) })
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
