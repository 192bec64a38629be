//! What a state file says about itself, and whether that suits the engine that reads it.

use super::identity::identity;
use crate::{Engine, Sequence};
use parloop_model::Recipe;
use serde::{Deserialize, Serialize};

/// The first bytes of a state file.
pub(super) const MAGIC: &[u8; 8] = b"plpstate";
/// Changes whenever a file's content comes to mean something else.
pub(super) const VERSION: u32 = 1;
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
    pub fn refusal(&self, engine: &Engine) -> Option<String> {
        let here = Self::expected(engine);
        let context = engine.model.config().max_position_embeddings;
        if self.weights != here.weights {
            let (was, is) = (&self.weights, here.weights);
            return Some(format!("was made with {was} weights, this run has {is}: give --weights {was}"));
        }
        if self.recipe != here.recipe {
            let (was, is) = (self.recipe.describe(), here.recipe.describe());
            return Some(format!(
                "was made by another model ({was}), this one is: {is}; give the model that made it, or another file"
            ));
        }
        if self.model != here.model {
            let (was, is) = (&self.model, here.model);
            return Some(format!(
                "was made by another model ({was}), this one is {is}; give the model that made it, or another file"
            ));
        }
        if self.kv != here.kv {
            let (was, is) = (&self.kv, here.kv);
            return Some(format!("holds keys and values as {was}, this run keeps them as {is}: give --kv {was}"));
        }
        if self.instructions != here.instructions {
            let (was, is) = (&self.instructions, here.instructions);
            return Some(format!(
                "was computed with the instruction set {was}, this run uses {is}, which rounds differently: \
                 set PARLOOP_ISA={was}, or make the state anew"
            ));
        }
        (self.tokens > context)
            .then(|| format!("claims {} tokens, the model's context holds {context}; make the state anew", self.tokens))
    }
}
