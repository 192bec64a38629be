//! The memory that keys and values are given: a budget of bytes from which every block draws.

use super::Layout;
use super::block::Block;
use super::{KvTiles, KvType};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A budget of bytes, shared by all caches, rings and copies that draw blocks from it. A clone is the same budget.
#[derive(Clone, Debug)]
pub struct KvPool(Arc<Account>);

#[derive(Debug)]
struct Account {
    budget: usize,
    used: AtomicUsize,
}

/// The budget does not hold what was asked for, or the system has no memory for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{needed} more bytes of keys and values are needed; {used} of {budget} are in use: shorten the text, end another, \
     or allow more"
)]
pub struct Spent {
    /// Bytes asked for.
    pub needed: usize,
    /// Bytes in use.
    pub used: usize,
    /// Bytes allowed.
    pub budget: usize,
}

/// Bytes that are given back when this is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    pool: KvPool,
    bytes: usize,
}

impl Lease {
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.0.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl KvPool {
    /// A budget of so many bytes.
    pub fn new(budget: usize) -> Self {
        Self(Arc::new(Account { budget, used: AtomicUsize::new(0) }))
    }

    /// No limit but the machine's memory.
    pub fn unlimited() -> Self {
        Self::new(usize::MAX)
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Bytes allowed.
    pub fn budget(&self) -> usize {
        self.0.budget
    }

    /// Whether two handles are of one budget.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn spent(&self, needed: usize) -> Spent {
        Spent { needed, used: self.used(), budget: self.budget() }
    }

    /// Takes bytes out of the budget.
    pub(super) fn take(&self, bytes: usize) -> Result<Lease, Spent> {
        let room = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= self.0.budget);
        match self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            Ok(_) => Ok(Lease { pool: self.clone(), bytes }),
            Err(used) => Err(Spent { needed: bytes, used, budget: self.0.budget }),
        }
    }
}

/// Blocks that are set aside, so that a pass that has begun finds what it needs: tiles that leave one layer's ring
/// serve the next layer's.
#[derive(Debug)]
pub struct Spares {
    pool: KvPool,
    blocks: Vec<Block>,
}

impl Spares {
    /// None yet; they come from `pool`.
    pub fn new(pool: &KvPool) -> Self {
        Self { pool: pool.clone(), blocks: Vec::new() }
    }

    /// Sets `count` more blocks aside for a cache or ring like `kv`.
    ///
    /// # Errors
    /// The budget does not hold them. None are set aside then.
    pub fn add(&mut self, kv: &KvTiles, count: usize) -> Result<(), Spent> {
        let before = self.blocks.len();
        for _ in 0..count {
            match Block::new(kv.kind, kv.layout, &self.pool) {
                Ok(block) => self.blocks.push(block),
                Err(mut spent) => {
                    self.blocks.truncate(before);
                    spent.needed *= count;
                    return Err(spent);
                }
            }
        }
        Ok(())
    }

    /// Blocks set aside.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether none are.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Gives all of them back.
    pub fn clear(&mut self) {
        self.blocks.clear();
    }

    /// A block: one that was set aside, or a new one.
    pub(super) fn take(&mut self, kind: KvType, layout: Layout) -> Result<Block, Spent> {
        match self.blocks.iter().rposition(|block| block.fits(kind, layout)) {
            Some(i) => Ok(self.blocks.swap_remove(i)),
            None => Block::new(kind, layout, &self.pool),
        }
    }

    /// Keeps a block for its next use, unless others still read it.
    pub(super) fn put(&mut self, block: Block) {
        if !block.is_shared() {
            self.blocks.push(block);
        }
    }
}
