//! What each loop does to the state: the diagnostics of LoopCoder-v2 (arXiv 2606.18023), for any looped model.
//!
//! States are those after the final norm, `H^r_t` of `docs/model.md`: the same for recipes that norm between loops and for
//! those that do not. `p^r = softmax(Head(H^r))`.

mod attention;
mod matrix;

pub use attention::{Attention, attention};

use crate::perplexity::{kl, log_softmax};
use crate::{Error, Labelled, Result};
use matrix::effective_rank;
use parloop_engine::{Engine, Observer, Prefill};
use parloop_model::{Checkpoint, tensors};
use serde::{Deserialize, Serialize};

/// Means over the positions of a text, for one loop r (counted from 1).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loop {
    /// r.
    pub r: usize,
    /// Mean of `|H^r_t|`.
    pub norm: f64,
    /// Mean of `|H^r_t - H^(r-1)_t|`, r >= 2.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub step: Option<f64>,
    /// Mean cosine of `H^r_t - H^(r-1)_t` and `H^(r-1)_t - H^(r-2)_t`, r >= 3, where both move: at the first token
    /// shifted loops have nothing to take and do the same.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub alignment: Option<f64>,
    /// `exp` of the entropy of the normalised singular values of the matrix of states.
    pub effective_rank: f64,
    /// Omega^r: mean of `|H^(r-1)_t - H^(r-1)_(t-1)|`, what the shift puts in the place of the token's own state, r >= 2.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub offset: Option<f64>,
    /// Omega^r / mean `|H^(r-1)_t|`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub offset_share: Option<f64>,
    /// Mean of `KL(p^r || p^(r-1))` in nats, r >= 2.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shift: Option<f64>,
    /// Mean entropy of `p^r` in nats.
    pub entropy: f64,
    /// Mean of `-log p^r(target)` in nats; in a text the target is the next token.
    pub loss: f64,
    /// Mean rank of the target under `p^r`; 1 is the most likely.
    pub rank: f64,
    /// Share of positions at which the target is the most likely.
    pub top: f64,
}

/// States of every loop, `[R][T][d]`.
#[derive(Debug, Default)]
struct States(Vec<Vec<Vec<f32>>>);

impl Observer for States {
    fn state(&mut self, _work: usize, r: usize, position: usize, state: &[f32]) {
        if self.0.len() <= r {
            self.0.resize(r + 1, Vec::new());
        }
        let positions = &mut self.0[r];
        if positions.len() <= position {
            positions.resize(position + 1, Vec::new());
        }
        positions[position] = state.to_vec();
    }
}

/// A text as an item that asks for each next token.
pub fn text(ids: Vec<u32>) -> Labelled {
    let targets = ids.iter().skip(1).copied().map(Some).chain([None]).take(ids.len()).collect();
    Labelled { ids, targets, levels: Vec::new() }
}

/// The diagnostics of every loop over one item: geometry over all positions, predictions where something is asked.
///
/// # Errors
/// Too many ids for the context, an id or target outside the vocabulary, nothing asked, or a state that is not a number.
pub fn loops(engine: &mut Engine, checkpoint: &Checkpoint, item: &Labelled) -> Result<Vec<Loop>> {
    let config = checkpoint.config();
    config.check_tokens(&item.ids)?;
    let asked: Vec<u32> = item.targets.iter().take(item.ids.len()).flatten().copied().collect();
    if asked.is_empty() {
        return Err(Error::option(
            "text",
            format!("{} tokens that ask nothing", item.ids.len()),
            "something to predict",
        ));
    }
    if let Some(target) = asked.iter().find(|target| **target as usize >= config.vocab_size) {
        let most = config.vocab_size - 1;
        return Err(Error::option("target", target, format!("an id of the vocabulary, 0 to {most}")));
    }
    let mut states = States::default();
    let mut sequence = engine.sequence();
    engine.prefill_all(&mut sequence, &item.ids, &Prefill::default(), &mut states)?;
    of_states(&states.0, checkpoint, item, asked.len())
}

/// The same from states that are there; `asked` targets are set.
fn of_states(states: &[Vec<Vec<f32>>], checkpoint: &Checkpoint, item: &Labelled, asked: usize) -> Result<Vec<Loop>> {
    let config = checkpoint.config();
    let head = checkpoint.tensor(if config.tie_word_embeddings { tensors::EMBEDDING } else { tensors::HEAD })?;
    let (head, width) = (head.to_f32(), head.width());
    if states.iter().flatten().flatten().any(|x| !x.is_finite()) {
        return Err(Error::option("model", "a state that is not a number", "finite states: its weights are broken"));
    }
    let mut loops: Vec<Loop> = states.iter().enumerate().map(|(r, states)| geometry(r, states)).collect();
    for r in 1..states.len() {
        let (now, before) = (&states[r], &states[r - 1]);
        loops[r].step = Some(mean(now.iter().zip(before).map(|(a, b)| length(&difference(a, b)))));
        let offset = mean(before.windows(2).map(|pair| length(&difference(&pair[1], &pair[0]))));
        loops[r].offset = Some(offset);
        loops[r].offset_share = Some(offset / loops[r - 1].norm);
        if r > 1 {
            let earlier = &states[r - 2];
            let cosines = now.iter().zip(before).zip(earlier).filter_map(|((a, b), c)| {
                let (u, v) = (difference(a, b), difference(b, c));
                let lengths = length(&u) * length(&v);
                (lengths > 0.0).then(|| dot(&u, &v) / lengths)
            });
            loops[r].alignment = Some(mean(cosines));
        }
    }
    // One position at a time: R rows of logits, whatever the vocabulary.
    for (t, next) in item.targets.iter().enumerate().filter_map(|(t, target)| Some((t, (*target)? as usize))) {
        let logits: Vec<Vec<f32>> = states.iter().map(|states| times(&head, width, &states[t])).collect();
        for (r, row) in logits.iter().enumerate() {
            let one = log_softmax(row);
            let share = 1.0 / asked as f64;
            let found = &mut loops[r];
            found.entropy -= share * one.iter().map(|l| l.exp() * l).sum::<f64>();
            found.loss -= share * one[next];
            let better =
                one.iter().enumerate().filter(|(i, l)| **l > one[next] || (**l == one[next] && *i < next)).count();
            found.rank += share * (1 + better) as f64;
            found.top += share * f64::from(u8::from(better == 0));
            if r > 0 {
                *found.shift.get_or_insert(0.0) += share * kl(row, &logits[r - 1]);
            }
        }
    }
    Ok(loops)
}

fn geometry(r: usize, states: &[Vec<f32>]) -> Loop {
    let wide: Vec<Vec<f64>> = states.iter().map(|s| s.iter().map(|x| f64::from(*x)).collect()).collect();
    Loop {
        r: r + 1,
        norm: mean(wide.iter().map(|s| length(s))),
        effective_rank: effective_rank(&wide),
        ..Loop::default()
    }
}

fn times(matrix: &[f32], width: usize, x: &[f32]) -> Vec<f32> {
    matrix.chunks_exact(width).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
}

fn difference(a: &[f32], b: &[f32]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn length(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0);
    for value in values {
        sum += value;
        count += 1;
    }
    if count == 0 { 0.0 } else { sum / f64::from(count) }
}
