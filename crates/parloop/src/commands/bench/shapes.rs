//! Published shapes, to be measured with random weights.

use anyhow::{Result, bail};
use parloop_model::{ModelConfig, Recipe, Sizes};

/// Name, layers, d, feed-forward, query heads, key/value heads, head size, vocabulary.
type Shape = (&'static str, usize, usize, usize, usize, usize, usize, usize);

const SHAPES: [Shape; 6] = [
    ("loopcoder-v2", 14, 5120, 27648, 40, 8, 128, 76800),
    // A quarter of every width: for long prompts, where all 14 layers count more than the size.
    ("loopcoder-v2-quarter", 14, 1280, 6912, 10, 2, 128, 76800),
    ("llama-8b", 32, 4096, 14336, 32, 8, 128, 128_256),
    ("llama-1b", 16, 2048, 8192, 32, 8, 64, 128_256),
    ("smollm2-135m", 30, 576, 1536, 9, 3, 64, 49152),
    ("tiny", 4, 256, 768, 4, 2, 64, 1024),
];

/// Their names.
pub const NAMES: [&str; 6] = ["loopcoder-v2", "loopcoder-v2-quarter", "llama-8b", "llama-1b", "smollm2-135m", "tiny"];

/// The configuration of a shape, with PLT's recipe.
pub fn named(name: &str, layers: Option<usize>) -> Result<ModelConfig> {
    let Some(&(_, n, d, ff, heads, kv, dim, vocabulary)) = SHAPES.iter().find(|s| s.0 == name) else {
        bail!("--shape {name} is unknown; expected one of {}", NAMES.join(", "));
    };
    let sizes = Sizes {
        vocab_size: vocabulary,
        hidden_size: d,
        intermediate_size: ff,
        num_hidden_layers: layers.unwrap_or(n),
        num_attention_heads: heads,
        num_key_value_heads: kv,
        head_dim: dim,
    };
    Ok(ModelConfig { rope_theta: 5e5, max_position_embeddings: 131_072, ..ModelConfig::new(sizes, Recipe::plt(2)) })
}
