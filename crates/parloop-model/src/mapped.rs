//! Memory-mapped files: the one place outside the kernels where `unsafe` is allowed.
#![allow(unsafe_code)]

use crate::bytes::Source;
use crate::{Error, Result};
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

impl Source for MappedFile {
    #[cfg(unix)]
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

    /// Other systems have no such advice, and drop pages of a file as they need them.
    #[cfg(not(unix))]
    fn release(&self, _range: Range<usize>) {}
}

/// A file's bytes, mapped read-only. Clones share the mapping.
///
/// # Contract
/// The mapping is shared with the file: what another process writes to the file in place shows here, at any time and in
/// part. Two things follow.
///
/// - The file must not be shortened while it is mapped: the system ends a process that reads past a shortened file.
///   Whoever writes a model must write it beside its place and rename it, as this project does.
/// - Nothing may be concluded from having looked at these bytes once. What is parsed, checked and then used again by
///   what the check said (headers, texts, indices, offsets) is copied first. Only the elements of tensors are read in
///   place: integers and floats, for which every bit pattern is a value, so that a file that changes gives other
///   numbers, and no more.
#[derive(Clone, Debug)]
pub struct MappedFile {
    bytes: Arc<memmap2::Mmap>,
}

impl MappedFile {
    /// Maps a whole file. An empty file gives an empty slice.
    ///
    /// # Errors
    /// The file cannot be opened or mapped.
    pub fn open(path: &Path) -> Result<Self> {
        crate::files::regular(path)?;
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        // SAFETY: the bytes belong to the system, which keeps them readable while the mapping lives, unless the file is
        // shortened: that the contract above forbids, and no process can rule out for others. Another process may also
        // write the file in place, so these bytes are never lent as anything that has an invariant (`str`, `bool`,
        // enums, references into them by checked offsets): what has one is copied out first, and tensor elements are
        // numbers of any bit pattern.
        let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io("map", path, e))?;
        Ok(Self { bytes: Arc::new(bytes) })
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
