//! Refusing options that cannot work, before anything is read or allocated.

use super::TrainOptions;
use crate::{Error, Result};

/// Above this a size is a mistake, not a wish; products of three such sizes still fit in 64 bits.
const LARGEST: usize = 1 << 20;

/// Tokens of one batch; what they need beyond this no machine has.
const MOST_TOKENS: usize = 1 << 24;
/// Parameters of a model; with gradients and moments each takes 16 bytes.
const MOST_PARAMETERS: u64 = 1 << 34;

impl TrainOptions {
    /// Checks every option by itself and against the others.
    ///
    /// # Errors
    /// The first bad option: its flag, the value found, what is allowed.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("hidden-size", self.hidden_size),
            ("intermediate-size", self.intermediate_size),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv-heads", self.kv_heads),
            ("head-dim", self.head_dim),
            ("vocab-size", self.vocab_size),
            ("context", self.context),
            ("batch", self.batch),
            ("accumulate", self.accumulate),
            ("eval-batches", self.eval_batches),
            ("log-every", self.log_every),
            ("keep", self.keep),
        ];
        for (flag, found) in sizes {
            if found == 0 || found > LARGEST {
                return Err(Error::option(flag, found, format!("1 to {LARGEST}")));
            }
        }
        if self.batch * self.context > MOST_TOKENS {
            let expected =
                format!("at most {MOST_TOKENS} tokens at once (--batch x --context): use --accumulate for more");
            return Err(Error::option("batch", self.batch, expected));
        }
        if self.steps == 0 {
            return Err(Error::option("steps", 0, "at least 1"));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(Error::option("kv-heads", self.kv_heads, format!("a divisor of --heads ({})", self.heads)));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::option("head-dim", self.head_dim, "an even number: rotary embedding turns pairs"));
        }
        if self.max_position != 0 && self.max_position < self.context {
            let expected = format!(
                "0 or at least --context ({}): a sequence may not be longer than the model's context",
                self.context
            );
            return Err(Error::option("max-position", self.max_position, expected));
        }
        // The range and the bounds a user may choose; the second flag tells whether the upper bound itself is allowed.
        let numbers: [(&'static str, f64, f64, f64, bool); 10] = [
            ("lr", self.lr, f64::MIN_POSITIVE, 1e3, true),
            ("floor", self.floor, 0.0, 1.0, true),
            ("weight-decay", self.weight_decay, 0.0, 1e3, true),
            ("beta1", self.beta1, 0.0, 1.0, false),
            ("beta2", self.beta2, 0.0, 1.0, false),
            ("epsilon", self.epsilon, f64::MIN_POSITIVE, 1.0, true),
            ("clip", self.clip, 0.0, 1e9, true),
            ("val-fraction", self.val_fraction, 0.0, 0.9, true),
            ("sample-temperature", self.sample_temperature, 0.0, 100.0, true),
            ("rope-theta", f64::from(self.rope_theta), 1.0, 1e12, true),
        ];
        for (flag, found, low, high, closed) in numbers {
            // Written so that NaN fails.
            let inside = found >= low && (found < high || closed && found == high);
            if !inside {
                let low = if low == f64::MIN_POSITIVE { "above 0".into() } else { format!("at least {low}") };
                let high = if closed { format!("at most {high}") } else { format!("below {high}") };
                return Err(Error::option(flag, found, format!("a number {low} and {high}")));
            }
        }
        // The vocabulary of a tokenizer that is not trained here is not known yet; it adds little.
        let parameters = parloop_model::tensors::parameters(&self.model_config(self.vocab_size, None)?);
        if parameters > MOST_PARAMETERS {
            let expected = format!("sizes that make at most {MOST_PARAMETERS} parameters; these make {parameters}");
            return Err(Error::option("hidden-size", self.hidden_size, expected));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Preset, RecipeChoice};
    use super::*;

    #[test]
    fn presets_are_good() {
        for preset in [Preset::Tiny, Preset::Small, Preset::Medium] {
            TrainOptions::preset(preset).check().unwrap();
            TrainOptions::preset(preset).model_config(300, Some(299)).unwrap();
        }
    }

    #[test]
    fn each_bad_option_is_named_by_its_flag() {
        type Change = fn(&mut TrainOptions);
        let cases: [(&str, Change); 17] = [
            ("--batch", |o| o.batch = 0),
            ("--lr", |o| o.lr = f64::NAN),
            ("--lr", |o| o.lr = -1.0),
            ("--beta2", |o| o.beta2 = 1.0),
            ("--context", |o| o.context = 0),
            ("--max-position", |o| o.max_position = 8),
            ("--recipe", |o| o.recipe = RecipeChoice::Name("plt-two".into())),
            ("--kv-heads", |o| o.kv_heads = 3),
            ("--head-dim", |o| o.head_dim = 7),
            ("--steps", |o| o.steps = 0),
            ("--keep", |o| o.keep = 0),
            ("--val-fraction", |o| o.val_fraction = 1.0),
            ("--clip", |o| o.clip = f64::INFINITY),
            ("--accumulate", |o| o.accumulate = usize::MAX),
            ("--floor", |o| o.floor = 1.5),
            ("--batch", |o| (o.batch, o.context) = (1 << 20, 1 << 20)),
            ("--hidden-size", |o| (o.hidden_size, o.intermediate_size) = (1 << 20, 1 << 20)),
        ];
        for (flag, change) in cases {
            let mut options = TrainOptions::default();
            change(&mut options);
            let message = options.check().unwrap_err().to_string();
            assert!(message.starts_with(flag), "{flag}: {message}");
        }
    }
}
