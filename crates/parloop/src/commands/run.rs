//! `parloop run`: text from a prompt.

mod batch;

use super::write::{End, Written, write};
use super::{Interrupted, chat, engine, plural, print_profile, read_text, state, tokenizer};
use crate::args::machine::{Budget, Machine, Weights};
use crate::args::model::{ChatOptions, Model};
use crate::args::numbers::from_to;
use crate::args::sampling::Sampling;
use crate::args::state::State;
use crate::args::writing::Writing;
use crate::interrupt;
use crate::terminal::aside;
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueHint};
use parloop_engine::Engine;
use parloop_model::{Checkpoint, Tokenizer};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Write text from a prompt, streamed
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop run -p 'ROMEO:'                      the built-in model
  parloop run out/plt2 -p 'Once' -n 200        a model folder
  parloop run OWNER/NAME -p 'Once'             a model that `parloop pull OWNER/NAME` fetched
  echo 'To be' | parloop run --temp 0          prompt from standard input, most likely tokens
  parloop run -p 'HAMLET:' --stop 'KING'       ends before this text
  parloop run -p 'HAMLET:' --passes sequential     loop by loop: the same text, more slowly
  parloop run --prompt-cache state < long.txt   the next run computes only what is new in the text
  parloop run --prompts prompts.jsonl --batch 4 -n 50     a line of JSON for each prompt

Sampling works in this order: penalty, top-k, top-p, min-p, temperature. What is left out comes from the model's
generation_config.json, or else has the default named.

The text goes to standard output, a line of figures to standard error.")]
pub struct Run {
    #[command(flatten)]
    model: Model,
    /// Text to continue; without it, standard input is read. An empty one begins a new text
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// UTF-8 file of the text to continue; - for standard input
    #[arg(short = 'f', long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "prompt")]
    file: Option<PathBuf>,
    /// Do not print the prompt before its continuation
    #[arg(long)]
    no_echo: bool,
    #[command(flatten)]
    writing: Writing,
    /// Continue each prompt of a file: a line holds a JSON string, or an object with "prompt"
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Many prompts",
        conflicts_with_all = ["prompt", "file", "prompt_cache", "load_state", "save_state"])]
    prompts: Option<PathBuf>,
    /// Prompts of the file that are continued together
    #[arg(long, value_name = "N", default_value = "1", value_parser = from_to::<usize, 1, 1024>, allow_negative_numbers = true,
        requires = "prompts", help_heading = "Many prompts")]
    batch: usize,
    /// Put the prompt through the model's chat template, as one turn of a conversation
    #[arg(long, help_heading = "Chat")]
    chat: bool,
    #[command(flatten)]
    template: ChatOptions,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    weights: Weights,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    budget: Budget,
}

pub fn run(args: &Run) -> Result<()> {
    if !args.chat && (args.template.system.is_some() || args.template.template.is_some() || args.template.parse_special)
    {
        bail!("--system, --template and --parse-special belong to a conversation: add --chat");
    }
    if args.prompts.is_none() && args.batch > 1 {
        bail!("--batch belongs to many prompts: add --prompts FILE");
    }
    let checkpoint = args.model.open()?;
    match &args.prompts {
        Some(path) => batch::run(args, &checkpoint, path),
        None => one(args, &checkpoint),
    }
}

/// The ids of a prompt.
fn encode(args: &Run, checkpoint: &Checkpoint, prompt: &str) -> Result<Vec<u32>> {
    match args.chat {
        true => chat::one_turn(checkpoint, &args.template, prompt),
        false => Ok(tokenizer(checkpoint)?.encode(prompt)?),
    }
}

/// The token that a text begins with where there is no prompt.
fn beginning(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<u32> {
    let config = checkpoint.config();
    // Training texts stand one after the other: what ends one begins the next.
    let begin = config.bos_token_id.or_else(|| tokenizer.end_of_text()).or_else(|| config.eos_ids().first().copied());
    begin.context("the prompt is empty, and the model has no token that begins a text: give a text with -p")
}

fn one(args: &Run, checkpoint: &Checkpoint) -> Result<()> {
    let tokenizer = tokenizer(checkpoint)?;
    let prompt = prompt(args)?;
    let mut ids = encode(args, checkpoint, &prompt)?;
    let defaults = &checkpoint.settings().generation;
    let options = args.writing.generation(&args.sampling, defaults, 100);
    options.sampling.validate()?;
    let one_pass = super::in_one_pass(options.passes, &checkpoint.config().recipe)?;
    let mut engine = engine(checkpoint, &args.weights, &args.machine)?;
    let loaded = state::load(&engine, &args.state)?;
    if !loaded.is_empty() && ids.first().is_some_and(|id| checkpoint.config().bos_token_id == Some(*id)) {
        // The text has begun already.
        ids.remove(0);
    }
    if ids.is_empty() && loaded.is_empty() {
        ids.push(beginning(checkpoint, tokenizer)?);
    }
    if !ids.is_empty() {
        checkpoint.config().check_tokens(&ids).context("the prompt cannot be used")?;
    }
    let total = (loaded.len() + ids.len()).saturating_add(options.tokens);
    state::check_budget(&engine, &args.budget, total, &options.prefill)?;
    interrupt::watch()?;
    // An answer begins a text of its own; a continuation keeps the space before its first word.
    let stream =
        if args.chat { tokenizer.stream() } else { tokenizer.stream_after(&[loaded.tokens(), &ids].concat())? };
    let prompt_tokens = ids.len();
    // Whatever is wrong with a state is said before any text is printed.
    let begin = std::time::Instant::now();
    let state::Start { mut sequence, rest, cached } =
        state::begin(&mut engine, &args.state, &args.budget, loaded, ids, &options.prefill)?;
    let begun = sequence.len() + rest.len();
    let before = begin.elapsed();
    let mut out = std::io::stdout().lock();
    let mut print = |text: &str| -> Result<()> {
        if !args.writing.json && !text.is_empty() {
            out.write_all(text.as_bytes())?;
            out.flush()?;
        }
        Ok(())
    };
    if !args.no_echo && !args.chat {
        print(&prompt)?;
    }
    let stops = &args.writing.stop;
    let mut written = write(&mut engine, &mut sequence, &rest, &options, stream, stops, &mut print)?;
    written.prompt += before;
    print("\n")?;
    let missing = written.ids.last().copied().filter(|_| sequence.len() < begun + written.ids.len());
    state::save(&mut engine, &args.state, &mut sequence, missing)?;
    let figures = Figures { prompt_tokens, cached, one_pass, written: &written };
    if args.writing.json {
        writeln!(out, "{}", figures.json(&prompt, &engine))?;
    } else if !args.writing.quiet {
        aside(&figures.line(&engine));
    }
    print_profile(&engine);
    if written.end == End::Interrupted { Err(Interrupted.into()) } else { Ok(()) }
}

fn prompt(args: &Run) -> Result<String> {
    if let Some(prompt) = &args.prompt {
        return Ok(prompt.clone());
    }
    if let Some(path) = &args.file {
        return read_text(path);
    }
    if std::io::stdin().is_terminal() {
        ensure!(args.state.load_state.is_some(), "there is no prompt: give one with -p or -f, or pipe one in");
        return Ok(String::new());
    }
    read_text(Path::new("-"))
}

/// What is told beside the text.
struct Figures<'a> {
    prompt_tokens: usize,
    /// Tokens of the prompt that a file held.
    cached: usize,
    one_pass: bool,
    written: &'a Written,
}

impl Figures<'_> {
    fn line(&self, engine: &Engine) -> String {
        let Self { prompt_tokens, cached, written, .. } = self;
        let loops = engine.model().config().recipe.count;
        let way = match self.one_pass {
            _ if loops == 1 => "1 loop".to_owned(),
            true => format!("{loops} x all loops in one pass"),
            false => format!("{loops} x loop by loop"),
        };
        let known = if *cached > 0 { format!(" ({cached} cached)") } else { String::new() };
        let speed = written.speed().map_or("-".into(), |speed| format!("{speed:.1} tokens/s"));
        format!(
            "[prompt of {prompt_tokens}{known} in {:.0} ms; {} at {speed}; {way}; {}, {}{}]",
            written.prompt.as_secs_f64() * 1e3,
            plural(written.ids.len(), "token", "tokens"),
            plural(engine.threads(), "thread", "threads"),
            engine.isa().name(),
            written.end.words()
        )
    }

    fn json(&self, prompt: &str, engine: &Engine) -> serde_json::Value {
        serde_json::json!({
            "prompt": prompt,
            "text": self.written.text,
            "ids": self.written.ids,
            "finish": self.written.end.name(),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached,
            "prompt_seconds": self.written.prompt.as_secs_f64(),
            "tokens_per_second": self.written.speed(),
            "loops": engine.model().config().recipe.count,
            "one_pass": self.one_pass,
            "threads": engine.threads(),
            "isa": engine.isa().name(),
        })
    }
}
