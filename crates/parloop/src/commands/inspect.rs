//! `parloop inspect`: what a model is, without running it.

use super::{bytes, plural};
use crate::args::machine::Machine;
use crate::args::model::Model;
use crate::args::names::{KV, named, type_name};
use crate::args::numbers::from_to;
use crate::terminal::shown;
use anyhow::Result;
use clap::Args;
use parloop::builtin;
use parloop_engine::{Sequence, sequence::kv_bytes};
use parloop_kernels::KvType;
use parloop_model::checkpoint::{Mismatch, resolve};
use parloop_model::family::Description;
use parloop_model::{Checkpoint, DType, Error, ModelConfig, Recipe, family, tensors};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

/// Show a model's recipe, sizes, types, text settings and memory
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop inspect
  parloop inspect out/plt2 --context 8192 --kv q8
  parloop inspect out/plt2 --tensors
  parloop inspect out/plt2 --json | jq .parameters
  parloop inspect --machine")]
pub struct Inspect {
    #[command(flatten)]
    model: Model,
    /// Tokens for which the memory of keys and values is worked out; the model's context if left out
    #[arg(long, value_name = "N", value_parser = from_to::<u32, 1, { 1 << 26 }>, allow_negative_numbers = true)]
    context: Option<u32>,
    /// Type of keys and values
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = named(KV))]
    kv: KvType,
    /// List every tensor too
    #[arg(long)]
    tensors: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    /// Describe this machine instead: instructions, kernels, threads, caches, read bandwidth, and what is fast on it
    #[arg(long, conflicts_with_all = ["model", "context"])]
    machine: bool,
    #[command(flatten)]
    on: Machine,
}

pub fn inspect(args: &Inspect) -> Result<()> {
    if args.machine {
        let text = super::machine::report(&args.on, args.json)?;
        return Ok(std::io::stdout().lock().write_all(text.as_bytes())?);
    }
    let checkpoint = match args.model.open() {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            // Where only the tensors do not fit, the lists of them are what is asked for.
            if let (Some(Error::Tensors(mismatch)), Some(folder)) = (error.downcast_ref(), args.model.path()?) {
                let text = mismatched(&folder, &args.model.ignored.keys, mismatch, args.json)?;
                std::io::stdout().lock().write_all(text.as_bytes())?;
            }
            return Err(error);
        }
    };
    let context = args.context.map_or(checkpoint.config().max_position_embeddings, |n| n as usize);
    let text = match args.json {
        true => json(&checkpoint, args.kv, context)?,
        false => {
            shown(&describe(&checkpoint, args.kv, context)?)
                + &if args.tensors { list(&checkpoint)? } else { String::new() }
        }
    };
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

/// K/V and carried vectors of a sequence, and of the same model with one loop.
fn memory(config: &ModelConfig, kind: KvType, tokens: usize) -> (usize, usize) {
    (Sequence::bytes_at(config, kind, tokens), kv_bytes(config, kind) * tokens)
}

/// Of each type the number of tensors and their bytes, the largest share first.
fn weights(checkpoint: &Checkpoint) -> Result<Vec<(DType, usize, usize)>> {
    let mut types: Vec<(DType, usize, usize)> = Vec::new();
    for spec in tensors::expected(checkpoint.config()) {
        let tensor = checkpoint.tensor(&spec.name)?;
        let at = types.iter().position(|t| t.0 == tensor.dtype).unwrap_or_else(|| {
            types.push((tensor.dtype, 0, 0));
            types.len() - 1
        });
        types[at].1 += 1;
        types[at].2 += tensor.byte_len();
    }
    types.sort_by_key(|t| std::cmp::Reverse(t.2));
    Ok(types)
}

/// The name by which a recipe is called, if it has one.
fn recipe_name(recipe: &Recipe) -> Option<String> {
    let r = recipe.count;
    let names = ["vanilla".into()].into_iter().chain([
        format!("plt{r}"),
        format!("plt{r}-query"),
        format!("loop{r}"),
        format!("loop{r}-clp"),
        format!("loop{r}-clp-share"),
    ]);
    let names = names.flat_map(|name| [format!("{name}-shared-experts"), name]);
    let mut names = names.filter(|name: &String| Recipe::preset(name).is_ok_and(|named| named == *recipe));
    names.next()
}

/// What the checkpoint wants of sampling, in words.
fn defaults(checkpoint: &Checkpoint) -> String {
    let d = &checkpoint.settings().generation;
    let number = |name: &str, value: Option<f32>| value.map(|v| format!("{name} {v}"));
    let said = [
        number("temperature", d.temperature()),
        d.top_k.map(|k| format!("top-k {k}")),
        number("top-p", d.top_p),
        number("min-p", d.min_p),
        number("repeat-penalty", d.repetition_penalty),
        d.max_new_tokens.map(|n| format!("at most {}", plural(n, "token", "tokens"))),
    ];
    let said: Vec<String> = said.into_iter().flatten().collect();
    if said.is_empty() { "none".into() } else { said.join(", ") }
}

/// The tokens that end a text, as text where the tokenizer knows them.
fn ends(checkpoint: &Checkpoint) -> String {
    let stops = checkpoint.stops();
    let shown = stops.ids().iter().map(|id| {
        let token = checkpoint.tokenizer().and_then(|t| t.token(*id));
        token.map_or(id.to_string(), |token| format!("{token} ({id})"))
    });
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() { "none".into() } else { shown.join(", ") }
}

/// What a folder is meant to be, and which of its tensors do not fit; of a GGUF file only the latter.
fn mismatched(path: &Path, ignored: &[String], mismatch: &Mismatch, as_json: bool) -> Result<String> {
    let meant = if path.is_file() { None } else { Some(family::read(&resolve(path)?, ignored)?) };
    if as_json {
        let with = |list: &[(String, String)]| -> serde_json::Map<String, serde_json::Value> {
            list.iter().map(|(name, what)| (name.clone(), what.clone().into())).collect()
        };
        let missing: Vec<&String> = mismatch.missing.iter().map(|(name, _)| name).collect();
        let object = serde_json::json!({
            "config": meant.as_ref().map(|meant| meant.family.write(&meant.config, &meant.notes)).transpose()?,
            "family": meant.as_ref().map(|meant| meant.family.model_type),
            "recipe": meant.as_ref().map(|meant| meant.config.recipe.describe()),
            "missing": missing,
            "misshapen": with(&mismatch.misshapen),
            "unknown": mismatch.unknown,
        });
        return Ok(format!("{object}\n"));
    }
    let mut text = format!("{}\n", path.display());
    if let Some(Description { config, family, .. }) = meant {
        writeln!(text, "  family      {}: {}", family.model_type, family.title)?;
        writeln!(text, "  recipe      {}", config.recipe.describe())?;
    }
    for (name, shape) in &mismatch.missing {
        writeln!(text, "  missing     {name} {shape:?}")?;
    }
    for (name, what) in &mismatch.misshapen {
        writeln!(text, "  misshapen   {name} {what}")?;
    }
    for name in &mismatch.unknown {
        writeln!(text, "  unknown     {name}")?;
    }
    Ok(text)
}

fn describe(checkpoint: &Checkpoint, kind: KvType, context: usize) -> Result<String> {
    let c = checkpoint.config();
    let mut text = String::new();
    let name = checkpoint.path().map_or(builtin::NAME.into(), |p| p.display().to_string());
    writeln!(text, "{name}")?;
    writeln!(text, "  family      {}: {}", checkpoint.family().model_type, checkpoint.family().title)?;
    let name = recipe_name(&c.recipe).map_or(String::new(), |name| format!("{name}: "));
    writeln!(text, "  recipe      {name}{}", c.recipe.describe())?;
    if let Some(extras) = c.extras.describe() {
        writeln!(text, "  block       {extras}")?;
    }
    if let Some(moe) = &c.moe {
        writeln!(text, "  experts     {}", moe.describe())?;
    }
    let decode = match c.recipe.count {
        1 => "one pass a token".to_string(),
        n if c.recipe.one_pass() => format!("one pass a token for all {n} loops"),
        n => format!("{n} passes a token, one a loop"),
    };
    writeln!(text, "  decode      {decode}")?;
    writeln!(
        text,
        "  shape       {}, hidden {}, {} and {} of {}, feed-forward {}, vocabulary {}{}",
        plural(c.num_hidden_layers, "layer", "layers"),
        c.hidden_size,
        plural(c.num_attention_heads, "query head", "query heads"),
        plural(c.num_key_value_heads, "key/value head", "key/value heads"),
        c.head_dim,
        c.intermediate_size,
        c.vocab_size,
        if c.tie_word_embeddings { ", tied head" } else { "" }
    )?;
    writeln!(text, "  context     {} tokens", c.max_position_embeddings)?;
    let tokenizer = checkpoint.tokenizer().map_or("none".into(), |t| format!("{} ids", t.vocab_size()));
    writeln!(text, "  tokenizer   {tokenizer}")?;
    let template = if checkpoint.settings().chat.is_some() { "yes" } else { "none, `parloop chat` needs --template" };
    writeln!(text, "  chat        {template}")?;
    writeln!(text, "  ends        {}", ends(checkpoint))?;
    writeln!(text, "  defaults    {}", defaults(checkpoint))?;
    let active = match tensors::active_parameters(c) {
        active if c.moe.is_some() => format!(", {} of them for a row", grouped(active)),
        _ => String::new(),
    };
    writeln!(text, "  parameters  {}{active}", grouped(tensors::parameters(c)))?;
    let types = weights(checkpoint)?;
    let all: usize = types.iter().map(|t| t.2).sum();
    let each: Vec<String> = types
        .iter()
        .map(|(kind, n, size)| {
            format!("{} in {} ({})", plural(*n, "tensor", "tensors"), type_name(*kind), bytes(*size))
        })
        .collect();
    writeln!(text, "  weights     {}: {}", bytes(all), each.join(", "))?;
    writeln!(text, "  K/V         {} a token in loop 1's cache ({})", bytes(kv_bytes(c, kind)), kind.name())?;
    let (all, plain) = memory(c, kind, context);
    let more = 100.0 * (all as f64 / plain as f64 - 1.0);
    writeln!(
        text,
        "  memory      {} of state at {}; the later loops add {more:.2} % ({})",
        bytes(all),
        plural(context, "token", "tokens"),
        bytes(all - plain.min(all))
    )?;
    for name in checkpoint.unused() {
        writeln!(text, "  unused      {name}")?;
    }
    Ok(text)
}

/// Every tensor with its shape and type.
fn list(checkpoint: &Checkpoint) -> Result<String> {
    let mut text = format!("\n  {:<52} {:<18} type\n", "tensor", "shape");
    for spec in tensors::expected(checkpoint.config()) {
        let tensor = checkpoint.tensor(&spec.name)?;
        writeln!(text, "  {:<52} {:<18} {}", spec.name, format!("{:?}", tensor.shape), tensor.dtype.name())?;
    }
    Ok(text)
}

fn json(checkpoint: &Checkpoint, kind: KvType, context: usize) -> Result<String> {
    let c = checkpoint.config();
    let (all, plain) = memory(c, kind, context);
    let list: Result<Vec<serde_json::Value>, parloop_model::Error> = tensors::expected(c)
        .iter()
        .map(|s| {
            let t = checkpoint.tensor(&s.name)?;
            Ok(serde_json::json!({ "name": s.name, "shape": t.shape, "type": t.dtype.name() }))
        })
        .collect();
    let object = serde_json::json!({
        "config": checkpoint.family().write(c, checkpoint.notes())?,
        "family": checkpoint.family().model_type,
        "recipe": c.recipe.describe(),
        "recipe_name": recipe_name(&c.recipe),
        "chat_template": checkpoint.settings().chat.is_some(),
        "generation": checkpoint.settings().generation,
        "ends": checkpoint.stops().ids(),
        "unused": checkpoint.unused(),
        "one_pass": c.recipe.one_pass(),
        "parameters": tensors::parameters(c),
        "active_parameters": tensors::active_parameters(c),
        "weight_bytes": weights(checkpoint)?.iter().map(|t| t.2).sum::<usize>(),
        "kv_bytes_per_token": kv_bytes(c, kind),
        "context": context,
        "state_bytes": all,
        "state_bytes_of_one_loop": plain,
        "tensors": list?,
    });
    Ok(format!("{object}\n"))
}

/// 1234567 as 1,234,567.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
