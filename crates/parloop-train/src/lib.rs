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
//! | [`optim`] | AdamW and Muon, schedule, gradients of a step |
//! | [`data`] | text to token windows |
//! | [`options`] | what a run can be told |
//! | [`trainer`] | the run itself |
//! | [`sample`] | text from the module |
//!
//! The library prints nothing and knows no command line: a run tells an observer what happens ([`Event`]), and errors
//! name options as [`TrainOptions`] does. A small model on a small text:
//!
//! ```
//! use parloop_train::{Event, Hooks, Settings, TrainJob, train};
//! use std::sync::atomic::AtomicBool;
//!
//! let folder = tempfile::tempdir()?;
//! let text = folder.path().join("text.txt");
//! std::fs::write(&text, "To be, or not to be, that is the question.\n".repeat(100))?;
//!
//! // Options over those of a preset, as a TOML file would give them.
//! let mut settings = Settings::new();
//! settings.add_toml(
//!     "recipe = 'plt2'\ntokenizer = 'bytes'\nhidden_size = 32\nintermediate_size = 64\nlayers = 1
//!      heads = 2\nkv_heads = 1\nhead_dim = 16\ncontext = 32\nbatch = 2\nsteps = 3\nlog_every = 1",
//! )?;
//! let job = TrainJob::new(&text, folder.path().join("out"), settings.options()?);
//!
//! // Set `stop` from an interrupt handler, and the run saves a checkpoint and ends.
//! let stop = AtomicBool::new(false);
//! let mut losses = Vec::new();
//! let mut hooks = Hooks::new(&stop).observer(|event| {
//!     if let Event::Logged(row) = event {
//!         losses.push(row.loss);
//!     }
//! });
//! let summary = train(&job, &mut hooks)?;
//! drop(hooks);
//! assert_eq!((summary.step, losses.len()), (3, 3));
//!
//! // The checkpoint is a folder in Hugging Face layout, which `parloop run` and the engine load.
//! let checkpoint = parloop_model::Checkpoint::open(&summary.checkpoint)?;
//! assert_eq!(checkpoint.config().recipe.count, 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
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
mod host;
mod ops;
mod plan;

pub use error::{Error, Result};
pub use model::LoopModel;
pub use options::{
    DeviceChoice, OptimizerChoice, Preset, RecipeChoice, ScalesChoice, ScheduleChoice, Settings, TrainOptions,
    TuneChoice,
};
pub use plan::{Plan, plan};
pub use trainer::{Event, Hooks, LogRow, Snapshot, Summary, TrainJob, Validation, train};
pub use weights::NamedTensor;
