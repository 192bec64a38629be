//! What a state file says about itself, and whether that suits the engine that reads it.

use super::identity::identity;
use crate::error::StateMismatch;
use crate::{Engine, Sequence};
use parloop_model::Recipe;
use serde::{Deserialize, Serialize};

/// The first bytes of a state file.
pub(super) const MAGIC: &[u8; 8] = b"plpstate";
/// Changes whenever a file's content comes to mean something else.
pub(super) const VERSION: u32 = 2;
/// Longest header that is read.
pub(super) const LIMIT: u32 = 1 << 16;

/// What the bits of a state depend on besides its tokens.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    /// [`identity`] of the model.
    pub model: String,
    /// Its recipe, for a message that says more than the identity.
    pub recipe: Recipe,
    /// Type of the matrices.
    pub weights: String,
    /// Type of keys and values.
    pub kv: String,
    /// Instruction set.
    pub instructions: String,
    /// Tokens seen.
    pub tokens: usize,
    /// Whether rings, carried vectors and the last output are in the file; otherwise they are rebuilt.
    pub whole: bool,
}

impl Header {
    /// The header of a sequence of this engine.
    pub fn of(engine: &Engine, sequence: &Sequence) -> Self {
        Self { tokens: sequence.len(), whole: !sequence.last.is_empty(), ..Self::expected(engine) }
    }

    fn expected(engine: &Engine) -> Self {
        Self {
            model: identity(&engine.model),
            recipe: engine.model.config().recipe.clone(),
            weights: engine.model.weight_type().name().into(),
            kv: engine.kv_type.name().into(),
            instructions: engine.isa().name().into(),
            tokens: 0,
            whole: false,
        }
    }

    /// Why a state with this header cannot go on in this engine.
    pub fn mismatch(&self, engine: &Engine) -> Option<StateMismatch> {
        let here = Self::expected(engine);
        let context = engine.model.config().max_position_embeddings;
        let differ = |was: &str, is: &str| (was != is).then(|| (was.to_owned(), is.to_owned()));
        if let Some((was, is)) = differ(&self.weights, &here.weights) {
            return Some(StateMismatch::Weights { was, is });
        }
        if self.recipe != here.recipe {
            return Some(StateMismatch::Recipe { was: self.recipe.describe(), is: here.recipe.describe() });
        }
        if let Some((was, is)) = differ(&self.model, &here.model) {
            return Some(StateMismatch::Model { was, is });
        }
        if let Some((was, is)) = differ(&self.kv, &here.kv) {
            return Some(StateMismatch::Kv { was, is });
        }
        if let Some((was, is)) = differ(&self.instructions, &here.instructions) {
            return Some(StateMismatch::Instructions { was, is });
        }
        (self.tokens > context).then_some(StateMismatch::TooLong { tokens: self.tokens, context })
    }
}
