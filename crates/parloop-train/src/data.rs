//! Text in, token windows out; or examples in, and only their answers count.
//!
//! A source (one file, or a folder's files in sorted order) is tokenised once into a token file, which later runs
//! find again by a key over the tokenizer and the source's sizes and times. The last part of the text is kept for
//! validation. Windows are drawn by (seed, step), so that a resumed run sees what an uninterrupted one would.

mod batches;
mod chat;
mod documents;
mod examples;
mod feed;
mod order;
mod parquet;
mod prepare;
mod prepared;
mod shard;
mod source;
mod tokens;

pub use batches::{Batch, Windows};
pub use documents::{Format, SourceFile};
pub use examples::{Examples, IGNORED};
pub use feed::Feed;
pub use prepare::{Kind, Manifest, PrepareJob, ShardEntry, prepare, sample_text};
pub use prepared::Prepared;
pub use source::Source;
pub use tokens::TokenFile;
pub(crate) use tokens::tokenizer_hash;

/// A 64-bit hash (FNV-1a) for cache keys; not for security.
#[derive(Clone, Copy)]
pub(crate) struct Hash(pub u64);

impl Hash {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    pub(crate) fn of(bytes: &[u8]) -> u64 {
        let mut hash = Self::new();
        hash.add(bytes);
        hash.0
    }
}
