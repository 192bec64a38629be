//! The log `train.jsonl`: one JSON object a line.

use super::board::Board;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LogRow {
    /// Steps taken.
    pub step: usize,
    /// Training loss of this step in nats per token; `null` in the file if it is no number.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Learning rate of this step.
    pub lr: f64,
    /// Global norm of the gradient before clipping; `null` in the file if it is no number.
    #[serde(deserialize_with = "number")]
    pub grad_norm: f64,
    /// Training tokens seen so far.
    pub tokens: u64,
    /// Speed since the line before, training steps only.
    pub tokens_per_second: f64,
    /// Steps skipped so far.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub skipped: usize,
    /// Loops of this step, where their number changes over the run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub loops: Option<usize>,
    /// Learned `hidden_scale` and `embedding_scale` after this step.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub scales: Option<(f32, Option<f32>)>,
    /// Validation loss in nats per token, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub val_loss: Option<f64>,
    /// The same in bits per byte of text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub val_bits_per_byte: Option<f64>,
}

/// JSON has no word for what is no number.
fn number<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// The open log.
pub(super) struct Log {
    file: File,
    path: PathBuf,
    board: Option<Board>,
}

impl Log {
    /// Opens the log for appending. Lines of steps after `step` are dropped: the run will take those steps again.
    /// With `board` TensorBoard's events are written beside it.
    pub(super) fn open(path: &Path, step: usize, board: bool) -> Result<Self> {
        let failed = |e| Error::io("write", path, e);
        if path.exists() {
            let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
            // A new run's place may hold what a run left that was killed early, the last line perhaps cut.
            let is_row = |line: &str| !line.ends_with('\n') || serde_json::from_str::<LogRow>(line).is_ok();
            if step == 0 && !text.split_inclusive('\n').all(is_row) {
                return Err(Error::Foreign { path: path.to_owned() });
            }
            let taken = |line: &&str| serde_json::from_str::<LogRow>(line).is_ok_and(|row| row.step <= step);
            let kept: String = text.lines().filter(taken).map(|line| format!("{line}\n")).collect();
            let aside = path.with_extension("jsonl.tmp");
            fs::write(&aside, kept).and_then(|()| fs::rename(&aside, path)).map_err(failed)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(failed)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let board = board.then(|| Board::open(folder, step)).transpose()?;
        Ok(Self { file, path: path.to_owned(), board })
    }

    pub(super) fn write(&mut self, row: &LogRow) -> Result<()> {
        let mut line = serde_json::to_string(row).unwrap_or_default();
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|e| Error::io("write", &self.path, e))?;
        self.board.as_mut().map_or(Ok(()), |board| board.write(row))
    }
}
