//! From a prompt to a stream of tokens, pulled one by one.
//!
//! [`Generator`] is the iterator that most want: it owns what is between two tokens and drives the engine. Whoever drives
//! many sequences through shared turns keeps a [`Continuation`] for each and hands it the logits.

mod continuation;

pub(crate) use continuation::logprobs;
pub use continuation::{Continuation, Token};

use crate::{Engine, Filter, Passes, Prefill, Result, SampleOptions, Sequence};
use parloop_model::tokenizer::TextStream;

/// What to generate.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Tokens to generate at most; the end of the context may come earlier.
    pub tokens: usize,
    /// How the next token is chosen.
    pub sampling: SampleOptions,
    /// How the prompt is processed.
    pub prefill: Prefill,
    /// How the loops of a token are computed.
    pub passes: Passes,
    /// Go on past the model's end tokens.
    pub ignore_end: bool,
}

impl Default for Generation {
    fn default() -> Self {
        Self {
            tokens: usize::MAX,
            sampling: SampleOptions::default(),
            prefill: Prefill::default(),
            passes: Passes::default(),
            ignore_end: false,
        }
    }
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// All tokens asked for were generated.
    Length,
    /// The model ended the text.
    End,
    /// The context is full.
    Context,
    /// A stop string came, or the caller asked to stop.
    Stopped,
}

/// Tokens of one sequence, computed as they are asked for.
///
/// Whenever it is dropped, the sequence holds the prompt and the tokens that were given out, without the last of them:
/// that is [`Generator::pending`], the first of whatever follows (unless the model ended the text).
pub struct Generator<'a> {
    engine: &'a mut Engine,
    sequence: &'a mut Sequence,
    /// Taken in before the first token.
    prompt: Option<Vec<u32>>,
    prefill: Prefill,
    passes: Passes,
    continuation: Continuation<'a>,
}

impl<'a> Generator<'a> {
    /// Tokens after `prompt`, which goes on from a sequence; it may be empty if the sequence is not. Nothing is
    /// computed yet.
    ///
    /// # Errors
    /// An option is out of range.
    pub fn new(
        engine: &'a mut Engine,
        sequence: &'a mut Sequence,
        prompt: &[u32],
        options: &Generation,
    ) -> Result<Self> {
        let model = engine.model().clone();
        let continuation = Continuation::new(&model, sequence.tokens().iter().chain(prompt), options)?;
        let prompt = Some(prompt.to_vec());
        Ok(Self { engine, sequence, prompt, prefill: options.prefill, passes: options.passes, continuation })
    }

    /// With the text of each token, as a stream gives it.
    pub fn text(mut self, stream: TextStream<'a>) -> Self {
        self.continuation = self.continuation.text(stream);
        self
    }

    /// Ends before any of these strings, which are looked for in the text ([`Generator::text`]); what can still become
    /// one is held back until it cannot.
    pub fn stop(mut self, stops: Vec<String>) -> Self {
        self.continuation = self.continuation.stop(stops);
        self
    }

    /// With the log-probability of each token and of the `top` most likely ones.
    pub fn logprobs(mut self, top: usize) -> Self {
        self.continuation = self.continuation.logprobs(top);
        self
    }

    /// With a filter over the logits, after those added before.
    pub fn filter(mut self, filter: Box<dyn Filter + 'a>) -> Self {
        self.continuation = self.continuation.filter(filter);
        self
    }

    /// Why it ended, if it has.
    pub fn finish(&self) -> Option<Finish> {
        self.continuation.finish()
    }

    /// The text that was held back when the last token was given out, once it has ended.
    pub fn rest(&mut self) -> String {
        self.continuation.rest()
    }

    /// The token that was given out last and is not in the sequence yet.
    pub fn pending(&self) -> Option<u32> {
        self.continuation.pending()
    }

    /// The sequence as it stands.
    pub fn sequence(&self) -> &Sequence {
        self.sequence
    }

    fn advance(&mut self) -> Result<Option<Token>> {
        let logits = match (self.prompt.take().as_deref(), self.continuation.pending()) {
            (Some([]), _) => self.engine.logits(self.sequence)?,
            (Some(prompt), _) => self.engine.prefill(self.sequence, prompt, &self.prefill)?,
            (None, Some(token)) => {
                if self.sequence.len() >= self.engine.model().config().max_position_embeddings {
                    self.continuation.end(Finish::Context)?;
                    return Ok(None);
                }
                self.engine.step(&mut [&mut *self.sequence], &[token], self.passes)?
            }
            (None, None) => return Ok(None),
        };
        self.continuation.take(logits)
    }
}

impl Iterator for Generator<'_> {
    type Item = Result<Token>;

    /// The next token; nothing after the last one, or after an error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.finish().is_some() {
            return None;
        }
        let next = self.advance();
        if next.is_err() {
            self.continuation.stop_here();
        }
        next.transpose()
    }
}
