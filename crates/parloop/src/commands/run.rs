//! `parloop run`: text from a prompt.

use super::{chat, checkpoint, engine, print_profile, state, tokenizer, utf8};
use crate::args::Run;
use anyhow::{Context, Result, bail};
use parloop_engine::generate::Finish;
use parloop_engine::{Generation, Prefill, continue_from};
use std::io::{IsTerminal, Read, Write};
use std::time::Instant;

pub fn run(args: &Run) -> Result<()> {
    let checkpoint = checkpoint(&args.model)?;
    let tokenizer = tokenizer(&checkpoint)?;
    let prompt = prompt(args)?;
    let mut ids = if args.chat {
        chat::one_turn(&checkpoint, &args.template, &prompt)?
    } else if args.template.system.is_some() || args.template.template.is_some() {
        bail!("--system and --template belong to a conversation: add --chat");
    } else {
        tokenizer.encode(&prompt)?
    };
    if ids.is_empty() && args.state.load_state.is_none() {
        bail!("the prompt is empty: give a text with -p");
    }
    let mut engine = engine(&checkpoint, &args.weights, &args.machine)?;
    let loaded = state::load(&engine, &args.state)?;
    if !loaded.is_empty() && ids.first().is_some_and(|id| checkpoint.config().bos_token_id == Some(*id)) {
        // The text has begun already.
        ids.remove(0);
    }
    let defaults = &checkpoint.settings().generation;
    let options = Generation {
        tokens: args.tokens.or(defaults.max_new_tokens).unwrap_or(100),
        sampling: args.sampling.options(defaults),
        prefill: Prefill { chunk: args.chunk as usize, ..Prefill::default() },
        passes: args.passes,
        ignore_end: args.ignore_eos,
    };
    options.sampling.validate()?;
    if !ids.is_empty() {
        checkpoint.config().check_tokens(&ids).context("the prompt cannot be used")?;
    }
    let total = (loaded.len() + ids.len()).saturating_add(options.tokens);
    state::check_budget(&engine, &args.state, total, &options.prefill)?;
    let one_pass = super::in_one_pass(options.passes, &checkpoint.config().recipe)?;

    let mut out = std::io::stdout().lock();
    let echo = !args.no_echo && !args.chat;
    if echo {
        write!(out, "{prompt}")?;
        out.flush()?;
    }
    // An answer begins a text of its own; a continuation keeps the space before its first word.
    let mut stream =
        if args.chat { tokenizer.stream() } else { tokenizer.stream_after(&[loaded.tokens(), &ids].concat())? };
    let mut failed = None;
    let start = Instant::now();
    let (mut first, mut last, mut newest) = (None, start.elapsed(), None);
    let mut count = 0;
    let prompt_tokens = ids.len();
    let state::Start { mut sequence, rest, cached } =
        state::begin(&mut engine, &args.state, loaded, ids, &options.prefill)?;
    let begun = sequence.len() + rest.len();
    let finish = continue_from(&mut engine, &mut sequence, &rest, &options, |token| {
        last = start.elapsed();
        first.get_or_insert(last);
        newest = Some(token);
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
    let missing = newest.filter(|_| sequence.len() < begun + count);
    state::save(&mut engine, &args.state, &mut sequence, missing)?;
    if !args.quiet {
        let first = first.unwrap_or_default().as_secs_f64();
        let rest = last.as_secs_f64() - first;
        let recipe = &checkpoint.config().recipe;
        let way = match one_pass {
            _ if recipe.count == 1 => "1 loop",
            true => "all loops in one pass",
            false => "loop by loop",
        };
        let why = match finish {
            Finish::Length | Finish::Stopped => "",
            Finish::End => ", ended by the model",
            Finish::Context => ", the context is full",
        };
        let speed = if count > 1 { format!("{:.1} tokens/s", (count - 1) as f64 / rest) } else { "-".into() };
        let known = if cached > 0 { format!(" ({cached} cached)") } else { String::new() };
        eprintln!(
            "[prompt of {prompt_tokens}{known} in {:.0} ms; {count} tokens at {speed}; {} x {way}; {} threads, {}{why}]",
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
    if input.is_terminal() && args.state.load_state.is_some() {
        return Ok(String::new());
    }
    if input.is_terminal() {
        bail!("there is no prompt: give one with -p, or pipe one in");
    }
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes)?;
    utf8(bytes, "standard input")
}
