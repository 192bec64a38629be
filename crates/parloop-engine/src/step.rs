//! Decode: one token for each of some sequences.

use crate::pass::Row;
use crate::{Engine, Error, Passes, Prefill, Result, Sequence};

/// Sees what passes compute besides logits.
pub trait Observer {
    /// The normed output of loop `r` (0-based) at a position of sequence `sequence`.
    fn state(&mut self, sequence: usize, r: usize, position: usize, state: &[f32]);
}

impl Engine {
    /// Appends `tokens[i]` to `sequences[i]` and returns the next token's logits, `[sequences][V]`.
    ///
    /// # Errors
    /// The recipe cannot decode in one pass though `passes` asks for it, a token is outside the vocabulary, or a
    /// sequence is at the end of the context. Nothing has changed then.
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
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<&[f32]> {
        let model = self.model.clone();
        let (c, batch) = (model.config(), sequences.len());
        if tokens.len() != batch || batch == 0 {
            return Err(Error::Input(format!("{} tokens for {batch} sequences", tokens.len())));
        }
        c.check_tokens(&tokens[..1])?;
        for (sequence, token) in sequences.iter().zip(tokens) {
            c.check_tokens(std::slice::from_ref(token))?;
            if sequence.len() >= c.max_position_embeddings {
                return Err(Error::Input(format!(
                    "the context of {} tokens is full: shorten the prompt or ask for fewer tokens",
                    c.max_position_embeddings
                )));
            }
        }
        let one_pass = passes.in_one_pass(&c.recipe)?;
        for sequence in sequences.iter_mut().filter(|s| s.is_stale(&c.recipe)) {
            self.rebuild(sequence, &Prefill::default())?;
        }
        let (d, loops) = (c.hidden_size, c.recipe.count);
        // Each pass takes these loops: all at once, or one after the other.
        let passes: Vec<std::ops::Range<usize>> = match one_pass {
            true => std::iter::once(0..loops).collect(),
            false => (0..loops).map(|r| r..r + 1).collect(),
        };
        // Carried vectors of this position replace those of the last one only after every loop has read them.
        let mut handed = vec![0.0; (loops - 1) * batch * d];
        let mut exits = self.exits(batch);
        let mut last = 0;
        for pass in passes {
            let mut rows = Vec::with_capacity(pass.len() * batch);
            self.x.resize(pass.len() * batch * d, 0.0);
            for r in pass.clone() {
                for (i, sequence) in sequences.iter().enumerate() {
                    let row = rows.len();
                    model.embedding.row(tokens[i] as usize, &mut self.x[row * d..][..d]);
                    if r > 0 {
                        let current = &handed[((r - 1) * batch + i) * d..][..d];
                        self.loop_input(row, if c.recipe.shift { &sequence.carried[r - 1] } else { current });
                    }
                    rows.push(Row { sequence: i, r, position: sequence.len() });
                }
            }
            self.pass(sequences, &rows, |_| 0);
            for (i, row) in rows.iter().enumerate() {
                if let Some(exits) = &mut exits {
                    self.judge(exits, row.sequence, i);
                }
                if row.r + 1 < loops {
                    self.handed_on(i, &mut handed[(row.r * batch + row.sequence) * d..][..d]);
                }
                if let Some(observer) = observer.as_deref_mut() {
                    let mut state = vec![0.0; d];
                    self.normed(i, &mut state);
                    observer.state(row.sequence, row.r, row.position, &state);
                }
            }
            last = rows.len() - batch;
        }
        if let Some(exits) = exits {
            (0..batch).for_each(|i| exits.put(i, &mut self.x[(last + i) * d..][..d]));
        }
        for (i, sequence) in sequences.iter_mut().enumerate() {
            sequence.tokens.push(tokens[i]);
            sequence.last.clear();
            sequence.last.extend_from_slice(&self.x[(last + i) * d..][..d]);
            for (r, carried) in sequence.carried.iter_mut().enumerate() {
                carried.copy_from_slice(&handed[(r * batch + i) * d..][..d]);
            }
        }
        self.head(last..last + batch);
        Ok(&self.logits[..batch * c.vocab_size])
    }
}
