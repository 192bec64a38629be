//! Starting from a checkpoint: which of its sizes and layers, and how the loops come in.

use super::TrainOptions;
use crate::{Error, Result};
use parloop_model::Checkpoint;
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
    pub(super) fn take_over(&mut self, init: &str, layers: &str, ignored: &str) -> Result<()> {
        let checkpoint = open(init, ignored)?;
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
    pub(crate) fn start(&self) -> Result<Option<(Checkpoint, Vec<Vec<usize>>)>> {
        if self.init.is_empty() {
            return Ok(None);
        }
        let checkpoint = open(&self.init, &self.ignore_config_key)?;
        let layers = taken(&self.init_layers, checkpoint.config().num_hidden_layers)?;
        Ok(Some((checkpoint, layers)))
    }

    /// Ids of the vocabulary: a checkpoint may have more than its tokenizer uses.
    pub(crate) fn vocabulary(&self, tokenizer: usize) -> usize {
        if self.init.is_empty() { tokenizer } else { self.vocab_size }
    }

    /// The bias that a new gate starts with.
    pub(crate) fn gate_logit(&self) -> f32 {
        let share = self.initial_gate;
        (share / (1.0 - share)).ln().clamp(-CLOSED, CLOSED) as f32
    }
}

fn open(init: &str, ignored: &str) -> Result<Checkpoint> {
    let ignored: Vec<String> =
        ignored.split(',').map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()).collect();
    Checkpoint::open_ignoring(Path::new(init), &ignored).map_err(|e| {
        let mut expected = format!("a folder with a checkpoint, a run or a GGUF file: {e}");
        if let parloop_model::Error::UnknownKey { key, .. } = e.innermost() {
            expected += &format!(", or name it with ignore_config_key = \"{key}\"");
        }
        Error::option("init", format!("\"{init}\""), expected)
    })
}

/// The layers that a text names, of `count`: for each layer of the new model those whose mean it is.
pub(super) fn taken(text: &str, count: usize) -> Result<Vec<Vec<usize>>> {
    if text.trim().is_empty() {
        return Ok((0..count).map(|n| vec![n]).collect());
    }
    let wrong = || {
        let expected =
            format!("layers from 0 to {}, such as 0-{0} or 0,2,4; a sum such as 0+1 or 0-1+2-3 takes means", count - 1);
        Error::option("init_layers", format!("\"{text}\""), expected)
    };
    let mut layers: Vec<Vec<usize>> = Vec::new();
    for part in text.split(',') {
        let mut sum: Vec<Vec<usize>> = Vec::new();
        for (nth, range) in part.split('+').enumerate() {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| text.trim().parse::<usize>().ok().filter(|n| *n < count).ok_or_else(wrong);
            let (first, last) = (number(first)?, number(last)?);
            if first > last || layers.len() + last - first >= 4096 || nth >= count {
                return Err(wrong());
            }
            if nth == 0 {
                sum = vec![Vec::new(); last - first + 1];
            } else if sum.len() != last - first + 1 {
                return Err(wrong());
            }
            sum.iter_mut().zip(first..=last).for_each(|(layers, n)| layers.push(n));
        }
        layers.extend(sum);
    }
    Ok(layers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_ranges_and_numbers() {
        let one = |text| taken(text, 3).unwrap().concat();
        assert_eq!(one(""), [0, 1, 2]);
        assert_eq!(one("0,2"), [0, 2]);
        assert_eq!(one("1-2, 0,1"), [1, 2, 0, 1]);
        assert_eq!(taken("0-1+1-2,2", 3).unwrap(), [vec![0, 1], vec![1, 2], vec![2]]);
        for text in ["3", "2-1", "-", "a", "0,", "0-99999999999999999999", "0-1+2", "0+", "+", "0+0+0+0"] {
            let message = taken(text, 3).unwrap_err().to_string();
            assert!(message.starts_with("init_layers") && message.contains("0 to 2"), "{message}");
        }
    }

    #[test]
    fn gates_start_as_told_and_never_at_infinity() {
        let logit = |initial_gate| TrainOptions { initial_gate, ..TrainOptions::default() }.gate_logit();
        assert_eq!((logit(0.5), logit(0.0), logit(1.0)), (0.0, -16.0, 16.0));
        assert!((1.0 / (1.0 + (-logit(0.9)).exp()) - 0.9).abs() < 1e-6);
    }
}
