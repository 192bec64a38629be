//! A cache of prefixes: what was computed for one prompt serves the next that begins alike.
//!
//! Keys and values of loop 1 (every loop's, with `kv = per_loop`) depend on the tokens before them only, so they are kept
//! by blocks of 64 positions, each under a hash of all tokens up to its end: a block that many texts begin with is there
//! once, and shared with every sequence that uses it. Rings and carried vectors belong to one exact position; they are
//! kept where a sequence ended. A text goes on from the end that leaves the least to compute, or from whole blocks, and then
//! what later loops remember is rebuilt.
//!
//! A look-up walks the text block by block; taking in and giving up a block take the same time however many there are.

mod order;

use crate::starts::Starts;
use crate::{Engine, Error, Prefill, Result, Sequence};
use order::Order;
use parloop_kernels::KvType;
use parloop_kernels::kv::{BLOCK_POSITIONS, KvBlock, KvTiles};
use parloop_model::ModelConfig;
use std::collections::HashMap;
use twox_hash::xxhash3_128::Hasher;

/// The hash of a text and of whose it is.
type Key = u128;

/// Prefixes by their tokens, within a budget of bytes. Those that were of use outlive those that never were; among
/// them, those used least recently go first.
///
/// All sequences must be of one model and one type of keys and values.
pub struct PrefixCache {
    config: ModelConfig,
    kind: KvType,
    budget: usize,
    bytes: usize,
    blocks: HashMap<Key, Shared>,
    ends: HashMap<Key, End>,
    order: Order<Entry>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Entry {
    Block(Key),
    End(Key),
}

/// Keys and values of one block of positions.
struct Shared {
    parent: Key,
    tokens: Vec<u32>,
    /// For each loop and layer that has a cache.
    kv: Vec<KvBlock>,
    /// Blocks and ends that go on from here.
    children: usize,
    /// Tokens by which ends go on from here.
    tails: Vec<usize>,
    bytes: usize,
}

/// The state at the end of a sequence, beside the whole blocks before it.
struct End {
    parent: Key,
    /// Tokens after the last whole block.
    tail: Vec<u32>,
    /// For each loop and layer that has a cache, the block that is not whole, if the tail is not empty.
    kv: Vec<KvBlock>,
    /// For each loop and layer that has one.
    rings: Vec<KvTiles>,
    carried: Vec<Vec<f32>>,
    last: Vec<f32>,
    bytes: usize,
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
        Ok(Self {
            config: config.clone(),
            kind,
            budget,
            bytes: 0,
            blocks: HashMap::new(),
            ends: HashMap::new(),
            order: Order::default(),
        })
    }

    /// [`PrefixCache::lookup_for`] nobody in particular.
    pub fn lookup(&mut self, tokens: &[u32]) -> Option<(Sequence, usize)> {
        self.lookup_for(0, tokens)
    }

    /// A sequence from which `tokens` are reached with the least work, which holds a part of them, and how many that is.
    /// All of them may be: then [`Engine::logits`](crate::Engine::logits) gives what follows. Otherwise
    /// [`Engine::prefill`](crate::Engine::prefill) takes the rest.
    ///
    /// `None` if nothing cached makes the work less. Work counts what must be rebuilt after whole blocks: an end within
    /// `tokens` may be better than more blocks. Only what was kept for the same `owner` is looked at.
    pub fn lookup_for(&mut self, owner: u64, tokens: &[u32]) -> Option<(Sequence, usize)> {
        let end = tokens.len();
        let rows = |held, stale| Starts::new(&self.config, held, end, false, stale, &Prefill::default()).rows(end);
        let recipe = &self.config.recipe;
        let remembers_more = recipe.count > 1 && (recipe.shift || recipe.local.is_some());
        // The chain of whole blocks, and the longest end along it.
        let (mut chain, mut best) = (vec![root(owner)], None);
        let mut key = root(owner);
        loop {
            let held = (chain.len() - 1) * BLOCK_POSITIONS;
            let tails = match chain.len() {
                1 => (0..BLOCK_POSITIONS).collect(),
                _ => self.blocks.get(&key).map(|b| b.tails.clone()).unwrap_or_default(),
            };
            for length in tails {
                let Some(tail) = tokens.get(held..held + length) else { continue };
                let at = step(key, tail);
                if self.ends.get(&at).is_some_and(|e| e.parent == key && e.tail == tail) {
                    best = best.max(Some((held + length, at)));
                }
            }
            let Some(block) = tokens.get(held..held + BLOCK_POSITIONS) else { break };
            key = step(key, block);
            if self.blocks.get(&key).is_none_or(|b| b.tokens != block) {
                break;
            }
            chain.push(key);
        }
        let whole = (chain.len() - 1) * BLOCK_POSITIONS;
        let by_blocks = (whole > 0).then(|| rows(whole, remembers_more || whole == end));
        let by_end = best.filter(|(held, _)| *held > 0).map(|(held, _)| rows(held, false));
        let least = by_blocks.into_iter().chain(by_end).min().filter(|least| end > 0 && *least < rows(0, false))?;
        let mut sequence = Sequence::new(&self.config, self.kind);
        let (held, end_key) = match best {
            Some((held, key)) if by_end == Some(least) => (held, Some(key)),
            _ => (whole, None),
        };
        // Ends first and roots last: what others go on from was always used after them.
        if let Some(key) = end_key {
            self.order.hit(Entry::End(key));
        }
        let used = &chain[1..1 + held / BLOCK_POSITIONS];
        used.iter().rev().for_each(|key| self.order.hit(Entry::Block(*key)));
        for key in used {
            let blocks = &self.blocks.get(key)?.kv;
            caches(&mut sequence).zip(blocks).for_each(|(kv, block)| kv.append(block.clone(), BLOCK_POSITIONS));
        }
        sequence.tokens = tokens[..held].to_vec();
        if let Some(end) = end_key.and_then(|key| self.ends.get(&key)) {
            let count = end.tail.len();
            caches(&mut sequence).zip(&end.kv).for_each(|(kv, block)| kv.append(block.clone(), count));
            rings(&mut sequence).zip(&end.rings).for_each(|(kv, ring)| kv.clone_from(ring));
            sequence.carried.clone_from(&end.carried);
            sequence.last.clone_from(&end.last);
        }
        Some((sequence, held))
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

    /// [`PrefixCache::insert_for`] nobody in particular.
    pub fn insert(&mut self, sequence: &Sequence) -> bool {
        self.insert_for(0, sequence)
    }

    /// Keeps what a sequence holds, shared with it, for those who ask for the same `owner`, and gives up others until all
    /// fits the budget. Returns whether it was kept: one that is empty, or larger than the budget by itself, is not, and
    /// then nothing is given up for it. Of a sequence that must be rebuilt, or has a prompt on its way, whole blocks are
    /// kept.
    pub fn insert_for(&mut self, owner: u64, sequence: &Sequence) -> bool {
        if sequence.is_empty() || sequence.bytes() > self.budget {
            return false;
        }
        let mut used = Vec::new();
        let mut parent = root(owner);
        let mut pieces = sequence.tokens().chunks_exact(BLOCK_POSITIONS);
        for (i, tokens) in pieces.by_ref().enumerate() {
            let key = step(parent, tokens);
            if self.blocks.get(&key).is_none_or(|b| b.tokens != tokens) {
                let kv: Vec<KvBlock> = all_caches(sequence).filter_map(|kv| kv.block(i)).collect();
                let bytes = kv.iter().map(KvBlock::bytes).sum::<usize>() + 4 * tokens.len();
                let block = Shared { parent, tokens: tokens.to_vec(), kv, children: 0, tails: Vec::new(), bytes };
                if let Some(other) = self.blocks.insert(key, block) {
                    // Two texts of one hash: the newer one stays. What went on from the older finds other tokens.
                    self.bytes -= other.bytes;
                } else if let Some(parent) = self.blocks.get_mut(&parent) {
                    parent.children += 1;
                }
                self.bytes += bytes;
            }
            used.push(Entry::Block(key));
            parent = key;
        }
        if !sequence.last.is_empty() && sequence.in_flight.is_none() {
            used.push(Entry::End(self.insert_end(parent, pieces.remainder(), sequence)));
        }
        used.into_iter().rev().for_each(|entry| self.order.touch(entry));
        while self.bytes > self.budget && self.give_up() {}
        true
    }

    fn insert_end(&mut self, parent: Key, tail: &[u32], sequence: &Sequence) -> Key {
        let key = step(parent, tail);
        let kv: Vec<KvBlock> = match tail {
            [] => Vec::new(),
            _ => all_caches(sequence).filter_map(|kv| kv.block(sequence.len() / BLOCK_POSITIONS)).collect(),
        };
        let rings: Vec<KvTiles> = sequence.kv.iter().flatten().filter(|kv| kv.window().is_some()).cloned().collect();
        let numbers = sequence.carried.iter().map(Vec::len).sum::<usize>() + sequence.last.len() + tail.len();
        let bytes = kv.iter().map(KvBlock::bytes).sum::<usize>()
            + rings.iter().map(KvTiles::bytes).sum::<usize>()
            + 4 * numbers;
        let (carried, last) = (sequence.carried.clone(), sequence.last.clone());
        let end = End { parent, tail: tail.to_vec(), kv, rings, carried, last, bytes };
        self.bytes += bytes;
        if let Some(old) = self.ends.insert(key, end) {
            self.bytes -= old.bytes;
        } else if let Some(parent) = self.blocks.get_mut(&parent) {
            parent.children += 1;
            if !parent.tails.contains(&tail.len()) {
                parent.tails.push(tail.len());
            }
        }
        key
    }

    /// Gives up what is least worth keeping. Returns whether there was anything.
    pub fn give_up(&mut self) -> bool {
        while let Some(entry) = self.order.oldest() {
            let (parent, bytes) = match entry {
                Entry::End(key) => match self.ends.remove(&key) {
                    Some(end) => (end.parent, end.bytes),
                    None => continue,
                },
                Entry::Block(key) => match self.blocks.get(&key) {
                    // Never so by the order in which they are used; but a block without which others cannot be reached
                    // stays as long as they do.
                    Some(block) if block.children > 0 => {
                        self.order.touch(entry);
                        continue;
                    }
                    Some(block) => {
                        let found = (block.parent, block.bytes);
                        self.blocks.remove(&key);
                        found
                    }
                    None => continue,
                },
            };
            self.bytes -= bytes;
            if let Some(parent) = self.blocks.get_mut(&parent) {
                parent.children = parent.children.saturating_sub(1);
            }
            return true;
        }
        false
    }

    /// Bytes in use; what entries share is counted once, but for tiles that rings of several ends share.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of sequences whose ends are kept.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether nothing is cached.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.blocks.is_empty()
    }
}

/// The key of an empty text.
fn root(owner: u64) -> Key {
    Hasher::oneshot(&owner.to_le_bytes())
}

/// The key of a text that goes on by some tokens.
fn step(key: Key, tokens: &[u32]) -> Key {
    let mut hash = Hasher::new();
    hash.write(&key.to_le_bytes());
    tokens.iter().for_each(|t| hash.write(&t.to_le_bytes()));
    hash.finish_128()
}

fn all_caches(sequence: &Sequence) -> impl Iterator<Item = &KvTiles> {
    sequence.kv.iter().flatten().filter(|kv| kv.window().is_none())
}

fn caches(sequence: &mut Sequence) -> impl Iterator<Item = &mut KvTiles> {
    sequence.kv.iter_mut().flatten().filter(|kv| kv.window().is_none())
}

fn rings(sequence: &mut Sequence) -> impl Iterator<Item = &mut KvTiles> {
    sequence.kv.iter_mut().flatten().filter(|kv| kv.window().is_some())
}
