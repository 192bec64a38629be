//! What a looped transformer *is*.
//!
//! A looped transformer runs the same `N` layers `R` times per token. Everything that tells one looped model from
//! another is a [`Recipe`]; together with the sizes of a Llama block it makes a [`ModelConfig`], which fixes the
//! tensors a checkpoint must hold ([`tensors::expected`]).
//!
//! | module | idea |
//! |---|---|
//! | [`recipe`] | the loop recipe and its named presets |
//! | [`config`] | the description of a model: sizes, recipe, validation |
//! | [`experts`] | mixtures of experts: what there is, and the routing of a row |
//! | [`family`] | `config.json` and tensor names of every kind of checkpoint, as mappings onto ours and back |
//! | [`rope`] | rotary frequencies, plain and scaled |
//! | [`layer`] | the tensors of a layer, listed once |
//! | [`tensors`] | the names and shapes of a checkpoint's tensors |
//! | [`bytes`] | bytes that several owners read |
//! | [`dtype`], [`tensor`] | element types, plain and in blocks; a tensor as a window into a file |
//! | [`checkpoint`] | reading checkpoints, writing checkpoint folders |
//! | [`gguf`] | GGUF files: container, block types, names, tokenizer, quantising |
//! | [`chat`] | chat templates: from a conversation to text |
//! | [`generation`] | how the checkpoint wants text generated, and what ends it |
//! | [`mapped`] | memory-mapped files, the only `unsafe` outside the kernels |
//! | [`text`] | special tokens by name, chat templates, defaults: one description for every form of a checkpoint |
//! | [`tokenizer`] | text to ids and back, streaming included |
//! | [`mod@reference`] | a slow forward that reads like the mathematics |
#![deny(unsafe_code)]

pub mod bytes;
pub mod chat;
pub mod checkpoint;
pub mod config;
pub mod dtype;
pub mod error;
pub mod experts;
pub mod family;
mod fields;
mod files;
pub mod generation;
pub mod gguf;
pub mod layer;
pub mod mapped;
pub mod recipe;
pub mod reference;
pub mod rope;
pub mod tensor;
pub mod tensors;
pub mod text;
pub mod tokenizer;

pub use chat::{ChatSource, ChatTemplate, Conversation, Message};
pub use checkpoint::Checkpoint;
pub use config::{Extras, ModelConfig, Multipliers, QkNorms, Sizes};
pub use dtype::DType;
pub use error::{Error, Result};
pub use experts::{Groups, Moe, Score, SharedExpert};
pub use generation::{GenerationDefaults, Stops};
pub use layer::{Expert, Experts, FeedForward, Gate, LayerParts, Linear};
pub use recipe::{Exit, ExpertMode, GateKind, KvMode, Local, Recipe};
pub use tensor::Tensor;
pub use text::TextSettings;
pub use tokenizer::Tokenizer;
