//! `parloop serve`: a model over HTTP.

use super::{bytes, engine, tokenizer};
use crate::args::machine::{Budget, Machine, Weights};
use crate::args::model::Model;
use crate::args::numbers::{at_least, from_to};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum, ValueHint};
use parloop::builtin;
use parloop_engine::{Limits, Sequence};
use parloop_kernels::{KvPool, memory};
use parloop_model::{ChatSource, ChatTemplate};
use parloop_server::{MetricsNames, Options, ServeError, Server};
use std::path::PathBuf;

/// Serve a model over HTTP, to clients of OpenAI's and Anthropic's interfaces
///
/// Completions, chat with tools and schemas, messages, responses, embeddings, figures; streamed or whole. Requests share passes over the weights; what a request
/// gets does not depend on the others, to the last bit. docs/serving.md lists paths and fields.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop serve                                     the built-in model on port 8080 of this machine
  parloop serve models/instruct --port 8000 --weights q4
  parloop serve model.gguf --host 0.0.0.0 --api-key \"$KEY\"

  curl http://localhost:8080/v1/completions -H 'Content-Type: application/json' \\
    -d '{\"prompt\": \"ROMEO:\", \"max_tokens\": 40, \"stream\": true}'

Ctrl-C takes no more requests and ends when those that are open have ended; a second one ends at once.")]
pub struct Serve {
    #[command(flatten)]
    model: Model,
    /// Address to listen on; other machines reach the server only with another one than this machine's own
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_hint = ValueHint::Hostname)]
    host: String,
    /// Port to listen on; 0 takes a free one and says which
    #[arg(long, value_name = "PORT", default_value = "8080", value_parser = from_to::<u16, 0, 65_535>, allow_negative_numbers = true)]
    port: u16,
    /// What requests must send as "Authorization: Bearer KEY"
    #[arg(long, value_name = "KEY", env = "PARLOOP_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Serve other machines without a key
    #[arg(long)]
    no_key: bool,
    /// Name of the model in requests and answers; the last part of its path if left out
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// Names of the figures at /metrics: parloop's own, or those of vLLM, which many dashboards know
    #[arg(long, value_name = "WHOSE", value_enum, default_value_t)]
    metrics_names: Names,
    /// A Jinja chat template, instead of the model's own
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    template: Option<PathBuf>,
    /// Requests that are computed at a time
    #[arg(long, value_name = "N", default_value = "64", value_parser = at_least::<usize, 1>, allow_negative_numbers = true)]
    parallel: usize,
    /// Requests that are open at a time; more are told to try again
    #[arg(long, value_name = "N", default_value = "256", value_parser = at_least::<usize, 1>, allow_negative_numbers = true)]
    max_open: usize,
    /// Rows of a pass at most: a token that is written takes one for each loop, prompts take what is left
    #[arg(long, value_name = "N", default_value = "256", value_parser = at_least::<usize, 1>, allow_negative_numbers = true)]
    rows: usize,
    /// Folder in which clients may keep states by name: POST /slots/N?action=save, restore or erase
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    slot_save_path: Option<PathBuf>,
    #[command(flatten)]
    weights: Weights,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    budget: Budget,
}

/// Names of the figures.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Names {
    #[default]
    Own,
    Vllm,
}

/// The part of the available memory that keys and values take unless `--kv-budget` says how much.
const SHARE: usize = 2;

pub fn serve(args: &Serve) -> Result<()> {
    ensure!(
        args.api_key.as_deref() != Some(""),
        "--api-key (or PARLOOP_API_KEY) is empty, which would keep nobody out: give a key, or leave it out"
    );
    ensure!(
        args.alias.as_deref() != Some(""),
        "--alias is empty, so that no request could name the model: give a name"
    );
    let checkpoint = args.model.open()?;
    tokenizer(&checkpoint)?;
    let template = match &args.template {
        None => checkpoint.chat_template()?,
        Some(path) => {
            let tokens = checkpoint.settings().tokens.clone();
            let source = ChatSource { template: super::read_text(path)?, tool_use: None, tokens };
            Some(ChatTemplate::new(&source).with_context(|| path.display().to_string())?)
        }
    };
    if let Some(folder) = &args.slot_save_path {
        ensure!(folder.is_dir(), "--slot-save-path {} is no folder: create it first", folder.display());
    }
    let path = args.model.path()?;
    let name = path.as_deref().and_then(|p| p.file_stem()).map(|n| n.to_string_lossy().into_owned());
    let name = args.alias.clone().or(name).unwrap_or_else(|| builtin::NAME.replace(' ', "-"));
    let mut engine = engine(&checkpoint, &args.weights, &args.machine)?;
    let budget = args.budget.kv_budget.or(memory::available().map(|n| n / SHARE)).unwrap_or(1 << 30);
    let least = Sequence::bytes_at(checkpoint.config(), args.weights.kv, 64);
    ensure!(
        budget >= least,
        "--kv-budget {budget} does not hold a text of 64 tokens, which takes {least} bytes: allow more"
    );
    engine.set_kv_pool(KvPool::new(budget));
    let options = Options {
        host: args.host.clone(),
        port: args.port,
        name: name.clone(),
        key: args.api_key.clone(),
        no_key: args.no_key,
        limits: Limits { rows: args.rows, running: args.parallel, cache: budget / 2 },
        most: args.max_open,
        metrics_names: match args.metrics_names {
            Names::Own => MetricsNames::Own,
            Names::Vllm => MetricsNames::Vllm,
        },
        slots: args.slot_save_path.clone(),
        ..Options::default()
    };
    let chats = template.is_some();
    let defaults = checkpoint.settings().generation.clone();
    let server = Server::new(engine, template, defaults, options).map_err(|error| match error {
        ServeError::Open(host) => anyhow::anyhow!(
            "--host {host} is reached by other machines, and there is no key: give --api-key KEY, or --no-key"
        ),
        ServeError::Listen { address, source } => {
            anyhow::anyhow!("cannot listen on {address}: {source}; give another --port or --host")
        }
        other => other.into(),
    })?;
    say!(
        "{name} at http://{}/v1{}; keys and values may take {}; Ctrl-C ends",
        server.address()?,
        if chats { "" } else { " (no chat template: completions only)" },
        bytes(budget),
    );
    server.run(std::future::pending())?;
    Ok(())
}
