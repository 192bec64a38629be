//! Values given for options by name, from wherever: a file, a flag, an earlier run.

use super::{Allowed, Preset, RecipeChoice, TrainOption, TrainOptions};
use crate::{Error, Result};
use std::collections::BTreeMap;

/// Some options' values, over those of a preset. Each is checked as it is set, so that an error is known to belong to
/// what was just read; later values replace earlier ones.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings(BTreeMap<&'static str, toml::Value>);

impl Settings {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every option of a run, as set.
    pub fn all_of(options: &TrainOptions) -> Self {
        Self(super::OPTIONS.iter().map(|option| (option.name, option.get(options))).collect())
    }

    /// Sets an option.
    ///
    /// # Errors
    /// There is no such option, or the value is not one that it may have.
    pub fn set(&mut self, name: &str, value: toml::Value) -> Result<&'static TrainOption> {
        let option = TrainOption::named(name).ok_or_else(|| Error::UnknownOption { name: name.to_owned() })?;
        if !option.allowed.holds(&value) {
            return Err(Error::option(option.name, shown(&value), option.allowed.to_string()));
        }
        if option.allowed == Allowed::Recipe {
            RecipeChoice::of(&value)?.resolve()?;
        }
        self.0.insert(option.name, value);
        Ok(option)
    }

    /// What a recipe that is given field by field leaves out although PLT has it, and what that means, as a sentence.
    pub fn left_out(&self) -> Option<String> {
        let table = self.0.get("recipe")?.as_table()?;
        if table.get("count").and_then(toml::Value::as_integer) == Some(1) {
            return None;
        }
        let lacks = |key: &str| !table.contains_key(key);
        let mut said = Vec::new();
        if lacks("embedding_scale") {
            said.push("no embedding_scale: later loops are not given the token's embedding again (plt2: 0.707)");
        }
        if lacks("local") && table.get("kv").and_then(toml::Value::as_str) == Some("shared") {
            said.push(
                "no local: later loops have no window of their own keys (plt2: { left = 64, gate = \"hidden\" })",
            );
        }
        (!said.is_empty()).then(|| format!("the recipe has {}", said.join(", and ")))
    }

    /// Takes back what was set for an option.
    pub fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Sets an option to the value that a text stands for: `0.1`, `true`, `plt3`, `{ count = 2, ... }`.
    ///
    /// # Errors
    /// As [`Settings::set`].
    pub fn set_text(&mut self, name: &str, text: &str) -> Result<&'static TrainOption> {
        let value = match TrainOption::named(name) {
            Some(option) => option.allowed.parse(text),
            None => toml::Value::from(text),
        };
        self.set(name, value)
    }

    /// Sets what a TOML text sets, and returns which options those are.
    ///
    /// # Errors
    /// The text is not TOML, or as [`Settings::set`].
    pub fn add_toml(&mut self, text: &str) -> Result<Vec<&'static TrainOption>> {
        let table: toml::Table = text.parse().map_err(|source: toml::de::Error| {
            let line = source.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Error::Toml { line, message: source.message().to_owned() }
        })?;
        table.into_iter().map(|(name, value)| self.set(&name, value)).collect()
    }

    /// The options: what is set, over what the checkpoint that `init` names decides, over the preset that is set (or
    /// `tiny`).
    ///
    /// # Errors
    /// The checkpoint cannot be read; none else that [`Settings::set`] did not catch.
    pub fn options(&self) -> Result<TrainOptions> {
        let wrong = |e: toml::de::Error| Error::Toml { line: 1, message: e.message().to_owned() };
        let preset = match self.0.get("preset") {
            Some(value) => value.clone().try_into().map_err(wrong)?,
            None => Preset::default(),
        };
        let mut options = TrainOptions::preset(preset);
        let text = |name: &str| self.0.get(name).and_then(toml::Value::as_str).unwrap_or_default();
        // A run that goes on has all of them, and does without the checkpoint that it once started from.
        if !text("init").is_empty() && !super::start::DECIDED.iter().all(|name| self.0.contains_key(name)) {
            options.take_over(text("init"), text("init_layers"), text("ignore_config_key"))?;
        }
        let mut all = Self::all_of(&options).0;
        all.extend(self.0.clone());
        let table: toml::Table = all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        table.try_into().map_err(wrong)
    }
}

/// A value in a sentence.
pub(super) fn shown(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |word| format!("\"{word}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TrainOptions> {
        let mut settings = Settings::new();
        settings.add_toml(text)?;
        settings.options()
    }

    #[test]
    fn a_file_changes_only_what_it_says() {
        let options = read("preset = \"small\"\nlr = 1\nrecipe = \"plt3\"\n").unwrap();
        let mut expected = TrainOptions::preset(Preset::Small);
        expected.lr = 1.0;
        expected.recipe = RecipeChoice::Name("plt3".into());
        assert_eq!(options, expected);
        assert_eq!(read("").unwrap(), TrainOptions::preset(Preset::Tiny));
        assert_eq!(Settings::all_of(&options).options().unwrap(), options);
    }

    #[test]
    fn later_values_win_and_texts_are_values() {
        let mut settings = Settings::new();
        settings.add_toml("steps = 5\nbeta2 = 0.5\n[recipe]\ncount = 2\nshift = true\nhidden_scale = 1\nnorm = true\nkv = \"shared\"").unwrap();
        for (name, text) in [
            ("steps", "1_000"),
            ("beta2", "0.75"),
            ("sample_prompt", "5"),
            ("tokenizer", "\"bytes\""),
            ("tie_embeddings", "true"),
        ] {
            settings.set_text(name, text).unwrap();
        }
        let options = settings.options().unwrap();
        assert_eq!((options.steps, options.beta2, options.recipe.resolve().unwrap().count), (1000, 0.75, 2));
        assert_eq!((options.sample_prompt.as_str(), options.tokenizer.as_str()), ("5", "bytes"));
        assert!(options.tie_embeddings);
        settings.set_text("recipe", "plt3").unwrap();
        assert_eq!(settings.options().unwrap().recipe, RecipeChoice::Name("plt3".into()));
    }

    #[test]
    fn what_a_recipe_leaves_out_is_known() {
        let said = |text: &str| {
            let mut settings = Settings::new();
            settings.add_toml(text).unwrap();
            settings.left_out().unwrap_or_default()
        };
        let rest = "shift = true\nhidden_scale = 1\nnorm = true\n";
        let both = said(&format!("[recipe]\ncount = 2\nkv = \"shared\"\n{rest}"));
        assert!(both.contains("no embedding_scale") && both.contains("no local"), "{both}");
        let own = said(&format!("[recipe]\ncount = 2\nkv = \"per_loop\"\nembedding_scale = 0\n{rest}"));
        assert_eq!((own.as_str(), said("recipe = \"plt2\"").as_str()), ("", ""));
        assert_eq!(said(&format!("[recipe]\ncount = 1\nkv = \"shared\"\n{rest}")), "");
    }

    #[test]
    fn wrong_names_and_values_are_named() {
        for (text, words) in [
            ("learning_rate = 1", "learning_rate"),
            ("steps = -1", "steps is -1, expected a whole number from 1"),
            ("steps = 0.5", "steps is 0.5"),
            ("lr = \"fast\"", "lr is \"fast\", expected a number above 0"),
            ("preset = \"huge\"", "preset is \"huge\", expected tiny, small or medium"),
            ("device = \"abacus\"", "expected cpu, cuda, wgpu or metal"),
            ("steps = 1\nlr = ", "line 2"),
            ("recipe = \"plt-two\"", "recipe"),
            ("[recipe]\ncount = 2\n", "recipe.shift"),
            ("[recipe]\ncounts = 2\n", "recipe.counts"),
            ("[recipe]\ncount = \"two\"\nshift = true\nhidden_scale = 1\nnorm = true\nkv = \"shared\"", "recipe.count"),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(words), "{text}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }
}
