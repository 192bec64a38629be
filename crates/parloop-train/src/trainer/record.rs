//! `run.jsonl`: a line for each start of a run with everything that shaped it from there on.

use super::TrainJob;
use crate::data::{Feed, tokenizer_hash};
use crate::{Error, Result};
use parloop_model::{ModelConfig, Tokenizer};
use std::fs::OpenOptions;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Appends a line for a run that has taken `step` steps.
pub(super) fn write(
    job: &TrainJob,
    step: usize,
    feed: &Feed,
    tokenizer: &Tokenizer,
    config: &ModelConfig,
) -> Result<()> {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let (train, validation) = feed.tokens();
    let record = serde_json::json!({
        "started": started,
        "step": step,
        "version": env!("CARGO_PKG_VERSION"),
        "command": job.command,
        "machine": { "arch": std::env::consts::ARCH, "os": std::env::consts::OS, "threads": rayon::current_num_threads() },
        "data": {
            "path": job.data.display().to_string(),
            "content": format!("{:016x}", feed.content()),
            "train_tokens": train,
            "validation_tokens": validation,
        },
        "tokenizer": { "ids": tokenizer.vocab_size(), "hash": format!("{:016x}", tokenizer_hash(tokenizer)) },
        "parameters": parloop_model::tensors::parameters(config),
        "recipe": config.recipe.describe(),
        "options": job.options,
    });
    let path = job.out.join("run.jsonl");
    let append =
        || OpenOptions::new().create(true).append(true).open(&path)?.write_all(format!("{record}\n").as_bytes());
    append().map_err(|e| Error::io("write", &path, e))
}
