//! How the caller takes part in a run: what it is told, what it may do.

use super::{LogRow, Validation};
use crate::options::TrainOptions;
use crate::weights::NamedTensor;
use parloop_model::{ModelConfig, Tokenizer};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// What happens in a run, told as it happens. A run prints nothing itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Text, model and optimiser are there; the first step follows.
    Started {
        /// The model.
        config: &'a ModelConfig,
        /// Options of the run.
        options: &'a TrainOptions,
        /// Ids to train on.
        train_tokens: usize,
        /// Ids kept for validation.
        val_tokens: usize,
        /// Steps taken by earlier runs.
        step: usize,
    },
    /// A line of the log was written.
    Logged(&'a LogRow),
    /// A step was not taken; the next follows with the next batch.
    Skipped {
        /// The step, counted from 1.
        step: usize,
        /// "loss" or "gradient norm".
        what: &'static str,
        /// The value found.
        value: f64,
        /// The usual value, if this one is a number.
        usual: Option<f64>,
    },
    /// A sample was made.
    Sampled {
        /// Steps taken.
        step: usize,
        /// What the sample continues.
        prompt: &'a str,
        /// Its text, without the prompt.
        text: &'a str,
    },
    /// A checkpoint was written.
    Saved {
        /// Steps taken.
        step: usize,
        /// Its folder.
        checkpoint: &'a Path,
    },
    /// The run is at its end: no more is told.
    Ended {
        /// Steps taken.
        step: usize,
        /// The last validation.
        validation: Option<Validation>,
    },
}

/// The model at some step, for a function that makes text with it.
#[non_exhaustive]
pub struct Snapshot<'a> {
    /// Steps taken.
    pub step: usize,
    /// The model's configuration.
    pub config: &'a ModelConfig,
    /// Its weights, as a checkpoint would hold them.
    pub weights: &'a [NamedTensor],
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Ids to continue; at least one.
    pub prompt: &'a [u32],
    /// Ids to add.
    pub tokens: usize,
    /// Temperature; 0 takes the most likely id.
    pub temperature: f64,
    /// Seed of this sample.
    pub seed: u64,
}

/// Makes a sample's text (without the prompt), or `None` to leave it to the training module.
pub type Sampler<'a> = Box<dyn FnMut(&Snapshot<'_>) -> Option<String> + 'a>;

/// Is told what happens.
pub type Observer<'a> = Box<dyn FnMut(&Event<'_>) + 'a>;

/// What the caller takes part with.
#[non_exhaustive]
pub struct Hooks<'a> {
    /// Set from elsewhere (an interrupt handler): the run saves a checkpoint after the current step and ends.
    pub stop: &'a AtomicBool,
    /// Makes samples faster than the training module can.
    pub sampler: Option<Sampler<'a>>,
    /// Is told what happens.
    pub observer: Option<Observer<'a>>,
}

impl<'a> Hooks<'a> {
    /// A flag to stop by, and nothing else.
    pub fn new(stop: &'a AtomicBool) -> Self {
        Self { stop, sampler: None, observer: None }
    }

    /// Has samples made by `sampler`.
    #[must_use]
    pub fn sampler(mut self, sampler: impl FnMut(&Snapshot<'_>) -> Option<String> + 'a) -> Self {
        self.sampler = Some(Box::new(sampler));
        self
    }

    /// Tells `observer` what happens.
    #[must_use]
    pub fn observer(mut self, observer: impl FnMut(&Event<'_>) + 'a) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    pub(super) fn tell(&mut self, event: &Event<'_>) {
        if let Some(observer) = &mut self.observer {
            observer(event);
        }
    }
}
