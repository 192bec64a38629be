//! `parloop score`: log-probabilities of a given text, as JSON.

use super::{checkpoint, engine, print_profile, read_text, tokenizer};
use crate::args::{Forward, Score as Args};
use anyhow::{Result, bail, ensure};
use parloop_engine::{Score, score as engine_score};
use parloop_model::reference::Reference;
use serde::Serialize;
use std::io::{BufWriter, Write};

#[derive(Serialize)]
struct Output {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    logits: Option<Vec<Vec<f32>>>,
}

pub fn score(args: &Args) -> Result<()> {
    let checkpoint = checkpoint(&args.model)?;
    let tokens = match (&args.source.tokens, &args.source.text, &args.source.file) {
        (Some(tokens), _, _) => tokens.clone(),
        (_, Some(text), _) => tokenizer(&checkpoint)?.encode(text)?,
        (_, _, Some(path)) => tokenizer(&checkpoint)?.encode(&read_text(path)?)?,
        _ => bail!("nothing to score: give --tokens, --text or --file"),
    };
    checkpoint.config().check_tokens(&tokens)?;
    let result = match args.passes {
        Forward::Reference => {
            ensure!(args.weights.weights.is_none(), "--weights is not used with --passes reference: leave it out");
            let mut result = Score::default();
            let output = Reference::new(&checkpoint)?.forward(&tokens)?;
            output.logits.iter().enumerate().for_each(|(t, l)| result.take(&tokens, t, l, args.logits));
            result.finish()
        }
        Forward::Engine(passes) => {
            let mut engine = engine(&checkpoint, &args.weights, &args.machine)?;
            let result = engine_score(&mut engine, &tokens, passes, args.logits, None)?;
            print_profile(&engine);
            result
        }
    };
    if result.logprobs.iter().any(|l| l.is_nan()) {
        bail!("the model gave logits that are not numbers: its weights are broken");
    }
    let output = Output {
        loss: (!result.logprobs.is_empty()).then_some(result.loss),
        logprobs: result.logprobs,
        logits: args.logits.then_some(result.logits),
        tokens,
    };
    let mut out = BufWriter::new(std::io::stdout().lock());
    serde_json::to_writer(&mut out, &output)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
