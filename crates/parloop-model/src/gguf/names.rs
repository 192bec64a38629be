//! Tensor names of GGUF files and of Hugging Face checkpoints.
//!
//! `blk.N.` stands for `model.layers.N.`; [`LayerParts`] has both names of a layer's tensors, of which those of gates
//! are ours. A name that stands in no table is the same in both. The experts of a layer, whose tensors a checkpoint folder
//! holds one by one, are one tensor of three dimensions: `blk.N.ffn_up_exps` is `mlp.experts.up_proj`.

use crate::layer::{EXPERTS, LayerParts};
use crate::tensors;

const GLOBAL: [(&str, &str); 3] = [
    ("token_embd.weight", tensors::EMBEDDING),
    ("output_norm.weight", tensors::FINAL_NORM),
    ("output.weight", tensors::HEAD),
];

/// Gate and up of all experts in one tensor, as some writers have them.
const MERGED: &str = "ffn_gate_up_exps.weight";

/// The Hugging Face name of a tensor of a GGUF file; experts' without a number.
pub(super) fn to_hugging_face(name: &str) -> String {
    if let Some((_, found)) = GLOBAL.iter().find(|(from, _)| *from == name) {
        return (*found).to_owned();
    }
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let found = layer.and_then(|(n, ending)| Some((n, LayerParts::every().iter().find(|p| p.gguf == ending)?)));
    if let Some((n, MERGED)) = layer {
        return format!("model.layers.{n}.{EXPERTS}gate_up_proj.weight");
    }
    found.map_or(name.to_owned(), |(n, part)| {
        format!("model.layers.{n}.{}", part.name.replace(&format!("{EXPERTS}0."), EXPERTS))
    })
}

/// The number of the expert to which a tensor of a Hugging Face checkpoint belongs.
pub(super) fn expert(name: &str) -> Option<usize> {
    name.split_once(EXPERTS)?.1.split_once('.')?.0.parse().ok()
}

/// The GGUF name of a tensor of a Hugging Face checkpoint, for all experts the same.
pub(super) fn to_gguf(name: &str) -> String {
    let first = expert(name).map(|e| name.replace(&format!("{EXPERTS}{e}."), &format!("{EXPERTS}0.")));
    let name = first.as_deref().unwrap_or(name);
    if let Some((found, _)) = GLOBAL.iter().find(|(_, from)| *from == name) {
        return (*found).to_owned();
    }
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let found = layer.and_then(|(n, ending)| Some((n, LayerParts::every().iter().find(|p| p.name == ending)?)));
    found.map_or(name.to_owned(), |(n, part)| format!("blk.{n}.{}", part.gguf))
}

/// Whether the rows of a tensor (by its Hugging Face name) are those of heads that rotary embedding turns: the heads
/// are the queries' (`Some(true)`) or the keys' (`Some(false)`).
pub(super) fn rotated(name: &str) -> Option<bool> {
    let of = |ending: &str| {
        name.ends_with(&format!(".self_attn.{ending}_proj.weight"))
            || name.ends_with(&format!(".self_attn.{ending}_proj.bias"))
    };
    if of("q") { Some(true) } else { of("k").then_some(false) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{family, tensors};

    #[test]
    fn every_name_of_a_looped_model_goes_there_and_back() {
        for text in [
            include_str!("../../../../tests/goldens/plt2/config.json"),
            include_str!("../../../../tests/goldens/plt2-query-gate/config.json"),
        ] {
            for spec in tensors::expected(&family::parse(text).unwrap().config) {
                let short = to_gguf(&spec.name);
                assert!(!short.contains("model.") && short.len() < 64, "{short}");
                assert_eq!(to_hugging_face(&short), spec.name);
                assert_eq!(rotated(&spec.name).is_some(), short.contains("attn_q") || short.contains("attn_k"));
            }
        }
        assert_eq!(to_gguf("model.layers.12.self_attn.q_proj.weight"), "blk.12.attn_q.weight");
        assert_eq!(to_hugging_face("blk.3.ffn_gate_exps.weight"), "model.layers.3.mlp.experts.gate_proj.weight");
        assert_eq!(to_hugging_face("blk.3.ffn_gate_up_exps.weight"), "model.layers.3.mlp.experts.gate_up_proj.weight");
        assert_eq!(to_gguf("model.layers.3.mlp.experts.17.down_proj.weight"), "blk.3.ffn_down_exps.weight");
        assert_eq!(to_gguf("model.layers.3.mlp.gate.weight"), "blk.3.ffn_gate_inp.weight");
        assert_eq!(to_hugging_face("blk.0.exp_probs_b.bias"), "model.layers.0.mlp.gate.e_score_correction_bias");
    }
}
