//! A Hugging Face tokenizer, with what is asked of it for every token kept ready.

use super::declared::Declared;
use super::decoder::{Position, Steps};
use super::literal::Literal;
use crate::{Error, Result};
use serde_json::Value;
use std::collections::HashSet;
use std::sync::OnceLock;
use tokenizers::{AddedToken, Tokenizer};

/// A tokenizer in Hugging Face's form.
#[derive(Clone)]
pub struct HuggingFace {
    inner: Tokenizer,
    /// One more than the largest id.
    size: usize,
    /// Ids that are no part of a text. The library would copy all its added tokens to answer for one.
    special: HashSet<u32>,
    /// The decoder step by step; `None` for one that has to see all tokens at once.
    steps: Option<Steps>,
    /// Made when it is needed: few conversations spell a special token.
    literal: OnceLock<Option<Box<Literal>>>,
}

impl HuggingFace {
    /// Takes a tokenizer. A training run may have left in it how texts were cut or filled up there; what is read here
    /// is always the whole text and nothing else.
    pub fn new(mut inner: Tokenizer) -> Self {
        inner.with_padding(None);
        // Nothing to cut can be no wrong length.
        let _ = inner.with_truncation(None);
        let size = inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        let added = inner.get_added_tokens_decoder();
        let special = added.into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        let steps = Steps::new(inner.get_decoder());
        Self { inner, size, special, steps, literal: OnceLock::new() }
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

    /// Adds the tokens that the files beside the tokenizer name, as far as their ids are below `limit`.
    ///
    /// # Errors
    /// A token would get another id than the one it is said to have.
    pub(super) fn declare(mut self, declared: &Declared, limit: usize) -> Result<Self> {
        let known: HashSet<String> = self.inner.get_added_tokens_decoder().into_values().map(|t| t.content).collect();
        let mut new = Vec::new();
        for token in declared.added.iter().filter(|t| !known.contains(&t.text) && (t.id as usize) < limit) {
            new.push(
                AddedToken::from(token.text.clone(), token.special)
                    .single_word(token.single_word)
                    .lstrip(token.lstrip)
                    .rstrip(token.rstrip)
                    .normalized(false),
            );
        }
        let special = declared.special.iter().filter(|text| !known.contains(*text) && self.id(text).is_some());
        new.extend(special.map(|text| AddedToken::from(text.clone(), true)));
        if new.is_empty() {
            return Ok(self);
        }
        self.inner.add_tokens(new).map_err(|e| Error::Input(format!("cannot take added tokens: {e}")))?;
        let ids = declared.added.iter().filter(|t| !known.contains(&t.text) && (t.id as usize) < limit);
        for token in ids {
            if let Some(id) = self.id(&token.text).filter(|id| *id != token.id) {
                let what = format!("{:?} is said to be token {}, but would be {id} here", token.text, token.id);
                return Err(Error::Input(format!("does not fit the files beside it: {what}; add it to added_tokens")));
            }
        }
        Ok(Self::new(self.inner))
    }

    /// Leaves out added tokens from an id on.
    ///
    /// # Errors
    /// The tokenizer puts one of them around every text.
    pub(super) fn without_added_from(self, limit: usize) -> Result<Self> {
        if self.size <= limit {
            return Ok(self);
        }
        let mut json: Value = serde_json::from_str(&self.to_json(false)).unwrap_or_default();
        let beyond = |id: &Value| id.as_u64().is_some_and(|id| id >= limit as u64);
        let mut gone = HashSet::new();
        if let Some(added) = json["added_tokens"].as_array_mut() {
            let text = |token: &Value| token["content"].as_str().map(str::to_owned);
            gone.extend(added.iter().filter(|token| beyond(&token["id"])).filter_map(text));
            added.retain(|token| !beyond(&token["id"]));
        }
        if let Some(vocabulary) = json["model"]["vocab"].as_object_mut() {
            vocabulary.retain(|text, id| !(beyond(id) && gone.contains(text)));
        }
        let without = Self::from_json(&json.to_string())?;
        let around = without.encode("", true)?;
        match around.into_iter().find(|id| *id as usize >= limit) {
            Some(id) => Err(Error::Input(format!("puts token {id} around texts, but vocab_size is only {limit}"))),
            None => Ok(without),
        }
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

    fn literal(&self) -> Option<&Literal> {
        self.literal.get_or_init(|| Literal::new(&self.inner).ok().map(Box::new)).as_deref()
    }

    /// Ids of a text, where no special token begins at the offsets in `literal`.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub(super) fn encode_literal(&self, text: &str, literal: &[usize]) -> Result<Vec<u32>> {
        match self.literal() {
            Some(inner) => inner.encode(text, literal),
            None => self.encode(text, false),
        }
    }

    /// Whether the text of a special token stands at the beginning of a text.
    pub(super) fn begins_special(&self, text: &str) -> bool {
        self.literal().is_some_and(|inner| inner.begins(text))
    }

    /// Whether the characters of tokens stand for bytes.
    pub(super) fn is_byte_level(&self) -> bool {
        self.steps.as_ref().is_some_and(Steps::is_byte_level)
    }

    /// Whether ids become text one by one.
    pub(super) fn streams(&self) -> bool {
        self.steps.is_some()
    }

    /// Takes the next id of a stream and returns the text that is now certain. An id without a token adds nothing.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub(super) fn push(&self, at: &mut Position, id: u32) -> Result<String> {
        let token = (!self.is_special(id)).then(|| self.token(id)).flatten();
        match (&self.steps, token) {
            (Some(steps), Some(token)) => steps.push(at, token).map_err(undecodable),
            _ => Ok(String::new()),
        }
    }

    /// The rest of a stream.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub(super) fn finish(&self, at: &mut Position) -> Result<String> {
        self.steps.as_ref().map_or(Ok(String::new()), |steps| steps.finish(at).map_err(undecodable))
    }

    /// Text of ids, by the library.
    ///
    /// # Errors
    /// The tokenizer's decoder fails.
    pub(super) fn decode_whole(&self, ids: &[u32]) -> Result<String> {
        self.inner.decode(ids, true).map_err(undecodable)
    }
}

fn undecodable(error: tokenizers::Error) -> Error {
    Error::Input(format!("the ids cannot be decoded: {error}"))
}
