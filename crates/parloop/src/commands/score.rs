//! `parloop score`: log-probabilities of a given text, as JSON.

use super::{engine, print_profile, read_text, tokenizer};
use crate::args::machine::{Machine, Weights};
use crate::args::model::Model;
use crate::args::numbers::{at_least, token_id};
use anyhow::{Result, bail, ensure};
use clap::{Args, ValueHint};
use parloop_engine::{Engine, Passes, Score as Scored, score as engine_score};
use parloop_eval::windows;
use parloop_model::reference::Reference;
use parloop_model::{Checkpoint, Tokenizer};
use serde::Serialize;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

/// Print log-probabilities, loss and logits of a given text as JSON
///
/// Prints one JSON object: `tokens`, `logprobs` (natural logarithm of the probability of each token but the first),
/// `loss` (their negated mean, in nats; null for a single token) and, with --texts, the `texts` of the tokens, with
/// --logits the matrix `logits` [tokens][vocabulary].
///
/// A text that is longer than the model's context is scored in windows of the context: each takes over the last part of
/// the one before it as what its tokens are given, and scores the rest.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop score out/plt2 --text 'To be, or not to be'
  parloop score out/plt2 -f book.txt --stride 128
  cat book.txt | parloop score out/plt2 -f - --texts
  parloop score tests/goldens/plt2 --ids 5,3,9 --passes one --logits

Ways to pass (all but reference give the same numbers to the last bit):
  auto         in pieces of the usual size (the default)
  chunked:K    in pieces of K tokens
  one          token by token, all loops in one pass; refused for recipes that cannot
  sequential   token by token, loop by loop
  reference    the slow scalar forward in f32 that reads like the mathematics; takes no --weights")]
pub struct Score {
    #[command(flatten)]
    model: Model,
    #[command(flatten)]
    source: Source,
    /// How the tokens go through the model: auto, chunked:K, one, sequential, reference
    #[arg(long, value_name = "WAY", default_value = "auto", value_parser = forward)]
    passes: Forward,
    /// Tokens by which a window moves on where the text is longer than the context; half the context if left out
    #[arg(long, value_name = "N", value_parser = at_least::<usize, 1>, allow_negative_numbers = true)]
    stride: Option<usize>,
    /// Print the text of every token
    #[arg(long)]
    texts: bool,
    /// Print the logits of every position; the text must fit in the context
    #[arg(long)]
    logits: bool,
    /// JSON is what is printed anyway
    #[arg(long, hide = true)]
    json: bool,
    #[command(flatten)]
    weights: Weights,
    #[command(flatten)]
    machine: Machine,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// Token ids, separated by commas
    #[arg(long, alias = "tokens", value_delimiter = ',', value_name = "IDS", value_parser = token_id, allow_negative_numbers = true)]
    ids: Option<Vec<u32>>,
    /// A text
    #[arg(short = 'p', long)]
    text: Option<String>,
    /// A UTF-8 text file; - for standard input
    #[arg(short = 'f', long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    file: Option<PathBuf>,
}

impl Source {
    fn tokens(&self, checkpoint: &Checkpoint) -> Result<Vec<u32>> {
        Ok(match (&self.ids, &self.text, &self.file) {
            (Some(ids), _, _) => ids.clone(),
            (_, Some(text), _) => tokenizer(checkpoint)?.encode(text)?,
            (_, _, Some(path)) => tokenizer(checkpoint)?.encode(&read_text(path)?)?,
            _ => bail!("nothing to score: give --ids, --text or --file"),
        })
    }
}

/// What computes the score of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forward {
    /// The scalar reference forward.
    Reference,
    /// The engine.
    Engine(Passes),
}

fn forward(text: &str) -> Result<Forward, String> {
    match (text, text.parse()) {
        ("reference", _) => Ok(Forward::Reference),
        (_, Ok(passes)) => Ok(Forward::Engine(passes)),
        _ => Err("expected auto, one, sequential, chunked:K (K at least 1) or reference".into()),
    }
}

#[derive(Serialize)]
struct Output {
    tokens: Vec<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    texts: Option<Vec<String>>,
    logprobs: Vec<f32>,
    loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<Vec<Vec<f32>>>,
}

pub fn score(args: &Score) -> Result<()> {
    let checkpoint = args.model.open()?;
    let config = checkpoint.config();
    let tokens = args.source.tokens(&checkpoint)?;
    let context = config.max_position_embeddings;
    let stride = args.stride.unwrap_or(context.div_ceil(2));
    ensure!(stride <= context, "--stride is {stride}, expected at most the context of {context} tokens");
    let windows = windows(tokens.len(), context, stride);
    if args.logits || args.passes == Forward::Reference || tokens.is_empty() {
        // What is held for each position, or computed so slowly, is not for long texts.
        config.check_tokens(&tokens)?;
    }
    let mut with = Compute::new(args, &checkpoint)?;
    let mut all = Scored::default();
    for window in &windows {
        let part = &tokens[window.start..window.end];
        config.check_tokens(part)?;
        let scored = with.score(part, args.logits)?;
        all.logprobs.extend(&scored.logprobs[window.known..]);
        all.logits.extend(scored.logits);
    }
    with.finish();
    let result = all.finish();
    if result.logprobs.iter().any(|l| l.is_nan()) {
        bail!("the model gave logits that are not numbers: its weights are broken");
    }
    let texts = args.texts.then(|| texts(tokenizer(&checkpoint)?, &tokens)).transpose()?;
    let output = Output {
        loss: (!result.logprobs.is_empty()).then_some(result.loss),
        logprobs: result.logprobs,
        logits: args.logits.then_some(result.logits),
        texts,
        tokens,
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    serde_json::to_writer(&mut out, &output)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// The text of each token as a stream shows it: joined they are the whole text.
fn texts(tokenizer: &Tokenizer, tokens: &[u32]) -> Result<Vec<String>> {
    let mut stream = tokenizer.stream();
    let mut texts = tokens.iter().map(|id| Ok(stream.push(*id)?)).collect::<Result<Vec<String>>>()?;
    let rest = stream.finish()?;
    if let Some(last) = texts.last_mut() {
        last.push_str(&rest);
    }
    Ok(texts)
}

/// What scores.
enum Compute {
    Reference(Box<Reference>),
    Engine(Box<Engine>, Passes),
}

impl Compute {
    fn new(args: &Score, checkpoint: &Checkpoint) -> Result<Self> {
        Ok(match args.passes {
            Forward::Reference => {
                ensure!(args.weights.weights.is_none(), "--weights is not used with --passes reference: leave it out");
                Self::Reference(Box::new(Reference::new(checkpoint)?))
            }
            Forward::Engine(passes) => {
                super::in_one_pass(passes, &checkpoint.config().recipe)?;
                Self::Engine(Box::new(engine(checkpoint, &args.weights, &args.machine)?), passes)
            }
        })
    }

    fn score(&mut self, tokens: &[u32], logits: bool) -> Result<Scored> {
        match self {
            Self::Reference(reference) => {
                let mut scored = Scored::default();
                let output = reference.forward(tokens)?;
                output.logits.iter().enumerate().for_each(|(t, l)| scored.take(tokens, t, l, logits));
                Ok(scored)
            }
            Self::Engine(engine, passes) => Ok(engine_score(engine, tokens, *passes, logits, None)?),
        }
    }

    fn finish(&self) {
        if let Self::Engine(engine, _) = self {
            print_profile(engine);
        }
    }
}
