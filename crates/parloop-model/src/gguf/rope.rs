//! RoPE scaling in metadata, and the object `rope_scaling` of a Hugging Face `config.json`.
//!
//! `linear` and `yarn` stand in `{arch}.rope.scaling.*`. Llama 3's scaling stands in a tensor `rope_freqs.weight`
//! of D/2 divisors of the frequencies. Its parameters do not stand in files of other writers and are found again here;
//! ours have them in keys that other engines pass over.

use super::metadata::Metadata;
use super::reader::Result;
use super::value::{Pairs, Value};
use crate::rope::{RopeScaling, frequencies, sharpness};
use crate::{Error, ModelConfig, Tensor};
use serde_json::{Value as Json, json};
use std::collections::HashMap;

/// The tensor with the divisors of the frequencies.
pub(super) const FACTORS: &str = "rope_freqs.weight";
/// Keys of ours with the parameters of Llama 3's scaling.
const LLAMA3: [&str; 4] = [
    "rope.llama3.factor",
    "rope.llama3.low_freq_factor",
    "rope.llama3.high_freq_factor",
    "rope.llama3.original_context_length",
];
/// Those parameters in every published Llama 3: low and high frequency factor, original context.
const PUBLISHED: (f32, f32, usize) = (1.0, 4.0, 8192);

/// The object `rope_scaling`; `None` where frequencies are not changed.
pub(super) fn to_json(
    metadata: &Metadata<'_>,
    arch: &str,
    tensors: &HashMap<String, Tensor>,
    head_dim: usize,
) -> Result<Option<Json>> {
    let key = |name: &str| format!("{arch}.rope.{name}");
    let number = |name: &str| metadata.number(&key(name));
    // llama.cpp takes a factor without a type as linear, and zero as none.
    let factor = number("scaling.factor")?.or(number("scale_linear")?).filter(|f| *f != 0.0 && *f != 1.0);
    let kind = metadata.text(&key("scaling.type"))?.unwrap_or("linear");
    if let Some(factors) = tensors.get(FACTORS) {
        if factor.is_some() {
            return Err(format!("has both {FACTORS} and {}, expected one of them", key("scaling.factor")));
        }
        let theta = number("freq_base")?.unwrap_or(10000.0);
        return llama3(metadata, &factors.to_f32(), theta, head_dim);
    }
    Ok(match (kind, factor) {
        ("none", _) | ("linear" | "yarn", None) => None,
        ("linear", Some(factor)) => Some(json!({ "rope_type": "linear", "factor": factor })),
        ("yarn", Some(factor)) => {
            let original = key("scaling.original_context_length");
            let more = number("scaling.attn_factor")?.unwrap_or(1.0);
            Some(json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": metadata.required(&original, metadata.size(&original)?)?,
                "beta_fast": number("scaling.yarn_beta_fast")?.unwrap_or(32.0),
                "beta_slow": number("scaling.yarn_beta_slow")?.unwrap_or(1.0),
                // llama.cpp multiplies the usual attention factor with this key's, and does not use yarn_attn_factor.
                "attention_factor": sharpness(factor, 1.0) * more,
            }))
        }
        (other, _) => {
            return Err(format!("has {} = \"{other}\", expected none, linear or yarn", key("scaling.type")));
        }
    })
}

/// The parameters of these divisors; others than Llama 3's are refused. Without keys the largest divisor is the factor.
fn llama3(metadata: &Metadata<'_>, factors: &[f32], theta: f32, head_dim: usize) -> Result<Option<Json>> {
    let [factor, low, high, original] = LLAMA3;
    let factor = metadata.number(factor)?.unwrap_or(factors.iter().copied().fold(1.0, f32::max));
    let low = metadata.number(low)?.unwrap_or(PUBLISHED.0);
    let high = metadata.number(high)?.unwrap_or(PUBLISHED.1);
    let original = metadata.size(original)?.unwrap_or(PUBLISHED.2);
    let scaling = RopeScaling::Llama3 {
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position_embeddings: original,
    };
    let expected = divisors(head_dim, theta, scaling);
    let same = factors.len() == expected.len()
        && factors.iter().zip(&expected).all(|(found, expected)| (found / expected - 1.0).abs() < 1e-4);
    if !same {
        return Err(format!("has {FACTORS} with other values than those of Llama 3's scaling, which alone is known"));
    }
    Ok((factor > 1.0).then(|| {
        json!({ "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": original })
    }))
}

/// Divisors of the D/2 frequencies.
fn divisors(head_dim: usize, theta: f32, scaling: RopeScaling) -> Vec<f32> {
    let (plain, changed) = (frequencies(head_dim, theta, None).0, frequencies(head_dim, theta, Some(scaling)).0);
    plain.iter().zip(changed).map(|(plain, changed)| (plain / changed) as f32).collect()
}

/// The keys of a configuration's scaling, and the divisors where those are stored.
///
/// # Errors
/// The scaling cannot be expressed.
pub(super) fn to_metadata(config: &ModelConfig, arch: &str) -> crate::Result<(Pairs, Option<Vec<f32>>)> {
    let pair = |name: &str, value| (format!("{arch}.rope.scaling.{name}"), value);
    let kind = |name: &str| pair("type", Value::String(name.into()));
    let Some(scaling) = config.extras.rope_scaling else { return Ok((Vec::new(), None)) };
    Ok(match scaling {
        RopeScaling::Linear { factor } => (vec![kind("linear"), pair("factor", Value::F32(factor))], None),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let values = [factor, low_freq_factor, high_freq_factor].map(Value::F32);
            let original = Value::U32(original_max_position_embeddings as u32);
            let keys = LLAMA3.map(String::from).into_iter().zip(values.into_iter().chain([original]));
            (keys.collect(), Some(divisors(config.rotary_dims(), config.rope_theta, scaling)))
        }
        RopeScaling::Yarn { truncate: false, .. } => {
            let message =
                "rope_scaling.truncate is false, which a GGUF file cannot express; keep the model as a folder";
            return Err(Error::Config(message.into()));
        }
        RopeScaling::Yarn {
            factor, original_max_position_embeddings, beta_fast, beta_slow, attention_factor, ..
        } => {
            let keys = vec![
                kind("yarn"),
                pair("factor", Value::F32(factor)),
                pair("original_context_length", Value::U32(original_max_position_embeddings as u32)),
                pair("yarn_beta_fast", Value::F32(beta_fast)),
                pair("yarn_beta_slow", Value::F32(beta_slow)),
                pair("attn_factor", Value::F32(attention_factor / sharpness(factor, 1.0))),
            ];
            (keys, None)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scaling_of_llama_3_is_found_again_and_nothing_else() {
        let none = HashMap::new();
        let find = |factors: &[f32], theta| llama3(&Metadata(&none), factors, theta, 64);
        let published = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        };
        let factors = divisors(64, 500_000.0, published);
        let found = find(&factors, 500_000.0).unwrap().unwrap();
        assert_eq!((found["factor"].as_f64(), found["rope_type"].as_str()), (Some(32.0), Some("llama3")));
        assert!(find(&factors, 10_000.0).is_err() && find(&factors[1..], 500_000.0).is_err());
        assert_eq!(find(&[1.0; 32], 500_000.0), Ok(None));
    }
}
