//! The loop recipe as metadata keys (`docs/gguf.md`).
//!
//! | key after `parloop.` | value |
//! |---|---|
//! | `num_loops` | R |
//! | `loop.shift` | true or false |
//! | `loop.add_embedding` | whether the embedding is added to the input of later loops |
//! | `loop.embedding_scale` | its coefficient; only with `add_embedding` |
//! | `loop.hidden_scale` | coefficient of the loop before |
//! | `loop.norm` | whether the final norm stands between loops |
//! | `loop.kv` | `per_loop` or `shared` |
//! | `loop.local` | whether later loops have a gated window |
//! | `loop.local.left`, `loop.local.gate` | its size, and `hidden` or `query`; only with `local` |
//! | `loop.experts` | `shared`; only where later loops take loop 1's experts |
//! | `loop.exit_threshold` | only with an exit gate: the probability at which a token may leave the loops |
//!
//! A key that is missing, or stands where it means nothing, is an error: the same tensors under another recipe are
//! another model.

use super::metadata::Metadata;
use super::reader::Result;
use super::value::{Pairs, Value};
use crate::{ExpertMode, GateKind, KvMode, Recipe};
use serde_json::{Value as Json, json};

/// The keys, without the architecture before them.
pub(super) const KEYS: [&str; 12] = [
    "num_loops",
    "loop.shift",
    "loop.add_embedding",
    "loop.embedding_scale",
    "loop.hidden_scale",
    "loop.norm",
    "loop.kv",
    "loop.local",
    "loop.local.left",
    "loop.local.gate",
    "loop.exit_threshold",
    "loop.experts",
];

/// The object `loop` of a `config.json`.
pub(super) fn to_json(metadata: &Metadata<'_>, arch: &str) -> Result<Json> {
    let key = |name: &str| format!("{arch}.{name}");
    let flag = |name: &str| metadata.required(&key(name), metadata.bool(&key(name))?);
    // A key that belongs to a flag stands exactly where the flag is true.
    fn with<T>(key: &str, on: bool, found: Option<T>) -> Result<Option<T>> {
        match (on, found.is_some()) {
            (true, false) => Err(format!("lacks the metadata key {key}")),
            (false, true) => Err(format!("has the metadata key {key}, but the flag before it is false")),
            _ => Ok(found),
        }
    }
    let (embedding, local) = (flag("loop.add_embedding")?, flag("loop.local")?);
    let scale = key("loop.embedding_scale");
    let scale = with(&scale, embedding, metadata.number(&scale)?)?;
    let (left, gate) = (key("loop.local.left"), key("loop.local.gate"));
    let left = with(&left, local, metadata.size(&left)?)?;
    let gate = with(&gate, local, metadata.text(&gate)?)?;
    let number = key("loop.hidden_scale");
    let (count, kv) = (key("num_loops"), key("loop.kv"));
    let exit = metadata.number(&key("loop.exit_threshold"))?;
    Ok(json!({
        "count": metadata.required(&count, metadata.size(&count)?)?,
        "shift": flag("loop.shift")?,
        "embedding_scale": scale,
        "hidden_scale": metadata.required(&number, metadata.number(&number)?)?,
        "norm": flag("loop.norm")?,
        "kv": metadata.required(&kv, metadata.text(&kv)?)?,
        "experts": metadata.text(&key("loop.experts"))?,
        "exit": exit.map(|threshold| json!({ "threshold": threshold })),
        "local": left.map(|left| json!({ "left": left, "gate": gate })),
    }))
}

/// The keys of a recipe.
pub(super) fn to_metadata(recipe: &Recipe, arch: &str) -> Pairs {
    let pair = |name: &str, value| (format!("{arch}.{name}"), value);
    let text = |text: &str| Value::String(text.into());
    let mut pairs = vec![
        pair("num_loops", Value::U32(recipe.count as u32)),
        pair("loop.shift", Value::Bool(recipe.shift)),
        pair("loop.add_embedding", Value::Bool(recipe.embedding_scale.is_some())),
        pair("loop.hidden_scale", Value::F32(recipe.hidden_scale)),
        pair("loop.norm", Value::Bool(recipe.norm)),
        pair("loop.kv", text(if recipe.kv == KvMode::Shared { "shared" } else { "per_loop" })),
        pair("loop.local", Value::Bool(recipe.local.is_some())),
    ];
    pairs.extend(recipe.embedding_scale.map(|scale| pair("loop.embedding_scale", Value::F32(scale))));
    if recipe.experts == ExpertMode::Shared {
        pairs.push(pair("loop.experts", text("shared")));
    }
    pairs.extend(recipe.exit.map(|exit| pair("loop.exit_threshold", Value::F32(exit.threshold))));
    if let Some(local) = recipe.local {
        pairs.push(pair("loop.local.left", Value::U32(local.left as u32)));
        let gate = if local.gate == GateKind::Hidden { "hidden" } else { "query" };
        pairs.push(pair("loop.local.gate", text(gate)));
    }
    pairs
}
