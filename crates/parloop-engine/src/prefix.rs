//! A cache of prefixes: what was computed for one prompt serves the next that begins alike.

use crate::starts::Starts;
use crate::{Engine, Error, Prefill, Result, Sequence};
use parloop_kernels::KvType;
use parloop_model::ModelConfig;
use std::collections::HashSet;

/// Sequences by their tokens, within a budget of bytes; the least recently used go first.
///
/// Sequences that share blocks of keys and values (forks of one another) are counted once for what they share, so the
/// states of one conversation after each of its turns cost little more than the last of them.
///
/// A look-up compares tokens with every entry. Beside the kilobytes of keys and values that each cached token takes,
/// its 4 bytes are read in no time, so an index would only add what can go wrong.
///
/// All sequences must be of one model and one type of keys and values.
pub struct PrefixCache {
    config: ModelConfig,
    budget: usize,
    entries: Vec<Entry>,
    /// Counts uses, to tell old ones from new ones.
    clock: u64,
}

struct Entry {
    sequence: Sequence,
    used: u64,
}

impl PrefixCache {
    /// An empty cache for a model's sequences, of at most `budget` bytes.
    ///
    /// # Errors
    /// The budget does not hold a single token.
    pub fn new(config: &ModelConfig, kind: KvType, budget: usize) -> Result<Self> {
        let least = Sequence::bytes_at(config, kind, 1);
        if budget < least {
            return Err(Error::Input(format!(
                "a prefix cache of {budget} bytes does not hold a single token of this model, which takes {least} bytes"
            )));
        }
        Ok(Self { config: config.clone(), budget, entries: Vec::new(), clock: 0 })
    }

    /// A fork of the cached sequence from which `tokens` are reached with the least work, cut to what it has in common
    /// with them, and how many tokens that is. All of them may be: then [`Engine::logits`](crate::Engine::logits)
    /// gives what follows. Otherwise [`Engine::prefill`](crate::Engine::prefill) takes the rest.
    ///
    /// `None` if nothing cached makes the work less. Work counts what a cut sequence needs to be rebuilt: an entry that
    /// ends within `tokens` may be better than one that has more in common with them and must be cut.
    pub fn lookup(&mut self, tokens: &[u32]) -> Option<(Sequence, usize)> {
        let end = tokens.len();
        if end == 0 {
            return None;
        }
        let rows = |held, stale| Starts::new(&self.config, held, end, false, stale, &Prefill::default()).rows(end);
        let work = |entry: &Entry| {
            let common = common(entry.sequence.tokens(), tokens);
            (rows(common, entry.sequence.needs_rebuilding(&self.config.recipe, common, end)), common)
        };
        let works = self.entries.iter().map(work).enumerate();
        let (best, (least, common)) =
            works.filter(|(_, (_, common))| *common > 0).min_by_key(|(_, (rows, _))| *rows)?;
        if least >= rows(0, false) {
            return None;
        }
        self.clock += 1;
        let entry = &mut self.entries[best];
        entry.used = self.clock;
        let mut sequence = entry.sequence.clone();
        sequence.truncate(common);
        Some((sequence, common))
    }

    /// A sequence that holds `prompt`, of which as much as pays is taken from the cache, and how many tokens that were.
    /// The cache then holds it too, if it fits.
    ///
    /// # Errors
    /// As [`Engine::prefill`].
    pub fn prefill(&mut self, engine: &mut Engine, prompt: &[u32], options: &Prefill) -> Result<(Sequence, usize)> {
        let (mut sequence, held) = self.lookup(prompt).unwrap_or_else(|| (engine.sequence(), 0));
        if held == 0 || held < prompt.len() {
            engine.prefill(&mut sequence, &prompt[held..], options)?;
        } else {
            engine.rebuild(&mut sequence, options)?;
        }
        self.insert(&sequence);
        Ok((sequence, held))
    }

    /// Keeps a fork of a sequence, and gives up those used least recently until all fit the budget. Returns whether it
    /// was kept: one that is empty, or larger than the budget by itself, is not, and then nothing is given up for it.
    pub fn insert(&mut self, sequence: &Sequence) -> bool {
        if sequence.is_empty() || sequence.bytes() > self.budget {
            return false;
        }
        self.clock += 1;
        self.entries.retain(|e| e.sequence.tokens() != sequence.tokens());
        self.entries.push(Entry { sequence: sequence.clone(), used: self.clock });
        while self.bytes() > self.budget {
            let oldest = self.entries.iter().enumerate().min_by_key(|(_, e)| e.used).map_or(0, |(i, _)| i);
            self.entries.remove(oldest);
        }
        true
    }

    /// Bytes in use; what entries share is counted once.
    pub fn bytes(&self) -> usize {
        let mut seen = HashSet::new();
        let sequences = || self.entries.iter().map(|e| &e.sequence);
        let blocks = sequences().flat_map(Sequence::memory).filter(|(address, _)| seen.insert(*address));
        blocks.map(|(_, bytes)| bytes).sum::<usize>() + sequences().map(Sequence::vector_bytes).sum::<usize>()
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// How many tokens two texts have in common from the start.
fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
