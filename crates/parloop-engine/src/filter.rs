//! What changes logits before a token is chosen: a bias, a penalty, a grammar.

use std::collections::HashMap;
use std::sync::Arc;

/// Changes the logits of the next token: a bias, a ban, a grammar.
pub trait Filter: Send {
    /// Changes logits `[V]`; minus infinity forbids a token.
    fn apply(&mut self, logits: &mut [f32]);

    /// Sees the token that was chosen.
    fn accept(&mut self, _token: u32) {}

    /// Whether the text is complete with the tokens that were chosen: nothing may follow.
    fn ended(&self) -> bool {
        false
    }
}

/// Makes a filter for one text.
type Make = Arc<dyn Fn() -> Box<dyn Filter> + Send + Sync>;

/// Filters of a request, in the order in which they are applied. Every text that it asks for gets its own.
#[derive(Clone, Default)]
pub struct Filters(Vec<Make>);

impl std::fmt::Debug for Filters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Filters({})", self.0.len())
    }
}

impl Filters {
    /// Adds one.
    pub fn push(&mut self, make: impl Fn() -> Box<dyn Filter> + Send + Sync + 'static) {
        self.0.push(Arc::new(make));
    }

    /// The filters of one text.
    pub fn make(&self) -> impl Iterator<Item = Box<dyn Filter>> {
        self.0.iter().map(|make| make())
    }
}

/// Adds a number to the logits of some tokens. Ids that the model does not have are passed over.
#[derive(Clone, Debug, PartialEq)]
pub struct Bias(pub Vec<(u32, f32)>);

impl Filter for Bias {
    fn apply(&mut self, logits: &mut [f32]) {
        for (token, bias) in &self.0 {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
    }
}

/// OpenAI's penalties: the logit of a token that was written c times is lowered by `presence + c * frequency`. The prompt
/// does not count.
#[derive(Clone, Debug, Default)]
pub struct Penalties {
    /// Once for a token that was written.
    pub presence: f32,
    /// For each time that it was written.
    pub frequency: f32,
    written: HashMap<u32, u32>,
}

impl Penalties {
    /// These penalties, with nothing written yet.
    pub fn new(presence: f32, frequency: f32) -> Self {
        Self { presence, frequency, written: HashMap::new() }
    }
}

impl Filter for Penalties {
    fn apply(&mut self, logits: &mut [f32]) {
        for (token, count) in &self.written {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit -= self.presence + *count as f32 * self.frequency;
            }
        }
    }

    fn accept(&mut self, token: u32) {
        *self.written.entry(token).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn biases_are_added_and_unknown_ids_passed_over() {
        let mut logits = [1.0, 2.0, 3.0];
        Bias(vec![(0, 5.0), (2, f32::NEG_INFINITY), (9, 1.0)]).apply(&mut logits);
        assert_eq!(logits, [6.0, 2.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn penalties_grow_with_what_was_written() {
        let mut filter = Penalties::new(0.5, 0.25);
        [2, 2, 0].into_iter().for_each(|t| filter.accept(t));
        let mut logits = [1.0, 1.0, 1.0];
        filter.apply(&mut logits);
        assert_eq!(logits, [0.25, 1.0, 0.0]);
    }

    #[test]
    fn every_text_has_its_own() {
        let mut filters = Filters::default();
        filters.push(|| Box::new(Penalties::new(1.0, 0.0)));
        let (mut one, mut other) = (filters.make().next().unwrap(), filters.make().next().unwrap());
        one.accept(0);
        let (mut a, mut b) = ([0.0], [0.0]);
        one.apply(&mut a);
        other.apply(&mut b);
        assert_eq!((a, b), ([-1.0], [0.0]));
    }
}
