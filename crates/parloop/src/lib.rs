//! parloop as a library: the crates behind the command, under one name.
//!
//! ```
//! use parloop::engine::{Engine, Generation, Generator, Model, Passes, Prefill, SampleOptions};
//!
//! let model = std::sync::Arc::new(Model::new(&parloop::builtin::checkpoint()?)?);
//! let mut engine = Engine::new(model.clone(), Some(1))?;
//! let tokenizer = model.tokenizer().expect("the built-in model has a tokenizer");
//! let prompt = tokenizer.encode("ROMEO:")?;
//! let options = Generation {
//!     tokens: 8,
//!     sampling: SampleOptions::greedy(),
//!     prefill: Prefill::default(),
//!     passes: Passes::Auto,
//!     ignore_end: false,
//! };
//! let mut sequence = engine.sequence();
//! for token in Generator::new(&mut engine, &mut sequence, &prompt, &options)?.text(tokenizer.stream()) {
//!     print!("{}", token?.text);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod builtin;

pub use parloop_engine as engine;
pub use parloop_kernels as kernels;
pub use parloop_model as model;
#[cfg(feature = "train")]
pub use parloop_train as train;
