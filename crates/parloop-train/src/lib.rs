//! Training of looped transformers.
//!
//! The loop recipe of `parloop-model` as a differentiable [Burn](https://burn.dev) module, and everything around it that a run needs.
//! A run is a pure function of its options, its text and its seed: whatever is random is drawn from (seed, purpose,
//! step), so a run that was stopped and resumed gives the same weights, bit for bit on the CPU, as one that was not.
//!
//! | module | idea |
//! |---|---|
//! | [`model`] | the recipe as a module: ids to logits |
//! | [`weights`] | parameters to and from the checkpoint's tensors |
//! | [`optim`] | AdamW, schedule, gradients of a step |
//! | [`data`] | text to token windows |
//! | [`options`] | what a run can be told |
//! | [`trainer`] | the run itself |
//! | [`sample`] | text from the module |
#![forbid(unsafe_code)]

pub mod data;
pub mod model;
pub mod optim;
pub mod options;
pub mod sample;
pub mod trainer;
pub mod weights;

mod block;
mod error;
mod ops;
mod rng;

pub use error::{Error, Result};
pub use model::LoopModel;
pub use options::{DeviceChoice, Preset, RecipeChoice, TrainOptions};
pub use trainer::{Hooks, LogRow, Snapshot, Summary, TrainJob, Validation, train};
pub use weights::NamedTensor;
