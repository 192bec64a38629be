//! What a training run can be told. Every option has a value in each preset; a TOML file or a flag changes some.

mod check;
mod presets;

pub use presets::Preset;

use crate::{Error, Result};
use parloop_model::{ModelConfig, Recipe};
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize};

/// Everything that decides the course of a run, apart from its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainOptions {
    /// The preset that the other values were taken from.
    pub preset: Preset,
    /// Where to compute.
    pub device: DeviceChoice,
    /// The loop recipe: the name of a preset (`vanilla`, `plt2`, ...) or a table with every field.
    pub recipe: RecipeChoice,

    /// d, width of the residual stream.
    pub hidden_size: usize,
    /// Width of the SwiGLU feed-forward.
    pub intermediate_size: usize,
    /// N, physical layers.
    pub layers: usize,
    /// H, query heads.
    pub heads: usize,
    /// G, key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// D, size of a head; even.
    pub head_dim: usize,
    /// Use the embedding matrix as the output head.
    pub tie_embeddings: bool,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,

    /// `bytes`, `bpe` (trained on the text, `vocab_size` ids), or the path of a `tokenizer.json`.
    pub tokenizer: String,
    /// Ids of a tokenizer to be trained; other tokenizers bring their own number.
    pub vocab_size: usize,

    /// T, tokens of a training sequence; also the context that the model is written with unless `max_position` is larger.
    pub context: usize,
    /// `max_position_embeddings` of the model; 0 takes `context`.
    pub max_position: usize,
    /// Sequences computed at once.
    pub batch: usize,
    /// Batches whose gradients are added up before a step.
    pub accumulate: usize,
    /// Optimiser steps of the whole run.
    pub steps: usize,

    /// Highest learning rate.
    pub lr: f64,
    /// Steps of linear warm-up; a shorter run ends before it does.
    pub warmup: usize,
    /// Last learning rate as a fraction of the highest.
    pub floor: f64,
    /// Decoupled decay of parameters of two dimensions.
    pub weight_decay: f64,
    /// AdamW's beta1.
    pub beta1: f64,
    /// AdamW's beta2.
    pub beta2: f64,
    /// AdamW's epsilon.
    pub epsilon: f64,
    /// Largest global gradient norm; 0 does not clip.
    pub clip: f64,
    /// Seed of the weights, the order of the data and the samples.
    pub seed: u64,

    /// Share of the text, at its end, that is kept for validation; 0 for none.
    pub val_fraction: f64,
    /// Steps between validations; 0 for only the last.
    pub eval_every: usize,
    /// Batches of a validation.
    pub eval_batches: usize,
    /// Steps between lines of progress.
    pub log_every: usize,
    /// Steps between checkpoints; 0 for only the last.
    pub save_every: usize,
    /// Checkpoints kept; older ones are removed after a newer one is whole.
    pub keep: usize,
    /// Steps between text samples; 0 for none.
    pub sample_every: usize,
    /// Tokens of a sample.
    pub sample_tokens: usize,
    /// Text that a sample continues; the start of the validation text if empty.
    pub sample_prompt: String,
    /// Temperature of samples; 0 takes the most likely token.
    pub sample_temperature: f64,
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self::preset(Preset::default())
    }
}

/// Where to compute. Devices other than `cpu` need the cargo feature of that name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// Burn's flex backend.
    #[default]
    Cpu,
    /// NVIDIA.
    Cuda,
    /// Any graphics interface that wgpu finds.
    Wgpu,
    /// Apple.
    Metal,
}

impl std::str::FromStr for DeviceChoice {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            "wgpu" => Ok(Self::Wgpu),
            "metal" => Ok(Self::Metal),
            _ => Err(Error::option("device", format!("\"{text}\""), "cpu, cuda, wgpu or metal")),
        }
    }
}

impl DeviceChoice {
    /// The Burn device, with gradients.
    ///
    /// # Errors
    /// The device is not part of this build.
    pub(crate) fn open(self) -> Result<burn::tensor::Device> {
        let plain = match self {
            Self::Cpu => burn::tensor::Device::flex(),
            #[cfg(feature = "cuda")]
            Self::Cuda => burn::tensor::Device::cuda(0),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => burn::tensor::Device::wgpu(Default::default()),
            #[cfg(feature = "metal")]
            Self::Metal => burn::tensor::Device::metal(Default::default()),
            #[allow(unreachable_patterns)]
            other => {
                let found = format!("{other:?}").to_lowercase();
                return Err(Error::Device { found, known: KNOWN_DEVICES });
            }
        };
        Ok(plain.autodiff())
    }
}

const KNOWN_DEVICES: &str = match (cfg!(feature = "cuda"), cfg!(feature = "wgpu"), cfg!(feature = "metal")) {
    (false, false, false) => "cpu",
    (true, false, false) => "cpu and cuda",
    (false, true, false) => "cpu and wgpu",
    (false, _, true) => "cpu, wgpu and metal",
    (true, true, false) => "cpu, cuda and wgpu",
    (true, _, true) => "cpu, cuda, wgpu and metal",
};

/// A recipe by name or in full.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RecipeChoice {
    /// A name that [`Recipe::preset`] knows.
    Name(String),
    /// Every field.
    Full(Recipe),
}

impl RecipeChoice {
    /// The recipe.
    ///
    /// # Errors
    /// The name is unknown or a field is out of range.
    pub fn resolve(&self) -> Result<Recipe> {
        let recipe = match self {
            Self::Name(name) => Recipe::preset(name),
            Self::Full(recipe) => recipe.validate().map(|()| recipe.clone()),
        };
        recipe.map_err(|e| Error::option("recipe", "not usable", format!("a recipe that can be computed: {e}")))
    }
}

impl<'de> Deserialize<'de> for RecipeChoice {
    /// A string or a table, with the table's own error messages (which an untagged enum would swallow).
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = RecipeChoice;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("the name of a recipe or a table with its fields")
            }
            fn visit_str<E: serde::de::Error>(self, name: &str) -> std::result::Result<RecipeChoice, E> {
                Ok(RecipeChoice::Name(name.to_owned()))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> std::result::Result<RecipeChoice, A::Error> {
                Recipe::deserialize(MapAccessDeserializer::new(map)).map(RecipeChoice::Full)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl TrainOptions {
    /// Options of a TOML text over those of the preset that it names (`preset = "small"`; `tiny` if it names none).
    ///
    /// # Errors
    /// The text is not TOML, or a key or value is not an option's; the message says which.
    pub fn from_toml(text: &str) -> Result<Self> {
        let unreadable = |e: &dyn std::fmt::Display| Error::Config(format!("the training options cannot be read: {e}"));
        let given: toml::Table = text.parse().map_err(|e: toml::de::Error| unreadable(&e))?;
        let preset = match given.get("preset") {
            Some(value) => value.clone().try_into::<Preset>().map_err(|e| unreadable(&e))?,
            None => Preset::default(),
        };
        let mut table = toml::Table::try_from(Self::preset(preset)).map_err(|e| unreadable(&e))?;
        table.extend(given);
        table.try_into().map_err(|e| unreadable(&e))
    }

    /// The options as TOML text, every one written out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }

    /// Tokens that one step trains on.
    pub fn tokens_per_step(&self) -> usize {
        self.batch * self.accumulate * self.context
    }

    /// The model to be trained, for a tokenizer of `vocab_size` ids that ends documents with `end`.
    ///
    /// # Errors
    /// A size is out of range or contradicts another; the message names the flag.
    pub fn model_config(&self, vocab_size: usize, end: Option<u32>) -> Result<ModelConfig> {
        let config = ModelConfig {
            model_type: "parloop".into(),
            architectures: vec!["ParloopForCausalLM".into()],
            vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads,
            head_dim: self.head_dim,
            rms_norm_eps: 1e-5,
            rope_theta: self.rope_theta,
            max_position_embeddings: self.max_position.max(self.context),
            tie_word_embeddings: self.tie_embeddings,
            bos_token_id: None,
            eos_token_id: end.map(parloop_model::config::TokenIds::One),
            hidden_act: "silu".into(),
            torch_dtype: Some("float32".into()),
            block: Default::default(),
            recipe: self.recipe.resolve()?,
            other: Default::default(),
        };
        config.validate()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_changes_only_what_it_says() {
        let options = TrainOptions::from_toml("preset = \"small\"\nlr = 0.5\nrecipe = \"plt3\"\n").unwrap();
        let expected =
            TrainOptions { lr: 0.5, recipe: RecipeChoice::Name("plt3".into()), ..TrainOptions::preset(Preset::Small) };
        assert_eq!(options, expected);
        assert_eq!(TrainOptions::from_toml("").unwrap(), TrainOptions::preset(Preset::Tiny));
        assert_eq!(TrainOptions::from_toml(&options.to_toml()).unwrap(), options);
    }

    #[test]
    fn a_recipe_may_be_a_table() {
        let text = "[recipe]\ncount = 2\nshift = true\nembedding_scale = 1.0\nhidden_scale = 0.1\nnorm = true\n\
                    kv = \"shared\"\nlocal = { left = 8, gate = \"query\" }\n";
        let recipe = TrainOptions::from_toml(text).unwrap().recipe.resolve().unwrap();
        assert_eq!((recipe.count, recipe.local.unwrap().left), (2, 8));
        assert!(TrainOptions::from_toml("[recipe]\ncounts = 2\n").unwrap_err().to_string().contains("counts"));
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        for (text, word) in [
            ("learning_rate = 1", "learning_rate"),
            ("steps = -1", "steps"),
            ("preset = \"huge\"", "huge"),
            ("device = \"abacus\"", "abacus"),
            ("lr = ", "lr"),
        ] {
            let message = TrainOptions::from_toml(text).unwrap_err().to_string();
            assert!(message.contains(word), "{text}: {message}");
        }
    }
}
