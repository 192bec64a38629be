//! Bytes that several owners read: a mapped file, a part of the program, or memory.

use std::ops::Range;
use std::sync::Arc;

/// Bytes that tensors lie in.
pub trait Source: AsRef<[u8]> + Send + Sync {
    /// Says that the bytes at `range` will hardly be read again; what a file holds need not stay in memory then.
    fn release(&self, _range: Range<usize>) {}
}

impl Source for Vec<u8> {}
impl Source for &'static [u8] {}

/// Bytes that several owners may read.
pub type SharedBytes = Arc<dyn Source>;
