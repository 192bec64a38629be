//! Rotary frequencies, plain and scaled for longer contexts.
//!
//! The formulas are those of Hugging Face's `modeling_rope_utils.py`, under whose names configurations ask for them.

use crate::fields::Fields;
use crate::{Error, Result};
use serde::Serialize;
use std::f64::consts::PI;

/// The longest context that a configuration may claim.
pub(crate) const MAX_CONTEXT: usize = 1 << 26;

/// How rotary frequencies are changed for contexts longer than the model was first trained on; written as
/// `rope_scaling` with `rope_type`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "rope_type", rename_all = "lowercase")]
pub enum RopeScaling {
    /// Every frequency divided by a factor (position interpolation, arXiv 2306.15595).
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1: low frequencies divided, high ones kept, a smooth passage between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f32,
        /// Wavelengths above `original_max_position_embeddings` / this are divided.
        low_freq_factor: f32,
        /// Wavelengths below `original_max_position_embeddings` / this are kept.
        high_freq_factor: f32,
        /// The context before scaling.
        original_max_position_embeddings: usize,
    },
    /// YaRN (arXiv 2309.00071): a linear ramp between kept and divided frequencies, and sharper attention.
    Yarn {
        /// The divisor of low frequencies.
        factor: f32,
        /// The context before scaling.
        original_max_position_embeddings: usize,
        /// Rotations over the original context above which a frequency is kept.
        beta_fast: f32,
        /// Rotations over the original context below which a frequency is divided.
        beta_slow: f32,
        /// Multiplies queries and keys after the rotation.
        attention_factor: f32,
        /// Whether the ramp begins and ends at whole dimensions.
        truncate: bool,
    },
}

impl RopeScaling {
    /// Takes `rope_theta` and `rope_scaling`, or `rope_parameters` which holds both, from a configuration.
    pub(crate) fn read(fields: &mut Fields, context: usize) -> Result<(f32, Option<Self>)> {
        let theta = fields.optional("rope_theta")?;
        let (scaling, parameters) = (fields.object("rope_scaling")?, fields.object("rope_parameters")?);
        if scaling.is_some() && parameters.is_some() {
            return Err(Error::Config("has both rope_scaling and rope_parameters, expected one of them".into()));
        }
        let missing = || Error::Config("has no rope_theta, expected a number".into());
        // What holds every parameter need not name the usual kind; what is there to change it must.
        let default = parameters.is_some().then(|| "default".to_owned());
        let Some(mut inner) = scaling.or(parameters) else { return Ok((theta.ok_or_else(missing)?, None)) };
        let theta = match (theta, inner.optional("rope_theta")?) {
            (Some(a), Some(b)) if a != b => return inner.error("rope_theta", b, &format!("{a}, as outside")),
            (a, b) => a.or(b).ok_or_else(missing)?,
        };
        let older = inner.optional::<String>("type")?;
        let kind = match (inner.optional::<String>("rope_type")?, older) {
            (Some(a), Some(b)) if a != b => {
                return inner.error("type", format!("\"{b}\""), &format!("\"{a}\", as in rope_type"));
            }
            (a, b) => a.or(b),
        };
        let Some(kind) = kind.or(default) else {
            return Err(Error::Config(format!("has no {}, expected a text", inner.name("rope_type"))));
        };
        if let Some(part) = inner.optional::<f32>("partial_rotary_factor")?.filter(|part| *part != 1.0) {
            return inner.error("partial_rotary_factor", part, "1: all of a head is rotated");
        }
        let original = |inner: &mut Fields| -> Result<usize> {
            Ok(inner.optional("original_max_position_embeddings")?.unwrap_or(context))
        };
        let scaling = match kind.as_str() {
            "default" => None,
            "linear" => Some(Self::Linear { factor: inner.required("factor")? }),
            "llama3" => Some(Self::Llama3 {
                factor: inner.required("factor")?,
                low_freq_factor: inner.required("low_freq_factor")?,
                high_freq_factor: inner.required("high_freq_factor")?,
                original_max_position_embeddings: original(&mut inner)?,
            }),
            "yarn" => {
                let original = original(&mut inner)?;
                let factor = inner.optional("factor")?.unwrap_or(context as f32 / original as f32);
                let scales = (inner.optional("mscale")?, inner.optional("mscale_all_dim")?);
                Some(Self::Yarn {
                    factor,
                    original_max_position_embeddings: original,
                    beta_fast: inner.optional("beta_fast")?.unwrap_or(32.0),
                    beta_slow: inner.optional("beta_slow")?.unwrap_or(1.0),
                    attention_factor: match (inner.optional("attention_factor")?, scales) {
                        (Some(given), _) => given,
                        (None, (Some(above), Some(below))) if above != 0.0 && below != 0.0 => {
                            sharpness(factor, above) / sharpness(factor, below)
                        }
                        _ => sharpness(factor, 1.0),
                    },
                    truncate: inner.optional("truncate")?.unwrap_or(true),
                })
            }
            other => {
                let expected = "\"default\", \"linear\", \"llama3\" or \"yarn\"";
                return inner.error("rope_type", format!("\"{other}\""), expected);
            }
        };
        inner.known(&[])?;
        Ok((theta, scaling))
    }

    /// The name that configurations use.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Linear { .. } => "linear",
            Self::Llama3 { .. } => "llama3",
            Self::Yarn { .. } => "yarn",
        }
    }

    /// Checks ranges that the type cannot express.
    pub(crate) fn validate(&self, theta: f32) -> Result<()> {
        let positive = |key: &str, value: f32| {
            if value.is_finite() && value > 0.0 {
                return Ok(());
            }
            Err(Error::Config(format!("rope_scaling.{key} is {value}, expected a positive number")))
        };
        let context = |n: usize| match n {
            1..=MAX_CONTEXT => Ok(()),
            n => Err(Error::Config(format!(
                "rope_scaling.original_max_position_embeddings is {n}, expected 1 to {}",
                MAX_CONTEXT
            ))),
        };
        match *self {
            Self::Linear { factor } => positive("factor", factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                positive("factor", factor)?;
                positive("low_freq_factor", low_freq_factor)?;
                positive("high_freq_factor", high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    return Err(Error::Config(format!(
                        "rope_scaling.high_freq_factor is {high_freq_factor}, expected more than low_freq_factor \
                         ({low_freq_factor})"
                    )));
                }
                context(original_max_position_embeddings)
            }
            Self::Yarn { factor, original_max_position_embeddings, beta_fast, beta_slow, attention_factor, .. } => {
                positive("factor", factor)?;
                positive("beta_fast", beta_fast)?;
                positive("beta_slow", beta_slow)?;
                positive("attention_factor", attention_factor)?;
                if theta <= 1.0 {
                    return Err(Error::Config(format!("rope_theta is {theta}, expected more than 1 for yarn")));
                }
                context(original_max_position_embeddings)
            }
        }
    }
}

/// YaRN's attention factor: `0.1 m ln(factor) + 1`.
pub(crate) fn sharpness(factor: f32, m: f32) -> f32 {
    if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 }
}

/// The angle by which each pair (i, i + D/2) of heads of D = `head_dim` turns from one position to the next, `[D/2]`, and
/// the factor by which the rotated vectors are multiplied.
pub fn frequencies(head_dim: usize, theta: f32, scaling: Option<RopeScaling>) -> (Vec<f64>, f32) {
    let (half, theta) = (head_dim / 2, f64::from(theta));
    let plain = (0..half).map(|i| theta.powf(-(i as f64) / half as f64));
    match scaling {
        None => (plain.collect(), 1.0),
        Some(RopeScaling::Linear { factor }) => (plain.map(|f| f / f64::from(factor)).collect(), 1.0),
        Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings }) => {
            let (factor, low, high) = (f64::from(factor), f64::from(low_freq_factor), f64::from(high_freq_factor));
            let scaled = plain.map(|f| {
                // Rotations over the original context decide.
                let rotations = original_max_position_embeddings as f64 * f / (2.0 * PI);
                let kept = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - kept) * f / factor + kept * f
            });
            (scaled.collect(), 1.0)
        }
        Some(RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            attention_factor,
            truncate,
        }) => {
            // The dimension whose frequency makes this many rotations over the original context.
            let dimension = |rotations: f32| {
                half as f64 * (original_max_position_embeddings as f64 / (f64::from(rotations) * 2.0 * PI)).ln()
                    / theta.ln()
            };
            let (mut first, mut last) = (dimension(beta_fast), dimension(beta_slow));
            if truncate {
                (first, last) = (first.floor(), last.ceil());
            }
            (first, last) = (first.max(0.0), last.min((head_dim - 1) as f64));
            if first == last {
                last += 0.001;
            }
            let scaled = plain.enumerate().map(|(i, f)| {
                let divided = ((i as f64 - first) / (last - first)).clamp(0.0, 1.0);
                f / f64::from(factor) * divided + f * (1.0 - divided)
            });
            (scaled.collect(), attention_factor)
        }
    }
}
