//! `parloop diagnose`: what each loop of a model does.

use super::{engine, output, plural, read_text, tokenizer};
use crate::args::machine::{Machine, Weights};
use crate::args::model::Model;
use crate::args::numbers::{at_least, token_id};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueHint};
use parloop_eval::diagnose::{self, Attention, Loop};
use parloop_eval::report::svg::{self, Series};
use parloop_eval::{Labelled, items};
use parloop_model::Checkpoint;
use parloop_model::reference::Reference;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Show what each loop of a model does to its state, over a text or a task
///
/// For each loop r: how far the state moves (|step|), whether it goes on in the same direction (cosine of updates), its effective
/// rank, the offset cost of the shift (how far a token's state is from the one before it, which the shift puts in its place),
/// what it changes in the prediction (KL of loop r's from loop r-1's), entropy, loss, and the rank of the next token (of a task:
/// of its targets).
/// --attention adds gates and attention of every layer and head, by the slow reference forward.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop diagnose out/plt3 --text book.txt
  parloop diagnose out/plt3 --text book.txt --tokens 128 --attention
  parloop diagnose out/s3 --task s3-test.jsonl --json
  parloop diagnose out/plt4 --text book.txt --plot gain-cost.svg      output shift against offset cost

States are taken after the final norm; formulas: docs/studies.md.")]
pub struct Diagnose {
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    over: Over,
    /// Tokens at most; the first so many of the text or the task's first items
    #[arg(long, value_name = "N", default_value = "256", value_parser = at_least::<usize, 2>, allow_negative_numbers = true)]
    tokens: usize,
    /// Gates, attention entropy and re-routing by loop, layer and head
    #[arg(long)]
    attention: bool,
    /// Write the gain-cost plot as SVG
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    plot: Option<PathBuf>,
    #[command(flatten)]
    replace: output::Replace,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    weights: Weights,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Over {
    /// UTF-8 text file; - for standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    text: Option<PathBuf>,
    /// Task file; its first item that is long enough
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    task: Option<PathBuf>,
    /// Token ids, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "IDS", value_parser = token_id, allow_negative_numbers = true)]
    ids: Option<Vec<u32>>,
}

#[derive(Serialize)]
struct Output {
    tokens: usize,
    loops: Vec<Loop>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attention: Option<Attention>,
}

pub fn diagnose(args: &Diagnose) -> Result<()> {
    if let Some(path) = &args.plot {
        let read: Vec<&Path> = [&args.over.text, &args.over.task].into_iter().flatten().map(PathBuf::as_path).collect();
        args.replace.file(path, &read)?;
    }
    let checkpoint = args.model.open()?;
    let config = checkpoint.config();
    let mut item = item(args, &checkpoint)?;
    item.ids.truncate(args.tokens.min(config.max_position_embeddings));
    item.targets.truncate(item.ids.len());
    ensure!(item.ids.len() >= 2, "{} token is too few to diagnose: give at least 2", item.ids.len());
    let mut engine = engine(&checkpoint, &args.weights, &args.machine)?;
    let loops = diagnose::loops(&mut engine, &checkpoint, &item)?;
    let attention = match args.attention {
        false => None,
        true => {
            let sizes = [config.recipe.count, config.num_hidden_layers, config.num_attention_heads];
            Some(diagnose::attention(&Reference::new(&checkpoint)?, sizes, &item.ids)?)
        }
    };
    if let Some(path) = &args.plot {
        output::write(path, plot(&loops).as_bytes())?;
    }
    if args.json {
        put!("{}", serde_json::to_string(&Output { tokens: item.ids.len(), loops, attention })?);
        return Ok(());
    }
    put!("{}, over {}\n", config.recipe.describe(), plural(item.ids.len(), "token", "tokens"));
    print(&loops)?;
    attention.iter().try_for_each(print_attention)
}

/// What is asked: each next token of a text, or the targets of a task's item.
fn item(args: &Diagnose, checkpoint: &Checkpoint) -> Result<Labelled> {
    if let Some(ids) = &args.over.ids {
        return Ok(diagnose::text(ids.clone()));
    }
    if let Some(path) = &args.over.task {
        for (i, item) in items::read(path)?.iter().enumerate() {
            let labelled = item.labelled(checkpoint.tokenizer());
            let labelled = labelled.map_err(|e| anyhow::anyhow!("{}: item {}: {e}", path.display(), i + 1))?;
            if let Some(labelled) = labelled.filter(|labelled| labelled.ids.len() >= 2) {
                return Ok(labelled);
            }
        }
        bail!("{}: no item has two tokens and an answer", path.display());
    }
    let path = args.over.text.as_ref().context("give --text, --task or --ids")?;
    Ok(diagnose::text(tokenizer(checkpoint)?.encode(&read_text(path)?)?))
}

fn print(loops: &[Loop]) -> Result<()> {
    put!("loop   |state|    |step|  cosine   rank   offset  /|state|  KL to r-1  entropy    loss  rank of next  first");
    for l in loops {
        let or = |value: Option<f64>, digits: usize| value.map_or("-".into(), |v| format!("{v:.digits$}"));
        put!(
            "{:>4}  {:>8.3}  {:>8}  {:>6}  {:>5.1}  {:>7}  {:>8}  {:>9}  {:>7.3}  {:>6.3}  {:>12.1}  {:>4.1}%",
            l.r,
            l.norm,
            or(l.step, 3),
            or(l.alignment, 3),
            l.effective_rank,
            or(l.offset, 3),
            or(l.offset_share, 3),
            or(l.shift, 4),
            l.entropy,
            l.loss,
            l.rank,
            100.0 * l.top
        );
    }
    Ok(())
}

fn print_attention(all: &Attention) -> Result<()> {
    put!("\nloop  layer  head   gate  entropy  re-routing");
    for (r, layers) in all.entropy.iter().enumerate() {
        for (n, heads) in layers.iter().enumerate() {
            for (h, entropy) in heads.iter().enumerate() {
                let gate = all.gate[r][n][h].map_or("-".into(), |g| format!("{g:.3}"));
                put!("{:>4}  {n:>5}  {h:>4}  {gate:>5}  {entropy:>7.3}  {:>10.3}", r + 1, all.rerouting[r][n][h]);
            }
        }
    }
    put!("\nhead diversity by loop and layer");
    for (r, layers) in all.diversity.iter().enumerate() {
        let cells: Vec<String> = layers.iter().map(|d| format!("{d:.3}")).collect();
        put!("{:>4}  {}", r + 1, cells.join("  "));
    }
    Ok(())
}

/// Output shift against offset cost, a point a loop.
fn plot(loops: &[Loop]) -> String {
    let points = loops.iter().filter_map(|l| Some((l.r, l.offset?, l.shift?)));
    let series: Vec<Series> = points
        .map(|(r, offset, shift)| Series { name: format!("loop {r}"), colour: r, points: vec![(offset, shift)] })
        .collect();
    let svg = svg::lines("gain and cost of each loop", "offset cost", "output shift (KL, nats)", &series, None);
    svg::alone(&svg)
}
