//! Log-probabilities of a given text.

use crate::turn::Observer;
use crate::{Engine, Passes, Prefill, Result};

/// What scoring gives.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// Natural logarithm of the probability of each token but the first, given those before it.
    pub logprobs: Vec<f32>,
    /// Mean of `-logprobs`, in nats; 0 for a single token.
    pub loss: f64,
    /// `[T][V]`, if asked for.
    pub logits: Vec<Vec<f32>>,
}

impl Score {
    /// Collects the score of `tokens` from logits that come position by position.
    pub fn take(&mut self, tokens: &[u32], position: usize, logits: &[f32], keep: bool) {
        if let Some(next) = tokens.get(position + 1) {
            let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
            self.logprobs.push((f64::from(logits[*next as usize] - max) - sum.ln()) as f32);
        }
        if keep {
            self.logits.push(logits.to_vec());
        }
    }

    /// Computes the loss once all positions are taken.
    pub fn finish(mut self) -> Self {
        let sum: f64 = self.logprobs.iter().map(|l| f64::from(*l)).sum();
        self.loss = -sum / self.logprobs.len().max(1) as f64;
        self
    }
}

/// Scores tokens; `keep` keeps the logits of every position.
///
/// # Errors
/// There are no tokens, too many, or one outside the vocabulary; or the recipe cannot decode in one pass though
/// `passes` asks for it.
pub fn score(
    engine: &mut Engine,
    tokens: &[u32],
    passes: Passes,
    keep: bool,
    observer: Option<&mut dyn Observer>,
) -> Result<Score> {
    engine.model().config().check_tokens(tokens)?;
    let mut sequence = engine.sequence();
    let mut taker = Taker { score: Score::default(), tokens, keep, states: observer };
    let whole = match passes {
        Passes::Auto => Some(Prefill::default()),
        Passes::Chunked(chunk) => Some(Prefill { chunk, ..Prefill::default() }),
        Passes::One | Passes::Sequential => None,
    };
    if let Some(options) = whole {
        engine.prefill_all(&mut sequence, tokens, &options, &mut taker)?;
        return Ok(taker.score.finish());
    }
    for (t, token) in tokens.iter().enumerate() {
        let logits = engine.step_observed(&mut [&mut sequence], &[*token], passes, Some(&mut taker))?;
        taker.score.take(tokens, t, logits, keep);
    }
    Ok(taker.score.finish())
}

/// Takes scores from logits, and passes states on.
struct Taker<'a, 'o> {
    score: Score,
    tokens: &'a [u32],
    keep: bool,
    states: Option<&'a mut (dyn Observer + 'o)>,
}

impl Observer for Taker<'_, '_> {
    fn wants_states(&self) -> bool {
        self.states.is_some()
    }

    fn state(&mut self, work: usize, r: usize, position: usize, state: &[f32]) {
        if let Some(observer) = &mut self.states {
            observer.state(work, r, position, state);
        }
    }

    fn logits(&mut self, _work: usize, position: usize, logits: &[f32]) {
        self.score.take(self.tokens, position, logits, self.keep);
    }
}
