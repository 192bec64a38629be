//! `parloop inspect`: what a model is, without running it.

use super::{bytes, checkpoint};
use crate::args::Inspect;
use anyhow::Result;
use parloop::builtin;
use parloop_engine::{Sequence, sequence::kv_bytes};
use parloop_kernels::KvType;
use parloop_model::checkpoint::{Mismatch, resolve};
use parloop_model::{Checkpoint, Error, ModelConfig, family, tensors};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

pub fn inspect(args: &Inspect) -> Result<()> {
    if args.machine {
        let text = super::machine::report(&args.on, args.json)?;
        return Ok(std::io::stdout().lock().write_all(text.as_bytes())?);
    }
    let checkpoint = match checkpoint(&args.model) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            // Where only the tensors do not fit, the lists of them are what is asked for.
            if let (Some(Error::Tensors(mismatch)), Some(folder)) = (error.downcast_ref(), &args.model.model) {
                let text = mismatched(folder, mismatch, args.json)?;
                std::io::stdout().lock().write_all(text.as_bytes())?;
            }
            return Err(error);
        }
    };
    let context = args.context.map_or(checkpoint.config().max_position_embeddings, |n| n as usize);
    let text = if args.json { json(&checkpoint, args.kv, context)? } else { describe(&checkpoint, args.kv, context)? };
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}

/// K/V and carried vectors of a sequence, and of the same model with one loop.
fn memory(config: &ModelConfig, kind: KvType, tokens: usize) -> (usize, usize) {
    (Sequence::bytes_at(config, kind, tokens), kv_bytes(config, kind) * tokens)
}

fn weights(checkpoint: &Checkpoint) -> Result<usize> {
    let sizes: Result<Vec<usize>, _> =
        tensors::expected(checkpoint.config()).iter().map(|s| Ok(checkpoint.tensor(&s.name)?.byte_len())).collect();
    sizes.map(|s| s.iter().sum()).map_err(|e: parloop_model::Error| e.into())
}

/// What a folder is meant to be, and which of its tensors do not fit; of a GGUF file only the latter.
fn mismatched(path: &Path, mismatch: &Mismatch, as_json: bool) -> Result<String> {
    let meant = if path.is_file() { None } else { Some(family::read(&resolve(path)?)?) };
    if as_json {
        let with = |list: &[(String, String)]| -> serde_json::Map<String, serde_json::Value> {
            list.iter().map(|(name, what)| (name.clone(), what.clone().into())).collect()
        };
        let missing: Vec<&String> = mismatch.missing.iter().map(|(name, _)| name).collect();
        let object = serde_json::json!({
            "config": meant.as_ref().map(|(config, _)| config),
            "family": meant.as_ref().map(|(_, family)| family.model_type),
            "recipe": meant.as_ref().map(|(config, _)| config.recipe.describe()),
            "missing": missing,
            "misshapen": with(&mismatch.misshapen),
            "unknown": mismatch.unknown,
        });
        return Ok(format!("{object}\n"));
    }
    let mut text = format!("{}\n", path.display());
    if let Some((config, family)) = meant {
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
    writeln!(text, "  recipe      {}", c.recipe.describe())?;
    if let Some(block) = c.block.describe() {
        writeln!(text, "  block       {block}")?;
    }
    let decode = match c.recipe.count {
        1 => "one pass a token".to_string(),
        n if c.recipe.one_pass() => format!("one pass a token for all {n} loops"),
        n => format!("{n} passes a token, one a loop"),
    };
    writeln!(text, "  decode      {decode}")?;
    writeln!(
        text,
        "  shape       {} layers, hidden {}, {} query heads and {} key/value heads of {}, feed-forward {}, vocabulary {}{}",
        c.num_hidden_layers,
        c.hidden_size,
        c.num_attention_heads,
        c.num_key_value_heads,
        c.head_dim,
        c.intermediate_size,
        c.vocab_size,
        if c.tie_word_embeddings { ", tied head" } else { "" }
    )?;
    writeln!(text, "  context     {} tokens", c.max_position_embeddings)?;
    let tokenizer = checkpoint.tokenizer().map_or("none".into(), |t| format!("{} ids", t.vocab_size()));
    writeln!(text, "  tokenizer   {tokenizer}")?;
    writeln!(text, "  parameters  {}", grouped(tensors::parameters(c)))?;
    writeln!(text, "  weights     {}", bytes(weights(checkpoint)?))?;
    writeln!(text, "  K/V         {} a token in loop 1's cache ({})", bytes(kv_bytes(c, kind)), kind.name())?;
    let (all, plain) = memory(c, kind, context);
    let more = 100.0 * (all as f64 / plain as f64 - 1.0);
    writeln!(
        text,
        "  memory      {} of state at {context} tokens; the later loops add {more:.2} % ({})",
        bytes(all),
        bytes(all - plain.min(all))
    )?;
    for name in checkpoint.unused() {
        writeln!(text, "  unused      {name}")?;
    }
    writeln!(text, "\n  {:<52} {:<18} type", "tensor", "shape")?;
    for spec in tensors::expected(c) {
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
        "config": c,
        "family": checkpoint.family().model_type,
        "recipe": c.recipe.describe(),
        "unused": checkpoint.unused(),
        "one_pass": c.recipe.one_pass(),
        "parameters": tensors::parameters(c),
        "weight_bytes": weights(checkpoint)?,
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
