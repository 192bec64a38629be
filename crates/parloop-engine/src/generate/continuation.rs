//! What a text is continued by: from logits to tokens and text, whoever computes the logits.

use super::{Finish, Generation};
use crate::{Filter, Model, Result, Sampler};
use parloop_model::Stops;
use parloop_model::tokenizer::TextStream;

/// A token that was chosen.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// The text that is certain now: whole characters, and nothing that can still become a stop string. It may be empty,
    /// and it may begin with what an earlier token held back.
    pub text: String,
    /// The natural logarithm of the model's probability of it, if asked for.
    pub logprob: Option<f32>,
    /// The most likely tokens and theirs, most likely first, as many as were asked for.
    pub top: Vec<(u32, f32)>,
    /// The most likely tokens after each loop, most likely first, as many as were asked for.
    pub loops: Vec<Vec<(u32, f32)>>,
}

/// How one text goes on: the sampler, the text so far, and when it ends.
pub struct Continuation<'a> {
    sampler: Sampler,
    filters: Vec<Box<dyn Filter + 'a>>,
    /// Logits that filters change.
    changed: Vec<f32>,
    ends: Stops,
    further_ends: Vec<u32>,
    limit: usize,
    ignore_end: bool,
    stream: Option<TextStream<'a>>,
    stops: Vec<String>,
    /// The stop string that came.
    stopped_by: Option<String>,
    top: Option<usize>,
    /// Text that could still become a stop string; once it has ended, what is left.
    held: String,
    written: usize,
    pending: Option<u32>,
    finish: Option<Finish>,
}

impl<'a> Continuation<'a> {
    /// The continuation of a text by a model.
    ///
    /// # Errors
    /// An option is out of range.
    pub fn new<'t>(model: &Model, text: impl Iterator<Item = &'t u32>, options: &Generation) -> Result<Self> {
        let known = model.tokenizer().map_or(model.config().vocab_size, |t| t.vocab_size());
        let mut sampler = Sampler::new(options.sampling.clone(), known)?;
        text.for_each(|t| sampler.accept(*t));
        Ok(Self {
            sampler,
            filters: Vec::new(),
            changed: Vec::new(),
            ends: model.stops().clone(),
            further_ends: Vec::new(),
            limit: options.tokens,
            ignore_end: options.ignore_end,
            stream: None,
            stops: Vec::new(),
            stopped_by: None,
            top: None,
            held: String::new(),
            written: 0,
            pending: None,
            finish: None,
        })
    }

    /// With the text of each token, as a stream gives it.
    pub fn text(self, stream: TextStream<'a>) -> Self {
        Self { stream: Some(stream), ..self }
    }

    /// Ends before any of these strings; empty ones are none.
    pub fn stop(self, mut stops: Vec<String>) -> Self {
        stops.retain(|s| !s.is_empty());
        Self { stops, ..self }
    }

    /// Ends at these tokens too, which are no part of its text.
    pub fn ends(self, further_ends: Vec<u32>) -> Self {
        Self { further_ends, ..self }
    }

    /// With log-probabilities, and those of the `top` most likely tokens.
    pub fn logprobs(self, top: usize) -> Self {
        Self { top: Some(top), ..self }
    }

    /// With a filter, after those added before.
    pub fn filter(mut self, filter: Box<dyn Filter + 'a>) -> Self {
        self.filters.push(filter);
        self
    }

    /// Tokens chosen so far.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Why it ended, if it has.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// The stop string before which it ended.
    pub fn stopped_by(&self) -> Option<&str> {
        self.stopped_by.as_deref()
    }

    /// The token that was chosen last: the next one for the model.
    pub fn pending(&self) -> Option<u32> {
        self.pending
    }

    /// The text that was held back when it ended.
    pub fn rest(&mut self) -> String {
        if self.finish.is_some() { std::mem::take(&mut self.held) } else { String::new() }
    }

    /// Ends it; text that was held back becomes the rest.
    ///
    /// # Errors
    /// The tokenizer cannot decode what it was given.
    pub fn end(&mut self, finish: Finish) -> Result<()> {
        if let Some(stream) = &mut self.stream {
            self.held += &stream.finish()?;
        }
        self.finish = Some(finish);
        Ok(())
    }

    /// Ends it without looking at what is held back.
    pub(super) fn stop_here(&mut self) {
        self.finish.get_or_insert(Finish::Stopped);
    }

    /// Chooses the next token from its logits `[V]`; none if the text ends here.
    ///
    /// # Errors
    /// The logits are no numbers, or the tokenizer cannot decode.
    pub fn take(&mut self, logits: &[f32]) -> Result<Option<Token>> {
        if self.written >= self.limit {
            self.end(Finish::Length)?;
            return Ok(None);
        }
        let id = self.choose(logits)?;
        if (self.ends.contains(id) || self.further_ends.contains(&id)) && !self.ignore_end {
            self.end(Finish::End)?;
            return Ok(None);
        }
        self.sampler.accept(id);
        self.filters.iter_mut().for_each(|f| f.accept(id));
        self.written += 1;
        self.pending = Some(id);
        if let Some(stream) = &mut self.stream {
            self.held += &stream.push(id)?;
        }
        let mut text = self.settled();
        let over = match self.filters.iter().any(|f| f.ended()) {
            true => Some(Finish::End),
            false => (self.written == self.limit).then_some(Finish::Length),
        };
        if let (None, Some(finish)) = (self.finish, over) {
            self.end(finish)?;
            text += &std::mem::take(&mut self.held);
        }
        let (logprob, top) = self.top.map_or_else(Default::default, |top| logprobs(logits, id, top));
        Ok(Some(Token { id, text, logprob, top, loops: Vec::new() }))
    }

    fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        if self.filters.is_empty() {
            return self.sampler.sample(logits);
        }
        self.changed.clear();
        self.changed.extend_from_slice(logits);
        self.filters.iter_mut().for_each(|f| f.apply(&mut self.changed));
        self.sampler.sample(&self.changed)
    }

    /// The part of the held text that can be shown: up to a stop string, or to what can still become one.
    fn settled(&mut self) -> String {
        let found = self.stops.iter().filter_map(|s| Some((self.held.find(s)?, s))).min_by_key(|(at, _)| *at);
        if let Some((at, stop)) = found {
            self.finish = Some(Finish::Stopped);
            self.stopped_by = Some(stop.clone());
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let hold = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - hold);
        std::mem::replace(&mut self.held, rest)
    }
}

/// Bytes of the longest end of `text` that `stop` begins with, `stop` itself left out.
fn overlap(text: &str, stop: &str) -> usize {
    let fits = |n: &usize| stop.is_char_boundary(*n) && text.ends_with(&stop[..*n]);
    (1..stop.len().min(text.len() + 1)).rev().find(fits).unwrap_or(0)
}

/// The log-probability of a token, and the most likely tokens with theirs; equal ones by their ids.
pub(crate) fn logprobs(logits: &[f32], id: u32, top: usize) -> (Option<f32>, Vec<(u32, f32)>) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum = logits.iter().map(|l| f64::from(l - max).exp()).sum::<f64>().ln();
    let of = |l: f32| (f64::from(l - max) - sum) as f32;
    let mut best: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if top < best.len() {
        best.select_nth_unstable_by(top, order);
        best.truncate(top);
    }
    best.sort_unstable_by(order);
    best.iter_mut().for_each(|(_, l)| *l = of(*l));
    (logits.get(id as usize).map(|l| of(*l)), best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_become_a_stop_string_is_held_back() {
        assert_eq!(overlap("abc", "bcd"), 2);
        assert_eq!(overlap("abc", "abc"), 0);
        assert_eq!(overlap("xaba", "abab"), 3);
        assert_eq!(overlap("é", "éa"), 2);
        assert_eq!(overlap("", "a"), 0);
        assert_eq!(overlap("a", "b"), 0);
    }

    #[test]
    fn log_probabilities_sum_to_one_and_come_in_order() {
        let (own, top) = logprobs(&[1.0, 3.0, 2.0, 3.0], 2, 4);
        assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 2, 0]);
        assert!((top.iter().map(|t| t.1.exp()).sum::<f32>() - 1.0).abs() < 1e-6);
        assert_eq!(own, Some(top[2].1));
        assert_eq!(logprobs(&[1.0, 3.0], 0, 1).1.len(), 1);
        assert_eq!(logprobs(&[1.0, 3.0], 0, 0).1, []);
    }
}
