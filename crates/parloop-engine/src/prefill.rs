//! Prefill: many positions of one sequence at a time, loop after loop.

use crate::turn::{Observer, Work};
use crate::{Engine, Prefill, Prompt, Result, Sequence, Want};

impl Engine {
    /// Appends a prompt and returns the logits after its last token, `[V]`.
    ///
    /// # Errors
    /// The prompt is empty, longer than what is left of the context, or holds an id outside the vocabulary; the chunk
    /// is 0; the sequence is of another model; or the budget of keys and values is spent. The tokens held are as
    /// before then.
    pub fn prefill(&mut self, sequence: &mut Sequence, tokens: &[u32], options: &Prefill) -> Result<&[f32]> {
        self.take_in(sequence, tokens, Want::Last, options, None)?;
        Ok(self.turn_logits(0))
    }

    /// Appends a prompt and shows the logits of every position to an observer; all loops run whole.
    ///
    /// # Errors
    /// As [`Engine::prefill`].
    pub fn prefill_all(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        options: &Prefill,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        self.take_in(sequence, tokens, Want::All, options, Some(observer))
    }

    fn take_in(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        want: Want,
        options: &Prefill,
        observer: Option<&mut dyn Observer>,
    ) -> Result<()> {
        let mut prompt = Prompt::new(tokens.to_vec(), want).options(*options);
        self.finish(&mut [Work { sequence, prompt: &mut prompt }], observer)
    }

    /// Computes what later loops remember of a sequence that was cut, and with `want` its last logits.
    pub(crate) fn restore(&mut self, sequence: &mut Sequence, want: Want, options: &Prefill) -> Result<()> {
        let mut prompt = Prompt::rebuild(want).options(*options);
        self.finish(&mut [Work { sequence, prompt: &mut prompt }], None)
    }
}
