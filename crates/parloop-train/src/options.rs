//! What a training run can be told. Every option has a value in each preset; a TOML file or a flag changes some.

mod check;
mod loops;
mod settings;
mod start;
mod table;
mod values;

pub use settings::Settings;
pub(crate) use start::OF_INIT;
pub use table::{OPTIONS, TrainOption, TrainOptions};
pub use values::Allowed;

use crate::{Error, Result};
use parloop_model::{ModelConfig, Recipe, Sizes};
use serde::{Deserialize, Serialize};

/// An enum of unit variants with the words that stand for them in files and on command lines.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name { $($(#[$of])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: [Self; [$($word),*].len()] = [$(Self::$variant),*];
            /// Their names, in the same order.
            pub const NAMES: [&'static str; Self::ALL.len()] = [$($word),*];

            /// The name.
            pub const fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }
        }
    };
}

words! {
    /// A named set of options, by the size of the model.
    Preset {
        /// About 0.8M parameters: minutes on two cores.
        #[default]
        Tiny = "tiny",
        /// About 2.8M parameters: an hour on two cores.
        Small = "small",
        /// About 32M parameters: a day on many cores, or a graphics card.
        Medium = "medium",
    }
}

words! {
    /// Where to compute. Devices other than `cpu` need the cargo feature of that name.
    DeviceChoice {
        /// Burn's flex backend.
        #[default]
        Cpu = "cpu",
        /// NVIDIA.
        Cuda = "cuda",
        /// Any graphics interface that wgpu finds.
        Wgpu = "wgpu",
        /// Apple.
        Metal = "metal",
    }
}

words! {
    /// How the learning rate falls after warm-up.
    ScheduleChoice {
        /// Half a cosine.
        #[default]
        Cosine = "cosine",
        /// A straight line.
        Linear = "linear",
        /// Warm-up, stable, decay: a straight line at the end.
        Wsd = "wsd",
    }
}

words! {
    /// What turns gradients into changes.
    OptimizerChoice {
        /// For every parameter.
        #[default]
        AdamW = "adamw",
        /// For the matrices of the layers; AdamW for the rest.
        Muon = "muon",
    }
}

words! {
    /// What a run changes.
    TuneChoice {
        /// Every parameter.
        #[default]
        All = "all",
        /// What an ordinary model does not have: gates, and scales that are learned.
        New = "new",
        /// Matrices of low rank beside those of the layers, and what is new.
        Lora = "lora",
    }
}

words! {
    /// The two scales between loops.
    ScalesChoice {
        /// The recipe's.
        #[default]
        Fixed = "fixed",
        /// Parameters that start from the recipe's.
        Learned = "learned",
        /// Parameters that start where each loop repeats the first: the embedding alone.
        Cold = "cold",
    }
}

impl DeviceChoice {
    /// Whether this build has it.
    fn is_built(self) -> bool {
        match self {
            Self::Cpu => true,
            Self::Cuda => cfg!(feature = "cuda"),
            Self::Wgpu => cfg!(any(feature = "wgpu", feature = "metal")),
            Self::Metal => cfg!(feature = "metal"),
        }
    }

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
                let built = Self::ALL.into_iter().filter(|device| device.is_built()).map(Self::name).collect();
                return Err(Error::Device { device: other.name(), built });
            }
        };
        Ok(plain.autodiff())
    }
}

impl Default for TrainOptions {
    fn default() -> Self {
        Self::preset(Preset::default())
    }
}

/// A recipe by name or in full.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RecipeChoice {
    /// A name that [`Recipe::preset`] knows.
    Name(String),
    /// Every field.
    Full(Recipe),
}

impl RecipeChoice {
    /// A recipe as a TOML file gives it: a word or a table.
    fn of(value: &toml::Value) -> Result<Self> {
        if let Some(name) = value.as_str() {
            return Ok(Self::Name(name.to_owned()));
        }
        let table = toml::Table::try_from(value).unwrap_or_default();
        let json = |value: toml::Value| serde_json::to_value(value).unwrap_or_default();
        let fields = table.into_iter().map(|(key, value)| (key, json(value))).collect::<serde_json::Map<_, _>>();
        Recipe::try_from(fields).map(Self::Full).map_err(|e| recipe_error(&e))
    }

    /// The recipe.
    ///
    /// # Errors
    /// The name is unknown or a field is out of range.
    pub fn resolve(&self) -> Result<Recipe> {
        match self {
            Self::Name(name) => Recipe::preset(name),
            Self::Full(recipe) => recipe.validate().map(|()| recipe.clone()),
        }
        .map_err(|e| recipe_error(&e))
    }
}

/// In a checkpoint the recipe is called `loop`, here `recipe`.
fn recipe_error(error: &parloop_model::Error) -> Error {
    Error::Recipe { message: error.to_string().replace("loop.", "recipe.") }
}

impl TrainOptions {
    /// Batches whose gradients make one step.
    pub fn batches_per_step(&self) -> usize {
        match self.step_tokens {
            0 => self.accumulate,
            tokens => tokens / (self.batch * self.context),
        }
    }

    /// Tokens that one step trains on.
    pub fn tokens_per_step(&self) -> usize {
        self.batches_per_step() * self.batch * self.context
    }

    /// Positions that the model is made for.
    pub fn positions(&self) -> usize {
        self.max_position.max(self.context)
    }

    /// The model to be trained, for a tokenizer of `vocab_size` ids that ends documents with `end`.
    ///
    /// # Errors
    /// A size is out of range or contradicts another.
    pub fn model_config(&self, vocab_size: usize, end: Option<u32>) -> Result<ModelConfig> {
        let sizes = Sizes {
            vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads,
            head_dim: self.head_dim,
        };
        let config = ModelConfig {
            rope_theta: self.rope_theta,
            rms_norm_eps: self.rms_norm_eps as f32,
            max_position_embeddings: self.positions(),
            tie_word_embeddings: self.tie_embeddings,
            eos_token_id: end.map(parloop_model::config::TokenIds::One),
            ..ModelConfig::new(sizes, self.recipe.resolve()?)
        };
        config.validate()?;
        Ok(config)
    }
}
