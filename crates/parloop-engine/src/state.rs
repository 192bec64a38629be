//! State as a thing: a sequence is forked (cloned), rolled back, rebuilt, saved to a file and loaded.
//!
//! What a sequence remembers falls in two parts. Loop 1's keys and values (every loop's, with `kv = per_loop`) stand
//! for each position by themselves and can be cut anywhere. Rings and carried vectors hold only what came last, but
//! they are a function of the first part and the last tokens: `Starts` says how far back. For
//! LoopCoder-V2 that is 897 positions of the last loop, whatever the length of the text.

mod file;
mod header;
mod identity;

use crate::{Engine, Error, Prefill, Result, Sequence, Want};

impl Engine {
    /// Goes back by `count` tokens; the sequence goes on bit for bit as one that never saw them.
    ///
    /// [`Sequence::truncate`] does the same, and leaves what must be rebuilt to the next prefill or step. With a prompt
    /// to come that is cheaper: a long one needs nothing of what would be rebuilt here.
    ///
    /// # Errors
    /// The sequence has fewer tokens than that. Nothing has changed then.
    pub fn roll_back(&mut self, sequence: &mut Sequence, count: usize) -> Result<()> {
        let Some(len) = sequence.len().checked_sub(count) else {
            return Err(Error::Input(format!(
                "cannot go back by {count} tokens: the sequence has only {}",
                sequence.len()
            )));
        };
        sequence.truncate(len);
        if sequence.is_stale(&self.model.config().recipe) {
            self.rebuild(sequence, &Prefill::default())?;
        }
        Ok(())
    }

    /// Rebuilds rings, carried vectors and the last output of a sequence from its tokens and loop 1's keys and values
    /// (every loop's, with `kv = per_loop`). Does nothing where they are there.
    ///
    /// # Errors
    /// The chunk is 0.
    pub fn rebuild(&mut self, sequence: &mut Sequence, options: &Prefill) -> Result<()> {
        sequence.settle();
        if !sequence.last.is_empty() || sequence.is_empty() {
            return options.validate();
        }
        self.restore(sequence, Want::Nothing, options)
    }

    /// The logits `[V]` of the next token, without a new token: of a sequence that was loaded, forked or rolled back.
    ///
    /// # Errors
    /// The sequence is empty.
    pub fn logits(&mut self, sequence: &mut Sequence) -> Result<&[f32]> {
        if sequence.is_empty() {
            return Err(Error::Input("there are no tokens to go on from: give at least one".into()));
        }
        sequence.settle();
        if sequence.last.is_empty() {
            self.restore(sequence, Want::Last, &Prefill::default())?;
        } else {
            sequence.check_shape(self.model.config(), self.kv_type)?;
            self.last_logits(std::iter::once(&*sequence));
        }
        Ok(self.turn_logits(0))
    }
}
