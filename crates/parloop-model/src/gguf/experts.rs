//! A mixture of experts as metadata keys: llama.cpp's, and one of ours (`docs/gguf.md`).
//!
//! | key after the architecture | value |
//! |---|---|
//! | `expert_count`, `expert_used_count` | E and k |
//! | `expert_feed_forward_length` | an expert's width |
//! | `expert_shared_feed_forward_length` | that of the shared expert, if there is one |
//! | `expert_gating_func` | 1 softmax, 2 sigmoid |
//! | `expert_weights_norm`, `expert_weights_scale` | whether weights are normalised, and their factor |
//! | `expert_group_count`, `expert_group_used_count` | only with groups |
//! | `expert_dense_layers` | ours: the layers without experts, if there are any |
//!
//! The bias of the choice and the gate of the shared expert are tensors that are there or not.

use super::config::Architecture;
use super::metadata::Metadata;
use super::reader::Result;
use super::value::{Array, Pairs, Value};
use crate::tensors::layer_name;
use crate::{ModelConfig, Moe, QkNorms, Score, Tensor};
use serde_json::{Value as Json, json};
use std::collections::HashMap;

/// The keys, without the architecture before them.
pub(super) const KEYS: [&str; 11] = [
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "expert_shared_count",
    "expert_gating_func",
    "expert_weights_norm",
    "expert_weights_scale",
    "expert_group_count",
    "expert_group_used_count",
    "expert_dense_layers",
];

/// How an architecture routes, where other engines take it for granted and files need not say it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Routing {
    /// Whether softmax is normalised.
    pub normalize: bool,
    /// Whether there is a shared expert with a gate.
    pub shared: bool,
    /// Whether an expert's width is that of the feed-forward.
    pub plain_width: bool,
}

impl Routing {
    /// Whether other engines route a mixture as it is meant.
    pub fn holds(self, moe: &Moe) -> bool {
        let shared = moe.shared.is_some_and(|shared| shared.gate);
        let expected =
            Moe { normalize: self.normalize, shared: moe.shared, ..Moe::new(moe.experts, moe.top_k, moe.width) };
        shared == self.shared && moe.shared.is_some() == self.shared && *moe == expected
    }
}

/// The mixture of a file, as the object `moe` of our own configuration; `None` if it has no experts.
pub(super) fn to_json(
    metadata: &Metadata<'_>,
    architecture: &Architecture,
    tensors: &HashMap<String, Tensor>,
    layers: usize,
) -> Result<Option<Json>> {
    let key = |name: &str| format!("{}.{name}", architecture.name);
    let size = |name: &str| metadata.size(&key(name));
    let needed = |name: &str| metadata.required(&key(name), size(name)?);
    let experts = match size("expert_count")? {
        None | Some(0) => return Ok(None),
        Some(experts) => experts,
    };
    let routing = architecture.routing;
    let width = match (size("expert_feed_forward_length")?, routing) {
        (Some(width), _) => width,
        (None, Some(Routing { plain_width: true, .. })) => needed("feed_forward_length")?,
        // Older files say it by their tensors only.
        (None, _) => {
            let up = (0..layers).find_map(|n| tensors.get(&layer_name(n, "mlp.experts.up_proj.weight")));
            up.and_then(|up| up.shape.get(1).copied())
                .ok_or_else(|| format!("lacks {}", key("expert_feed_forward_length")))?
        }
    };
    let has = |name: &str| (0..layers).any(|n| tensors.contains_key(&layer_name(n, name)));
    let shared = match size("expert_shared_feed_forward_length")? {
        Some(width) if width > 0 => Some(width),
        _ => (0..layers)
            .find_map(|n| tensors.get(&layer_name(n, "mlp.shared_expert.up_proj.weight")))
            .and_then(|up| up.shape.first().copied()),
    };
    let score = match size("expert_gating_func")? {
        None | Some(0 | 1) => "softmax",
        Some(2) => "sigmoid",
        Some(other) => {
            let key = key("expert_gating_func");
            return Err(format!("has {key} = {other}, expected 1 (softmax) or 2 (sigmoid)"));
        }
    };
    let said = metadata.bool(&key("expert_weights_norm"))?;
    let normalize = said.or(routing.map(|routing| routing.normalize)).unwrap_or(true);
    if let Some(routing) = routing.filter(|routing| routing.normalize != normalize) {
        let key = key("expert_weights_norm");
        return Err(format!("has {key} = {normalize}, expected {} for this architecture", routing.normalize));
    }
    let groups = match (size("expert_group_count")?, size("expert_group_used_count")?) {
        (Some(count @ 2..), keep) => Some(json!({ "count": count, "keep": keep.unwrap_or(count) })),
        _ => None,
    };
    let dense = match metadata.array(&key("expert_dense_layers"))? {
        None => Vec::new(),
        Some(array) => {
            let list =
                array.integers().ok_or_else(|| format!("has {} that are no numbers", key("expert_dense_layers")))?;
            list.into_iter().map(|n| u64::try_from(n).unwrap_or(u64::MAX)).collect::<Vec<_>>()
        }
    };
    Ok(Some(json!({
        "experts": experts,
        "top_k": needed("expert_used_count")?,
        "width": width,
        "score": score,
        "normalize": normalize,
        "scale": metadata.number(&key("expert_weights_scale"))?.filter(|scale| *scale != 0.0).unwrap_or(1.0),
        "choice_bias": has("mlp.gate.e_score_correction_bias"),
        "groups": groups,
        "shared": shared.map(|width| json!({ "width": width, "gate": has("mlp.shared_expert_gate.weight") })),
        "dense_layers": dense,
    })))
}

/// The keys of a mixture.
pub(super) fn to_metadata(moe: &Moe, arch: &str) -> Pairs {
    let pair = |name: &str, value| (format!("{arch}.{name}"), value);
    let size = |name: &str, value: usize| pair(name, Value::U32(value as u32));
    let mut pairs = vec![
        size("expert_count", moe.experts),
        size("expert_used_count", moe.top_k),
        size("expert_feed_forward_length", moe.width),
        size("expert_gating_func", if moe.score == Score::Softmax { 1 } else { 2 }),
        pair("expert_weights_norm", Value::Bool(moe.normalize)),
        pair("expert_weights_scale", Value::F32(moe.scale)),
    ];
    pairs.extend(moe.shared.map(|shared| size("expert_shared_feed_forward_length", shared.width)));
    if let Some(groups) = moe.groups {
        pairs.extend([size("expert_group_count", groups.count), size("expert_group_used_count", groups.keep)]);
    }
    if !moe.dense_layers.is_empty() {
        let layers = moe.dense_layers.iter().map(|n| *n as i32);
        pairs.push(pair("expert_dense_layers", Value::Array(Array::i32s(layers))));
    }
    pairs
}

/// Whether a model is a plain transformer with experts as an architecture of other engines has them.
pub(super) fn plain(config: &ModelConfig, routing: Routing, norms: QkNorms, biases: Option<bool>) -> bool {
    let extras = &config.extras;
    let fits = biases.is_none_or(|biases| extras.attention_bias == biases && !extras.attention_output_bias);
    let rest =
        !extras.mlp_bias && !extras.sandwich_norms && extras.rotary_dims.is_none() && extras.multipliers.is_none();
    let moe = config.moe.as_ref().is_some_and(|moe| routing.holds(moe));
    config.is_plain() && moe && fits && rest && extras.qk_norms == norms
}
