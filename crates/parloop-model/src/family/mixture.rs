//! The keys of mixtures of experts that several families have.

use crate::fields::Fields;
use crate::{Groups, ModelConfig, Moe, Result, Score, SharedExpert};
use serde_json::{Map, Value};

/// Keys of training that change nothing here.
const TRAINING: [&str; 3] = ["output_router_logits", "router_aux_loss_coef", "router_jitter_noise"];

/// Takes away keys of training.
pub(super) fn without_training(fields: &mut Fields) {
    fields.ignore(&TRAINING);
}

/// Qwen's keys: a router over `num_experts`, softmax, normalised if `norm_topk_prob`. `width` names the key of an
/// expert's width.
pub(super) fn read_qwen(fields: &mut Fields, width: &str) -> Result<Moe> {
    without_training(fields);
    // transformers 5 gives some of them another name.
    let other = fields.optional("num_local_experts")?;
    let experts = match (fields.optional("num_experts")?, other) {
        (Some(a), Some(b)) if a != b => {
            return fields.error("num_local_experts", b, &format!("{a}, as in num_experts"));
        }
        (Some(found), _) | (None, Some(found)) => found,
        (None, None) => fields.required("num_experts")?,
    };
    // OLMoE's experts have the width that dense layers have in other families.
    let width = if width == "intermediate_size" { fields.peek(width)? } else { fields.required(width)? };
    Ok(Moe {
        normalize: fields.optional("norm_topk_prob")?.unwrap_or(false),
        ..Moe::new(experts, fields.required("num_experts_per_tok")?, width)
    })
}

/// Writes them.
pub(super) fn write_qwen(config: &ModelConfig, width: &str, map: &mut Map<String, Value>) {
    let Some(moe) = &config.moe else { return };
    for (key, value) in [("num_experts", moe.experts), ("num_experts_per_tok", moe.top_k), (width, moe.width)] {
        map.insert(key.into(), value.into());
    }
    map.insert("norm_topk_prob".into(), moe.normalize.into());
}

/// Layers without experts by Qwen's keys: those of `mlp_only_layers`, and all but every `decoder_sparse_step`-th.
pub(super) fn read_dense_layers(fields: &mut Fields) -> Result<Vec<usize>> {
    let listed: Vec<usize> = fields.optional("mlp_only_layers")?.unwrap_or_default();
    let step = fields.optional("decoder_sparse_step")?.unwrap_or(1);
    if step == 0 {
        return fields.error("decoder_sparse_step", 0, "at least 1");
    }
    let layers: usize = fields.peek("num_hidden_layers")?;
    if let Some(layer) = listed.iter().find(|n| **n >= layers) {
        return fields.error("mlp_only_layers", format!("a list with {layer}"), "layers of the model");
    }
    // The number of layers is checked later, so no list is made that is longer than any model.
    let dense = |n: &usize| listed.contains(n) || !(n + 1).is_multiple_of(step);
    Ok((0..layers.min(1 << 13)).filter(dense).collect())
}

/// Writes them.
pub(super) fn write_dense_layers(config: &ModelConfig, map: &mut Map<String, Value>) {
    let Some(moe) = &config.moe else { return };
    map.insert("mlp_only_layers".into(), moe.dense_layers.clone().into());
    map.insert("decoder_sparse_step".into(), 1.into());
}

/// Tensor names that DeepSeek-V3's and its relatives' are read by.
pub(super) const DEEPSEEK_NAMES: &[(&str, &str)] =
    &[("model.layers.{n}.mlp.shared_experts.", "model.layers.{n}.mlp.shared_expert.")];

/// DeepSeek-V3's keys: sigmoid, a bias for the choice, groups, a factor, shared experts as one, dense layers first.
pub(super) fn read_deepseek(fields: &mut Fields) -> Result<Moe> {
    without_training(fields);
    let plain = Moe::new(
        fields.required("n_routed_experts")?,
        fields.required("num_experts_per_tok")?,
        fields.required("moe_intermediate_size")?,
    );
    let shared = fields.optional("n_shared_experts")?.unwrap_or(0);
    let (count, keep) = (fields.optional("n_group")?.unwrap_or(1), fields.optional("topk_group")?.unwrap_or(1));
    let first: usize = fields.optional("first_k_dense_replace")?.unwrap_or(0);
    let layers: usize = fields.peek("num_hidden_layers")?;
    if first >= layers {
        return fields.error("first_k_dense_replace", first, "fewer layers than the model has");
    }
    Ok(Moe {
        score: Score::Sigmoid,
        normalize: fields.optional("norm_topk_prob")?.unwrap_or(false),
        scale: fields.optional("routed_scaling_factor")?.unwrap_or(1.0),
        choice_bias: true,
        groups: (count > 1).then_some(Groups { count, keep }),
        shared: (shared > 0).then(|| SharedExpert { width: plain.width.saturating_mul(shared), gate: false }),
        dense_layers: (0..first.min(1 << 13)).collect(),
        ..plain
    })
}

/// Writes them; what they cannot say is found by reading them again.
pub(super) fn write_deepseek(config: &ModelConfig, map: &mut Map<String, Value>) {
    let Some(moe) = &config.moe else { return };
    let groups = moe.groups.unwrap_or(Groups { count: 1, keep: 1 });
    for (key, value) in [
        ("n_routed_experts", moe.experts),
        ("num_experts_per_tok", moe.top_k),
        ("moe_intermediate_size", moe.width),
        ("n_shared_experts", moe.shared.map_or(0, |shared| shared.width / moe.width.max(1))),
        ("n_group", groups.count),
        ("topk_group", groups.keep),
        ("first_k_dense_replace", moe.dense_layers.len()),
    ] {
        map.insert(key.into(), value.into());
    }
    map.insert("norm_topk_prob".into(), moe.normalize.into());
    map.insert("routed_scaling_factor".into(), super::plain(&moe.scale));
}
