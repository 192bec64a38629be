//! Memory-mapped files: the one place outside the kernels where `unsafe` is allowed.
#![allow(unsafe_code)]

use crate::{Error, Result};
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Bytes that tensors lie in.
pub trait Source: AsRef<[u8]> + Send + Sync {
    /// Says that the bytes at `range` will hardly be read again; what a file holds need not stay in memory then.
    fn release(&self, _range: Range<usize>) {}
}

impl Source for Vec<u8> {}
impl Source for &'static [u8] {}

impl Source for MappedFile {
    fn release(&self, range: Range<usize>) {
        // Only whole pages inside the range: its neighbours may be in use.
        const PAGE: usize = 4096;
        let (start, end) = (range.start.next_multiple_of(PAGE), range.end.min(self.bytes.len()) / PAGE * PAGE);
        if start < end {
            // SAFETY: the mapping is read-only and backed by the file, so pages that are dropped come back from there
            // unchanged. Where the system refuses, nothing is lost but memory.
            let _ =
                unsafe { self.bytes.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
        }
    }
}

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
        crate::files::regular(path)?;
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
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
