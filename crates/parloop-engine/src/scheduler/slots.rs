//! Texts that are remembered under a number, so that what was computed for them can be saved to a file, and loaded again
//! into this scheduler or another one's.
//!
//! Keys and values stay in the prefix cache; a slot holds the tokens alone. What the cache has given up meanwhile is not
//! saved, and a loaded state serves whoever sends a text that begins with its tokens, like all that is cached.

use super::Scheduler;
use crate::{Error, Result};
use std::path::Path;

/// The text of the last request that was kept in a slot.
pub(super) struct Slot {
    pub owner: u64,
    pub tokens: Vec<u32>,
}

impl Scheduler<'_> {
    /// Saves the state after a slot's text, as far as it is cached. Returns the tokens in the file.
    ///
    /// # Errors
    /// The slot is empty or nothing of it is cached, nothing is cached at all, or the file cannot be written or exists and
    /// is not a saved state.
    pub fn save_slot(&mut self, slot: u32, path: &Path) -> Result<usize> {
        let Some(held) = self.slots.get(&slot) else {
            return Err(Error::Input(format!("slot {slot} is empty: no request was kept in it")));
        };
        let found = self.cache.as_mut().and_then(|cache| cache.lookup_for(held.owner, &held.tokens));
        let Some((sequence, tokens)) = found else {
            return Err(Error::Input(format!("nothing of slot {slot} is in the cache any more: ask again, then save")));
        };
        self.engine.save_state(&sequence, path)?;
        Ok(tokens)
    }

    /// Loads a state into the cache, for requests of an owner, and its text into a slot. Returns its tokens.
    ///
    /// # Errors
    /// As of [`Engine::load_state`](crate::Engine::load_state); or it has no place in the cache.
    pub fn restore_slot(&mut self, slot: u32, owner: u64, path: &Path) -> Result<usize> {
        let sequence = self.engine.load_state(path)?;
        let kept = self.cache.as_mut().is_some_and(|cache| cache.insert_for(owner, &sequence));
        if !kept {
            return Err(Error::Input(format!(
                "the state of {} tokens has no place in the cache of {} bytes: allow more",
                sequence.len(),
                self.limits.cache
            )));
        }
        let tokens = sequence.tokens().to_vec();
        let count = tokens.len();
        self.slots.insert(slot, Slot { owner, tokens });
        Ok(count)
    }

    /// Forgets a slot's text; what is cached of it makes room when room is needed. Returns how many tokens it had.
    pub fn erase_slot(&mut self, slot: u32) -> usize {
        self.slots.remove(&slot).map_or(0, |slot| slot.tokens.len())
    }
}
