//! What the tests of training runs share: a small text and a small run.
#![allow(dead_code)]

pub mod models;

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
    with(TrainOptions::default(), |o| {
        o.recipe = RecipeChoice::Name(recipe.into());
        o.hidden_size = 24;
        o.intermediate_size = 40;
        o.layers = 2;
        o.heads = 4;
        o.kv_heads = 2;
        o.head_dim = 8;
        o.tokenizer = "bytes".into();
        o.context = 48;
        o.batch = 3;
        o.accumulate = 2;
        o.steps = steps;
        o.warmup = 2;
        o.eval_every = 3;
        o.eval_batches = 2;
        o.log_every = 1;
        o.save_every = 2;
        o.keep = 2;
    })
}

/// Options with some of them changed.
pub fn with(mut options: TrainOptions, change: impl FnOnce(&mut TrainOptions)) -> TrainOptions {
    change(&mut options);
    options
}

pub fn job(place: &Place, out: &str, options: TrainOptions) -> TrainJob {
    TrainJob::new(place.text(), place.path(out), options)
}

pub fn run(job: &TrainJob) -> Result<Summary> {
    let stop = AtomicBool::new(false);
    train(job, &mut Hooks::new(&stop))
}

pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
