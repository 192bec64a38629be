//! What each arm of a study costs to run: times and memory, measured in turn.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The name of the file with all costs of a study.
pub const COSTS: &str = "costs.jsonl";

/// The costs of one arm at one task and size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Costs {
    /// The study's name.
    pub study: String,
    /// The task's label.
    pub task: String,
    /// The size's name.
    #[serde(default)]
    pub size: String,
    /// The arm's name.
    pub arm: String,
    /// Bytes of weights that a pass reads.
    pub weight_bytes: u64,
    /// Tokens in the cache when decoding, and of the prompt.
    pub depth: usize,
    /// Seconds of a decoded token, all loops in one pass: median over the rounds; none where the recipe cannot.
    pub one_pass: Option<f64>,
    /// Seconds of a decoded token, loop by loop.
    pub sequential: f64,
    /// Median over the rounds of the time of a token against the first arm's, each in its fastest way.
    pub against_first: f64,
    /// Seconds of a prompt of `depth` tokens.
    pub prefill: f64,
    /// The same against the first arm.
    pub prefill_against_first: f64,
    /// Bytes of keys, values and carried vectors at `depth`.
    pub state_bytes: u64,
    /// Rounds.
    pub rounds: usize,
    /// Program and commit.
    pub version: String,
    /// Processor, cores, instruction set, threads.
    pub machine: String,
}

impl Costs {
    /// Seconds of a token in its fastest way.
    pub fn token(&self) -> f64 {
        self.one_pass.map_or(self.sequential, |one| one.min(self.sequential))
    }
}

/// Reads the costs of a study; none if they were not measured.
///
/// # Errors
/// The file cannot be read, or a line is no such object.
pub fn read(path: &Path) -> Result<Vec<Costs>> {
    let text = match std::fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| Error::io("read", path, e))?,
    };
    let line = |(i, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|e| Error::line(path, i + 1, format!("is no cost of this version: {}", crate::json_error(&e))))
    };
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(line).collect()
}
