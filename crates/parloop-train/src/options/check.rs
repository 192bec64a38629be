//! Refusing options that cannot work, before anything is read or allocated.

use super::settings::shown;
use super::{OPTIONS, OptimizerChoice, ScalesChoice, TrainOptions, TuneChoice};
use crate::{Error, Result};

/// Tokens of one batch; what they need beyond this no machine has.
const MOST_TOKENS: usize = 1 << 24;
/// Parameters of a model; with gradients and moments each takes 16 bytes.
const MOST_PARAMETERS: u64 = 1 << 34;

impl TrainOptions {
    /// Checks every option by itself and against the others.
    ///
    /// # Errors
    /// The first bad option: its name, the value found, what is allowed.
    pub fn check(&self) -> Result<()> {
        for option in OPTIONS {
            let value = option.get(self);
            if !option.allowed.holds(&value) {
                return Err(Error::option(option.name, shown(&value), option.allowed.to_string()));
            }
        }
        if self.batch * self.context > MOST_TOKENS {
            let expected = format!(
                "at most {MOST_TOKENS} tokens at once (batch x context): use `accumulate` or `step_tokens` for more"
            );
            return Err(Error::option("batch", self.batch, expected));
        }
        let once = self.batch * self.context;
        if !self.step_tokens.is_multiple_of(once) {
            let expected = format!("0, or a multiple of the {once} tokens of one batch (batch x context)");
            return Err(Error::option("step_tokens", self.step_tokens, expected));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(Error::option("kv_heads", self.kv_heads, format!("a divisor of `heads` ({})", self.heads)));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::option("head_dim", self.head_dim, "an even number: rotary embedding turns pairs"));
        }
        if self.max_position != 0 && self.max_position < self.context {
            let expected = format!(
                "0 or at least `context` ({}): a sequence may not be longer than the model's context",
                self.context
            );
            return Err(Error::option("max_position", self.max_position, expected));
        }
        if self.init.is_empty() && !self.init_layers.is_empty() {
            return Err(Error::option("init_layers", format!("\"{}\"", self.init_layers), "nothing, without `init`"));
        }
        if self.init.is_empty() && self.tokenizer == super::start::OF_INIT {
            return Err(Error::option("tokenizer", "\"init\"", "another one, without `init`"));
        }
        let recipe = self.recipe.resolve()?;
        if self.scale_warmup > 0 && recipe.embedding_scale.is_none() && recipe.count > 1 {
            let expected = "0 for a recipe without embedding_scale, whose later loops would begin with nothing";
            return Err(Error::option("scale_warmup", self.scale_warmup, expected));
        }
        self.check_loops(&recipe)?;
        if self.tune == TuneChoice::Lora && self.optimizer == OptimizerChoice::Muon {
            let expected = "adamw with `tune` lora: muon is for whole matrices";
            return Err(Error::option("optimizer", "\"muon\"", expected));
        }
        if self.tune == TuneChoice::New && recipe.local.is_none() && self.scales == ScalesChoice::Fixed {
            let expected = "all or lora: this recipe has no gates, and its scales are not learned";
            return Err(Error::option("tune", "\"new\"", expected));
        }
        // The vocabulary of a tokenizer that is not trained here is not known yet; it adds little.
        let parameters = parloop_model::tensors::parameters(&self.model_config(self.vocab_size, None)?);
        if parameters > MOST_PARAMETERS {
            let expected = format!("sizes that make at most {MOST_PARAMETERS} parameters; these make {parameters}");
            return Err(Error::option("hidden_size", self.hidden_size, expected));
        }
        Ok(())
    }

    /// Refuses what cannot fit in this machine's memory: weights, gradients and two moments of each parameter, and of the
    /// activations at least the logits and each layer's widest parts.
    ///
    /// # Errors
    /// The bytes that it takes at least, and those that are free.
    pub fn check_memory(&self) -> Result<()> {
        let config = self.model_config(self.vocab_size.max(256), None)?;
        let parameters = parloop_model::tensors::parameters(&config) as f64;
        let rows = self.batch as f64 * self.context as f64;
        let wide = config.intermediate_size.max(config.query_width()) + config.hidden_size;
        let layers = (config.num_hidden_layers * config.recipe.count) as f64;
        let needed = 16.0 * parameters + 4.0 * rows * (2.0 * config.vocab_size as f64 + layers * 2.0 * wide as f64);
        match parloop_kernels::memory::available() {
            Some(available) if needed > available as f64 => {
                Err(Error::Memory { needed: needed as u64, available: available as u64 })
            }
            _ => Ok(()),
        }
    }

    /// Refuses to go on as a run whose checkpoint has other options where that would be another model, or would
    /// validate on text already trained on.
    pub(crate) fn check_same_run(&self, then: &Self) -> Result<()> {
        let differs = |name, now: String, then: String| Err(Error::Differs { option: name, now, then });
        for option in OPTIONS.iter().filter(|option| option.fixed && option.name != "recipe") {
            let (now, then) = (option.get(self), option.get(then));
            if now != then {
                return differs(option.name, shown(&now), shown(&then));
            }
        }
        if self.positions() != then.positions() {
            let name = if self.max_position == 0 { "context" } else { "max_position" };
            return differs(name, self.positions().to_string(), then.positions().to_string());
        }
        // A recipe is the same by name or field by field.
        let (now, then) = (self.recipe.resolve()?, then.recipe.resolve()?);
        if now != then {
            return differs("recipe", now.describe(), then.describe());
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
        for preset in Preset::ALL {
            TrainOptions::preset(preset).check().unwrap();
            TrainOptions::preset(preset).model_config(300, Some(299)).unwrap();
        }
    }

    #[test]
    fn a_step_is_batches_or_tokens() {
        let mut options = TrainOptions::default();
        (options.batch, options.context, options.accumulate) = (4, 32, 3);
        assert_eq!((options.batches_per_step(), options.tokens_per_step()), (3, 384));
        options.step_tokens = 1024;
        options.check().unwrap();
        assert_eq!((options.batches_per_step(), options.tokens_per_step()), (8, 1024));
    }

    #[test]
    fn each_bad_option_is_named() {
        type Change = fn(&mut TrainOptions);
        let cases: [(&str, Change); 32] = [
            ("loops_schedule", |o| o.loops_schedule = "1:0,3:5".into()),
            ("loops_schedule", |o| o.loops_schedule = "1:5,2:9".into()),
            ("loops_schedule", |o| o.loops_schedule = "1:0,2:0".into()),
            ("loops_schedule", |o| o.loops_schedule = "2".into()),
            ("random_loops", |o| o.random_loops = "1-3".into()),
            ("random_loops", |o| (o.recipe, o.random_loops) = (RecipeChoice::Name("loop2".into()), "3-1".into())),
            ("scales", |o| (o.scales, o.scale_warmup) = (ScalesChoice::Learned, 3)),
            ("scales", |o| (o.scales, o.recipe) = (ScalesChoice::Cold, RecipeChoice::Name("loop2".into()))),
            ("optimizer", |o| (o.tune, o.optimizer) = (TuneChoice::Lora, OptimizerChoice::Muon)),
            ("tune", |o| (o.tune, o.recipe) = (TuneChoice::New, RecipeChoice::Name("vanilla".into()))),
            ("step_tokens", |o| o.step_tokens = o.batch * o.context + 1),
            ("batch", |o| o.batch = 0),
            ("init_layers", |o| o.init_layers = "0-3".into()),
            ("tokenizer", |o| o.tokenizer = "init".into()),
            ("initial_gate", |o| o.initial_gate = 1.5),
            ("scale_warmup", |o| (o.recipe, o.scale_warmup) = (RecipeChoice::Name("loop2".into()), 5)),
            ("lr", |o| o.lr = f64::NAN),
            ("lr", |o| o.lr = -1.0),
            ("beta2", |o| o.beta2 = 1.0),
            ("context", |o| o.context = 0),
            ("max_position", |o| o.max_position = 8),
            ("recipe", |o| o.recipe = RecipeChoice::Name("plt-two".into())),
            ("kv_heads", |o| o.kv_heads = 3),
            ("head_dim", |o| o.head_dim = 7),
            ("steps", |o| o.steps = 0),
            ("keep", |o| o.keep = 0),
            ("val_fraction", |o| o.val_fraction = 1.0),
            ("clip", |o| o.clip = f64::INFINITY),
            ("accumulate", |o| o.accumulate = usize::MAX),
            ("floor", |o| o.floor = 1.5),
            ("batch", |o| (o.batch, o.context) = (1 << 20, 1 << 20)),
            ("hidden_size", |o| (o.hidden_size, o.intermediate_size) = (1 << 20, 1 << 20)),
        ];
        for (name, change) in cases {
            let mut options = TrainOptions::default();
            change(&mut options);
            let message = options.check().unwrap_err().to_string();
            assert!(message.starts_with(name), "{name}: {message}");
        }
    }
}
