//! A Hugging Face tokenizer, with what is asked of it for every token kept ready.

use crate::{Error, Result};
use std::collections::HashSet;
use tokenizers::Tokenizer;

/// A tokenizer in Hugging Face's form.
#[derive(Clone)]
pub struct HuggingFace {
    inner: Tokenizer,
    /// One more than the largest id.
    size: usize,
    /// Ids that are no part of a text. The library would copy all its added tokens to answer for one.
    special: HashSet<u32>,
}

impl HuggingFace {
    /// Takes a tokenizer.
    pub fn new(inner: Tokenizer) -> Self {
        let size = inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        let added = inner.get_added_tokens_decoder();
        let special = added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        Self { inner, size, special }
    }

    /// Parses the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// The text is not a tokenizer.
    pub fn from_json(text: &str) -> Result<Self> {
        let fail = |e: &dyn std::fmt::Display| Error::Input(format!("is not a Hugging Face tokenizer: {e}"));
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|e| fail(&e))?;
        // The library panics on some parts that are JSON but no tokenizer.
        let parsed = std::panic::catch_unwind(|| text.parse::<Tokenizer>());
        let parsed = parsed.map_err(|_| fail(&"a part of it is of a kind that no tokenizer has"))?;
        parsed.map(Self::new).map_err(|e| fail(&e))
    }

    /// The text of its `tokenizer.json`.
    pub fn to_json(&self, pretty: bool) -> String {
        self.inner.to_string(pretty).unwrap_or_default()
    }

    /// Number of ids: one more than the largest.
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// The id of a token by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text by which a token is called.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether a token is left out of the text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.contains(&id)
    }

    /// Ids of a text; `around` puts the tokens around it that the tokenizer adds by itself.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode(&self, text: &str, around: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, around);
        encoding.map(|e| e.get_ids().to_vec()).map_err(|e| Error::Input(format!("the tokenizer refused the text: {e}")))
    }

    /// Text of ids.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(|e| Error::Input(format!("the ids cannot be decoded: {e}")))
    }
}
