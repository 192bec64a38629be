//! How a checkpoint wants text generated (`generation_config.json`), and the tokens that end a text.

use crate::config::TokenIds;
use crate::tokenizer::read_object;
use crate::{Error, ModelConfig, Result, Tokenizer};
use serde::{Deserialize, Serialize};
use std::path::Path;

pub(crate) const FILE: &str = "generation_config.json";

/// Tokens that end a turn in the chat templates in use. One counts where the template writes it and the tokenizer
/// knows it as a special token.
const TURN_ENDS: [&str; 12] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
    "<|END_OF_TURN_TOKEN|>",
    "<|return|>",
];

/// The values of a `generation_config.json` that are used here; what is not said is `None`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationDefaults {
    /// False asks for the most likely token always.
    pub do_sample: Option<bool>,
    /// Temperature of sampling.
    pub temperature: Option<f32>,
    /// Keep the k most likely tokens.
    pub top_k: Option<usize>,
    /// Keep the most likely tokens up to this probability in sum.
    pub top_p: Option<f32>,
    /// Keep tokens at least this fraction as likely as the best.
    pub min_p: Option<f32>,
    /// Make tokens that were already seen less likely by this factor.
    pub repetition_penalty: Option<f32>,
    /// Tokens to write at most.
    pub max_new_tokens: Option<usize>,
    /// Token(s) that end a text.
    pub eos_token_id: Option<TokenIds>,
}

impl GenerationDefaults {
    /// Reads `generation_config.json`; a folder without it says nothing.
    ///
    /// # Errors
    /// The file cannot be read, a value has another type or is out of range, or an id is outside the vocabulary.
    pub fn read(folder: &Path, config: &ModelConfig) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let mut object = read_object(&path)?;
        let mut kept = serde_json::Map::new();
        for name in FIELDS {
            kept.extend(object.remove(name).map(|value| (name.to_owned(), value)));
        }
        // Field by field, so that the message can name the one that is wrong.
        for (name, value) in &kept {
            let one = serde_json::Map::from_iter([(name.clone(), value.clone())]);
            serde_json::from_value::<Self>(one.into())
                .map_err(|_| Error::file(&path, format!("has \"{name}\" = {value}, which is not a usable value")))?;
        }
        let found: Self = serde_json::from_value(kept.into()).map_err(|e| Error::file(&path, e.to_string()))?;
        match found.eos_ids().iter().find(|id| **id as usize >= config.vocab_size) {
            Some(id) => Err(Error::file(
                &path,
                format!("has the end token {id}, expected an id below vocab_size ({})", config.vocab_size),
            )),
            None => Ok(found),
        }
    }

    /// The values that are said, by the names of `generation_config.json`.
    pub(crate) fn to_json(&self) -> serde_json::Map<String, serde_json::Value> {
        match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(object)) => object.into_iter().filter(|(_, value)| !value.is_null()).collect(),
            _ => serde_json::Map::new(),
        }
    }

    /// Ids that end a text.
    pub fn eos_ids(&self) -> &[u32] {
        self.eos_token_id.as_ref().map_or(&[], TokenIds::as_slice)
    }

    /// The temperature the checkpoint asks for: 0 where it asks not to sample.
    pub fn temperature(&self) -> Option<f32> {
        if self.do_sample == Some(false) { Some(0.0) } else { self.temperature }
    }
}

const FIELDS: [&str; 8] =
    ["do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens", "eos_token_id"];

/// The tokens that end a text, whoever names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stops(Vec<u32>);

impl Stops {
    /// The union of what `config.json`, `generation_config.json`, the `eos_token` of the tokenizer's settings and the
    /// chat template say.
    pub fn new(
        config: &ModelConfig,
        generation: &GenerationDefaults,
        tokenizer: Option<&Tokenizer>,
        eos_token: Option<&str>,
        template: Option<&str>,
    ) -> Self {
        let mut ids = [config.eos_ids(), generation.eos_ids()].concat();
        if let Some(tokenizer) = tokenizer {
            ids.extend(eos_token.and_then(|token| tokenizer.id(token)));
            let written = |end: &&&str| template.is_some_and(|t| t.contains(**end));
            let known = TURN_ENDS.iter().filter(written).filter_map(|end| tokenizer.id(end));
            ids.extend(known.filter(|id| tokenizer.is_special(*id)));
        }
        ids.sort_unstable();
        ids.dedup();
        Self(ids)
    }

    /// Whether this token ends a text.
    pub fn contains(&self, id: u32) -> bool {
        self.0.binary_search(&id).is_ok()
    }

    /// The ids, in order.
    pub fn ids(&self) -> &[u32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ModelConfig {
        crate::family::parse(include_str!("../../../tests/goldens/plt2/config.json")).unwrap().config
    }

    fn read(text: &str) -> Result<GenerationDefaults> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), text).unwrap();
        GenerationDefaults::read(folder.path(), &config())
    }

    #[test]
    fn what_is_said_is_taken_and_the_rest_ignored() {
        let text = r#"{"_from_model_config": true, "do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": null,
            "eos_token_id": [5, 7], "transformers_version": "4.40.0"}"#;
        let found = read(text).unwrap();
        assert_eq!((found.temperature(), found.top_k, found.top_p), (Some(0.6), Some(20), None));
        assert_eq!(found.eos_ids(), [5, 7]);
        assert_eq!(read(r#"{"do_sample": false, "temperature": 0.6}"#).unwrap().temperature(), Some(0.0));
        assert_eq!(read(r#"{"eos_token_id": 3}"#).unwrap().eos_ids(), [3]);
        let nothing = GenerationDefaults::read(tempfile::tempdir().unwrap().path(), &config()).unwrap();
        assert_eq!((nothing.temperature(), nothing.eos_ids().len()), (None, 0));
    }

    #[test]
    fn unusable_values_are_named() {
        for (text, word) in [
            (r#"{"temperature": "hot"}"#, "temperature"),
            (r#"{"top_k": -1}"#, "top_k"),
            (r#"{"eos_token_id": [1, "x"]}"#, "eos_token_id"),
            (r#"{"eos_token_id": 100000}"#, "100000"),
            ("[]", FILE),
        ] {
            let message = read(text).unwrap_err().to_string();
            assert!(message.contains(word) && message.contains(FILE), "{message}");
        }
    }

    #[test]
    fn everything_that_names_an_end_counts() {
        let json = r#"{"version": "1.0", "added_tokens": [
            {"id": 10, "content": "<|im_end|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
            {"id": 11, "content": "<|end|>", "special": false, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false},
            {"id": 12, "content": "<e>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false}],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": null, "truncation": null, "padding": null,
            "model": {"type": "WordLevel", "vocab": {"a": 0, "<|im_end|>": 10, "<|end|>": 11, "<e>": 12}, "unk_token": "a"}}"#;
        let tokenizer = Tokenizer::from_json(json).unwrap();
        let said = GenerationDefaults { eos_token_id: Some(TokenIds::Many(vec![7, 2])), ..Default::default() };
        let stops = |eos, template| Stops::new(&config(), &said, Some(&tokenizer), eos, template).ids().to_vec();
        assert_eq!(stops(None, None), [2, 7]);
        assert_eq!(stops(Some("<e>"), None), [2, 7, 12]);
        // Only what the template writes, and only special tokens.
        assert_eq!(stops(Some("unknown"), Some("<|im_end|><|end|><|eot_id|>")), [2, 7, 10]);
        assert!(Stops::new(&config(), &said, None, Some("<e>"), None).contains(7));
    }
}
