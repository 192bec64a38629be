//! The exit gate (Ouro): which loop's state gives a position's logits.
//!
//! All loops are computed for every token, as the published forward does, and the logits are taken from the loop at
//! which the gate ends. Leaving loops out would save time, but every later token attends the keys and values of the
//! loops left out, so the result would be another model's.

use crate::Engine;
use parloop_kernels::ops::sigmoid;

/// The gate's tensors.
#[derive(Clone)]
pub(crate) struct ExitGate {
    /// `[d]`
    pub weight: Vec<f32>,
    pub bias: f32,
}

/// How far some positions have come in one pass through the loops.
#[derive(Debug)]
pub(crate) struct Exits {
    threshold: f32,
    progress: Vec<Progress>,
    /// `[positions][d]`: the output of the loop that was chosen, before the final norm.
    chosen: Vec<f32>,
}

/// How far one position has come.
#[derive(Clone, Debug)]
struct Progress {
    /// Probability of having ended by now, the sum of p.
    ended: f32,
    /// Probability of not having ended, the product of `1 - lambda`.
    remaining: f32,
    done: bool,
}

impl Exits {
    /// Puts the chosen state of position `i` in the place of the last loop's.
    pub fn put(&self, i: usize, x: &mut [f32]) {
        x.copy_from_slice(&self.chosen[i * x.len()..][..x.len()]);
    }
}

impl Engine {
    /// The beginning for some positions, if the model has a gate that may end before the last loop.
    pub(crate) fn exits(&self, positions: usize) -> Option<Exits> {
        let config = self.model.config();
        let exit = config.recipe.exit.filter(|exit| exit.threshold < 1.0 && config.recipe.count > 1)?;
        Some(Exits {
            threshold: exit.threshold,
            progress: vec![Progress { ended: 0.0, remaining: 1.0, done: false }; positions],
            chosen: vec![0.0; positions * config.hidden_size],
        })
    }

    /// Judges position `i` after one more loop, whose output is row `row` of `self.x`. Without a gate that ends, the
    /// last loop's output stays chosen.
    pub(crate) fn judge(&self, exits: &mut Exits, i: usize, row: usize) {
        let progress = &mut exits.progress[i];
        let Some(gate) = self.model.exit_gate.as_ref().filter(|_| !progress.done) else { return };
        let d = gate.weight.len();
        exits.chosen[i * d..][..d].copy_from_slice(&self.x[row * d..][..d]);
        let mut state = vec![0.0; d];
        self.normed(row, &mut state);
        let score: f32 = state.iter().zip(&gate.weight).map(|(h, w)| h * w).sum();
        let lambda = sigmoid(score + gate.bias);
        progress.ended += lambda * progress.remaining;
        progress.remaining *= 1.0 - lambda;
        progress.done = progress.ended >= exits.threshold;
    }
}
