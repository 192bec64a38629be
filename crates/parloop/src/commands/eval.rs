//! `parloop eval`: how many items of a task a model gets right, and how well it predicts a text.

use super::{engine, plural, print_profile, read_text, tokenizer};
use crate::args::machine::{Machine, Weights};
use crate::args::model::Model;
use crate::args::numbers::at_least;
use anyhow::{Result, ensure};
use clap::{Args, ValueHint};
use parloop_eval::score::Scores;
use parloop_eval::{items, perplexity, score};
use parloop_model::Checkpoint;
use std::path::{Path, PathBuf};

/// Score a model on a task or a text
///
/// A task is a file of JSON lines, of which each asks something: an answer, a choice, or ids after others. `parloop task`
/// generates tasks.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("over").args(["task", "text"]).required(true).multiple(true))]
#[command(after_help = "Lines of a task, which may be mixed:
  {\"prompt\": \"2+2=\", \"answer\": \"4\"}   would greedy writing give the answer?
  {\"prompt\": \"The sky is\", \"choices\": [\" blue\", \" green\"], \"label\": 0}   is the right choice the most likely?
  {\"ids\": [3, 1], \"targets\": [null, 2]}   is the target the most likely id after its position?

An item may have a `level` (labelled ids: `levels`, one for each id); accuracy is then told by level too.

Examples:
  parloop eval out/plt2 --task questions.jsonl
  parloop eval out/plt2 --task s3-test.jsonl --json
  parloop eval out/plt2 --text book.txt --stride 128            nats per token, bits per byte
  parloop eval out/plt2 --text book.txt --weights q4 --against out/plt2    and the distance from the unconverted model")]
pub struct Eval {
    #[command(flatten)]
    model: Model,
    /// Task file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    task: Vec<PathBuf>,
    /// UTF-8 text file; - for standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    text: Option<PathBuf>,
    /// Tokens by which a window of the text moves on; half the context if left out
    #[arg(long, value_name = "N", value_parser = at_least::<usize, 1>, allow_negative_numbers = true)]
    stride: Option<usize>,
    /// Another model with the same tokenizer: its distributions over the text are compared with this one's
    #[arg(long, value_name = "MODEL", requires = "text")]
    against: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    weights: Weights,
    #[command(flatten)]
    machine: Machine,
}

pub fn eval(args: &Eval) -> Result<()> {
    let checkpoint = args.model.open()?;
    // Files are read before a model is loaded, so that what is wrong with them is told at once.
    let tasks = args.task.iter().map(|path| Ok((path, items::read(path)?))).collect::<Result<Vec<_>>>()?;
    let text = args.text.as_ref().map(|path| read_text(path)).transpose()?;
    let mut engine = engine(&checkpoint, &args.weights, &args.machine)?;
    let mut found = serde_json::Map::new();
    for (path, items) in &tasks {
        let scores = score::score(&mut engine, path, items)?;
        if !args.json {
            print(path, &scores)?;
        }
        found.insert(path.display().to_string(), serde_json::to_value(&scores)?);
    }
    if let Some(text) = text {
        let tokens = tokenizer(&checkpoint)?.encode(&text)?;
        let context = checkpoint.config().max_position_embeddings;
        let stride = args.stride.unwrap_or(context.div_ceil(2));
        ensure!(stride <= context, "--stride is {stride}, expected at most the context of {context} tokens");
        let mut other = args.against.as_deref().map(|path| against(args, path, &text, &tokens, context)).transpose()?;
        let p = perplexity::perplexity(&mut engine, &tokens, text.len(), context, stride, other.as_mut())?;
        if !args.json {
            put!(
                "{}: {:.4} nats per token, perplexity {:.3}, {:.4} bits per byte",
                plural(p.tokens, "token", "tokens"),
                p.nats_per_token,
                p.perplexity,
                p.bits_per_byte
            );
            if let (Some(kl), Some(same)) = (p.kl, p.same_choice) {
                put!("against the other model: KL {kl:.6} nats, same most likely token {:.2} %", 100.0 * same);
            }
        }
        found.insert("text".into(), serde_json::to_value(p)?);
    }
    if args.json {
        put!("{}", serde_json::Value::Object(found));
    }
    print_profile(&engine);
    Ok(())
}

/// The other model, in its own weight type. Its predictions are compared token by token, so it must read the text as the
/// same tokens and in windows of the same context.
fn against(args: &Eval, path: &Path, text: &str, tokens: &[u32], context: usize) -> Result<parloop_engine::Engine> {
    let model = Model { model: Some(path.to_owned()), ignored: args.model.ignored.clone() };
    let checkpoint: Checkpoint = model.open()?;
    ensure!(
        tokenizer(&checkpoint)?.encode(text)? == tokens,
        "--against {}: its tokenizer makes other tokens of the text; only models with the same tokenizer can be compared",
        path.display()
    );
    let held = checkpoint.config().max_position_embeddings;
    ensure!(
        held >= context,
        "--against {}: its context is {held} tokens, the model's is {context}; name the one of the smaller context first",
        path.display()
    );
    super::engine(&checkpoint, &Weights { weights: None, kv: args.weights.kv }, &args.machine)
}

fn print(path: &Path, scores: &Scores) -> Result<()> {
    put!("{}", path.display());
    if let Some(labels) = &scores.labels {
        put!(
            "  {}: {:.2} % wholly right; {}: {:.2} % right, {:.4} nats",
            plural(labels.items, "item", "items"),
            100.0 * labels.exact,
            plural(labels.targets, "target", "targets"),
            100.0 * labels.accuracy,
            labels.loss
        );
        if labels.levels.len() > 1 {
            let cells = labels.levels.iter().map(|(level, (_, right))| format!("{level}: {:.1}", 100.0 * right));
            put!("  by level, %:  {}", cells.collect::<Vec<_>>().join("  "));
        }
    }
    if let Some(choices) = &scores.choices {
        put!(
            "  {}: {:.2} % right, {:.2} % by log-probability per byte (guessing: {:.2} %)",
            plural(choices.items, "choice", "choices"),
            100.0 * choices.accuracy,
            100.0 * choices.accuracy_by_byte,
            100.0 * choices.chance
        );
    }
    Ok(())
}
