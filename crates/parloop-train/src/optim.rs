//! The optimiser: AdamW, or Muon for the matrices of the layers; decoupled weight decay, clipping by global norm, warm-up and a
//! schedule.
//!
//! Decay applies to parameters of two dimensions: the embedding, the head, the projections and the gate's weight. Norm
//! weights and gate biases (one dimension) are never decayed.

mod gradients;
mod lora;
mod muon;
mod schedule;
mod state;

pub use gradients::Gradients;
pub use lora::LoraSettings;
pub use schedule::{Schedule, Shape};
pub use state::{AdamWSettings, Optimiser};
