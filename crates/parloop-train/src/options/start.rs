//! Starting from a checkpoint: which of its sizes and layers, and how the loops come in.

use super::TrainOptions;
use crate::{Error, Result};
use parloop_model::{Checkpoint, Recipe};
use std::path::Path;

/// The word for the tokenizer of `init`.
pub(crate) const OF_INIT: &str = "init";

/// Options that a checkpoint decides.
pub(super) const DECIDED: [&str; 11] = [
    "hidden_size",
    "intermediate_size",
    "layers",
    "heads",
    "kv_heads",
    "head_dim",
    "tie_embeddings",
    "rope_theta",
    "rms_norm_eps",
    "vocab_size",
    "tokenizer",
];

/// The largest logit that a gate starts with: the other branch's share is then 1e-7.
const CLOSED: f64 = 16.0;

impl TrainOptions {
    /// Takes over what the checkpoint named by `init` decides.
    ///
    /// # Errors
    /// It cannot be read, or `init_layers` names layers that it lacks.
    pub(super) fn take_over(&mut self, init: &str, layers: &str) -> Result<()> {
        let checkpoint = open(init)?;
        let c = checkpoint.config();
        self.hidden_size = c.hidden_size;
        self.intermediate_size = c.intermediate_size;
        self.layers = taken(layers, c.num_hidden_layers)?.len();
        self.heads = c.num_attention_heads;
        self.kv_heads = c.num_key_value_heads;
        self.head_dim = c.head_dim;
        self.tie_embeddings = c.tie_word_embeddings;
        self.rope_theta = c.rope_theta;
        self.rms_norm_eps = f64::from(c.rms_norm_eps);
        self.vocab_size = c.vocab_size;
        self.tokenizer = OF_INIT.into();
        Ok(())
    }

    /// The checkpoint that a new run starts from, and which of its layers it takes.
    pub(crate) fn start(&self) -> Result<Option<(Checkpoint, Vec<usize>)>> {
        if self.init.is_empty() {
            return Ok(None);
        }
        let checkpoint = open(&self.init)?;
        let layers = taken(&self.init_layers, checkpoint.config().num_hidden_layers)?;
        Ok(Some((checkpoint, layers)))
    }

    /// Ids of the vocabulary: a checkpoint may have more than its tokenizer uses.
    pub(crate) fn vocabulary(&self, tokenizer: usize) -> usize {
        if self.init.is_empty() { tokenizer } else { self.vocab_size }
    }

    /// The recipe as step `step` (0-based) trains it: while scales warm up, later loops begin with
    /// `embedding_scale` 1 and `hidden_scale` 0, so that each repeats loop 1, and go to the recipe's in a straight line.
    pub(crate) fn recipe_at(&self, recipe: &Recipe, step: usize) -> Recipe {
        let mut recipe = recipe.clone();
        if step < self.scale_warmup {
            let share = step as f32 / self.scale_warmup as f32;
            recipe.hidden_scale *= share;
            recipe.embedding_scale = recipe.embedding_scale.map(|scale| 1.0 + share * (scale - 1.0));
        }
        recipe
    }

    /// The bias that a new gate starts with.
    pub(crate) fn gate_logit(&self) -> f32 {
        let share = self.initial_gate;
        (share / (1.0 - share)).ln().clamp(-CLOSED, CLOSED) as f32
    }
}

fn open(init: &str) -> Result<Checkpoint> {
    Checkpoint::open(Path::new(init)).map_err(|e| {
        let expected = format!("a folder with a checkpoint, a run or a GGUF file: {e}");
        Error::option("init", format!("\"{init}\""), expected)
    })
}

/// The layers that a text names, of `count`.
pub(super) fn taken(text: &str, count: usize) -> Result<Vec<usize>> {
    if text.trim().is_empty() {
        return Ok((0..count).collect());
    }
    let wrong = || {
        let expected = format!("layers from 0 to {}, such as 0-{0} or 0,2,4", count - 1);
        Error::option("init_layers", format!("\"{text}\""), expected)
    };
    let mut layers = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n < count).ok_or_else(wrong);
        let (first, last) = (number(first)?, number(last)?);
        if first > last || layers.len() + last - first >= 4096 {
            return Err(wrong());
        }
        layers.extend(first..=last);
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_ranges_and_numbers() {
        assert_eq!(taken("", 3).unwrap(), [0, 1, 2]);
        assert_eq!(taken("0,2", 3).unwrap(), [0, 2]);
        assert_eq!(taken("1-2, 0,1", 3).unwrap(), [1, 2, 0, 1]);
        for text in ["3", "2-1", "-", "a", "0,", "0-99999999999999999999"] {
            let message = taken(text, 3).unwrap_err().to_string();
            assert!(message.starts_with("init_layers") && message.contains("0 to 2"), "{message}");
        }
    }

    #[test]
    fn scales_go_from_the_embedding_alone_to_the_recipe() {
        let options = TrainOptions { scale_warmup: 4, ..TrainOptions::default() };
        let recipe = Recipe::plt(2);
        let at = |step| options.recipe_at(&recipe, step);
        assert_eq!((at(0).embedding_scale, at(0).hidden_scale), (Some(1.0), 0.0));
        assert_eq!(at(2).hidden_scale, recipe.hidden_scale / 2.0);
        assert_eq!((at(4), at(9)), (recipe.clone(), recipe.clone()));
    }

    #[test]
    fn gates_start_as_told_and_never_at_infinity() {
        let logit = |initial_gate| TrainOptions { initial_gate, ..TrainOptions::default() }.gate_logit();
        assert_eq!((logit(0.5), logit(0.0), logit(1.0)), (0.0, -16.0, 16.0));
        assert!((1.0 / (1.0 + (-logit(0.9)).exp()) - 0.9).abs() < 1e-6);
    }
}
