//! Examples: rows of ids with what is asked at some of them, for training on answers only.
//!
//! The file is a task file (`parloop_eval::items`): labelled ids, or prompts with answers. Examples are shuffled anew in
//! each epoch, by (seed, epoch); the last part of the file is kept for validation.

use super::{Batch, Hash};
use crate::{Error, Result};
use parloop_eval::{Item, Labelled, Rng, items};
use parloop_model::Tokenizer;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

const SHUFFLE: u64 = 0x5f1e;

/// The target of a position at which nothing is asked: it counts neither in the loss nor in its mean.
pub const IGNORED: u32 = u32::MAX;

/// Draws batches of whole examples.
#[derive(Debug)]
pub struct Examples {
    rows: Vec<Labelled>,
    /// How many of them are trained on; the rest are for validation.
    train: usize,
    batch: usize,
    seed: u64,
    content: u64,
    /// The order of an epoch's examples, kept while the epoch lasts.
    order: Mutex<(u64, Vec<usize>)>,
}

impl Examples {
    /// Whether a path is taken as a file of examples rather than as text.
    pub fn are_in(path: &Path) -> bool {
        path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"))
    }

    /// Reads a file of examples of at most `time` ids.
    ///
    /// # Errors
    /// The file is no task file, an item cannot be trained on or is too long (it is named), or no example is left to
    /// train on.
    pub fn read(
        path: &Path,
        tokenizer: &Tokenizer,
        val_fraction: f64,
        time: usize,
        batch: usize,
        seed: u64,
    ) -> Result<Self> {
        let wrong = |i: usize, message: String| Error::Example { path: path.to_owned(), item: i + 1, message };
        let mut rows = Vec::new();
        let mut hash = Hash::new();
        for (i, item) in items::read(path)?.into_iter().enumerate() {
            let row = match item {
                Item::Labelled(row) => row,
                other => other.labelled(Some(tokenizer)).map_err(|message| wrong(i, message))?.ok_or_else(|| {
                    wrong(
                        i,
                        "has choices, which are for tests; expected a prompt with an answer, or ids with targets"
                            .into(),
                    )
                })?,
            };
            if row.ids.len() > time {
                return Err(wrong(i, format!("has {} tokens, more than `context` ({time})", row.ids.len())));
            }
            let limit = tokenizer.vocab_size();
            if let Some(id) = row.ids.iter().chain(row.targets.iter().flatten()).find(|id| **id as usize >= limit) {
                return Err(wrong(i, format!("has id {id}; the tokenizer's ids run from 0 to {}", limit - 1)));
            }
            for (id, target) in row.ids.iter().zip(&row.targets) {
                hash.add(&id.to_le_bytes());
                hash.add(&target.unwrap_or(IGNORED).to_le_bytes());
            }
            hash.add(b"\n");
            rows.push(Labelled { levels: Vec::new(), ..row });
        }
        let kept = (rows.len() as f64 * val_fraction).ceil() as usize;
        let train = rows.len().saturating_sub(kept);
        if train == 0 {
            let message = "leaves no example to train on: give more, or lower `val_fraction`".into();
            return Err(wrong(rows.len() - 1, message));
        }
        Ok(Self { rows, train, batch, seed, content: hash.0, order: Mutex::new((u64::MAX, Vec::new())) })
    }

    /// The training batch number `index`, a pure function of the seed and `index`.
    pub fn train(&self, index: u64) -> Batch {
        let first = index * self.batch as u64;
        let rows: Vec<&Labelled> = (first..first + self.batch as u64).map(|k| &self.rows[self.nth(k)]).collect();
        gather(&rows)
    }

    /// The example that comes `k`-th in the endless row of shuffled epochs.
    fn nth(&self, k: u64) -> usize {
        let (epoch, at) = (k / self.train as u64, (k % self.train as u64) as usize);
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        if order.0 != epoch {
            let mut rng = Rng::new(self.seed, SHUFFLE, epoch);
            let mut all: Vec<usize> = (0..self.train).collect();
            for i in (1..all.len()).rev() {
                all.swap(i, rng.below(i + 1));
            }
            *order = (epoch, all);
        }
        order.1[at]
    }

    /// Up to `batches` validation batches.
    pub fn validation(&self, batches: usize) -> Vec<Batch> {
        let rows: Vec<&Labelled> = self.rows[self.train..].iter().take(batches.saturating_mul(self.batch)).collect();
        rows.chunks(self.batch).map(gather).collect()
    }

    /// The first ids of the first validation example (of the first example if there is none).
    pub fn opening(&self, count: usize) -> Vec<u32> {
        let row = self.rows.get(self.train).unwrap_or(&self.rows[0]);
        row.ids.iter().copied().take(count).collect()
    }

    /// Ids to train on, and ids for validation.
    pub fn tokens(&self) -> (usize, usize) {
        let count = |rows: &[Labelled]| rows.iter().map(|row| row.ids.len()).sum();
        (count(&self.rows[..self.train]), count(&self.rows[self.train..]))
    }

    /// A hash of all examples: the same data, the same number.
    pub fn content(&self) -> u64 {
        self.content
    }
}

/// Rows of the length of the longest; what fills up the others asks nothing, and comes after what does, so that
/// causal attention never sees it.
fn gather(rows: &[&Labelled]) -> Batch {
    let time = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
    let (mut ids, mut targets) = (Vec::new(), Vec::new());
    for (n, row) in rows.iter().enumerate() {
        ids.extend(&row.ids);
        targets.extend(row.targets.iter().map(|target| target.unwrap_or(IGNORED)));
        ids.resize((n + 1) * time, 0);
        targets.resize((n + 1) * time, IGNORED);
    }
    Batch { ids, targets, batch: rows.len(), time }
}
