//! `parloop run --prompts`: the prompts of a file, several at a time.

use super::super::write::End;
use super::{Run, beginning, encode};
use crate::commands::{Interrupted, bytes, engine, in_one_pass, plural, print_profile, read_text, state, tokenizer};
use crate::interrupt;
use crate::terminal::tell;
use anyhow::{Context, Result, anyhow, ensure};
use parloop_engine::generate::{Continuation, Finish};
use parloop_engine::{Engine, Generation, Sequence};
use parloop_model::Checkpoint;
use parloop_model::tokenizer::TextStream;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// A line of the file.
struct Prompt {
    /// Counted from 1.
    line: usize,
    text: String,
    /// What the line says of itself, to be given back with the answer.
    id: Option<Value>,
    /// Or why it cannot be continued, as a sentence.
    ids: Result<Vec<u32>, String>,
}

impl Prompt {
    /// What is printed for it, with its id.
    fn with(&self, mut answer: Value) -> Value {
        if let (Some(id), Some(object)) = (&self.id, answer.as_object_mut()) {
            object.insert("id".into(), id.clone());
        }
        answer
    }
}

/// A prompt that is being continued.
struct Job<'a> {
    index: usize,
    sequence: Sequence,
    continuation: Continuation<'a>,
    ids: Vec<u32>,
    text: String,
}

pub fn run(args: &Run, checkpoint: &Checkpoint, path: &Path) -> Result<()> {
    let tokenizer = tokenizer(checkpoint)?;
    let prompts = read(args, checkpoint, path)?;
    let options = args.writing.generation(&args.sampling, &checkpoint.settings().generation, 100);
    options.sampling.validate()?;
    in_one_pass(options.passes, &checkpoint.config().recipe)?;
    let mut engine = engine(checkpoint, &args.weights, &args.machine)?;
    let longest = prompts
        .iter()
        .filter_map(|p| Some(p.ids.as_ref().ok()?.len()))
        .max()
        .unwrap_or(0)
        .saturating_add(options.tokens);
    let together = args.batch.min(prompts.len());
    let context = checkpoint.config().max_position_embeddings;
    if let Some(allowed) = args.budget.kv_budget {
        let needed = engine.need(longest.min(context), &options.prefill).state.saturating_mul(together);
        ensure!(
            needed <= allowed,
            "the state of {} at a time may take {}, {} are allowed by --kv-budget: take a smaller --batch, ask for fewer \
             tokens, or allow more",
            plural(together, "prompt", "prompts"),
            bytes(needed),
            bytes(allowed)
        );
    } else {
        state::check_budget(&engine, &args.budget, longest, &options.prefill)?;
    }
    interrupt::watch()?;
    let mut out = std::io::stdout().lock();
    // Answers that came before an earlier prompt's.
    let mut done: Vec<Option<Value>> = prompts.iter().map(|_| None).collect();
    let (mut begun, mut printed, mut failed) = (0, 0, 0);
    let mut jobs: Vec<Job<'_>> = Vec::new();
    while !interrupt::asked() && (begun < prompts.len() || !jobs.is_empty()) {
        while jobs.len() < args.batch && begun < prompts.len() {
            let prompt = &prompts[begun];
            let job = prompt.ids.as_ref().map_err(Clone::clone).and_then(|ids| {
                let stream = if args.chat { Ok(tokenizer.stream()) } else { tokenizer.stream_after(ids) };
                let job = stream
                    .map_err(Into::into)
                    .and_then(|stream| begin(&mut engine, begun, ids, &options, stream, &args.writing.stop));
                job.map_err(|error| format!("{error:#}"))
            });
            match job {
                Ok(job) => jobs.push(job),
                // The others are answered all the same.
                Err(error) => {
                    tell(&format!("error: {} line {}: {error}", path.display(), prompt.line));
                    done[begun] = Some(prompt.with(json!({ "prompt": prompt.text, "error": error })));
                    failed += 1;
                }
            }
            begun += 1;
        }
        let (ended, going): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|job| job.continuation.finish().is_some());
        jobs = going;
        for job in ended {
            let index = job.index;
            done[index] = Some(job.answer(&prompts[index]));
        }
        while let Some(Some(answer)) = done.get_mut(printed).map(Option::take) {
            writeln!(out, "{answer}")?;
            out.flush()?;
            printed += 1;
        }
        step(&mut engine, &mut jobs, &options)?;
    }
    print_profile(&engine);
    if interrupt::asked() {
        return Err(Interrupted.into());
    }
    ensure!(
        failed == 0,
        "{failed} of {} could not be continued, see above",
        plural(prompts.len(), "prompt", "prompts")
    );
    Ok(())
}

/// The lines of the file; each is looked at before the first is worked on. One that holds no prompt is refused with the
/// whole file.
fn read(args: &Run, checkpoint: &Checkpoint, path: &Path) -> Result<Vec<Prompt>> {
    let text = read_text(path)?;
    let mut prompts = Vec::new();
    for (number, line) in (1usize..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let (text, id) = parse(line).with_context(|| format!("{} line {number}", path.display()))?;
        let ids = ids(args, checkpoint, &text).map_err(|error| format!("{error:#}"));
        prompts.push(Prompt { line: number, text, id, ids });
    }
    ensure!(!prompts.is_empty(), "{} holds no prompts: give a JSON string in each line", path.display());
    Ok(prompts)
}

/// The ids of a prompt, at least one, and no more than the context holds.
fn ids(args: &Run, checkpoint: &Checkpoint, text: &str) -> Result<Vec<u32>> {
    let mut ids = encode(args, checkpoint, text)?;
    if ids.is_empty() {
        ids.push(beginning(checkpoint, tokenizer(checkpoint)?)?);
    }
    checkpoint.config().check_tokens(&ids)?;
    Ok(ids)
}

/// The prompt of a line, and its `id` if it has one.
fn parse(line: &str) -> Result<(String, Option<Value>)> {
    let expected = "expected a JSON string, or an object with the text \"prompt\"";
    let value: Value = serde_json::from_str(line)
        .map_err(|e| anyhow!("is not JSON ({}); {expected}", parloop_eval::json_error(&e)))?;
    match value {
        Value::String(text) => Ok((text, None)),
        Value::Object(mut object) => match object.remove("prompt") {
            Some(Value::String(text)) => Ok((text, object.remove("id"))),
            _ => Err(anyhow!("has no text \"prompt\"; {expected}")),
        },
        _ => Err(anyhow!("is JSON of another kind; {expected}")),
    }
}

fn begin<'a>(
    engine: &mut Engine,
    index: usize,
    ids: &[u32],
    options: &Generation,
    stream: TextStream<'a>,
    stops: &[String],
) -> Result<Job<'a>> {
    let model = engine.model().clone();
    // The same seed for each, so that a prompt gives the text that it gives alone.
    let continuation = Continuation::new(&model, ids.iter(), options)?.text(stream).stop(stops.to_vec());
    let mut job = Job { index, sequence: engine.sequence(), continuation, ids: Vec::new(), text: String::new() };
    let logits = engine.prefill(&mut job.sequence, ids, &options.prefill)?;
    job.take(logits, model.config().max_position_embeddings)?;
    Ok(job)
}

/// One token for each.
fn step(engine: &mut Engine, jobs: &mut [Job<'_>], options: &Generation) -> Result<()> {
    let (vocabulary, context) = {
        let config = engine.model().config();
        (config.vocab_size, config.max_position_embeddings)
    };
    let tokens: Vec<u32> = jobs.iter().filter_map(|job| job.continuation.pending()).collect();
    if tokens.is_empty() {
        return Ok(());
    }
    let mut sequences: Vec<&mut Sequence> = jobs.iter_mut().map(|job| &mut job.sequence).collect();
    let logits = engine.step(&mut sequences, &tokens, options.passes)?;
    jobs.iter_mut().zip(logits.chunks(vocabulary)).try_for_each(|(job, logits)| job.take(logits, context))
}

impl Job<'_> {
    /// Goes on by the token that logits give.
    fn take(&mut self, logits: &[f32], context: usize) -> Result<()> {
        if let Some(token) = self.continuation.take(logits)? {
            self.ids.push(token.id);
            self.text += &token.text;
        }
        if self.continuation.finish().is_none() && self.sequence.len() >= context {
            self.continuation.end(Finish::Context)?;
        }
        Ok(())
    }

    fn answer(mut self, prompt: &Prompt) -> Value {
        self.text += &self.continuation.rest();
        let end = self.continuation.finish().map_or(End::Interrupted, End::from);
        prompt.with(json!({
            "prompt": prompt.text,
            "text": self.text,
            "ids": self.ids,
            "finish": end.name(),
        }))
    }
}
