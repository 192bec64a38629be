//! What a study writes down for each run: one JSON object a line, appended as runs finish.

pub mod costs;

use crate::score::Scores;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

/// The name of the file with all results of a study.
pub const RESULTS: &str = "results.jsonl";

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// At its last step.
    #[default]
    Done,
    /// The loss or the gradient stopped being a number; the sentence says when.
    Diverged(String),
}

/// The result of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Format of this object.
    pub format: u32,
    /// The study's name.
    pub study: String,
    /// What the study asks.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub about: String,
    /// The command that does the study, with bare names of files.
    pub command: String,
    /// The run's name in it: task, size, arm and seed.
    pub run: String,
    /// What was learnt: a task's label, or "text".
    pub task: String,
    /// The size's name; empty if the study has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub size: String,
    /// The arm's name.
    pub arm: String,
    /// Seed of weights and order.
    pub seed: u64,
    /// How it ended.
    pub ending: Ending,
    /// R.
    pub loops: usize,
    /// N.
    pub layers: usize,
    /// Parameters of the model.
    pub parameters: u64,
    /// Multiplications and additions of a token's forward pass in matrices: 2 x weights x passes over them.
    pub flops_per_token: u64,
    /// Optimiser steps.
    pub steps: usize,
    /// Training tokens.
    pub tokens: u64,
    /// On text that was not trained on: nats per token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nats: Option<f64>,
    /// The same in bits per byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<f64>,
    /// Scores by split of the task.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub splits: BTreeMap<String, Scores>,
    /// Validation loss over training: steps and nats.
    pub curve: Vec<(usize, f64)>,
    /// Seconds that training steps took, by the run's log, on cores shared with whatever else ran.
    pub seconds: f64,
    /// Most memory of the process that finished the run, in bytes; 0 where the system does not tell.
    pub peak_bytes: u64,
    /// Every training option.
    pub options: Map<String, Value>,
    /// Program and commit.
    pub version: String,
    /// Processor, cores, instruction set.
    pub machine: String,
}

impl Row {
    /// The format that this version writes.
    pub const FORMAT: u32 = 1;

    /// The one number by which arms of a task are compared, its name, and whether less is better.
    pub fn measure(&self) -> Option<Measured> {
        if let Some(nats) = self.nats {
            return Some(Measured { name: "nats per token", value: nats, less_is_better: true });
        }
        let labels = self.splits.get("test")?.labels.as_ref()?;
        Some(Measured { name: "accuracy", value: labels.accuracy, less_is_better: false })
    }
}

/// A number by which arms are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// What it is.
    pub name: &'static str,
    /// The number.
    pub value: f64,
    /// Its direction.
    pub less_is_better: bool,
}

/// Reads results; the last line may be torn (a full disk, a kill), and is left out then.
///
/// # Errors
/// The file cannot be read, or a line before the last is no result of this version.
pub fn read(path: &Path) -> Result<Vec<Row>> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| Error::io("read", path, e))?,
    };
    let mut rows = Vec::new();
    for (i, line) in text.split_inclusive('\n').enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str::<Row>(line) {
            Ok(row) if row.format == Row::FORMAT => rows.push(row),
            _ if !line.ends_with('\n') => {}
            Ok(row) => {
                let message = format!("is a result of format {}, this version knows {}", row.format, Row::FORMAT);
                return Err(Error::line(path, i + 1, message + ": take another folder"));
            }
            Err(e) => {
                return Err(Error::line(
                    path,
                    i + 1,
                    format!("is no result of this version: {}", crate::json_error(&e)),
                ));
            }
        }
    }
    Ok(rows)
}

/// Appends a result; a torn last line is cut off before.
///
/// # Errors
/// The file cannot be written.
pub fn append(path: &Path, row: &Row) -> Result<()> {
    let failed = |e| Error::io("write", path, e);
    let mut file = fs::OpenOptions::new().create(true).read(true).append(true).open(path).map_err(failed)?;
    let kept = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let whole = kept.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    if whole < kept.len() {
        file.set_len(whole as u64).map_err(failed)?;
    }
    let mut line = serde_json::to_string(row).map_err(|e| failed(e.into()))?;
    line.push('\n');
    file.write_all(line.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_left_out_and_then_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(RESULTS);
        let row = |run: &str| Row { format: Row::FORMAT, run: run.into(), ..Row::default() };
        assert!(read(&path).unwrap().is_empty());
        append(&path, &row("a")).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{whole}{{\"format\":1,\"stu")).unwrap();
        assert_eq!(read(&path).unwrap(), [row("a")]);
        append(&path, &row("b")).unwrap();
        assert_eq!(read(&path).unwrap(), [row("a"), row("b")]);
    }

    #[test]
    fn lines_of_other_versions_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(RESULTS);
        append(&path, &Row { format: 2, ..Row::default() }).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("format 2"));
        fs::write(&path, "{}\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 1"));
    }
}
