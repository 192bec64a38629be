//! The optimiser: AdamW with decoupled weight decay, clipping by global norm, warm-up and a schedule.
//!
//! Decay applies to parameters of two dimensions: the embedding, the head, the projections and the gate's weight. Norm
//! weights and gate biases (one dimension) are never decayed.

mod adamw;
mod gradients;
mod schedule;

pub use adamw::{AdamW, AdamWSettings};
pub use gradients::Gradients;
pub use schedule::{Schedule, Shape};
