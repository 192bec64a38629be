//! Named sets of options.

use super::{DeviceChoice, RecipeChoice, TrainOptions};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// A named set of options, by the size of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// About 0.8M parameters: minutes on two cores.
    #[default]
    Tiny,
    /// About 2.8M parameters: an hour on two cores.
    Small,
    /// About 32M parameters: a day on many cores, or a graphics card.
    Medium,
}

impl std::str::FromStr for Preset {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "tiny" => Ok(Self::Tiny),
            "small" => Ok(Self::Small),
            "medium" => Ok(Self::Medium),
            _ => Err(Error::option("preset", format!("\"{text}\""), "tiny, small or medium")),
        }
    }
}

impl TrainOptions {
    /// The options of a preset: PLT-2 with LoopCoder-V2's scales, and a byte-level BPE trained on the text.
    pub fn preset(preset: Preset) -> Self {
        let tiny = Self {
            preset,
            device: DeviceChoice::Cpu,
            recipe: RecipeChoice::Name("plt2".into()),
            hidden_size: 128,
            intermediate_size: 352,
            layers: 4,
            heads: 4,
            kv_heads: 2,
            head_dim: 32,
            tie_embeddings: false,
            rope_theta: 10_000.0,
            tokenizer: "bpe".into(),
            vocab_size: 512,
            context: 256,
            max_position: 0,
            batch: 16,
            accumulate: 1,
            steps: 1000,
            lr: 3e-3,
            warmup: 50,
            floor: 0.1,
            weight_decay: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            clip: 1.0,
            seed: 1,
            val_fraction: 0.05,
            eval_every: 100,
            eval_batches: 8,
            log_every: 10,
            save_every: 500,
            keep: 2,
            sample_every: 0,
            sample_tokens: 128,
            sample_prompt: String::new(),
            sample_temperature: 0.8,
        };
        match preset {
            Preset::Tiny => tiny,
            Preset::Small => Self {
                hidden_size: 192,
                intermediate_size: 512,
                layers: 6,
                heads: 6,
                vocab_size: 1024,
                steps: 3000,
                lr: 2e-3,
                warmup: 100,
                eval_every: 250,
                ..tiny
            },
            Preset::Medium => Self {
                hidden_size: 512,
                intermediate_size: 1408,
                layers: 8,
                heads: 8,
                kv_heads: 4,
                head_dim: 64,
                vocab_size: 8192,
                context: 512,
                accumulate: 4,
                steps: 20_000,
                lr: 1e-3,
                warmup: 500,
                eval_every: 500,
                eval_batches: 16,
                save_every: 1000,
                ..tiny
            },
        }
    }
}
