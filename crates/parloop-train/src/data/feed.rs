//! What a run trains on: windows of a text, or examples.

use super::{Batch, Examples, IGNORED, Windows};

/// Batches by number.
#[derive(Debug)]
pub enum Feed {
    /// Every next token of a text.
    Text(Box<Windows>),
    /// Answers of examples.
    Examples(Box<Examples>),
}

impl Feed {
    /// The training batch number `index`.
    pub fn train(&self, index: u64) -> Batch {
        match self {
            Self::Text(windows) => windows.train(index),
            Self::Examples(examples) => examples.train(index),
        }
    }

    /// Up to `batches` validation batches.
    pub fn validation(&self, batches: usize) -> Vec<Batch> {
        match self {
            Self::Text(windows) => windows.validation(batches),
            Self::Examples(examples) => examples.validation(batches),
        }
    }

    /// Ids that a sample can go on from.
    pub fn opening(&self, count: usize) -> Vec<u32> {
        match self {
            Self::Text(windows) => windows.opening(count),
            Self::Examples(examples) => examples.opening(count),
        }
    }

    /// Ids to train on, and ids for validation.
    pub fn tokens(&self) -> (usize, usize) {
        match self {
            Self::Text(windows) => (windows.sizes().0, windows.sizes().1),
            Self::Examples(examples) => examples.tokens(),
        }
    }

    /// A hash of all ids: the same data, the same number.
    pub fn content(&self) -> u64 {
        match self {
            Self::Text(windows) => windows.content(),
            Self::Examples(examples) => examples.content(),
        }
    }

    /// Tokens of the validation text by its bytes; examples are no running text.
    pub fn tokens_per_byte(&self) -> Option<f64> {
        match self {
            Self::Text(windows) => {
                let (_, val, bytes) = windows.sizes();
                Some(val as f64 / bytes.max(1) as f64)
            }
            Self::Examples(_) => None,
        }
    }
}

impl Batch {
    /// Positions at which something is asked.
    pub fn asked(&self) -> usize {
        self.targets.iter().filter(|target| **target != IGNORED).count()
    }
}
