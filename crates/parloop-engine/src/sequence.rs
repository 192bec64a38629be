//! What is remembered of a sequence between passes.

use parloop_kernels::{KvTiles, KvType};
use parloop_model::{ModelConfig, Recipe};

/// The decode state of one sequence (`docs/model.md`, "Decode in one pass").
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Tokens seen.
    pub(crate) length: usize,
    /// For each loop and layer: loop 1's cache, later loops' caches (`kv = per_loop`) or rings (G-SWA), or nothing.
    pub(crate) kv: Vec<Vec<KvTiles>>,
    /// For each loop but the last: its output at the last position, normed as the recipe says.
    pub(crate) carried: Vec<Vec<f32>>,
}

impl Sequence {
    /// An empty sequence with keys and values of the given type.
    pub fn new(config: &ModelConfig, kind: KvType) -> Self {
        let (recipe, heads, dim) = (&config.recipe, config.num_key_value_heads, config.head_dim);
        let loop_kv = |r: usize| -> Vec<KvTiles> {
            let one = match recipe.local {
                _ if !recipe.has_own_kv(r) => return Vec::new(),
                Some(local) if r > 0 => KvTiles::ring(kind, heads, dim, local.left),
                _ => KvTiles::cache(kind, heads, dim),
            };
            vec![one; config.num_hidden_layers]
        };
        Self {
            length: 0,
            kv: (0..recipe.count).map(loop_kv).collect(),
            carried: vec![vec![0.0; config.hidden_size]; recipe.count - 1],
        }
    }

    /// A sequence that claims to have seen `tokens` tokens, with made-up keys and values: for measurements only.
    ///
    /// # Errors
    /// There are more tokens than the context holds.
    pub fn for_measurement(config: &ModelConfig, kind: KvType, tokens: usize) -> crate::Result<Self> {
        if tokens >= config.max_position_embeddings {
            return Err(crate::Error::Input(format!(
                "a depth of {tokens} tokens leaves no room in the context of {}",
                config.max_position_embeddings
            )));
        }
        let mut sequence = Self::new(config, kind);
        sequence.kv.iter_mut().flatten().for_each(|kv| kv.pretend(tokens));
        sequence.length = tokens;
        Ok(sequence)
    }

    /// Tokens seen so far; the next token's position.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no token was seen yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes of keys, values and carried vectors that are allocated.
    pub fn bytes(&self) -> usize {
        let kv: usize = self.kv.iter().flatten().map(KvTiles::bytes).sum();
        kv + self.carried.iter().map(|c| 4 * c.len()).sum::<usize>()
    }

    /// Bytes of state that a sequence of `tokens` tokens needs: loop 1's K/V, the later loops' K/V or windows, and
    /// the carried vectors. Memory is given out in blocks, so a little more is allocated.
    pub fn bytes_at(config: &ModelConfig, kind: KvType, tokens: usize) -> usize {
        let recipe: &Recipe = &config.recipe;
        let position = kv_bytes(config, kind);
        let own = |r: usize| match recipe.local {
            _ if !recipe.has_own_kv(r) => 0,
            Some(local) if r > 0 => tokens.min(local.left + 1),
            _ => tokens,
        };
        let carried = if recipe.shift { (recipe.count - 1) * 4 * config.hidden_size } else { 0 };
        (0..recipe.count).map(own).sum::<usize>() * position + carried
    }
}

/// Bytes of keys and values of one position in one loop.
pub fn kv_bytes(config: &ModelConfig, kind: KvType) -> usize {
    let position = config.kv_width() * kind.size() + config.num_key_value_heads * kind.scale_size();
    2 * position * config.num_hidden_layers
}
