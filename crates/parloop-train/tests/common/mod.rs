//! What the tests of training runs share: a small text and a small run.
#![allow(dead_code)]

use parloop_train::{Hooks, RecipeChoice, Result, Summary, TrainJob, TrainOptions, train};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// A folder that is removed at the end, with a text in it.
pub struct Place {
    pub folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        let words = ["loop", "token", "gate", "window", "carried", "row", "pass", "ring"];
        let text: String =
            (0..3000usize).map(|i| format!("{} {}\n", words[i * i % 8], words[(i * 5 + 3) % 8])).collect();
        std::fs::write(place.text(), text).unwrap();
        place
    }

    pub fn text(&self) -> PathBuf {
        self.folder.path().join("text.txt")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A model of a few thousand weights that trains in well under a second.
pub fn small(recipe: &str, steps: usize) -> TrainOptions {
    TrainOptions {
        recipe: RecipeChoice::Name(recipe.into()),
        hidden_size: 24,
        intermediate_size: 40,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        tokenizer: "bytes".into(),
        context: 48,
        batch: 3,
        accumulate: 2,
        steps,
        warmup: 2,
        eval_every: 3,
        eval_batches: 2,
        log_every: 1,
        save_every: 2,
        keep: 2,
        ..TrainOptions::default()
    }
}

pub fn job(place: &Place, out: &str, options: TrainOptions) -> TrainJob {
    TrainJob { data: place.text(), out: place.path(out), resume: false, options }
}

pub fn run(job: &TrainJob) -> Result<Summary> {
    let stop = AtomicBool::new(false);
    train(job, &mut Hooks { stop: &stop, sampler: None, quiet: true })
}

pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
