//! Which rows a prompt needs.
//!
//! **Truncated later loops.** With shared K/V and a window, a later loop sees its own states only `left` positions
//! back per layer. If only the last logits and a valid decode state are wanted, loop R needs outputs from the last
//! position on, hence inputs to layer n (0-based) from `(N - n) * left` positions before it; and an earlier loop's
//! outputs are needed from one position (the shift) before the next loop's first input. The result is exact, bit for
//! bit, and depends on where the prompt ends, not on how it is cut into pieces.

use crate::Prefill;
use parloop_model::{KvMode, ModelConfig};

/// The first position whose input to each layer of each loop is needed.
#[derive(Debug)]
pub(crate) struct Starts {
    /// First position whose output of loop r is needed.
    outputs: Vec<usize>,
    /// First position whose keys and values of loop 1 are needed.
    keys: usize,
    /// First position that any loop computes.
    pub begin: usize,
    layers: usize,
    left: usize,
    deficit: usize,
}

impl Starts {
    /// For a sequence that holds `held` positions and is to hold `end`. `all` wants the last loop's output at every
    /// new position, not only at the last one. If `stale`, the sequence holds only what forks share: loop 1's keys
    /// and values (every loop's, with `kv = per_loop`); what else the new positions depend on is computed again.
    pub fn new(config: &ModelConfig, held: usize, end: usize, all: bool, stale: bool, options: &Prefill) -> Self {
        let recipe = &config.recipe;
        let layers = config.num_hidden_layers;
        let left = recipe.local.map_or(0, |l| l.left);
        let truncate = options.truncate && !all && recipe.kv == KvMode::Shared;
        let wanted = if truncate { end - 1 } else { held.min(end - 1) };
        let mut outputs = vec![wanted; recipe.count];
        for r in (1..recipe.count).rev() {
            outputs[r - 1] = outputs[r].saturating_sub(layers * left).saturating_sub(usize::from(recipe.shift));
        }
        // Every new position needs keys and values of loop 1.
        let keys = outputs[0].min(held);
        let begin = if stale { keys } else { held };
        Self { outputs, keys, begin, layers, left, deficit: options.deficit }
    }

    /// First position whose input to layer n of loop r is needed (its output, for n = N). It never falls as n grows.
    /// Loop 1 finds the keys and values of earlier positions in its cache, and so do all loops without a window.
    pub fn at(&self, r: usize, n: usize) -> usize {
        if r == 0 {
            // The last layer's keys are needed at every position, what follows them only where an output is.
            return if n < self.layers { self.keys } else { self.outputs[0] };
        }
        if self.outputs[r] == 0 {
            return 0;
        }
        let start = self.outputs[r].saturating_sub((self.layers - n) * self.left);
        if n == 0 && start > 0 { start + self.deficit } else { start }
    }

    /// How many layers a position goes through in loop r. In the next layer it only gives keys and values.
    pub fn depth(&self, r: usize, position: usize) -> usize {
        (1..=self.layers).rev().find(|n| self.at(r, *n) <= position).unwrap_or(0)
    }

    /// Rows to be computed up to position `end`, each layer of each loop counted.
    pub fn rows(&self, end: usize) -> usize {
        let rows = |r: usize, n: usize| end - self.at(r, n).max(self.begin).min(end);
        (0..self.outputs.len()).map(|r| (0..self.layers).map(|n| rows(r, n)).sum::<usize>()).sum()
    }
}
