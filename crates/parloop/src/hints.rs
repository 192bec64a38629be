//! What the command line adds to errors of the libraries, which know none of its flags.

use parloop_engine::Error as Engine;
use parloop_engine::error::StateMismatch;
use parloop_model::Error as Model;

/// What to do about an error, where a flag or a command of this program helps.
pub fn hint(error: &anyhow::Error) -> Option<String> {
    let engine = error.chain().find_map(|e| e.downcast_ref::<Engine>());
    let model = match engine {
        Some(Engine::Model(model)) => Some(model),
        _ => error.chain().find_map(|e| e.downcast_ref::<Model>()),
    };
    match engine {
        Some(Engine::Packed { .. }) => return Some("run `parloop pack` again, or delete it".into()),
        Some(Engine::NothingToPack) => return Some("give --weights".into()),
        Some(Engine::State { mismatch, .. }) => {
            return match mismatch {
                StateMismatch::Weights { was, .. } => Some(format!("give --weights {was}")),
                StateMismatch::Kv { was, .. } => Some(format!("give --kv {was}")),
                StateMismatch::Instructions { was, .. } => Some(format!("or set PARLOOP_ISA={was}")),
                StateMismatch::Recipe { .. } | StateMismatch::Model { .. } | StateMismatch::TooLong { .. } => None,
            };
        }
        _ => {}
    }
    match model?.innermost() {
        Model::UnknownKey { key, .. } => Some(format!("or give --ignore-config-key {key}")),
        Model::Tensors(mismatch) if mismatch.count() > 1 => Some("`parloop inspect` lists them".into()),
        _ => None,
    }
}
