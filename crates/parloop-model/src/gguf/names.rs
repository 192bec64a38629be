//! Tensor names of GGUF files and of Hugging Face checkpoints.
//!
//! `blk.N.` stands for `model.layers.N.`. The names of gates are ours. A name that stands in no table is the same in
//! both.

use crate::tensors;

const GLOBAL: [(&str, &str); 3] = [
    ("token_embd.weight", tensors::EMBEDDING),
    ("output_norm.weight", tensors::FINAL_NORM),
    ("output.weight", tensors::HEAD),
];

const LAYER: [(&str, &str); 21] = [
    ("attn_norm.weight", "input_layernorm.weight"),
    ("attn_q.weight", "self_attn.q_proj.weight"),
    ("attn_q.bias", "self_attn.q_proj.bias"),
    ("attn_k.weight", "self_attn.k_proj.weight"),
    ("attn_k.bias", "self_attn.k_proj.bias"),
    ("attn_v.weight", "self_attn.v_proj.weight"),
    ("attn_v.bias", "self_attn.v_proj.bias"),
    ("attn_output.weight", "self_attn.o_proj.weight"),
    ("attn_output.bias", "self_attn.o_proj.bias"),
    ("post_attention_norm.weight", "input_layernorm_2.weight"),
    ("loop_gate.weight", "self_attn.plt_gate.weight"),
    ("loop_gate.bias", "self_attn.plt_gate.bias"),
    ("loop_gate_norm.weight", "self_attn.plt_gate.gate_norm.weight"),
    ("ffn_norm.weight", "post_attention_layernorm.weight"),
    ("ffn_gate.weight", "mlp.gate_proj.weight"),
    ("ffn_gate.bias", "mlp.gate_proj.bias"),
    ("ffn_up.weight", "mlp.up_proj.weight"),
    ("ffn_up.bias", "mlp.up_proj.bias"),
    ("ffn_down.weight", "mlp.down_proj.weight"),
    ("ffn_down.bias", "mlp.down_proj.bias"),
    ("post_ffw_norm.weight", "post_attention_layernorm_2.weight"),
];

/// The Hugging Face name of a tensor of a GGUF file.
pub(super) fn to_hugging_face(name: &str) -> String {
    if let Some((_, found)) = GLOBAL.iter().find(|(from, _)| *from == name) {
        return (*found).to_owned();
    }
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let found = layer.and_then(|(n, ending)| Some((n, LAYER.iter().find(|(from, _)| *from == ending)?.1)));
    found.map_or(name.to_owned(), |(n, ending)| format!("model.layers.{n}.{ending}"))
}

/// The GGUF name of a tensor of a Hugging Face checkpoint.
pub(super) fn to_gguf(name: &str) -> String {
    if let Some((found, _)) = GLOBAL.iter().find(|(_, from)| *from == name) {
        return (*found).to_owned();
    }
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
    let found = layer.and_then(|(n, ending)| Some((n, LAYER.iter().find(|(_, from)| *from == ending)?.0)));
    found.map_or(name.to_owned(), |(n, ending)| format!("blk.{n}.{ending}"))
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
    use crate::{ModelConfig, tensors};

    #[test]
    fn every_name_of_a_looped_model_goes_there_and_back() {
        for text in [
            include_str!("../../../../tests/goldens/plt2/config.json"),
            include_str!("../../../../tests/goldens/plt2-query-gate/config.json"),
        ] {
            for spec in tensors::expected(&ModelConfig::from_json(text).unwrap()) {
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
