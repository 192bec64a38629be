//! `parloop train`: a text in, a model out.

use anyhow::{Context, Result, anyhow};
use clap::Args;
use parloop_engine::{Engine, Generation, Model, Passes, Prefill, SampleOptions, generate};
use parloop_model::Checkpoint;
use parloop_train::{Hooks, Snapshot, TrainJob, TrainOptions, train as run};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Train a looped transformer on a text
///
/// Writes checkpoints `OUT/checkpoint-N` that `parloop run OUT` loads, and a log `OUT/train.jsonl`. Ctrl-C saves a
/// checkpoint after the current step and ends with exit code 130; `--resume` goes on from there and gives the same weights as a run that was never stopped.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop train --data book.txt --out out/plt2                       a PLT-2 of 0.8M parameters, some minutes
  parloop train --data texts/ --out out/plt3 --recipe plt3 --preset small --steps 5000
  parloop train --data book.txt --out out/plt2 --resume              go on after Ctrl-C
  parloop train --config run.toml --data book.txt --out out/a --set beta2=0.99

Recipes: vanilla, loopR, loopR-clp, loopR-clp-share, pltR, pltR-query, for any R: loop2, plt2, plt3, ...
Every option may stand in the TOML file, with underscores for dashes; a table [recipe] gives a recipe field by field.
Flags win over the file, the file over the preset.")]
pub struct Train {
    /// UTF-8 text file, or folder of such files
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Folder for checkpoints and log; created if needed
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Go on from the newest checkpoint in OUT, with its options unless flags change them
    #[arg(long)]
    resume: bool,
    /// TOML file with options
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Any option by its TOML name, for example --set beta2=0.99; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print nothing but errors; the log is written all the same
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    options: Options,
}

/// Defines the flags that set an option of the same name.
macro_rules! options {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        /// Options that have a flag of their own.
        #[derive(Debug, Args)]
        #[command(next_help_heading = "Options of the run (defaults come from the preset)")]
        struct Options { $($(#[$doc])* #[arg(long)] $name: Option<$type>,)* }

        impl Options {
            /// The flags given, by the options' TOML names.
            fn given(&self) -> Vec<(&'static str, toml::Value)> {
                let mut given = Vec::new();
                $(if let Some(value) = &self.$name {
                    given.push((stringify!($name), toml::Value::from(value.clone())));
                })*
                given
            }
        }
    };
}

options! {
    /// Named set of options: tiny (0.8M parameters), small (2.8M), medium (32M)
    preset: String,
    /// Loop recipe, for example vanilla, loop2, plt2, plt3
    recipe: String,
    /// Width of the residual stream
    hidden_size: u32,
    /// Width of the feed-forward
    intermediate_size: u32,
    /// Physical layers
    layers: u32,
    /// Query heads
    heads: u32,
    /// Key/value heads
    kv_heads: u32,
    /// Size of a head
    head_dim: u32,
    /// Use the embedding as the head
    tie_embeddings: bool,
    /// bytes, bpe (trained on the text), or the path of a tokenizer.json
    tokenizer: String,
    /// Ids of a bpe tokenizer
    vocab_size: u32,
    /// Tokens of a training sequence
    context: u32,
    /// Sequences computed at once
    batch: u32,
    /// Batches whose gradients are added up before a step
    accumulate: u32,
    /// Optimiser steps
    steps: u32,
    /// Highest learning rate
    lr: f64,
    /// Steps of linear warm-up
    warmup: u32,
    /// Weight decay of matrices
    weight_decay: f64,
    /// Largest global gradient norm; 0 does not clip
    clip: f64,
    /// Seed of weights, data order and samples
    seed: u32,
    /// Share of the text, at its end, kept for validation
    val_fraction: f64,
    /// Steps between validations
    eval_every: u32,
    /// Steps between progress lines
    log_every: u32,
    /// Steps between checkpoints
    save_every: u32,
    /// Checkpoints kept
    keep: u32,
    /// Steps between text samples; 0 for none
    sample_every: u32,
    /// Text that samples continue
    sample_prompt: String,
    /// Where to compute: cpu, or cuda, wgpu, metal in builds with that feature
    device: String,
}

pub fn train(args: &Train) -> Result<()> {
    let options = options(args)?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            // Asked twice: the checkpoint is not waited for. Whole checkpoints are never at risk.
            std::process::exit(130);
        }
        eprintln!("\nstopping after this step, with a checkpoint; press Ctrl-C again to stop at once");
    })
    .context("cannot watch for Ctrl-C")?;
    let job = TrainJob { data: args.data.clone(), out: args.out.clone(), resume: args.resume, options };
    let seed = u64::from(args.options.seed.unwrap_or(0));
    let sampler = Box::new(move |snapshot: &Snapshot<'_>| sample(snapshot, seed).ok());
    let mut hooks = Hooks { stop: &stop, sampler: Some(sampler), quiet: args.quiet };
    let summary = run(&job, &mut hooks)?;
    if summary.tokens_per_second == 0.0 && !summary.stopped {
        eprintln!("nothing to do: {} is at its last step; give a larger --steps to go on", args.out.display());
    } else if !args.quiet {
        let validation = summary.validation.map_or(String::new(), |v| {
            format!("; validation loss {:.4} nats per token, {:.4} bits per byte", v.nats_per_token, v.bits_per_byte)
        });
        eprintln!(
            "{} after step {}: loss {:.4}{validation}; {} tokens seen, {:.0} tokens/s",
            if summary.stopped { "stopped" } else { "done" },
            summary.step,
            summary.loss,
            summary.tokens,
            summary.tokens_per_second
        );
        let again = if summary.stopped { "go on with the same command and --resume, or try it: " } else { "try it: " };
        eprintln!("saved {}; {again}parloop run {} -p 'Once'", summary.checkpoint.display(), args.out.display());
    }
    if summary.stopped { Err(super::Interrupted.into()) } else { Ok(()) }
}

/// Options from preset, file (or the run to be resumed) and flags, the later ones winning.
fn options(args: &Train) -> Result<TrainOptions> {
    let mut table = match &args.config {
        Some(path) => {
            let parsed = super::read_text(path)?.parse::<toml::Table>();
            parsed.map_err(|e| anyhow!("{} is not TOML: {e}", path.display()))?
        }
        None if args.resume => TrainOptions::of_run(&args.out)?.to_toml().parse::<toml::Table>()?,
        None => toml::Table::new(),
    };
    for pair in &args.set {
        let (key, value) =
            pair.split_once('=').ok_or_else(|| anyhow!("--set {pair} has no '='; expected --set KEY=VALUE"))?;
        let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("v"));
        // What is no TOML number, boolean or table is a plain word.
        table.insert(key.trim().into(), parsed.unwrap_or_else(|| toml::Value::from(value)));
    }
    table.extend(args.options.given().into_iter().map(|(key, value)| (key.to_owned(), value)));
    Ok(TrainOptions::from_toml(&table.to_string())?)
}

/// A text from the model as it is, written by the engine.
fn sample(snapshot: &Snapshot<'_>, seed: u64) -> Result<String> {
    let tensors = snapshot.weights.iter().map(|t| (t.name.clone(), t.shape.clone(), t.values.as_slice()));
    let checkpoint = Checkpoint::from_f32(snapshot.config.clone(), tensors, Some(snapshot.tokenizer.clone()))?;
    let mut engine = Engine::new(Arc::new(Model::new(&checkpoint)?), None)?;
    let options = Generation {
        tokens: snapshot.tokens,
        sampling: SampleOptions { temperature: snapshot.temperature as f32, seed, ..SampleOptions::default() },
        prefill: Prefill::default(),
        passes: Passes::Auto,
        ignore_end: true,
    };
    let mut ids = Vec::new();
    generate(&mut engine, snapshot.prompt, &options, |token| {
        ids.push(token);
        true
    })?;
    Ok(snapshot.tokenizer.decode(&ids)?)
}
