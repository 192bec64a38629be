//! How much memory a request takes, known before it begins.

use crate::{Engine, Error, Prefill, Result};

/// Buffers of the kernels, such as panels of weights and attention scores; 5 to 8 MB were measured.
const KERNELS: usize = 16 << 20;

/// Bytes that a request needs beside the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The sequence: keys and values in whole blocks, vectors and tokens.
    pub state: usize,
    /// Buffers of the largest pass, an upper estimate.
    pub scratch: usize,
}

impl Engine {
    /// What a sequence of `tokens` tokens takes whose prompt is processed as `options` say.
    pub fn need(&self, tokens: usize, options: &Prefill) -> Need {
        let c = self.model.config();
        let tokens = tokens.min(c.max_position_embeddings);
        let rows = options.chunk.min(tokens).max(c.recipe.count);
        // Residual stream, loop outputs handed on, queries, attention outputs, keys, values, gates and feed-forward
        // of every row; the widest of these once more, prepared for the kernels; and a ring that holds a whole chunk.
        let widest = c.intermediate_size.max(c.query_width()).max(c.hidden_size);
        // Each row once more for each of its experts: what they compute, and their results.
        let experts = c.moe.as_ref().map_or(0, |moe| {
            let shared = moe.shared.map_or(0, |shared| shared.width + 2 * c.hidden_size);
            moe.experts + moe.top_k * (2 * moe.width + 2 * c.hidden_size) + 2 * shared + c.hidden_size
        });
        let row =
            experts + 2 * c.hidden_size + 2 * c.query_width() + 2 * c.kv_width() + c.num_attention_heads + 2 * widest;
        let window = c.recipe.local.map_or(0, |l| l.left + rows);
        let ring = window * crate::sequence::kv_bytes(c, self.kv_type) / c.num_hidden_layers;
        let sequence = self.sequence();
        let kv: usize = sequence.kv.iter().flatten().map(|kv| kv.bytes_at(tokens)).sum();
        let state = kv + sequence.vector_bytes() + 4 * (c.hidden_size + tokens);
        Need { state, scratch: 4 * (rows * row + c.vocab_size) + ring + KERNELS }
    }

    /// Refuses a request that needs more than `budget` bytes.
    ///
    /// # Errors
    /// It does; the message has the numbers.
    pub fn check_budget(&self, tokens: usize, options: &Prefill, budget: usize) -> Result<()> {
        let Need { state, scratch } = self.need(tokens, options);
        if state.saturating_add(scratch) <= budget {
            return Ok(());
        }
        Err(Error::Input(format!(
            "{tokens} tokens need {state} bytes of keys and values and {scratch} bytes to work in, {budget} are \
             allowed: shorten the text, keep keys and values in fewer bits (--kv), or allow more (--kv-budget)"
        )))
    }
}
