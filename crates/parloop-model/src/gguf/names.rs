//! Tensor names of GGUF files and of Hugging Face checkpoints.
//!
//! `blk.N.` stands for `model.layers.N.`; [`LayerParts`] has both names of a layer's tensors, of which those of gates
//! are ours. A name that stands in no table is the same in both.

use crate::layer::LayerParts;
use crate::tensors;

const GLOBAL: [(&str, &str); 3] = [
    ("token_embd.weight", tensors::EMBEDDING),
    ("output_norm.weight", tensors::FINAL_NORM),
    ("output.weight", tensors::HEAD),
];

/// The Hugging Face name of a tensor of a GGUF file.
pub(super) fn to_hugging_face(name: &str) -> String {
    if let Some((_, found)) = GLOBAL.iter().find(|(from, _)| *from == name) {
        return (*found).to_owned();
    }
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let found = layer.and_then(|(n, ending)| Some((n, LayerParts::every().iter().find(|p| p.gguf == ending)?)));
    found.map_or(name.to_owned(), |(n, part)| format!("model.layers.{n}.{}", part.name))
}

/// The GGUF name of a tensor of a Hugging Face checkpoint.
pub(super) fn to_gguf(name: &str) -> String {
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
        assert_eq!(to_hugging_face("blk.3.ffn_gate_exps.weight"), "blk.3.ffn_gate_exps.weight");
    }
}
