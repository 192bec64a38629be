//! Published shapes, to be measured with random weights.

use anyhow::{Result, bail};
use parloop_model::{ModelConfig, Moe, Recipe, Sizes};

/// Name, layers, d, feed-forward, query heads, key/value heads, head size, vocabulary.
type Shape = (&'static str, usize, usize, usize, usize, usize, usize, usize);

const SHAPES: [Shape; 8] = [
    ("loopcoder-v2", 14, 5120, 27648, 40, 8, 128, 76800),
    // A quarter of every width: for long prompts, where all 14 layers count more than the size.
    ("loopcoder-v2-quarter", 14, 1280, 6912, 10, 2, 128, 76800),
    ("llama-8b", 32, 4096, 14336, 32, 8, 128, 128_256),
    ("llama-1b", 16, 2048, 8192, 32, 8, 64, 128_256),
    ("smollm2-135m", 30, 576, 1536, 9, 3, 64, 49152),
    ("tiny", 4, 256, 768, 4, 2, 64, 1024),
    // 6.9 billion parameters, 1.3 for a row.
    ("olmoe-7b", 16, 2048, 1024, 16, 16, 128, 50304),
    ("tiny-moe", 4, 256, 96, 4, 2, 64, 1024),
];

/// Shapes with experts, of the width of the feed-forward: experts, and how many a row takes.
const MIXTURES: [(&str, usize, usize); 2] = [("olmoe-7b", 64, 8), ("tiny-moe", 16, 2)];

/// Their names.
pub const NAMES: [&str; 8] =
    ["loopcoder-v2", "loopcoder-v2-quarter", "llama-8b", "llama-1b", "smollm2-135m", "tiny", "olmoe-7b", "tiny-moe"];

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
    let moe = MIXTURES.iter().find(|m| m.0 == name).map(|&(_, experts, top_k)| Moe::new(experts, top_k, ff));
    let plain = ModelConfig::new(sizes, Recipe::plt(2));
    Ok(ModelConfig { rope_theta: 5e5, max_position_embeddings: 131_072, moe, ..plain })
}
