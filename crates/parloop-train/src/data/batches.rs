//! Windows of a row of ids: random ones or all of them shuffled for training, evenly spread ones for validation.

use super::order::Shuffled;
use super::prepared::Split;
use super::{Prepared, TokenFile};
use crate::{Error, Result};
use parloop_eval::Rng;
use std::ops::Range;
use std::path::Path;

const DRAW: u64 = 0xba7c;
const OFFSET: u64 = 0x0ff5;

/// `batch` windows of ids and the ids that follow them, row-major `[batch, time]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Inputs.
    pub ids: Vec<u32>,
    /// The id after each input.
    pub targets: Vec<u32>,
    /// Number of windows.
    pub batch: usize,
    /// Tokens of a window.
    pub time: usize,
}

/// Draws windows of a fixed length from a row of ids.
#[derive(Debug)]
pub struct Windows {
    from: From,
    time: usize,
    batch: usize,
    seed: u64,
}

/// Where ids lie, the training ids first.
#[derive(Debug)]
enum From {
    /// A text: windows may begin anywhere.
    File(TokenFile),
    /// Prepared text: windows follow one another, from another id on in each epoch, and come once in it.
    Shards(Box<Split>, Shuffled),
}

impl From {
    /// Training ids, validation ids, bytes of the text that these stand for.
    fn sizes(&self) -> (usize, usize, u64) {
        match self {
            Self::File(tokens) => (tokens.train(), tokens.val(), tokens.val_bytes()),
            Self::Shards(split, _) => (split.train, split.val, split.val_text),
        }
    }

    fn ids(&self, range: Range<usize>) -> Vec<u32> {
        match self {
            Self::File(tokens) => tokens.ids(range),
            Self::Shards(split, _) => split.data.ids(range),
        }
    }
}

impl Windows {
    /// Windows of `time` tokens, `batch` at a time. `source` is named in errors.
    ///
    /// # Errors
    /// The training or the validation text is too short for one window and the token after it.
    pub fn new(tokens: TokenFile, source: &Path, time: usize, batch: usize, seed: u64) -> Result<Self> {
        Self::over(From::File(tokens), source, time, batch, seed)
    }

    /// The same of prepared text, whose last part (of whole documents, if there are several) validates.
    ///
    /// # Errors
    /// As [`Windows::new`].
    pub fn prepared(data: Prepared, val_fraction: f64, time: usize, batch: usize, seed: u64) -> Result<Self> {
        let source = data.path().to_owned();
        let split = Split::new(data, val_fraction);
        let order = Shuffled::new(seed, (split.train.saturating_sub(time) / time).max(1));
        Self::over(From::Shards(Box::new(split), order), &source, time, batch, seed)
    }

    fn over(from: From, source: &Path, time: usize, batch: usize, seed: u64) -> Result<Self> {
        let (train, val, _) = from.sizes();
        if train <= time {
            return Err(Error::TextTooShort { path: source.to_owned(), tokens: train, context: time });
        }
        // The validation text may be shorter than a window, but one prediction must be possible.
        if val == 1 {
            return Err(Error::ValidationTooShort { path: source.to_owned() });
        }
        Ok(Self { from, time, batch, seed })
    }

    /// Training ids, validation ids, bytes of the text that these stand for.
    pub fn sizes(&self) -> (usize, usize, u64) {
        self.from.sizes()
    }

    /// A hash of all ids: the same data, the same number.
    pub fn content(&self) -> u64 {
        match &self.from {
            From::File(tokens) => tokens.content(),
            From::Shards(split, _) => split.data.content(),
        }
    }

    /// The training batch number `index`, a pure function of the seed and `index`.
    pub fn train(&self, index: u64) -> Batch {
        let (train, time) = (self.from.sizes().0, self.time);
        let starts: Vec<usize> = match &self.from {
            From::File(_) => {
                let mut rng = Rng::new(self.seed, DRAW, index);
                (0..self.batch).map(|_| rng.below(train - time)).collect()
            }
            From::Shards(_, order) => {
                let first = index * self.batch as u64;
                let start = |k| {
                    let (epoch, window) = order.nth(k);
                    let slack = (train - 1 - order.count() * time).min(time - 1);
                    Rng::new(self.seed, OFFSET, epoch).below(slack + 1) + window * time
                };
                (first..first + self.batch as u64).map(start).collect()
            }
        };
        self.gather(&starts, time)
    }

    /// Up to `batches` validation batches: windows that do not overlap, spread evenly over the validation text. If
    /// that text is shorter than a window, one batch of one shorter window. None without validation text.
    pub fn validation(&self, batches: usize) -> Vec<Batch> {
        let (offset, val, _) = self.from.sizes();
        if val < 2 {
            return Vec::new();
        }
        let time = self.time.min(val - 1);
        let possible = (val - 1) / time;
        let wanted = possible.min(batches.saturating_mul(self.batch));
        let starts: Vec<usize> = (0..wanted).map(|i| offset + i * possible / wanted * time).collect();
        starts.chunks(self.batch).map(|starts| self.gather(starts, time)).collect()
    }

    /// The first ids of the validation text (of the training text if there is none).
    pub fn opening(&self, count: usize) -> Vec<u32> {
        let (train, val, _) = self.from.sizes();
        let start = if val > 1 { train } else { 0 };
        self.from.ids(start..start + count)
    }

    fn gather(&self, starts: &[usize], time: usize) -> Batch {
        let part = |offset: usize| -> Vec<u32> {
            starts.iter().flat_map(|s| self.from.ids(s + offset..s + offset + time)).collect()
        };
        Batch { ids: part(0), targets: part(1), batch: starts.len(), time }
    }
}
