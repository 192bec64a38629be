//! The model inside the program: a PLT-2 trained on Shakespeare. `model/README.md` says how.

use parloop_model::{Checkpoint, Result, Tokenizer};
use std::sync::Arc;

const CONFIG: &str = include_str!("../model/config.json");
const TOKENIZER: &str = include_str!("../model/tokenizer.json");
static WEIGHTS: &[u8] = include_bytes!("../model/model.safetensors");

/// The name by which messages call it.
pub const NAME: &str = "built-in Shakespeare model";

/// Opens the built-in model; its weights are used where they lie in the program.
///
/// # Errors
/// Only if the program was built from a broken model.
pub fn checkpoint() -> Result<Checkpoint> {
    Checkpoint::from_parts(CONFIG, Arc::new(WEIGHTS), Some(Tokenizer::from_json(TOKENIZER)?))
}
