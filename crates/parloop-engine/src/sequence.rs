//! What is remembered of a sequence between passes.

use parloop_kernels::{KvTiles, KvType};
use parloop_model::{ModelConfig, Recipe};

/// The decode state of one sequence (`docs/model.md`, "Decode in one pass").
///
/// A clone is a **fork**: both go on independently. Keys and values are shared block by block until one of the two
/// writes to a block, so a fork costs little more than the blocks in which the two come to differ.
///
/// [`Sequence::truncate`] **rolls back**. What later loops remember beside the shared keys and values (rings, carried
/// vectors) is forgotten with it; the engine rebuilds it exactly when the sequence goes on
/// ([`Engine::rebuild`](crate::Engine::rebuild)).
#[derive(Clone, Debug)]
pub struct Sequence {
    /// Tokens seen.
    pub(crate) tokens: Vec<u32>,
    /// For each loop and layer: loop 1's cache, later loops' caches (`kv = per_loop`) or rings (G-SWA), or nothing.
    pub(crate) kv: Vec<Vec<KvTiles>>,
    /// For each loop but the last: its output at the last position, normed as the recipe says.
    pub(crate) carried: Vec<Vec<f32>>,
    /// The output at the last position, of the last loop or of the one that the exit gate chose, from which the next
    /// token's logits come; empty if not known: for an empty sequence, and after a roll-back.
    pub(crate) last: Vec<f32>,
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
            tokens: Vec::new(),
            kv: (0..recipe.count).map(loop_kv).collect(),
            carried: vec![vec![0.0; config.hidden_size]; recipe.count - 1],
            last: Vec::new(),
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
        sequence.tokens = vec![0; tokens];
        sequence.last = vec![0.0; config.hidden_size];
        Ok(sequence)
    }

    /// Tokens seen so far; the next token's position.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether no token was seen yet.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The tokens seen so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Goes back to the first `len` tokens: exactly as if the others had never been seen. Does nothing if there are
    /// no more than that.
    ///
    /// Loop 1's keys and values (every loop's, with `kv = per_loop`) are cut; rings and carried vectors hold what
    /// came later and are emptied. The engine rebuilds them before the next token.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.tokens.len() {
            return;
        }
        self.tokens.truncate(len);
        self.kv.iter_mut().flatten().for_each(|kv| kv.truncate(len));
        self.carried.iter_mut().for_each(|c| c.fill(0.0));
        self.last.clear();
    }

    /// Whether rings or carried vectors must be rebuilt before the sequence can go on.
    pub(crate) fn is_stale(&self, recipe: &Recipe) -> bool {
        self.needs_rebuilding(recipe, self.len(), usize::MAX)
    }

    /// Whether the first `len` tokens of this sequence are not enough to go on to `end` tokens: rings or carried
    /// vectors are missing, or, with no token to come, the last output.
    pub(crate) fn needs_rebuilding(&self, recipe: &Recipe, len: usize, end: usize) -> bool {
        let remembers_more = recipe.count > 1 && (recipe.shift || recipe.local.is_some());
        let lost = len < self.len() || self.last.is_empty();
        lost && len > 0 && (remembers_more || len == end)
    }

    /// Bytes of keys, values and carried vectors that are allocated, whether shared with a fork or not.
    pub fn bytes(&self) -> usize {
        self.memory().map(|(_, bytes)| bytes).sum::<usize>() + self.vector_bytes()
    }

    /// Each piece of memory of keys and values: an address that only forks share, and its bytes.
    pub(crate) fn memory(&self) -> impl Iterator<Item = (usize, usize)> {
        self.kv.iter().flatten().flat_map(KvTiles::memory)
    }

    /// Bytes of everything that forks do not share.
    pub(crate) fn vector_bytes(&self) -> usize {
        4 * (self.carried.iter().map(Vec::len).sum::<usize>() + self.last.len() + self.tokens.len())
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
