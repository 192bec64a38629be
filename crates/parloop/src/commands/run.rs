//! `parloop run`: text from a prompt.

use super::{checkpoint, engine, print_profile, tokenizer, utf8};
use crate::args::Run;
use anyhow::{Context, Result, bail};
use parloop_engine::generate::Finish;
use parloop_engine::{Generation, Mode, Prefill, generate};
use std::io::{IsTerminal, Read, Write};
use std::time::Instant;

pub fn run(args: &Run) -> Result<()> {
    let checkpoint = checkpoint(&args.model)?;
    let tokenizer = tokenizer(&checkpoint)?;
    let prompt = prompt(args)?;
    let ids = tokenizer.encode(&prompt)?;
    if ids.is_empty() {
        bail!("the prompt is empty: give a text with -p");
    }
    let mut engine = engine(&checkpoint, &args.weights, &args.machine)?;
    let options = Generation {
        tokens: args.tokens,
        sampling: (&args.sampling).into(),
        prefill: Prefill { chunk: args.chunk as usize, ..Prefill::default() },
        mode: args.mode.into(),
        ignore_end: args.ignore_eos,
    };
    options.sampling.validate()?;
    checkpoint.config().check_tokens(&ids).context("the prompt cannot be used")?;
    if let (Some(Mode::OnePass), Some(reason)) = (options.mode, checkpoint.config().recipe.why_not_one_pass()) {
        bail!("--mode one-pass is not possible: {reason}");
    }

    let mut out = std::io::stdout().lock();
    if !args.no_echo {
        write!(out, "{prompt}")?;
        out.flush()?;
    }
    let mut stream = tokenizer.stream();
    let mut failed = None;
    let start = Instant::now();
    let mut first = None;
    let mut count = 0;
    let finish = generate(&mut engine, &ids, &options, |token| {
        first.get_or_insert_with(|| start.elapsed());
        count += 1;
        let text = stream.push(token);
        let mut print = |text: String| write!(out, "{text}").and_then(|()| out.flush());
        failed = text.map_err(anyhow::Error::from).and_then(|t| print(t).map_err(Into::into)).err();
        failed.is_none()
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    writeln!(out, "{}", stream.finish()?)?;
    if !args.quiet {
        let first = first.unwrap_or_default().as_secs_f64();
        let rest = start.elapsed().as_secs_f64() - first;
        let recipe = &checkpoint.config().recipe;
        let mode = match options.mode.unwrap_or(Mode::best(checkpoint.config())) {
            _ if recipe.count == 1 => "1 loop",
            Mode::OnePass => "all loops in one pass",
            Mode::Sequential => "loop by loop",
        };
        let why = match finish {
            Finish::Length | Finish::Stopped => "",
            Finish::End => ", ended by the model",
            Finish::Context => ", the context is full",
        };
        let speed = if count > 1 { format!("{:.1} tokens/s", f64::from(count - 1) / rest) } else { "-".into() };
        eprintln!(
            "[prompt of {} in {:.0} ms; {count} tokens at {speed}; {} x {mode}; {} threads, {}{why}]",
            ids.len(),
            first * 1e3,
            recipe.count,
            engine.threads(),
            engine.isa().name(),
        );
    }
    print_profile(&engine);
    Ok(())
}

fn prompt(args: &Run) -> Result<String> {
    if let Some(prompt) = &args.prompt {
        return Ok(prompt.clone());
    }
    let mut input = std::io::stdin().lock();
    if input.is_terminal() {
        bail!("there is no prompt: give one with -p, or pipe one in");
    }
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    utf8(bytes, "standard input")
}
