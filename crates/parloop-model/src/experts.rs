//! Mixture of experts: a feed-forward of which each row takes a few parts, chosen by a router.
//!
//! [`Moe`] says what there is and how rows are routed; [`Moe::route`] is the routing itself, one row at a time, from the
//! router's logits to the experts of the row and what each is multiplied with (`docs/model.md`).

use crate::fields::Fields;
use crate::{Error, Result};
use serde::Serialize;
use std::cmp::Ordering;

/// Sizes above which a mixture is refused before anything is allocated.
mod limits {
    pub const EXPERTS: usize = 1 << 12;
    pub const WIDTH: usize = 1 << 20;
    /// Experts of all layers.
    pub const ALL: usize = 1 << 17;
}

/// A mixture of experts, in the place of the feed-forward. Field names are those of the object `moe` of our
/// `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Moe {
    /// E, experts of a layer.
    pub experts: usize,
    /// k, experts that a row takes.
    pub top_k: usize,
    /// Width of an expert's SwiGLU.
    pub width: usize,
    /// From the router's logits to scores.
    pub score: Score,
    /// Divide the scores of a row's experts by their sum.
    pub normalize: bool,
    /// Factor of all experts' results.
    pub scale: f32,
    /// A vector that is added to the scores for the choice, not for the weighing (DeepSeek-V3).
    pub choice_bias: bool,
    /// Choose among the experts of a few groups only.
    pub groups: Option<Groups>,
    /// A feed-forward that every row takes beside its experts.
    pub shared: Option<SharedExpert>,
    /// Layers, counted from 0, that have an ordinary feed-forward instead.
    pub dense_layers: Vec<usize>,
}

/// From the router's logits to scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// Over all experts.
    Softmax,
    /// Each by itself.
    Sigmoid,
}

/// Experts in groups of neighbours: only those of the best groups are chosen from. A group is as good as its two best
/// experts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Groups {
    /// Groups in all.
    pub count: usize,
    /// Groups that are kept.
    pub keep: usize,
}

/// A feed-forward beside the experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SharedExpert {
    /// Width of its SwiGLU.
    pub width: usize,
    /// Multiply its result with `sigmoid(<w, x>)`.
    pub gate: bool,
}

impl Moe {
    /// E experts of which each row takes k: softmax, normalised, nothing else.
    pub fn new(experts: usize, top_k: usize, width: usize) -> Self {
        Self {
            experts,
            top_k,
            width,
            score: Score::Softmax,
            normalize: true,
            scale: 1.0,
            choice_bias: false,
            groups: None,
            shared: None,
            dense_layers: Vec::new(),
        }
    }

    /// Whether layer `n` (0-based) has experts.
    pub fn in_layer(&self, n: usize) -> bool {
        !self.dense_layers.contains(&n)
    }

    /// Checks every size and relation for a model of `layers` layers.
    ///
    /// # Errors
    /// Names the field, the value found and what is allowed.
    pub fn validate(&self, layers: usize) -> Result<()> {
        let fail = |field: &str, found: String, expected: String| {
            Err(Error::Config(format!("moe.{field} is {found}, expected {expected}")))
        };
        let range = |field: &str, found: usize, most: usize| match (1..=most).contains(&found) {
            true => Ok(()),
            false => fail(field, found.to_string(), format!("1 to {most}")),
        };
        range("experts", self.experts, limits::EXPERTS)?;
        if self.top_k == 0 || self.top_k > self.experts {
            let expected = format!("1 to the number of experts, {}", self.experts);
            return fail("top_k", self.top_k.to_string(), expected);
        }
        range("width", self.width, limits::WIDTH)?;
        if self.experts.saturating_mul(layers) > limits::ALL {
            let expected = format!("at most {} in all {layers} layers", limits::ALL);
            return fail("experts", self.experts.to_string(), expected);
        }
        if !self.scale.is_finite() {
            return fail("scale", self.scale.to_string(), "a finite number".into());
        }
        if let Some(Groups { count, keep }) = self.groups {
            if count < 2 || !self.experts.is_multiple_of(count) || self.experts / count < 2 {
                let expected = format!(
                    "at least 2, and a divisor of experts ({}) that leaves each group two or more",
                    self.experts
                );
                return fail("groups.count", count.to_string(), expected);
            }
            range("groups.keep", keep, count)?;
            if keep * (self.experts / count) < self.top_k {
                let expected = format!("enough groups of {} for top_k = {}", self.experts / count, self.top_k);
                return fail("groups.keep", keep.to_string(), expected);
            }
        }
        if let Some(shared) = self.shared {
            range("shared.width", shared.width, limits::WIDTH)?;
        }
        if let Some(layer) = self.dense_layers.iter().find(|n| **n >= layers) {
            return fail("dense_layers", format!("a list with {layer}"), format!("layers from 0 to {}", layers - 1));
        }
        if !self.dense_layers.windows(2).all(|pair| pair[0] < pair[1]) {
            return fail("dense_layers", format!("{:?}", self.dense_layers), "each layer once, in order".into());
        }
        if self.dense_layers.len() == layers {
            let expected = "fewer than all layers; a model without experts has no moe".into();
            return fail("dense_layers", format!("all {layers} layers"), expected);
        }
        Ok(())
    }

    /// The mixture in a line of plain English.
    pub fn describe(&self) -> String {
        let Self { experts, top_k, width, .. } = self;
        let mut text = format!("{top_k} of {experts} experts of width {width}");
        text += match (self.score, self.normalize) {
            (Score::Softmax, true) => ", weighed by softmax among them",
            (Score::Softmax, false) => ", weighed by softmax among all",
            (Score::Sigmoid, true) => ", weighed by sigmoid, normalised",
            (Score::Sigmoid, false) => ", weighed by sigmoid",
        };
        if self.scale != 1.0 {
            text += &format!(" x {}", self.scale);
        }
        if self.choice_bias {
            text += ", a bias for the choice";
        }
        if let Some(Groups { count, keep }) = self.groups {
            text += &format!(", from {keep} of {count} groups");
        }
        if let Some(SharedExpert { width, gate }) = self.shared {
            text += &format!(", a shared expert of width {width}{}", if gate { " with a gate" } else { "" });
        }
        match &self.dense_layers[..] {
            [] => {}
            [one] => text += &format!("; layer {one} without experts"),
            layers => text += &format!("; {} layers without experts", layers.len()),
        }
        text
    }
}

/// Space for the routing of rows, kept from row to row.
#[derive(Debug, Default)]
pub struct Space {
    /// One number an expert.
    scores: Vec<f32>,
    /// What experts are chosen by.
    values: Vec<f32>,
    order: Vec<u16>,
}

/// From large to small, numbers that are none last, and of equals the first.
fn better(values: &[f32], a: u16, b: u16) -> Ordering {
    let key = |i: u16| if values[usize::from(i)].is_nan() { f32::NEG_INFINITY } else { values[usize::from(i)] };
    key(b).total_cmp(&key(a)).then(a.cmp(&b))
}

impl Moe {
    /// Routes a row: from the router's logits `[E]` and the bias of the choice `[E]` to its k experts, in ascending
    /// order, and their weights. Where `given` is set, `chosen` is taken as it stands and only weighed: how later loops
    /// use what loop 1 chose.
    ///
    /// A logit that is no number makes the weights none, and so the row's result.
    ///
    /// # Panics
    /// If a length is another.
    pub fn route(
        &self,
        logits: &[f32],
        bias: Option<&[f32]>,
        given: bool,
        space: &mut Space,
        chosen: &mut [u16],
        weights: &mut [f32],
    ) {
        assert_eq!((logits.len(), chosen.len(), weights.len()), (self.experts, self.top_k, self.top_k), "of a router");
        self.scores(logits, &mut space.scores);
        if !given {
            self.values(bias, space);
            let Space { values, order, .. } = space;
            order.clear();
            order.extend(0..self.experts as u16);
            if self.top_k < self.experts {
                order.select_nth_unstable_by(self.top_k - 1, |a, b| better(values, *a, *b));
            }
            chosen.copy_from_slice(&order[..self.top_k]);
            chosen.sort_unstable();
        }
        let of = |values: &[f32], e: u16| values[usize::from(e)];
        if !logits.iter().all(|x| x.is_finite()) {
            weights.fill(f32::NAN);
            return;
        }
        if self.score == Score::Softmax && self.normalize {
            // Of the chosen alone, so that nothing is lost where all of them are unlikely.
            let most = chosen.iter().map(|e| of(logits, *e)).fold(f32::NEG_INFINITY, f32::max);
            weights.iter_mut().zip(&*chosen).for_each(|(w, e)| *w = (of(logits, *e) - most).exp());
            let sum: f32 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w = *w / sum * self.scale);
            return;
        }
        weights.iter_mut().zip(&*chosen).for_each(|(w, e)| *w = of(&space.scores, *e));
        if self.normalize {
            let sum = weights.iter().sum::<f32>() + 1e-20;
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        weights.iter_mut().for_each(|w| *w *= self.scale);
    }

    fn scores(&self, logits: &[f32], scores: &mut Vec<f32>) {
        scores.clear();
        match self.score {
            Score::Sigmoid => scores.extend(logits.iter().map(|x| 1.0 / (1.0 + (-x).exp()))),
            Score::Softmax => {
                let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                scores.extend(logits.iter().map(|x| (x - most).exp()));
                let sum: f32 = scores.iter().sum();
                scores.iter_mut().for_each(|s| *s /= sum);
            }
        }
    }

    /// Scores with their bias, those outside the best groups out of reach.
    fn values(&self, bias: Option<&[f32]>, Space { scores, values, order }: &mut Space) {
        values.clear();
        values.extend_from_slice(scores);
        if let Some(bias) = bias {
            values.iter_mut().zip(bias).for_each(|(v, b)| *v += b);
        }
        let Some(Groups { count, keep }) = self.groups else { return };
        let size = self.experts / count;
        let groups: Vec<f32> = values.chunks_exact(size).map(two_best).collect();
        order.clear();
        order.extend(0..count as u16);
        order.sort_unstable_by(|a, b| better(&groups, *a, *b));
        for group in &order[keep..] {
            values[usize::from(*group) * size..][..size].fill(f32::NEG_INFINITY);
        }
    }

    /// How far the choice of a row is from another one: the least difference between what was chosen and what was not,
    /// of experts and of groups. Two computations may rightly differ where it is of the size of rounding.
    pub fn margin(&self, logits: &[f32], bias: Option<&[f32]>) -> f32 {
        let mut space = Space::default();
        self.scores(logits, &mut space.scores);
        let mut least = f32::INFINITY;
        let mut between = |mut values: Vec<f32>, chosen: usize| {
            values.sort_unstable_by(|a, b| b.total_cmp(a));
            if let Some(next) = values.get(chosen) {
                least = least.min(values[chosen - 1] - next);
            }
        };
        if let Some(Groups { count, keep }) = self.groups {
            let plain = Self { groups: None, ..self.clone() };
            plain.values(bias, &mut space);
            between(space.values.chunks_exact(self.experts / count).map(two_best).collect(), keep);
        }
        self.values(bias, &mut space);
        between(space.values, self.top_k);
        least
    }
}

fn two_best(values: &[f32]) -> f32 {
    let (mut best, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for value in values {
        if *value > best {
            (best, second) = (*value, best);
        } else if *value > second {
            second = *value;
        }
    }
    best + second
}

impl Moe {
    /// Reads the object `moe` of our `config.json`.
    pub(crate) fn read(mut fields: Fields) -> Result<Self> {
        let keys = [
            "experts",
            "top_k",
            "width",
            "score",
            "normalize",
            "scale",
            "choice_bias",
            "groups",
            "shared",
            "dense_layers",
        ];
        fields.known(&keys)?;
        let groups = |mut groups: Fields| {
            groups.known(&["count", "keep"])?;
            Ok(Groups { count: groups.required("count")?, keep: groups.required("keep")? })
        };
        let shared = |mut shared: Fields| {
            shared.known(&["width", "gate"])?;
            Ok(SharedExpert { width: shared.required("width")?, gate: shared.optional("gate")?.unwrap_or(false) })
        };
        let plain = Self::new(fields.required("experts")?, fields.required("top_k")?, fields.required("width")?);
        let scores = [("softmax", Score::Softmax), ("sigmoid", Score::Sigmoid)];
        Ok(Self {
            score: if fields.has("score") { fields.word("score", &scores)? } else { plain.score },
            normalize: fields.optional("normalize")?.unwrap_or(plain.normalize),
            scale: fields.optional("scale")?.unwrap_or(plain.scale),
            choice_bias: fields.optional("choice_bias")?.unwrap_or(plain.choice_bias),
            groups: fields.object("groups")?.map(groups).transpose()?,
            shared: fields.object("shared")?.map(shared).transpose()?,
            dense_layers: fields.optional("dense_layers")?.unwrap_or_default(),
            ..plain
        })
    }
}

/// How many different experts a layer reads on average for n rows of which each takes k of E, if all choices were
/// independent and even: `E (1 - (1 - k/E)^n)`.
pub fn distinct(experts: usize, top_k: usize, rows: f64) -> f64 {
    let (e, k) = (experts as f64, top_k as f64);
    e * (1.0 - (1.0 - k / e).powf(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(moe: &Moe, logits: &[f32], bias: Option<&[f32]>) -> (Vec<u16>, Vec<f32>) {
        let (mut chosen, mut weights) = (vec![0; moe.top_k], vec![0.0; moe.top_k]);
        moe.route(logits, bias, false, &mut Space::default(), &mut chosen, &mut weights);
        (chosen, weights)
    }

    #[test]
    fn softmax_normalised_is_the_softmax_of_the_best() {
        let logits = [0.5, 2.0, -1.0, 1.0];
        let (chosen, weights) = routed(&Moe::new(4, 2, 8), &logits, None);
        let e = 1.0f32.exp();
        assert_eq!(chosen, [1, 3]);
        assert!((weights[0] - e / (1.0 + e)).abs() < 1e-6 && (weights[1] - 1.0 / (1.0 + e)).abs() < 1e-6);
        // Not normalised they are shares of all.
        let (_, weights) = routed(&Moe { normalize: false, ..Moe::new(4, 2, 8) }, &logits, None);
        let all: f32 = logits.iter().map(|x| x.exp()).sum();
        assert!((weights[0] - 2.0f32.exp() / all).abs() < 1e-6);
    }

    #[test]
    fn a_bias_chooses_and_does_not_weigh_and_groups_confine() {
        let sigmoid = Moe { score: Score::Sigmoid, choice_bias: true, scale: 2.0, ..Moe::new(4, 2, 8) };
        let (chosen, weights) = routed(&sigmoid, &[0.0; 4], Some(&[0.0, 1.0, 0.0, 2.0]));
        assert_eq!((chosen, weights), (vec![1, 3], vec![1.0, 1.0]));
        // The best expert stands in a group whose second is poor.
        let grouped = Moe { groups: Some(Groups { count: 2, keep: 1 }), ..sigmoid };
        let (chosen, _) = routed(&grouped, &[9.0, -9.0, 1.0, 1.0], Some(&[0.0; 4]));
        assert_eq!(chosen, [2, 3]);
    }

    #[test]
    fn equals_go_to_the_first_and_what_is_no_number_to_none() {
        assert_eq!(routed(&Moe::new(5, 2, 8), &[1.0; 5], None).0, [0, 1]);
        let (chosen, weights) = routed(&Moe::new(3, 2, 8), &[f32::NAN, 1.0, 2.0], None);
        assert!(chosen.iter().all(|e| *e < 3));
        assert!(weights.iter().any(|w| w.is_nan()), "{weights:?}");
    }

    #[test]
    fn what_later_loops_are_given_is_only_weighed() {
        let (mut chosen, mut weights) = ([0, 2], [0.0; 2]);
        Moe::new(3, 2, 8).route(&[-200.0, 5.0, -200.0], None, true, &mut Space::default(), &mut chosen, &mut weights);
        assert_eq!((chosen, weights), ([0, 2], [0.5, 0.5]));
    }

    #[test]
    fn margins_are_those_of_experts_and_of_groups() {
        let moe = Moe { score: Score::Sigmoid, ..Moe::new(4, 1, 8) };
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let logits = [3.0, 1.0, 2.0, -5.0];
        assert!((moe.margin(&logits, None) - (sigmoid(3.0) - sigmoid(2.0))).abs() < 1e-6);
        let grouped = Moe { groups: Some(Groups { count: 2, keep: 1 }), ..moe };
        let groups = sigmoid(3.0) + sigmoid(1.0) - sigmoid(2.0) - sigmoid(-5.0);
        assert!((grouped.margin(&logits, None) - groups.min(sigmoid(3.0) - sigmoid(1.0))).abs() < 1e-6);
    }

    #[test]
    fn what_does_not_fit_is_refused_in_a_sentence() {
        let fits = Moe::new(8, 2, 16);
        fits.validate(3).unwrap();
        let cases: [(Moe, &str); 11] = [
            (Moe { experts: 0, ..fits.clone() }, "moe.experts is 0"),
            (Moe { experts: 1 << 13, ..fits.clone() }, "moe.experts is 8192, expected 1 to 4096"),
            (Moe { top_k: 9, ..fits.clone() }, "moe.top_k is 9, expected 1 to the number of experts, 8"),
            (Moe { top_k: 0, ..fits.clone() }, "moe.top_k is 0"),
            (Moe { width: 0, ..fits.clone() }, "moe.width is 0"),
            (Moe { scale: f32::NAN, ..fits.clone() }, "moe.scale is NaN"),
            (Moe { groups: Some(Groups { count: 3, keep: 1 }), ..fits.clone() }, "moe.groups.count is 3"),
            (
                Moe { groups: Some(Groups { count: 4, keep: 5 }), ..fits.clone() },
                "moe.groups.keep is 5, expected 1 to 4",
            ),
            (Moe { top_k: 3, groups: Some(Groups { count: 4, keep: 1 }), ..fits.clone() }, "for top_k = 3"),
            (Moe { dense_layers: vec![3], ..fits.clone() }, "a list with 3, expected layers from 0 to 2"),
            (Moe { dense_layers: vec![0, 1, 2], ..fits.clone() }, "fewer than all layers"),
        ];
        for (moe, words) in cases {
            let message = moe.validate(3).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
        assert!(Moe { dense_layers: vec![1, 0], ..fits.clone() }.validate(3).is_err());
        assert!(Moe::new(4096, 1, 8).validate(64).unwrap_err().to_string().contains("in all 64 layers"));
    }
}
