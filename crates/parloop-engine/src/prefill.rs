//! Prefill: many positions of one sequence at a time, loop after loop.
//!
//! **Truncated later loops.** With shared K/V and a window, a later loop sees its own states only `left` positions
//! back per layer. If only the last logits and a valid decode state are wanted, loop R needs outputs from the last
//! position on, hence inputs to layer n (0-based) from `(N - n) * left` positions before it; and an earlier loop's
//! outputs are needed from one position (the shift) before the next loop's first input. `Starts` is that rule; the
//! result is exact, bit for bit.

use crate::pass::Row;
use crate::step::Observer;
use crate::{Engine, Error, Result, Sequence};
use parloop_model::{KvMode, ModelConfig};

/// How a prompt is processed.
#[derive(Clone, Copy, Debug)]
pub struct Prefill {
    /// Positions of a pass at most; bounds the memory of a long prompt.
    pub chunk: usize,
    /// Leave out what the last logits and the decode state do not depend on. Ignored where logits of all positions
    /// are wanted.
    pub truncate: bool,
    /// Rows left out beyond the exact bound, which makes the result wrong; tests pin the bound with it.
    #[doc(hidden)]
    pub deficit: usize,
}

impl Default for Prefill {
    fn default() -> Self {
        Self { chunk: 512, truncate: true, deficit: 0 }
    }
}

impl Prefill {
    /// The work of a prompt of `tokens` tokens against the same prompt through one loop: rows of all layers and loops
    /// over `layers * tokens`. What attention costs beyond that is not counted.
    pub fn relative_work(&self, config: &ModelConfig, tokens: usize) -> f64 {
        if tokens == 0 {
            return 1.0;
        }
        let rows = Starts::new(config, 0, tokens, false, false, self).rows(tokens);
        rows as f64 / (config.num_hidden_layers * tokens) as f64
    }

    /// Checks the chunk.
    ///
    /// # Errors
    /// It is 0.
    pub(crate) fn validate(&self) -> Result<()> {
        if self.chunk == 0 {
            return Err(Error::Input("a chunk of 0 positions was asked for; give at least 1".into()));
        }
        Ok(())
    }
}

/// Takes the logits `[V]` of a position.
type TakeLogits<'a> = &'a mut dyn FnMut(usize, &[f32]);

/// Rows whose logits are computed at a time where all are wanted; bounds memory for large vocabularies.
const HEAD_ROWS: usize = 64;

/// The first position whose input to each layer of each loop is needed.
pub(crate) struct Starts {
    /// First position whose output of loop r is needed.
    outputs: Vec<usize>,
    /// First position that any loop computes.
    begin: usize,
    layers: usize,
    left: usize,
    deficit: usize,
}

impl Starts {
    /// For a sequence that holds `held` positions and is to hold `end`. `all` wants the last loop's output at every
    /// new position, not only at the last one. If `stale`, the sequence holds only what forks share: loop 1's keys
    /// and values (every loop's, with `kv = per_loop`); what else the new positions depend on is computed again.
    pub(crate) fn new(
        config: &ModelConfig,
        held: usize,
        end: usize,
        all: bool,
        stale: bool,
        options: &Prefill,
    ) -> Self {
        let recipe = &config.recipe;
        let layers = config.num_hidden_layers;
        let left = recipe.local.map_or(0, |l| l.left);
        let truncate = options.truncate && !all && recipe.kv == KvMode::Shared;
        let wanted = if truncate { end - 1 } else { held.min(end - 1) };
        let mut outputs = vec![wanted; recipe.count];
        for r in (1..recipe.count).rev() {
            outputs[r - 1] = outputs[r].saturating_sub(layers * left).saturating_sub(usize::from(recipe.shift));
        }
        // Every new position needs keys and values of loop 1.
        outputs[0] = outputs[0].min(held);
        let begin = if stale { outputs[0] } else { held };
        Self { outputs, begin, layers, left, deficit: options.deficit }
    }

    /// First position whose input to layer n of loop r is needed (its output, for n = N). Loop 1 finds the keys and
    /// values of earlier positions in its cache, and so do all loops without a window.
    fn at(&self, r: usize, n: usize) -> usize {
        if r == 0 || self.outputs[r] == 0 {
            return self.outputs[r];
        }
        let start = self.outputs[r].saturating_sub((self.layers - n) * self.left);
        if n == 0 && start > 0 { start + self.deficit } else { start }
    }

    /// Rows to be computed up to position `end`, each layer of each loop counted.
    pub(crate) fn rows(&self, end: usize) -> usize {
        let rows = |r: usize, n: usize| end - self.at(r, n).max(self.begin).min(end);
        (0..self.outputs.len()).map(|r| (0..self.layers).map(|n| rows(r, n)).sum::<usize>()).sum()
    }
}

impl Engine {
    /// Appends a prompt and returns the logits after its last token, `[V]`.
    ///
    /// # Errors
    /// The prompt is empty, longer than what is left of the context, or holds an id outside the vocabulary; or the
    /// chunk is 0. Nothing has changed then.
    pub fn prefill(&mut self, sequence: &mut Sequence, tokens: &[u32], options: &Prefill) -> Result<&[f32]> {
        self.prefill_inner(sequence, tokens, options, None, None)?;
        Ok(&self.logits[..self.model.config().vocab_size])
    }

    /// Appends a prompt and hands the logits of every position to `logits(position, [V])`; all loops run whole.
    ///
    /// # Errors
    /// As [`Engine::prefill`].
    pub fn prefill_all(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        options: &Prefill,
        mut logits: impl FnMut(usize, &[f32]),
        observer: Option<&mut dyn Observer>,
    ) -> Result<()> {
        self.prefill_inner(sequence, tokens, options, Some(&mut logits), observer)
    }

    fn prefill_inner(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        options: &Prefill,
        all: Option<TakeLogits<'_>>,
        observer: Option<&mut dyn Observer>,
    ) -> Result<()> {
        let model = self.model.clone();
        let c = model.config();
        c.check_tokens(tokens)?;
        let end = sequence.len() + tokens.len();
        if end > c.max_position_embeddings {
            return Err(Error::Input(format!(
                "{} tokens after {} are more than the model's context of {}: shorten the input",
                tokens.len(),
                sequence.len(),
                c.max_position_embeddings
            )));
        }
        options.validate()?;
        let stale = sequence.is_stale(&c.recipe);
        self.advance(sequence, tokens, stale, options, all, observer);
        Ok(())
    }

    /// Runs the loops over new tokens and, if the sequence is `stale`, over what of the old ones they depend on.
    pub(crate) fn advance(
        &mut self,
        sequence: &mut Sequence,
        tokens: &[u32],
        stale: bool,
        options: &Prefill,
        mut all: Option<TakeLogits<'_>>,
        mut observer: Option<&mut dyn Observer>,
    ) {
        let model = self.model.clone();
        let c = model.config();
        let (held, end) = (sequence.len(), sequence.len() + tokens.len());
        let starts = Starts::new(c, held, end, all.is_some() || observer.is_some(), stale, options);
        let (d, loops, layers) = (c.hidden_size, c.recipe.count, c.num_hidden_layers);
        sequence.tokens.extend_from_slice(tokens);
        for a in (starts.begin..end).step_by(options.chunk) {
            let b = a + options.chunk.min(end - a);
            let mut exits = self.exits(b - a);
            // Outputs of the loop before for this chunk, from position `from` on.
            let (mut before, mut from) = (Vec::<f32>::new(), a);
            for r in 0..loops {
                let first = starts.at(r, 0).max(a);
                if first >= b {
                    break;
                }
                self.x.resize((b - first) * d, 0.0);
                for t in first..b {
                    let row = t - first;
                    model.embedding.row(sequence.tokens[t] as usize, &mut self.x[row * d..][..d]);
                    if r > 0 {
                        let source = t as isize - isize::from(c.recipe.shift);
                        let h = match usize::try_from(source - from as isize) {
                            Ok(i) => &before[i * d..][..d],
                            // The position before the chunk: carried over (zeros at t = 0).
                            Err(_) => &sequence.carried[r - 1][..],
                        };
                        self.loop_input(row, h);
                    }
                }
                if r > 0 {
                    sequence.carried[r - 1].copy_from_slice(&before[before.len() - d..]);
                }
                let rows: Vec<Row> = (first..b).map(|position| Row { sequence: 0, r, position }).collect();
                let count = rows.len();
                let new = held.saturating_sub(first).min(count);
                self.pass(&mut [sequence], &rows, |n| starts.at(r, n).saturating_sub(first).min(count));
                if let Some(exits) = &mut exits {
                    let wanted = |row: &Row| all.is_some() || row.position + 1 == end;
                    for (i, row) in rows.iter().enumerate().filter(|(_, row)| wanted(row)) {
                        self.judge(exits, row.position - a, i);
                    }
                }
                if let Some(observer) = observer.as_deref_mut() {
                    let mut state = vec![0.0; d];
                    for (i, row) in rows.iter().enumerate().skip(new) {
                        self.normed(i, &mut state);
                        observer.state(0, r, row.position, &state);
                    }
                }
                if r + 1 < loops {
                    from = starts.at(r, layers).max(first);
                    before.resize((b.max(from) - from) * d, 0.0);
                    for (i, h) in before.chunks_exact_mut(d).enumerate() {
                        self.handed_on(from - first + i, h);
                    }
                    if before.is_empty() {
                        break;
                    }
                    // A later loop that starts in a later chunk finds its first input here.
                    if starts.at(r + 1, 0) >= b {
                        sequence.carried[r].copy_from_slice(&before[before.len() - d..]);
                    }
                    continue;
                }
                if let Some(exits) = &exits {
                    rows.iter().enumerate().for_each(|(i, row)| exits.put(row.position - a, &mut self.x[i * d..][..d]));
                }
                if b == end {
                    sequence.last.clear();
                    sequence.last.extend_from_slice(&self.x[(count - 1) * d..][..d]);
                }
                if let Some(all) = all.as_deref_mut() {
                    let mut i = new;
                    while i < count {
                        let n = HEAD_ROWS.min(count - i);
                        self.head(i..i + n);
                        for (j, logits) in self.logits[..n * c.vocab_size].chunks_exact(c.vocab_size).enumerate() {
                            all(first + i + j, logits);
                        }
                        i += n;
                    }
                } else if b == end {
                    self.head(count - 1..count);
                }
            }
            if let Some(progress) = &mut self.progress {
                progress(b - starts.begin, end - starts.begin);
            }
        }
    }
}
