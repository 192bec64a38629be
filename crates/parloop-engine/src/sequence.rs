//! What is remembered of a sequence between passes.

use crate::prompt::Next;
use crate::starts::Starts;
use crate::{Error, Result};
use parloop_kernels::{KvPool, KvTiles, KvType, Spares};
use parloop_model::{ExpertMode, ModelConfig, Recipe};
use std::ops::Range;

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
    /// What it was made for.
    shape: Shape,
    /// Tokens seen.
    pub(crate) tokens: Vec<u32>,
    /// For each loop and layer: loop 1's cache, later loops' caches (`kv = per_loop`) or rings (G-SWA), or nothing.
    pub(crate) kv: Vec<Vec<KvTiles>>,
    /// For each loop but the last: its output at the last position, normed as the recipe says.
    pub(crate) carried: Vec<Vec<f32>>,
    /// The output at the last position, of the last loop or of the one that the exit gate chose, from which the next
    /// token's logits come; empty if not known: for an empty sequence, and after a roll-back.
    pub(crate) last: Vec<f32>,
    /// The experts that loop 1 chose for the positions at hand, where later loops take the same.
    pub(crate) choices: Choices,
    /// The prompt of which a part is in, and how far it is.
    pub(crate) in_flight: Option<(u64, usize)>,
}

/// The experts that loop 1 chose for some positions, in each layer. Later loops of a position come in the same pass or, as
/// parts of the same piece, in one soon after; so nothing of it outlives the piece.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choices {
    first: usize,
    positions: usize,
    top_k: usize,
    /// `[layers][positions][k]`
    experts: Vec<u16>,
}

impl Choices {
    /// Makes room for positions, where the model's later loops take loop 1's experts.
    pub fn begin(&mut self, config: &ModelConfig, positions: Range<usize>) {
        let Some(moe) = config.moe.as_ref().filter(|_| config.recipe.experts == ExpertMode::Shared) else { return };
        (self.first, self.positions, self.top_k) = (positions.start, positions.len(), moe.top_k);
        self.experts.clear();
        self.experts.resize(config.num_hidden_layers * positions.len() * moe.top_k, 0);
    }

    /// Of a position in layer `n`.
    ///
    /// # Panics
    /// If no room was made for it.
    pub fn at(&mut self, n: usize, position: usize) -> &mut [u16] {
        let i = position.checked_sub(self.first).filter(|i| *i < self.positions);
        let i = i.expect("loop 1 of a position comes before its later loops");
        &mut self.experts[(n * self.positions + i) * self.top_k..][..self.top_k]
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// What of a model its sequences depend on.
#[derive(Clone, Debug, PartialEq)]
struct Shape {
    recipe: Recipe,
    layers: usize,
    hidden: usize,
    heads: usize,
    dim: usize,
    kind: KvType,
}

impl Shape {
    fn of(config: &ModelConfig, kind: KvType) -> Self {
        Self {
            recipe: config.recipe.clone(),
            layers: config.num_hidden_layers,
            hidden: config.hidden_size,
            heads: config.num_key_value_heads,
            dim: config.head_dim,
            kind,
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { recipe, layers, hidden, heads, dim, kind } = self;
        let recipe = recipe.describe();
        write!(f, "{recipe}; {layers} layers, width {hidden}, {heads} x {dim} keys and values as {}", kind.name())
    }
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
            shape: Shape::of(config, kind),
            choices: Choices::default(),
            in_flight: None,
            tokens: Vec::new(),
            kv: (0..recipe.count).map(loop_kv).collect(),
            carried: vec![vec![0.0; config.hidden_size]; recipe.count - 1],
            last: Vec::new(),
        }
    }

    /// A sequence that claims to have seen `tokens` tokens, with made-up keys and values: for measurements only.
    ///
    /// # Errors
    /// There are more tokens than the context or the memory holds.
    pub fn for_measurement(config: &ModelConfig, kind: KvType, tokens: usize) -> Result<Self> {
        if tokens >= config.max_position_embeddings {
            return Err(Error::Input(format!(
                "a depth of {tokens} tokens leaves no room in the context of {}",
                config.max_position_embeddings
            )));
        }
        let mut sequence = Self::new(config, kind);
        let mut spares = Spares::new(&KvPool::unlimited());
        sequence.kv.iter_mut().flatten().try_for_each(|kv| kv.pretend(tokens, &mut spares))?;
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
        self.keep_what_forks_share();
    }

    /// Forgets everything: as if no token had ever been seen, and its memory is free.
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.kv.iter_mut().flatten().for_each(KvTiles::clear);
        self.keep_what_forks_share();
    }

    /// Forgets a prompt of which only a part came in: what of it is done stays, as in a sequence that was cut there.
    pub(crate) fn settle(&mut self) {
        if self.in_flight.is_some() {
            self.keep_what_forks_share();
        }
    }

    /// Keeps keys and values of the tokens held and forgets what must be rebuilt.
    fn keep_what_forks_share(&mut self) {
        let len = self.tokens.len();
        for kv in self.kv.iter_mut().flatten() {
            if kv.window().is_some() {
                kv.clear();
            } else {
                kv.truncate(len);
                // Room that was made for a pass that did not come.
                kv.trim();
            }
        }
        self.carried.iter_mut().for_each(|c| c.fill(0.0));
        self.last.clear();
        self.choices.clear();
        self.in_flight = None;
    }

    /// Refuses a sequence of another model.
    pub(crate) fn check_shape(&self, config: &ModelConfig, kind: KvType) -> Result<()> {
        let shape = Shape::of(config, kind);
        if self.shape == shape {
            return Ok(());
        }
        Err(Error::Input(format!("a sequence made for ({}) cannot go on in ({shape}): make a new one", self.shape)))
    }

    /// Makes room for the keys and values of some rows: caches get their blocks now; for rings, whose tiles go round
    /// from layer to layer, as many are set aside as are in use at a time.
    ///
    /// # Errors
    /// The budget does not hold them. Nothing has changed then.
    pub(crate) fn reserve(&mut self, next: &Next, starts: &Starts, spares: &mut Spares) -> Result<()> {
        let room = self.reserve_parts(next, starts, spares);
        if room.is_err() {
            self.trim();
        }
        room
    }

    fn reserve_parts(&mut self, next: &Next, starts: &Starts, spares: &mut Spares) -> Result<()> {
        let (mut level, mut most, mut like) = (0, 0, None);
        for n in 0..self.shape.layers {
            let mut put = 0;
            for r in next.loops.clone() {
                let first = starts.at(r, n).max(next.first);
                let Some(kv) = self.kv[r].get_mut(n).filter(|_| first < next.end) else { continue };
                let count = next.end - first;
                if kv.window().is_none() {
                    kv.reserve(first, count, spares)?;
                    continue;
                }
                let (taken, later) = kv.demand(first, count);
                level += taken;
                put += later;
                like = Some((r, n));
            }
            most = most.max(level);
            level -= put;
        }
        if let (Some((r, n)), Ok(most)) = (like, usize::try_from(most)) {
            spares.add(&self.kv[r][n], most)?;
        }
        Ok(())
    }

    /// Gives back room that was made and not used.
    pub(crate) fn trim(&mut self) {
        self.kv.iter_mut().flatten().for_each(KvTiles::trim);
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
