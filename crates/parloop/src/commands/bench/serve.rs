//! `parloop bench serve`: a server under load, as its clients see it.
//!
//! Servers that are compared are asked in turn, round by round, and compared by the medians of ratios within a round, as in
//! the other measurements of `parloop bench`.

mod load;
mod report;
mod texts;

use crate::args::numbers::{at_least, from_to, share, temperature};
use crate::client;
use anyhow::{Context, Result, ensure};
use clap::Args;
use load::{Job, Pace};
use report::{Report, Row};
use serde_json::{Value, json};
use std::time::Duration;
use texts::Texts;

/// Put a server under load: any that speaks OpenAI's interface
///
/// Asks for streamed completions, so many at a time or so many a second, and says how long the first token takes, how long the
/// gaps between tokens are, and how many tokens come in all. Tokens are those of the server's own usage; a server that does
/// not tell it is counted by the pieces that it sends, and the table says so.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop bench serve                                                    a server on port 8080 of this machine
  parloop bench serve --url http://localhost:8080 --streams 1,4,16,64
  parloop bench serve --url http://localhost:8080 --url http://localhost:9931 --streams 1,16 --rounds 5
  parloop bench serve --streams 16 --prompt-tokens 1024 --shared-prefix 900 --chat
  parloop bench serve --rate 2 --requests 100 --json | tail -n 1 > load.json

Columns: 'tokens/s' are written tokens of all streams; 'first' is the time from sending a request to its first token, and
'gap' that between two pieces with text, in ms: median and 99th percentile ('p99'), of gaps the longest too; 'vs first' is the rate
beside that of the first --url, the median of the ratios within a round. With --rate the time to the first token counts from
when the request was due. Prompts are words drawn at random, so many that the server itself counts --prompt-tokens of them
(measured with two requests before the first round); no prompt is sent twice.")]
pub struct Serve {
    /// Address of a server, with or without /v1; several are compared
    #[arg(long, value_name = "URL", default_value = "http://localhost:8080")]
    url: Vec<String>,
    /// What requests send as "Authorization: Bearer KEY"
    #[arg(long, value_name = "KEY", env = "PARLOOP_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Name of the model; the first that the server lists if left out
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Requests that are open at a time; with --rate, at most
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = from_to::<u16, 1, 4096>, allow_negative_numbers = true)]
    streams: Vec<u16>,
    /// Requests a second, at random times, instead of the next when one has ended
    #[arg(long, value_name = "N", value_parser = rate, allow_negative_numbers = true)]
    rate: Option<f64>,
    /// Requests of a round; twice the streams, and at least 4, if left out
    #[arg(long, value_name = "N", value_parser = from_to::<u32, 1, 1_000_000>, allow_negative_numbers = true)]
    requests: Option<u32>,
    /// Tokens of a prompt, about
    #[arg(long, value_name = "N", default_value = "128", value_parser = from_to::<u32, 1, 1_000_000>, allow_negative_numbers = true)]
    prompt_tokens: u32,
    /// Of these, the tokens with which all prompts of a round begin
    #[arg(long, value_name = "N", default_value = "0", value_parser = from_to::<u32, 0, 1_000_000>, allow_negative_numbers = true)]
    shared_prefix: u32,
    /// Tokens to be written for each
    #[arg(short = 'n', long, value_name = "N", default_value = "64", value_parser = at_least::<u32, 1>, allow_negative_numbers = true)]
    tokens: u32,
    /// Let answers be this much shorter, drawn for each (0.5: from half of --tokens to all)
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share, allow_negative_numbers = true)]
    vary: f32,
    /// Let answers end where the model ends them, instead of asking for `ignore_eos`
    #[arg(long)]
    may_end: bool,
    /// Ask for chat completions instead of completions
    #[arg(long)]
    chat: bool,
    /// Temperature of the sampling
    #[arg(long, value_name = "T", default_value = "0", value_parser = temperature, allow_negative_numbers = true)]
    temp: f32,
    /// Rounds: how often each thing is measured
    #[arg(long, value_name = "N", default_value = "1", value_parser = from_to::<u32, 1, 10_000>, allow_negative_numbers = true)]
    rounds: u32,
    /// Seed of prompts and times
    #[arg(long, value_name = "N", default_value = "1", value_parser = crate::args::numbers::seed, allow_negative_numbers = true)]
    seed: u64,
    /// Seconds that a server may be silent
    #[arg(long, value_name = "S", default_value = "300", value_parser = from_to::<u32, 1, 86_400>, allow_negative_numbers = true)]
    timeout: u32,
    /// Print everything as one JSON object, and the table to standard error
    #[arg(long)]
    json: bool,
}

/// Requests that are open at a time with `--rate`, if `--streams` does not say.
const OPEN: u16 = 256;

/// A rate of requests.
fn rate(text: &str) -> Result<f64, String> {
    let value = text.trim().parse::<f64>().ok().filter(|r| (1e-3..=1e5).contains(r));
    value.ok_or_else(|| "expected requests a second, from 0.001 to 100000".into())
}

/// A server that is asked.
struct Asked {
    server: client::Server,
    model: String,
    texts: Texts,
}

pub fn serve(args: &Serve) -> Result<()> {
    ensure!(
        args.shared_prefix <= args.prompt_tokens,
        "--shared-prefix {} is longer than --prompt-tokens {}: the prefix is a part of the prompt",
        args.shared_prefix,
        args.prompt_tokens
    );
    let patience = Duration::from_secs(args.timeout.into());
    let key = args.api_key.as_deref().filter(|key| !key.is_empty());
    let mut asked = Vec::with_capacity(args.url.len());
    for url in &args.url {
        let server = client::Server::new(url, key, patience)?;
        let model = match &args.model {
            Some(name) => name.clone(),
            None => server.model()?,
        };
        let count = |words: &str| {
            let mut body = body(args, &model, words, 1);
            body.as_object_mut().context("a body is an object")?.retain(|name, _| !name.starts_with("stream"));
            let answer = server.post(path(args), &body)?;
            answer["usage"]["prompt_tokens"].as_u64().with_context(|| {
                format!("{} does not say how many tokens a prompt has (usage.prompt_tokens)", server.address())
            })
        };
        let texts = Texts::measured(count, args.prompt_tokens, args.shared_prefix)?;
        asked.push(Asked { server, model, texts });
    }
    let streams = match (&args.streams[..], args.rate) {
        ([], None) => vec![1, 4, 16],
        ([], Some(_)) => vec![OPEN],
        (given, _) => given.to_vec(),
    };
    let mut report = Report::default();
    for (i, &streams) in streams.iter().enumerate() {
        let mut rows: Vec<Row> =
            asked.iter().map(|a| Row::new(a.server.address(), &a.model, streams, args.rate)).collect();
        for round in 0..args.rounds {
            for (which, (a, row)) in asked.iter().zip(&mut rows).enumerate() {
                // Every round of every row has prompts of its own, and all servers the same.
                let seed = args.seed.wrapping_add((i as u64) << 40).wrapping_add(u64::from(round) << 20);
                let jobs = jobs(args, a, streams, seed);
                let pace = Pace { open: usize::from(streams).min(jobs.len()), rate: args.rate, seed };
                let done = load::run(&a.server, path(args), &jobs, &pace);
                row.add(&done, which);
            }
        }
        report::compare(&mut rows);
        report.rows.extend(rows);
    }
    report.print(args.json)?;
    let failed: usize = report.rows.iter().map(|r| r.failed).sum();
    let first = report.rows.iter().find_map(|r| r.error.as_deref());
    ensure!(failed == 0, "{failed} requests failed, the first: {}", first.unwrap_or("without a reason"));
    Ok(())
}

fn path(args: &Serve) -> &'static str {
    if args.chat { "/v1/chat/completions" } else { "/v1/completions" }
}

fn body(args: &Serve, model: &str, prompt: &str, tokens: u32) -> Value {
    let mut body = json!({
        "model": model,
        "max_tokens": tokens,
        "temperature": args.temp,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    if args.chat {
        body["messages"] = json!([{ "role": "user", "content": prompt }]);
    } else {
        body["prompt"] = json!(prompt);
    }
    if !args.may_end {
        body["ignore_eos"] = json!(true);
    }
    body
}

fn jobs(args: &Serve, asked: &Asked, streams: u16, seed: u64) -> Vec<Job> {
    let count = args.requests.unwrap_or_else(|| (2 * u32::from(streams)).max(4));
    let least = (f64::from(args.tokens) * (1.0 - f64::from(args.vary))).ceil().max(1.0) as u32;
    let mut random = texts::Random(seed);
    let shared = asked.texts.prefix(seed);
    (0..count)
        .map(|_| {
            let tokens = least + (random.unit() * f64::from(args.tokens - least + 1)) as u32;
            let prompt = format!("{shared}{}", asked.texts.rest(random.next()));
            Job { body: body(args, &asked.model, &prompt, tokens.min(args.tokens)) }
        })
        .collect()
}
