//! Decode: one token for each of some sequences.

use crate::turn::{Observer, Work};
use crate::{Engine, Error, Passes, Prompt, Result, Sequence, Want};

impl Engine {
    /// Appends `tokens[i]` to `sequences[i]` and returns the next token's logits, `[sequences][V]`.
    ///
    /// # Errors
    /// The recipe cannot decode in one pass though `passes` asks for it, a token is outside the vocabulary, a sequence is
    /// at the end of the context or of another model, or the budget of keys and values is spent. Nothing has changed
    /// then.
    pub fn step(&mut self, sequences: &mut [&mut Sequence], tokens: &[u32], passes: Passes) -> Result<&[f32]> {
        self.step_observed(sequences, tokens, passes, None)
    }

    /// [`Engine::step`], with every loop's state shown to an observer.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn step_observed(
        &mut self,
        sequences: &mut [&mut Sequence],
        tokens: &[u32],
        passes: Passes,
        observer: Option<&mut dyn Observer>,
    ) -> Result<&[f32]> {
        let batch = sequences.len();
        if tokens.len() != batch || batch == 0 {
            return Err(Error::Input(format!("{} tokens for {batch} sequences", tokens.len())));
        }
        let prompt = |token: &u32| Prompt::new(vec![*token], Want::Last).passes(passes);
        let mut prompts: Vec<Prompt> = tokens.iter().map(prompt).collect();
        let work = sequences.iter_mut().zip(&mut prompts);
        let mut work: Vec<Work<'_>> = work.map(|(sequence, prompt)| Work { sequence, prompt }).collect();
        self.finish(&mut work, observer)?;
        Ok(&self.logits[..batch * self.model.config().vocab_size])
    }
}
