//! The order in which things come: all of them once an epoch, shuffled anew in each by (seed, epoch).

use parloop_eval::Rng;
use std::sync::{Mutex, PoisonError};

const SHUFFLE: u64 = 0x5f1e;

/// An endless row of shuffled epochs.
#[derive(Debug)]
pub(super) struct Shuffled {
    seed: u64,
    count: usize,
    /// The order of an epoch, kept while the epoch lasts.
    order: Mutex<(u64, Vec<u32>)>,
}

impl Shuffled {
    /// Of `count` things, at least 1 and at most 2^32.
    pub(super) fn new(seed: u64, count: usize) -> Self {
        Self { seed, count, order: Mutex::new((u64::MAX, Vec::new())) }
    }

    /// How many things there are.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The epoch of what comes `k`-th, and what comes.
    pub(super) fn nth(&self, k: u64) -> (u64, usize) {
        let (epoch, at) = (k / self.count as u64, (k % self.count as u64) as usize);
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if order.0 != epoch {
            let mut rng = Rng::new(self.seed, SHUFFLE, epoch);
            let mut all: Vec<u32> = (0..self.count as u32).collect();
            for i in (1..all.len()).rev() {
                all.swap(i, rng.below(i + 1));
            }
            *order = (epoch, all);
        }
        (epoch, order.1[at] as usize)
    }
}
