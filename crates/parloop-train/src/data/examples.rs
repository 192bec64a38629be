//! Examples: rows of ids with what is asked at some of them, for training on answers only.
//!
//! The file is a task file (`parloop_eval::items`): labelled ids, or prompts with answers; or it holds conversations, or
//! both were prepared. Examples are shuffled anew in each epoch, by (seed, epoch); the last part is kept for validation.

use super::documents::{self, Document};
use super::order::Shuffled;
use super::{Batch, Format, Hash, Prepared, chat};
use crate::{Error, Result};
use parloop_eval::{Item, Labelled, items};
use parloop_model::{ChatTemplate, Tokenizer};
use rayon::prelude::*;
use serde_json::Value;
use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

/// The target of a position at which nothing is asked: it counts neither in the loss nor in its mean.
pub const IGNORED: u32 = u32::MAX;

/// Draws batches of whole examples.
#[derive(Debug)]
pub struct Examples {
    rows: Rows,
    /// How many of them are trained on; the rest are for validation.
    train: usize,
    batch: usize,
    content: u64,
    order: Shuffled,
}

/// Where examples lie.
#[derive(Debug)]
enum Rows {
    Memory(Vec<Labelled>),
    Shards(Box<Prepared>),
}

impl Rows {
    fn count(&self) -> usize {
        match self {
            Self::Memory(rows) => rows.len(),
            Self::Shards(data) => data.documents(),
        }
    }

    fn get(&self, n: usize) -> Cow<'_, Labelled> {
        match self {
            Self::Memory(rows) => Cow::Borrowed(&rows[n]),
            Self::Shards(data) => Cow::Owned(data.row(n)),
        }
    }

    /// Ids of examples.
    fn tokens(&self, range: Range<usize>) -> usize {
        match self {
            Self::Memory(rows) => rows[range].iter().map(|row| row.ids.len()).sum(),
            // The last id of each is only asked for.
            Self::Shards(data) => range.map(|n| data.document(n).0.len() - 1).sum(),
        }
    }
}

impl Examples {
    /// Whether a path is taken as a file of examples rather than as text.
    pub fn are_in(path: &Path) -> bool {
        path.is_file() && path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"))
    }

    /// Reads a file of examples of at most `time` ids; conversations need a template.
    ///
    /// # Errors
    /// The file is no task file, an item cannot be trained on or is too long (it is named), or no example is left to
    /// train on.
    pub fn read(
        path: &Path,
        (tokenizer, template): (&Tokenizer, Option<&ChatTemplate>),
        val_fraction: f64,
        time: usize,
        batch: usize,
        seed: u64,
    ) -> Result<Self> {
        let wrong = |i: usize, message: String| Error::Example { path: path.to_owned(), item: i + 1, message };
        let mut rows = Vec::new();
        let mut hash = Hash::new();
        for (i, row) in Self::rows(path, tokenizer, template)?.into_iter().enumerate() {
            let row = row.map_err(|message| wrong(i, message))?;
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
        Self::over(Rows::Memory(rows), path, hash.0, val_fraction, batch, seed)
    }

    /// The examples of prepared data of at most `time` ids.
    ///
    /// # Errors
    /// One is longer, or none is left to train on.
    pub fn prepared(data: Prepared, val_fraction: f64, time: usize, batch: usize, seed: u64) -> Result<Self> {
        let (path, content, longest) = (data.path().to_owned(), data.content(), data.manifest().longest);
        if longest > time as u64 + 1 {
            let message = format!(
                "has a document of {longest} tokens, more than `context` ({time}) takes: raise it, or prepare the data \
                 without the longest"
            );
            return Err(Error::Prepared { path, message });
        }
        Self::over(Rows::Shards(Box::new(data)), &path, content, val_fraction, batch, seed)
    }

    fn over(rows: Rows, path: &Path, content: u64, val_fraction: f64, batch: usize, seed: u64) -> Result<Self> {
        let kept = (rows.count() as f64 * val_fraction).ceil() as usize;
        let train = rows.count().saturating_sub(kept);
        if train == 0 {
            let message = "leaves no example to train on: give more, or lower `val_fraction`".into();
            return Err(Error::Example { path: path.to_owned(), item: rows.count(), message });
        }
        Ok(Self { rows, train, batch, content, order: Shuffled::new(seed, train) })
    }

    /// Each item of a file as ids with targets, or what is wrong with it.
    fn rows(
        path: &Path,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
    ) -> Result<Vec<std::result::Result<Labelled, String>>> {
        if let Some(conversations) = conversations(path)? {
            let template = template.ok_or_else(|| Error::Example {
                path: path.to_owned(),
                item: 1,
                message: "is a conversation, which needs a chat template: start from a model that has one (`init`)"
                    .into(),
            })?;
            return Ok(conversations.par_iter().map(|line| chat::labelled(line, template, tokenizer)).collect());
        }
        let row = |item: Item| match item {
            Item::Labelled(row) => Ok(row),
            other => other.labelled(Some(tokenizer))?.ok_or_else(|| {
                "has choices, which are for tests; expected a prompt with an answer, or ids with targets".to_owned()
            }),
        };
        Ok(items::read(path)?.into_iter().map(row).collect())
    }

    /// The training batch number `index`, a pure function of the seed and `index`.
    pub fn train(&self, index: u64) -> Batch {
        let first = index * self.batch as u64;
        let row = |k| self.rows.get(self.order.nth(k).1);
        gather(&(first..first + self.batch as u64).map(row).collect::<Vec<_>>())
    }

    /// Up to `batches` validation batches.
    pub fn validation(&self, batches: usize) -> Vec<Batch> {
        let last = self.rows.count().min(self.train.saturating_add(batches.saturating_mul(self.batch)));
        let rows: Vec<_> = (self.train..last).map(|n| self.rows.get(n)).collect();
        rows.chunks(self.batch).map(gather).collect()
    }

    /// The first ids of the first validation example (of the first example if there is none).
    pub fn opening(&self, count: usize) -> Vec<u32> {
        let row = self.rows.get(if self.train < self.rows.count() { self.train } else { 0 });
        row.ids.iter().copied().take(count).collect()
    }

    /// Ids to train on, and ids for validation.
    pub fn tokens(&self) -> (usize, usize) {
        (self.rows.tokens(0..self.train), self.rows.tokens(self.train..self.rows.count()))
    }

    /// A hash of all examples: the same data, the same number.
    pub fn content(&self) -> u64 {
        self.content
    }
}

/// The lines of a file of conversations; nothing if its first line is none.
fn conversations(path: &Path) -> Result<Option<Vec<Value>>> {
    let mut all = Vec::new();
    let read = documents::read(path, Format::Lines, "", |documents, _| {
        for document in documents {
            let Document::Line { value, number } = document else { continue };
            if !chat::is_conversation(&value) {
                let message = "is no conversation, but the lines before are".into();
                return Err(Error::Line { path: path.to_owned(), line: number, message });
            }
            all.push(value);
        }
        Ok(())
    });
    match read {
        // Whoever reads tasks says what is wrong with one.
        _ if all.is_empty() => Ok(None),
        read => read.map(|_| Some(all)),
    }
}

/// Rows of the length of the longest; what fills up the others asks nothing, and comes after what does, so that
/// causal attention never sees it.
fn gather(rows: &[Cow<'_, Labelled>]) -> Batch {
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
