//! `parloop train`: a text in, a model out.

mod dry;
mod flags;
mod progress;

use super::output;
use crate::terminal::tell;
use anyhow::{Context, Result};
use clap::Args;
use flags::{Flags, Given};
use parloop_engine::{Engine, Generation, Generator, Model, Passes, Prefill, SampleOptions};
use parloop_model::Checkpoint;
use parloop_train::{Hooks, Snapshot, TrainJob, train as run};
use progress::Progress;
pub use progress::clock;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Train a looped transformer on a text
///
/// Writes checkpoints `OUT/checkpoint-N` that `parloop run OUT` loads, a log `OUT/train.jsonl`, and `OUT/run.jsonl` with everything that shaped the run. Ctrl-C saves a
/// checkpoint after the current step and ends with exit code 130; `--resume` goes on from there and gives the same weights as a run that was never stopped.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop train --data book.txt --out out/plt2                       a PLT-2 of 0.8M parameters, some minutes
  parloop train --data texts/ --out out/plt3 --recipe plt3 --preset small --steps 5000
  parloop train --data book.txt --out out/plt2 --resume              go on after Ctrl-C
  parloop train --data book.txt --out out/plt2 --dry-run             what it would take
  parloop train --data book.txt --out out/plt3 --recipe plt3 --loops-schedule 1:0,2:200,3:500
  parloop train --config run.toml --data book.txt --out out/a --set beta2=0.99

Recipes: vanilla, loopR, loopR-clp, loopR-clp-share, pltR, pltR-query, for any R: loop2, plt2, plt3, ...

Every option may stand in the TOML file, with underscores for dashes; a table [recipe] gives a recipe field by field.
Flags win over --set, --set over the file, the file over the run to be resumed, that over the preset.")]
pub struct Train {
    /// UTF-8 text file or folder of such files; examples or conversations (.jsonl), whose answers count; or a folder that
    /// `parloop data prepare` wrote
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
    /// Say what the run would take (parameters, operations, memory, time by a few steps on random ids) and write nothing
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// Print nothing but errors; the log is written all the same
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    flags: Flags,
}

pub fn train(args: &Train) -> Result<()> {
    output::is_folder(&args.out)?;
    let given = given(args)?;
    given.note().filter(|_| !args.quiet).iter().for_each(|note| tell(&format!("note: {note}")));
    if args.dry_run {
        return dry::run(&given.options()?, &args.data).map_err(|e| e.downcast().map_or_else(|e| e, |e| given.told(e)));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            // Asked twice: the checkpoint is not waited for. Whole checkpoints are never at risk.
            std::process::exit(130);
        }
        say!("\nstopping after this step, with a checkpoint; press Ctrl-C again to stop at once");
    })
    .context("cannot watch for Ctrl-C")?;
    let mut job = TrainJob::new(&args.data, &args.out, given.options()?);
    job.resume = args.resume;
    job.command = std::env::args().collect();
    let mut progress = Progress::default();
    let mut hooks = Hooks::new(&stop).sampler(|snapshot| sample(snapshot).ok());
    if !args.quiet {
        hooks = hooks.observer(move |event| progress.draw(event));
    }
    let summary = run(&job, &mut hooks).map_err(|e| given.told(e))?;
    if summary.tokens_per_second == 0.0 && !summary.stopped {
        say!("nothing to do: {} is at its last step; give a larger --steps to go on", args.out.display());
    } else if !args.quiet {
        let validation = summary.validation.map_or(String::new(), |v| {
            let bytes = v.bits_per_byte.map_or(String::new(), |bits| format!(", {bits:.4} bits per byte"));
            format!("; validation loss {:.4} nats per token{bytes}", v.nats_per_token)
        });
        say!(
            "{} after step {}: loss {:.4}{validation}; {} tokens seen, {:.0} tokens/s",
            if summary.stopped { "stopped" } else { "done" },
            summary.step,
            summary.loss,
            summary.tokens,
            summary.tokens_per_second
        );
        if summary.skipped > 0 {
            let steps = super::plural(summary.skipped as usize, "step was", "steps were");
            say!("{steps} skipped: their loss or gradient was no number, or far too large");
        }
        let again = if summary.stopped { "go on with the same command and --resume, or try it: " } else { "try it: " };
        say!("saved {}; {again}parloop run {} -p 'Once'", summary.checkpoint.display(), args.out.display());
    }
    if summary.stopped { Err(super::Interrupted.into()) } else { Ok(()) }
}

/// Options from preset, the run to be resumed, file, `--set` and flags, the later ones winning.
fn given(args: &Train) -> Result<Given> {
    let mut given = if args.resume { Given::of_run(&args.out)? } else { Given::default() };
    if let Some(path) = &args.config {
        given.file(path)?;
    }
    for pair in &args.set {
        given.pair(pair)?;
    }
    given.flags(&args.flags)?;
    Ok(given)
}

/// A text from the model as it is, written by the engine.
fn sample(snapshot: &Snapshot<'_>) -> Result<String> {
    let tensors = snapshot.weights.iter().map(|t| (t.name.clone(), t.shape.clone(), t.values.as_slice()));
    let checkpoint = Checkpoint::from_f32(snapshot.config.clone(), tensors, Some(snapshot.tokenizer.clone()))?;
    let mut engine = Engine::new(Arc::new(Model::new(&checkpoint)?), None)?;
    let options = Generation {
        tokens: snapshot.tokens,
        sampling: SampleOptions {
            temperature: snapshot.temperature as f32,
            seed: snapshot.seed,
            ..SampleOptions::default()
        },
        prefill: Prefill::default(),
        passes: Passes::Auto,
        ignore_end: true,
    };
    let mut sequence = engine.sequence();
    let tokens = Generator::new(&mut engine, &mut sequence, snapshot.prompt, &options)?;
    let ids = tokens.map(|token| Ok(token?.id)).collect::<Result<Vec<u32>>>()?;
    Ok(snapshot.tokenizer.decode(&ids)?)
}
