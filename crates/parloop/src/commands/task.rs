//! `parloop task`: generated reasoning tasks.

use super::output::{Replace, Writing};
use crate::args::numbers::{from_to, seed};
use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueHint};
use parloop_eval::{Split, Task as Kind, items, tasks};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Generate a reasoning task as JSON lines, to train on or to test with
///
/// Tasks: s3, a5, s5 (products of permutations), sums (running sums modulo m), hops (p-hop induction), addition (n numbers),
/// mano (arithmetic in prefix notation), depo (k-th successor), facts (paths of relations). Each line holds `ids`, `targets` (null
/// where nothing is asked) and `levels` (steps into the problem). Which split a problem belongs to is a property of the
/// problem, so splits never overlap, whatever the seeds.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop task s3 --count 50000 --out s3.jsonl                      products of 24 elements, an answer at each
  parloop task s3 --split test --seed 2 --count 500 --out s3-test.jsonl
  parloop task s3 --split longer --count 500                        twice as many elements as in training
  parloop task hops --steps 6 --fillers 2 --sparse                  up to 6 hops, 2 empty tokens before the one answer
  parloop task hops --single                                        the control: one hop

What to do with it:
  parloop train --data s3.jsonl --tokenizer bytes --context 24 --out out/s3
  parloop eval out/s3 --task s3-test.jsonl")]
pub struct Task {
    /// Which task
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(tasks::TASKS.iter().map(|t| t.name)))]
    name: String,
    /// Which problems: train, test (none of which is in train), longer, deeper (harder than both)
    #[arg(long, default_value = "train", value_parser = PossibleValuesParser::new(Split::ALL.map(|s| s.1)))]
    split: String,
    /// Problems
    #[arg(short = 'n', long, value_name = "N", default_value = "1000", value_parser = from_to::<u32, 1, 100_000_000>, allow_negative_numbers = true)]
    count: u32,
    /// Seed; the same seed gives the same problems
    #[arg(long, value_name = "N", default_value = "1", value_parser = seed, allow_negative_numbers = true)]
    seed: u64,
    /// Elements, digits, nodes or entities; the task's own number if left out
    #[arg(long, value_name = "N", value_parser = from_to::<u16, 1, 4096>, allow_negative_numbers = true)]
    length: Option<u16>,
    /// Most hops, operations, successors or numbers, or the modulus of sums; the task's own if left out
    #[arg(long, value_name = "N", value_parser = from_to::<u16, 1, 512>, allow_negative_numbers = true)]
    steps: Option<u16>,
    /// Ask at the last symbol only, not at every one that has an answer
    #[arg(long)]
    sparse: bool,
    /// The single-step control: one hop, one operation
    #[arg(long)]
    single: bool,
    /// Empty symbols before each answer
    #[arg(long, value_name = "N", default_value = "0", value_parser = from_to::<u8, 0, 64>, allow_negative_numbers = true)]
    fillers: u8,
    /// File to write; standard output if left out
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
    #[command(flatten)]
    replace: Replace,
}

pub fn task(args: &Task) -> Result<()> {
    let kind = Kind {
        length: args.length.map_or(0, usize::from),
        steps: args.steps.map_or(0, usize::from),
        sparse: args.sparse,
        single: args.single,
        fillers: args.fillers.into(),
        ..Kind::new(&args.name)
    };
    let split = Split::ALL.into_iter().find(|(_, name)| *name == args.split).map_or(Split::Train, |(split, _)| split);
    // What cannot be is refused before a file is made.
    kind.problem(split, args.seed, 0).map_err(|e| anyhow::anyhow!("--{e}"))?;
    let write = |out: &mut dyn Write| -> Result<()> {
        for number in 0..u64::from(args.count) {
            let item = parloop_eval::Item::Labelled(kind.problem(split, args.seed, number)?);
            items::write(&[item], &mut *out)?;
        }
        Ok(out.flush()?)
    };
    let Some(path) = &args.out else { return write(&mut BufWriter::new(std::io::stdout().lock())) };
    args.replace.file(path, &[])?;
    let mut file = Writing::to(path)?;
    write(&mut file).with_context(|| format!("cannot write {}", path.display()))?;
    file.finish()?;
    let count = super::plural(args.count as usize, "problem", "problems");
    say!("wrote {}: {count} of {}, split {}", path.display(), args.name, args.split);
    Ok(())
}
