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

/// Takes the logits `[V]` of a position.
type TakeLogits<'a> = &'a mut dyn FnMut(usize, &[f32]);

/// Rows whose logits are computed at a time where all are wanted; bounds memory for large vocabularies.
const HEAD_ROWS: usize = 64;

/// The first position whose input to each layer of each loop is needed.
struct Starts {
    /// First position whose output of loop r is needed.
    outputs: Vec<usize>,
    layers: usize,
    left: usize,
    deficit: usize,
}

impl Starts {
    fn new(config: &ModelConfig, end: usize, options: &Prefill, all_logits: bool) -> Self {
        let recipe = &config.recipe;
        let layers = config.num_hidden_layers;
        let left = recipe.local.map_or(0, |l| l.left);
        let mut outputs = vec![0; recipe.count];
        if options.truncate && !all_logits && recipe.kv == KvMode::Shared {
            let mut needed = end - 1;
            for r in (1..recipe.count).rev() {
                outputs[r] = needed;
                needed = needed.saturating_sub(layers * left).saturating_sub(usize::from(recipe.shift));
            }
        }
        Self { outputs, layers, left, deficit: options.deficit }
    }

    /// First position whose input to layer n of loop r is needed (its output, for n = N). Loop 1 always runs whole:
    /// its keys and values are the cache.
    fn at(&self, r: usize, n: usize) -> usize {
        if r == 0 || self.outputs[r] == 0 {
            return 0;
        }
        let start = self.outputs[r].saturating_sub((self.layers - n) * self.left);
        if n == 0 && start > 0 { start + self.deficit } else { start }
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
        mut all: Option<TakeLogits<'_>>,
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<()> {
        let model = self.model.clone();
        let c = model.config();
        c.check_tokens(tokens)?;
        let end = sequence.length + tokens.len();
        if end > c.max_position_embeddings {
            return Err(Error::Input(format!(
                "{} tokens after {} are more than the model's context of {}: shorten the input",
                tokens.len(),
                sequence.length,
                c.max_position_embeddings
            )));
        }
        if options.chunk == 0 {
            return Err(Error::Input("a chunk of 0 positions was asked for; give at least 1".into()));
        }
        let starts = Starts::new(c, end, options, all.is_some() || observer.is_some());
        let (d, loops, layers) = (c.hidden_size, c.recipe.count, c.num_hidden_layers);
        for chunk in tokens.chunks(options.chunk) {
            let (a, b) = (sequence.length, sequence.length + chunk.len());
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
                    model.embedding.row(chunk[t - a] as usize, &mut self.x[row * d..][..d]);
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
                self.pass(&mut [sequence], &rows, |n| starts.at(r, n).saturating_sub(first).min(count));
                if let Some(observer) = observer.as_deref_mut() {
                    let mut state = vec![0.0; d];
                    for (i, row) in rows.iter().enumerate() {
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
                } else if let Some(all) = all.as_deref_mut() {
                    let mut i = 0;
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
            sequence.length = b;
        }
        Ok(())
    }
}
