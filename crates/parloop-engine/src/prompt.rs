//! Tokens on their way into a sequence: what a turn takes a piece of.

use crate::exit::Exits;
use crate::starts::Starts;
use crate::{Error, Passes, Result, Sequence};
use parloop_model::ModelConfig;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// What is wanted of a prompt's positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// The logits after the last one.
    Last,
    /// The logits after each of them, shown to the observer: all loops run over all positions.
    All,
    /// Nothing but the state.
    Nothing,
}

/// Tokens that a sequence is to take in, and how far it has come with them.
///
/// [`Engine::turn`](crate::Engine::turn) takes a piece of any size at a time, beside the work of other sequences. Which
/// rows are computed does not depend on the pieces. A decode step is a prompt of one token, whose loops go through the
/// weights together where the recipe allows it.
///
/// A prompt may be dropped between turns: the sequence then holds the tokens of the pieces that are done, and what
/// later loops remember of them is rebuilt when it goes on.
#[derive(Debug)]
pub struct Prompt {
    tokens: Vec<u32>,
    want: Want,
    passes: Passes,
    options: Prefill,
    rebuild: bool,
    /// Told from all other prompts.
    number: u64,
    progress: Option<Progress>,
}

/// How far a prompt has come.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Positions that the sequence held before.
    pub held: usize,
    /// Positions that it is to hold.
    pub end: usize,
    pub starts: Starts,
    /// The piece at hand, `from .. to`; at its start `to` is not known yet.
    pub from: usize,
    pub to: usize,
    /// The loop that comes next.
    pub r: usize,
    /// `[..][d]`, what the loop before hands on, from position `before_from` to the end of the piece.
    pub before: Vec<f32>,
    pub before_from: usize,
    pub exits: Option<Exits>,
    /// Whether the loops of a single position go together.
    pub in_one_pass: bool,
    /// Turns that took something of it.
    pub turns: usize,
}

impl Prompt {
    /// A prompt of some tokens.
    pub fn new(tokens: Vec<u32>, want: Want) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Self {
            tokens,
            want,
            passes: Passes::Auto,
            options: Prefill::default(),
            rebuild: false,
            number: COUNT.fetch_add(1, Ordering::Relaxed),
            progress: None,
        }
    }

    /// A prompt of no tokens: rebuilds what later loops remember of a sequence that was cut.
    pub fn rebuild(want: Want) -> Self {
        Self { rebuild: true, ..Self::new(Vec::new(), want) }
    }

    /// With other options.
    pub fn options(self, options: Prefill) -> Self {
        Self { options, ..self }
    }

    /// With the loops of a single token in one pass, or one after the other.
    pub fn passes(self, passes: Passes) -> Self {
        Self { passes, ..self }
    }

    /// What is wanted.
    pub fn want(&self) -> Want {
        self.want
    }

    /// The tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Positions done and positions in all, with those that are computed again.
    pub fn progress(&self) -> (usize, usize) {
        self.progress.as_ref().map_or((0, self.tokens.len()), |p| (p.from - p.starts.begin, p.end - p.starts.begin))
    }

    /// The stamp that the sequence of this prompt carries, to tell it from others.
    pub(crate) fn stamp(&self) -> Option<(u64, usize)> {
        self.progress.as_ref().filter(|p| p.turns > 0).map(|p| (self.number, p.turns))
    }

    /// Its tokens, and how far it has come.
    pub(crate) fn parts(&mut self) -> Option<(&[u32], &mut Progress)> {
        self.progress.as_mut().map(|progress| (&self.tokens[..], progress))
    }

    /// Whether every loop of its pieces so far is done.
    pub(crate) fn is_between_pieces(&self) -> bool {
        self.progress.as_ref().is_none_or(|p| p.r == 0)
    }

    /// Whether a sequence can take this prompt in.
    ///
    /// # Errors
    /// There are no tokens, more than the context holds, or one outside the vocabulary; the chunk is 0; one pass
    /// is asked for and does not suit the recipe.
    pub(crate) fn check(&self, config: &ModelConfig, sequence: &Sequence) -> Result<()> {
        if self.rebuild && self.tokens.is_empty() {
            if sequence.is_empty() {
                return Err(Error::Input("there are no tokens to go on from: give at least one".into()));
            }
        } else {
            config.check_tokens(&self.tokens)?;
        }
        let (held, context) = (sequence.len(), config.max_position_embeddings);
        if self.tokens.len() == 1 && held >= context {
            return Err(Error::Input(format!(
                "the context of {context} tokens is full: shorten the prompt or ask for fewer tokens"
            )));
        }
        if held + self.tokens.len() > context {
            return Err(Error::Input(format!(
                "{} tokens after {held} are more than the model's context of {context}: shorten the input",
                self.tokens.len()
            )));
        }
        self.options.validate()?;
        self.passes.in_one_pass(&config.recipe).map(|_| ())
    }

    /// Begins with a sequence; `all` if all loops are to run over all positions.
    pub(crate) fn begin(&mut self, config: &ModelConfig, sequence: &Sequence, all: bool) {
        let (held, end) = (sequence.len(), sequence.len() + self.tokens.len());
        let stale = self.rebuild || sequence.is_stale(&config.recipe);
        let starts = Starts::new(config, held, end, all || self.want == Want::All, stale, &self.options);
        let begin = starts.begin;
        self.progress = Some(Progress {
            held,
            end,
            starts,
            from: begin,
            to: begin,
            r: 0,
            before: Vec::new(),
            before_from: begin,
            exits: None,
            in_one_pass: self.passes.in_one_pass(&config.recipe).unwrap_or(false),
            turns: 0,
        });
    }

    /// The rows that come next, at most `room` of them unless `whatever` it takes. A piece whose first loop is done goes on
    /// whatever the room: it was cut to the room of its first turn, and could otherwise wait for ever beside others that
    /// write.
    pub(crate) fn next(&mut self, loops: usize, room: usize, whatever: bool) -> Option<Next> {
        let room = if whatever { room.max(1) } else { room };
        let progress = self.progress.as_mut()?;
        let Progress { from, end, r, in_one_pass, ref starts, .. } = *progress;
        let next = match r {
            // Loop by loop where there is no room for all loops together: a turn with any room goes on.
            0 if end - from == 1 && in_one_pass && (whatever || loops <= room) => {
                Next { loops: 0..loops, first: from, end }
            }
            0 => Next { loops: 0..1, first: from, end: from + (end - from).min(self.options.chunk).min(room) },
            r => Next { loops: r..r + 1, first: starts.at(r, 0).max(from), end: progress.to },
        };
        (next.rows() > 0 && (whatever || r > 0 || next.rows() <= room)).then(|| {
            progress.to = next.end;
            next
        })
    }
}

/// Rows of one prompt in one pass: for each of some loops the same positions.
#[derive(Clone, Debug)]
pub(crate) struct Next {
    pub loops: std::ops::Range<usize>,
    pub first: usize,
    pub end: usize,
}

impl Next {
    pub fn rows(&self) -> usize {
        self.loops.len() * (self.end - self.first)
    }
}
