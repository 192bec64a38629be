//! The shape that examples measure.

use parloop_model::{ModelConfig, Recipe, Sizes};

/// LoopCoder-V2's 14 layers, window and recipe, a quarter of its widths.
pub fn quarter() -> ModelConfig {
    let sizes = Sizes {
        vocab_size: 19200,
        hidden_size: 1280,
        intermediate_size: 6912,
        num_hidden_layers: 14,
        num_attention_heads: 10,
        num_key_value_heads: 2,
        head_dim: 128,
    };
    ModelConfig { rope_theta: 5e5, max_position_embeddings: 131_072, ..ModelConfig::new(sizes, Recipe::plt(2)) }
}
