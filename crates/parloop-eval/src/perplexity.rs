//! How well a model predicts a text.

use crate::score::logprob;
use crate::{Result, windows};
use parloop_engine::{Engine, Observer, Prefill};
use serde::{Deserialize, Serialize};

/// The loss over a text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// Tokens of the text.
    pub tokens: usize,
    /// Tokens predicted: all but the first of the text.
    pub predicted: usize,
    /// Mean of `-log p`, in nats.
    pub nats_per_token: f64,
    /// `exp(nats_per_token)`.
    pub perplexity: f64,
    /// Nats of the whole text / ln 2 / its bytes, which does not depend on the tokenizer.
    pub bits_per_byte: f64,
    /// Mean of `KL(p_other || p)` over the predicted tokens, in nats, if there is another model.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub kl: Option<f64>,
    /// Share of the predicted tokens for which both find the same id most likely.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub same_choice: Option<f64>,
}

/// Scores a text of any length in windows of `context` tokens that move on by `stride`; `bytes` is its length. With
/// `other`, a model with the same tokenizer, its distributions are compared too.
///
/// # Errors
/// The text has fewer than two tokens, or one outside the vocabulary.
pub fn perplexity(
    engine: &mut Engine,
    tokens: &[u32],
    bytes: usize,
    context: usize,
    stride: usize,
    mut other: Option<&mut Engine>,
) -> Result<Perplexity> {
    if tokens.len() < 2 {
        return Err(crate::Error::option(
            "text",
            format!("{} tokens", tokens.len()),
            "at least 2: one is to be predicted",
        ));
    }
    let (mut sum, mut kl, mut same, mut predicted) = (0.0, 0.0, 0usize, 0usize);
    for window in windows(tokens.len(), context, stride) {
        let part = &tokens[window.start..window.end];
        engine.model().config().check_tokens(part)?;
        let mut rows = Rows { tokens: part, known: window.known, keep: other.is_some(), ..Rows::default() };
        let mut sequence = engine.sequence();
        engine.prefill_all(&mut sequence, part, &Prefill::default(), &mut rows)?;
        sum += rows.sum;
        predicted += rows.count;
        if let Some(other) = &mut other {
            other.model().config().check_tokens(part)?;
            let mut against =
                Against { ours: &rows.logits, known: window.known, last: part.len() - 1, kl: 0.0, same: 0 };
            let mut sequence = other.sequence();
            other.prefill_all(&mut sequence, part, &Prefill::default(), &mut against)?;
            kl += against.kl;
            same += against.same;
        }
    }
    let nats = -sum / predicted as f64;
    // The first token has no prediction: its share of the text counts as an average one, as in training's validation.
    let per_byte = tokens.len() as f64 / bytes.max(1) as f64;
    Ok(Perplexity {
        tokens: tokens.len(),
        predicted,
        nats_per_token: nats,
        perplexity: nats.exp(),
        bits_per_byte: nats * per_byte / std::f64::consts::LN_2,
        kl: other.is_some().then(|| kl / predicted as f64),
        same_choice: other.is_some().then(|| same as f64 / predicted as f64),
    })
}

/// Collects a window's log-probabilities from where they are new.
#[derive(Default)]
struct Rows<'a> {
    tokens: &'a [u32],
    known: usize,
    keep: bool,
    sum: f64,
    count: usize,
    logits: Vec<Vec<f32>>,
}

impl Observer for Rows<'_> {
    fn wants_states(&self) -> bool {
        false
    }

    fn logits(&mut self, _work: usize, position: usize, logits: &[f32]) {
        let Some(next) = self.tokens.get(position + 1).filter(|_| position >= self.known) else { return };
        self.sum += logprob(logits, *next as usize);
        self.count += 1;
        if self.keep {
            self.logits.push(logits.to_vec());
        }
    }
}

/// Compares another model's rows with ours.
struct Against<'a> {
    ours: &'a [Vec<f32>],
    known: usize,
    last: usize,
    kl: f64,
    same: usize,
}

impl Observer for Against<'_> {
    fn wants_states(&self) -> bool {
        false
    }

    fn logits(&mut self, _work: usize, position: usize, logits: &[f32]) {
        if position < self.known || position >= self.last {
            return;
        }
        let Some(ours) = self.ours.get(position - self.known) else { return };
        self.kl += kl(logits, ours);
        let best = |of: &[f32]| (1..of.len()).fold(0, |best, i| if of[i] > of[best] { i } else { best });
        self.same += usize::from(best(logits) == best(ours));
    }
}

/// `KL(softmax(p) || softmax(q))` in nats; where one has more ids than the other, the ids that both have.
pub(crate) fn kl(p: &[f32], q: &[f32]) -> f64 {
    let common = p.len().min(q.len());
    let (p, q) = (log_softmax(&p[..common]), log_softmax(&q[..common]));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// In f64.
pub(crate) fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    logits.iter().map(|l| f64::from(l - max) - sum.ln()).collect()
}
