//! How many items a model gets right.

use crate::items::{Choices, Labelled, continued};
use crate::{Error, Item, Result};
use parloop_engine::{Engine, Observer, Prefill};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a model got of a task's labelled items and answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Labels {
    /// Items.
    pub items: usize,
    /// Share of the items of which everything asked was right: what greedy writing would get.
    pub exact: f64,
    /// Targets.
    pub targets: usize,
    /// Share of the targets that were the most likely id.
    pub accuracy: f64,
    /// Mean of `-log p(target)`, in nats.
    pub loss: f64,
    /// By level: targets, and the share of them that was right.
    pub levels: BTreeMap<u32, (usize, f64)>,
}

/// What a model got of a task's choices.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Chosen {
    /// Items.
    pub items: usize,
    /// Share in which the right choice was the most likely.
    pub accuracy: f64,
    /// The same with log-probabilities divided by the choice's bytes, which does not prefer short ones.
    pub accuracy_by_byte: f64,
    /// Share that guessing would get: the mean of 1 / choices.
    pub chance: f64,
}

/// The score of a task file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Labelled items and answers, if there are any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub labels: Option<Labels>,
    /// Choices, if there are any.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub choices: Option<Chosen>,
}

/// Adds up items as they come.
#[derive(Debug, Default)]
pub struct Scorer {
    labels: Labels,
    right: usize,
    whole: usize,
    loss: f64,
    levels: BTreeMap<u32, (usize, usize)>,
    choices: [f64; 4],
}

impl Scorer {
    /// Scores an item; `name` stands before what is wrong with it.
    ///
    /// # Errors
    /// The item does not fit the model: an id outside the vocabulary, more tokens than the context, a text without a
    /// tokenizer.
    pub fn take(&mut self, engine: &mut Engine, item: &Item) -> std::result::Result<(), String> {
        let model = engine.model().clone();
        if let Item::Choices(choices) = item {
            return self.choose(engine, choices);
        }
        let Some(item) = item.labelled(model.tokenizer())? else { return Ok(()) };
        let asked = ask(engine, &item)?;
        for (answer, level) in &asked {
            let (count, right) = self.levels.entry(*level).or_default();
            *count += 1;
            *right += usize::from(answer.right);
            self.right += usize::from(answer.right);
            self.loss -= answer.logprob;
        }
        self.labels.targets += asked.len();
        self.labels.items += 1;
        self.whole += usize::from(asked.iter().all(|(answer, _)| answer.right));
        Ok(())
    }

    fn choose(&mut self, engine: &mut Engine, item: &Choices) -> std::result::Result<(), String> {
        let model = engine.model().clone();
        let (mut sums, mut by_byte) = (Vec::new(), Vec::new());
        for choice in &item.choices {
            let labelled = continued(model.tokenizer(), &item.prompt, choice)?;
            let sum: f64 = ask(engine, &labelled)?.iter().map(|(answer, _)| answer.logprob).sum();
            sums.push(sum);
            by_byte.push(sum / choice.len() as f64);
        }
        // The first of equals; a score that is not a number was refused.
        let best = |of: &[f64]| (1..of.len()).fold(0, |best, i| if of[i] > of[best] { i } else { best });
        let [items, plain, bytes, chance] = &mut self.choices;
        *items += 1.0;
        *plain += f64::from(u8::from(best(&sums) == item.label));
        *bytes += f64::from(u8::from(best(&by_byte) == item.label));
        *chance += 1.0 / item.choices.len() as f64;
        Ok(())
    }

    /// What was found.
    pub fn finish(mut self) -> Scores {
        let share = |part: usize, all: usize| part as f64 / all.max(1) as f64;
        self.labels.exact = share(self.whole, self.labels.items);
        self.labels.accuracy = share(self.right, self.labels.targets);
        self.labels.loss = self.loss / self.labels.targets.max(1) as f64;
        self.labels.levels = self.levels.into_iter().map(|(k, (n, right))| (k, (n, share(right, n)))).collect();
        let [items, plain, bytes, chance] = self.choices;
        Scores {
            labels: (self.labels.items > 0).then_some(self.labels),
            choices: (items > 0.0).then(|| Chosen {
                items: items as usize,
                accuracy: plain / items,
                accuracy_by_byte: bytes / items,
                chance: chance / items,
            }),
        }
    }
}

/// Scores all items of a file; `path` is named where one does not fit.
///
/// # Errors
/// As [`Scorer::take`].
pub fn score(engine: &mut Engine, path: &std::path::Path, items: &[Item]) -> Result<Scores> {
    let mut scorer = Scorer::default();
    for (i, item) in items.iter().enumerate() {
        scorer.take(engine, item).map_err(|message| Error::file(path, format!("item {}: {message}", i + 1)))?;
    }
    Ok(scorer.finish())
}

/// What the model said of one target.
#[derive(Clone, Copy, Debug)]
struct Said {
    right: bool,
    logprob: f64,
}

/// The model's answer to each target of an item, with the target's level.
fn ask(engine: &mut Engine, item: &Labelled) -> std::result::Result<Vec<(Said, u32)>, String> {
    let told = |e: &dyn std::fmt::Display| e.to_string();
    let model = engine.model().clone();
    let vocabulary = model.config().vocab_size;
    model.config().check_tokens(&item.ids).map_err(|e| told(&e))?;
    if let Some(target) = item.targets.iter().flatten().find(|t| **t as usize >= vocabulary) {
        return Err(format!("target {target} is outside the vocabulary: ids run from 0 to {}", vocabulary - 1));
    }
    let mut sequence = engine.sequence();
    let mut taker = Taker { targets: &item.targets, said: Vec::new() };
    engine.prefill_all(&mut sequence, &item.ids, &Prefill::default(), &mut taker).map_err(|e| told(&e))?;
    if taker.said.iter().any(|(_, said)| said.logprob.is_nan()) {
        return Err("the model gave logits that are not numbers: its weights are broken".into());
    }
    let level = |position: usize| item.levels.get(position).copied().unwrap_or(0);
    Ok(taker.said.into_iter().map(|(position, said)| (said, level(position))).collect())
}

struct Taker<'a> {
    targets: &'a [Option<u32>],
    said: Vec<(usize, Said)>,
}

impl Observer for Taker<'_> {
    fn wants_states(&self) -> bool {
        false
    }

    fn logits(&mut self, _work: usize, position: usize, logits: &[f32]) {
        let Some(target) = self.targets.get(position).copied().flatten() else { return };
        let best = (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
        let logprob = logprob(logits, target as usize);
        self.said.push((position, Said { right: best == target as usize, logprob }));
    }
}

/// `log softmax(logits)[id]`, summed in f64.
pub(crate) fn logprob(logits: &[f32], id: usize) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    f64::from(logits[id] - max) - sum.ln()
}
