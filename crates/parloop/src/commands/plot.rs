//! `parloop plot`: the curves of training runs, in a picture or in the terminal.

mod terminal;

use super::output;
use crate::args::numbers::at_least;
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum, ValueHint};
use parloop_eval::report::svg::{self, Series};
use parloop_train::LogRow;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Draw the curves of one or several training runs
///
/// Reads the logs that `parloop train` writes, finished or not. Without --out the curves are drawn in the terminal.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop plot out/plt2                                      loss by step, in the terminal
  parloop plot out/plt2 out/plt3 --out curves.svg            two runs in a picture
  parloop plot out/plt2 out/plt3 --show validation --along tokens --from 100 --out curves.svg")]
pub struct Plot {
    /// Folders of runs, or their train.jsonl
    #[arg(required = true, value_name = "RUN", value_hint = ValueHint::AnyPath)]
    runs: Vec<PathBuf>,
    /// Picture to write, in SVG
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    #[command(flatten)]
    replace: output::Replace,
    /// What to draw
    #[arg(long, value_enum, default_value_t = Show::Loss)]
    show: Show,
    /// What it is drawn against
    #[arg(long, value_enum, default_value_t = Along::Step)]
    along: Along,
    /// First step to draw: the first ones are so high that they hide the rest
    #[arg(long, value_name = "STEP", default_value = "0", value_parser = at_least::<usize, 0>, allow_negative_numbers = true)]
    from: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Show {
    /// Training loss, nats per token
    Loss,
    /// Validation loss, nats per token
    Validation,
    /// Validation loss, bits per byte of text
    Bits,
    /// Learning rate
    Rate,
    /// Norm of the gradient before clipping
    Gradient,
    /// Training tokens a second
    Speed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Along {
    /// Steps taken
    Step,
    /// Training tokens seen
    Tokens,
}

impl Show {
    fn of(self, row: &LogRow) -> Option<f64> {
        match self {
            Self::Loss => Some(row.loss),
            Self::Validation => row.val_loss,
            Self::Bits => row.val_bits_per_byte,
            Self::Rate => Some(row.lr),
            Self::Gradient => Some(row.grad_norm),
            Self::Speed => Some(row.tokens_per_second),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Loss => "training loss (nats per token)",
            Self::Validation => "validation loss (nats per token)",
            Self::Bits => "validation loss (bits per byte)",
            Self::Rate => "learning rate",
            Self::Gradient => "norm of the gradient",
            Self::Speed => "training tokens a second",
        }
    }
}

pub fn plot(args: &Plot) -> Result<()> {
    if let Some(out) = &args.out {
        let logs: Vec<PathBuf> = args.runs.iter().map(|run| log(run)).collect();
        args.replace.file(out, &logs.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
    }
    let mut all = Vec::new();
    for (colour, run) in args.runs.iter().enumerate() {
        let points: Vec<(f64, f64)> = rows(run)?
            .iter()
            .filter(|row| row.step >= args.from)
            .filter_map(|row| {
                let x = if args.along == Along::Step { row.step as f64 } else { row.tokens as f64 };
                args.show.of(row).filter(|y| y.is_finite()).map(|y| (x, y))
            })
            .collect();
        ensure!(
            !points.is_empty(),
            "{} has no {} from step {} on: nothing to draw",
            run.display(),
            args.show.title(),
            args.from
        );
        all.push(Series { name: name(run), colour, points });
    }
    let x = if args.along == Along::Step { "step" } else { "training tokens" };
    let Some(out) = &args.out else {
        let width = console::Term::stdout().size_checked().map_or(80, |(_, columns)| usize::from(columns));
        return Ok(std::io::stdout().write_all(terminal::draw(args.show.title(), x, &all, width).as_bytes())?);
    };
    let picture = svg::alone(&svg::lines(args.show.title(), x, "", &all, None));
    output::write(out, picture.as_bytes())?;
    say!("saved {}", out.display());
    Ok(())
}

/// What tells a run from others: the last part of its path.
fn name(run: &Path) -> String {
    let folder = if run.is_file() { run.parent().unwrap_or(run) } else { run };
    folder.file_name().unwrap_or(run.as_os_str()).to_string_lossy().into_owned()
}

/// Where a run's log is.
fn log(run: &Path) -> PathBuf {
    if run.is_dir() { run.join("train.jsonl") } else { run.to_owned() }
}

/// The lines of a run's log. A last line that is cut is left out: the run may be writing it.
fn rows(run: &Path) -> Result<Vec<LogRow>> {
    let path = log(run);
    let text = super::read_text(&path).with_context(|| format!("{} is no training run", run.display()))?;
    let lines: Vec<&str> = text.lines().collect();
    let mut rows = Vec::with_capacity(lines.len());
    for (i, line) in lines.iter().enumerate() {
        match serde_json::from_str(line) {
            Ok(row) => rows.push(row),
            Err(_) if i + 1 == lines.len() && !text.ends_with('\n') => (),
            Err(e) => {
                let what = parloop_eval::json_error(&e);
                anyhow::bail!("{}, line {}: {what}; expected a line of a training log", path.display(), i + 1)
            }
        }
    }
    Ok(rows)
}
