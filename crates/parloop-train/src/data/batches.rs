//! Windows of the token file: random ones for training, evenly spread ones for validation.

use super::TokenFile;
use crate::{Error, Result};
use parloop_eval::Rng;
use std::path::Path;

const DRAW: u64 = 0xba7c;

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

/// Draws windows of a fixed length from a token file.
#[derive(Clone, Debug)]
pub struct Windows {
    tokens: TokenFile,
    time: usize,
    batch: usize,
    seed: u64,
}

impl Windows {
    /// Windows of `time` tokens, `batch` at a time. `source` is named in errors.
    ///
    /// # Errors
    /// The training or the validation text is too short for one window and the token after it.
    pub fn new(tokens: TokenFile, source: &Path, time: usize, batch: usize, seed: u64) -> Result<Self> {
        if tokens.train() <= time {
            return Err(Error::TextTooShort { path: source.to_owned(), tokens: tokens.train(), context: time });
        }
        // The validation text may be shorter than a window, but one prediction must be possible.
        if tokens.val() == 1 {
            return Err(Error::ValidationTooShort { path: source.to_owned() });
        }
        Ok(Self { tokens, time, batch, seed })
    }

    /// The token file.
    pub fn tokens(&self) -> &TokenFile {
        &self.tokens
    }

    /// The training batch number `index`, a pure function of the seed and `index`.
    pub fn train(&self, index: u64) -> Batch {
        let mut rng = Rng::new(self.seed, DRAW, index);
        let starts = (0..self.batch).map(|_| rng.below(self.tokens.train() - self.time)).collect::<Vec<_>>();
        self.gather(&starts, self.time)
    }

    /// Up to `batches` validation batches: windows that do not overlap, spread evenly over the validation text. If
    /// that text is shorter than a window, one batch of one shorter window. None without validation text.
    pub fn validation(&self, batches: usize) -> Vec<Batch> {
        let (offset, val) = (self.tokens.train(), self.tokens.val());
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
        let start = if self.tokens.val() > 1 { self.tokens.train() } else { 0 };
        self.tokens.ids(start..start + count)
    }

    fn gather(&self, starts: &[usize], time: usize) -> Batch {
        let part = |offset: usize| -> Vec<u32> {
            starts.iter().flat_map(|s| self.tokens.ids(s + offset..s + offset + time)).collect()
        };
        Batch { ids: part(0), targets: part(1), batch: starts.len(), time }
    }
}
