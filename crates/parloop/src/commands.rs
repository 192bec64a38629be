//! One file a verb, and what they share.

pub mod bench;
pub mod chat;
pub mod completions;
pub mod convert;
#[cfg(feature = "train")]
pub mod data;
pub mod demo;
pub mod diagnose;
pub mod eval;
pub mod inspect;
pub mod list;
mod machine;
mod output;
pub mod pack;
#[cfg(feature = "train")]
pub mod plot;
#[cfg(feature = "pull")]
pub mod pull;
pub mod quantize;
pub mod rm;
pub mod run;
pub mod score;
#[cfg(feature = "serve")]
pub mod serve;
mod state;
#[cfg(feature = "train")]
pub mod study;
pub mod task;
#[cfg(feature = "train")]
pub mod tokenizer;
#[cfg(feature = "train")]
pub mod train;
mod write;

use crate::args::machine::{Machine, Weights};
use crate::args::{Args, Command};
use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use parloop::builtin;
use parloop_engine::{Engine, Model, Passes, PromptProgress};
use parloop_kernels::{Pool, Projector, WeightType};
use parloop_model::{Checkpoint, Recipe, Tokenizer};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Bytes of a text that a command takes from a file.
const MOST_TEXT: u64 = 1 << 28;

/// Ctrl-C ended the command, which has said so: exit code 130, as shells expect.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// Carries out a command line.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Demo(args) => demo::demo(&args),
        Command::Run(args) => run::run(&args),
        Command::Chat(args) => chat::chat(&args),
        Command::Score(args) => score::score(&args),
        Command::Eval(args) => eval::eval(&args),
        Command::Diagnose(args) => diagnose::diagnose(&args),
        Command::Task(args) => task::task(&args),
        #[cfg(feature = "train")]
        Command::Study(args) => study::study(&args),
        #[cfg(feature = "serve")]
        Command::Serve(args) => serve::serve(&args),
        #[cfg(feature = "train")]
        Command::Data(args) => data::data(&args),
        #[cfg(feature = "train")]
        Command::Tokenizer(args) => tokenizer::tokenizer(&args),
        #[cfg(feature = "train")]
        Command::Train(args) => train::train(&args),
        #[cfg(feature = "train")]
        Command::Plot(args) => plot::plot(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Convert(args) => convert::convert(&args),
        Command::Quantize(args) => quantize::quantize(&args),
        Command::Pack(args) => pack::pack(&args),
        #[cfg(feature = "pull")]
        Command::Pull(args) => pull::pull(&args),
        Command::List(args) => list::list(&args),
        Command::Rm(args) => rm::rm(&args),
        Command::Completions(args) => completions::completions(&args),
    }
}

/// A checkpoint's model, converted to a weight type if one is given; a bar shows longer conversions.
fn load(checkpoint: &Checkpoint, kind: Option<WeightType>, pool: &mut Pool) -> Result<Model> {
    let converts = kind.is_some() || checkpoint.path().is_some_and(Path::is_file);
    let bar = if converts { ProgressBar::new(0).with_message("converting weights") } else { ProgressBar::hidden() };
    let model = Model::load(checkpoint, kind, pool, &mut counted(&bar));
    bar.finish_and_clear();
    Ok(model?)
}

/// Moves a bar whose length is known with the first report.
fn counted(bar: &ProgressBar) -> impl FnMut(usize, usize) {
    move |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    }
}

fn engine(checkpoint: &Checkpoint, weights: &Weights, machine: &Machine) -> Result<Engine> {
    let chosen = machine.chosen()?;
    let mut on = Projector::on(chosen);
    let model = load(checkpoint, weights.weights, &mut on.pool)?;
    let mut engine = Engine::over(Arc::new(model), on);
    engine.set_kv_type(weights.kv);
    engine.on_progress(prompt_bar());
    Ok(engine)
}

/// Shows on a terminal how far a prompt has come, if it takes more than a second.
fn prompt_bar() -> PromptProgress {
    let mut shown: Option<(Instant, Option<ProgressBar>)> = None;
    Box::new(move |done, all| {
        let (start, bar) = shown.get_or_insert_with(|| (Instant::now(), None));
        if done == all {
            bar.iter().for_each(ProgressBar::finish_and_clear);
            shown = None;
        } else if start.elapsed().as_secs_f64() > 1.0 {
            let new = || {
                let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} tokens, {eta} left");
                let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
                ProgressBar::new(all as u64).with_message("prompt").with_style(style)
            };
            bar.get_or_insert_with(new).set_position(done as u64);
        }
    })
}

/// Whether a token takes one pass for all its loops; a recipe that cannot is told so with the flag's name.
fn in_one_pass(passes: Passes, recipe: &Recipe) -> Result<bool> {
    passes.in_one_pass(recipe).map_err(|error| match error {
        parloop_engine::Error::OnePass(why) => {
            anyhow::anyhow!("--passes one is not possible: {why}; take --passes sequential")
        }
        other => other.into(),
    })
}

/// Prints where the time went, if `PARLOOP_PROFILE` asks for it.
fn print_profile(engine: &Engine) {
    if let Some(table) = engine.profile() {
        say!("\n{}", table.to_string().trim_end());
    }
}

fn tokenizer(checkpoint: &Checkpoint) -> Result<&Tokenizer> {
    checkpoint.tokenizer().with_context(|| {
        let name = checkpoint.path().map_or(builtin::NAME.into(), |p| p.display().to_string());
        format!("{name} has no tokenizer, so it cannot take or give text: use `parloop score --ids IDS`")
    })
}

/// A whole UTF-8 file, or a sentence that says where it is not UTF-8. `-` is standard input; a pipe
/// (`<(...)`) may be given; what has no end is
/// read to [`MOST_TEXT`] and refused.
fn read_text(path: &Path) -> Result<String> {
    let (mut bytes, input) = (Vec::new(), path == Path::new("-"));
    let name = if input { "standard input".into() } else { path.display().to_string() };
    let read = match input {
        true => std::io::stdin().lock().take(MOST_TEXT + 1).read_to_end(&mut bytes),
        false => std::fs::File::open(path).and_then(|file| file.take(MOST_TEXT + 1).read_to_end(&mut bytes)),
    };
    read.with_context(|| format!("cannot read {name}"))?;
    let most = self::bytes(MOST_TEXT as usize);
    ensure!(bytes.len() as u64 <= MOST_TEXT, "{name} is longer than {most}: give a shorter text");
    utf8(bytes, &name)
}

/// A text from outside. A byte-order mark at its beginning is no part of it.
fn utf8(bytes: Vec<u8>, name: &str) -> Result<String> {
    let text = String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!("{name} is not UTF-8 text: byte {at} starts no character; convert it to UTF-8 first")
    })?;
    Ok(match text.strip_prefix('\u{FEFF}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// A number of things, by the word for one or that for several.
fn plural(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Bytes as people read them.
fn bytes(n: usize) -> String {
    let n = n as f64;
    match n {
        n if n >= 1e9 => format!("{:.2} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.2} MB", n / 1e6),
        n if n >= 1e4 => format!("{:.1} kB", n / 1e3),
        1.0 => "1 byte".into(),
        n => format!("{n} bytes"),
    }
}
