//! What a looped transformer *is*.
//!
//! A looped transformer runs the same `N` layers `R` times per token. Everything that tells one looped model from
//! another is a [`Recipe`]; together with the sizes of a Llama block it makes a [`ModelConfig`], which fixes the
//! tensors a checkpoint must hold ([`tensors::expected`]).
//!
//! | module | idea |
//! |---|---|
//! | [`recipe`] | the loop recipe and its named presets |
//! | [`config`] | `config.json`: sizes, recipe, validation |
//! | [`family`] | the configurations and tensor names of other families, as mappings onto ours |
//! | [`rope`] | rotary frequencies, plain and scaled |
//! | [`tensors`] | the names and shapes of a checkpoint's tensors |
//! | [`dtype`], [`tensor`] | element types, plain and in blocks; a tensor as a window into a file |
//! | [`checkpoint`] | reading checkpoints, writing checkpoint folders |
//! | [`gguf`] | GGUF files: container, block types, names, tokenizer, quantising |
//! | [`chat`] | chat templates: from a conversation to text |
//! | [`generation`] | how the checkpoint wants text generated, and what ends it |
//! | [`mapped`] | memory-mapped files, the only `unsafe` outside the kernels |
//! | [`tokenizer`] | text to ids and back, streaming included |
//! | [`mod@reference`] | a slow forward that reads like the mathematics |
#![deny(unsafe_code)]

pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod dtype;
pub mod error;
pub mod family;
mod files;
pub mod generation;
pub mod gguf;
pub mod mapped;
pub mod recipe;
pub mod reference;
pub mod rope;
pub mod tensor;
pub mod tensors;
pub mod tokenizer;

pub use chat::{ChatSource, ChatTemplate, Conversation, Message};
pub use checkpoint::Checkpoint;
pub use config::{Block, ModelConfig};
pub use dtype::DType;
pub use error::{Error, Result};
pub use generation::{GenerationDefaults, Stops};
pub use recipe::{Exit, GateKind, KvMode, Local, Recipe};
pub use tensor::Tensor;
pub use tokenizer::Tokenizer;
