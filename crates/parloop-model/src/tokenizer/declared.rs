//! Tokens that only the files beside a tokenizer name: `tokenizer_config.json`, `special_tokens_map.json` and
//! `added_tokens.json`. Each is one token, as in Hugging Face's `transformers`.

use super::conventions::{AddedToken, added_tokens};
use super::sentencepiece::PieceKind;
use super::{Pieces, read_object};
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

/// Tokens by text and id.
const ADDED: &str = "added_tokens.json";
/// Special tokens by name.
pub(crate) const SPECIAL: &str = "special_tokens_map.json";
/// The names that every tokenizer may give.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];
/// Lists of further ones.
const LISTS: [&str; 2] = ["additional_special_tokens", "extra_special_tokens"];

/// What the files of a folder declare.
#[derive(Clone, Debug, Default)]
pub(crate) struct Declared {
    /// Tokens with the id they are to have.
    pub added: Vec<AddedToken>,
    /// Special tokens without an id: that of the vocabulary. One that no vocabulary has cannot have been learnt.
    pub special: Vec<String>,
}

impl Declared {
    /// Reads the files beside a tokenizer; `config` is the content of `tokenizer_config.json`.
    ///
    /// # Errors
    /// A file cannot be read, or holds something else.
    pub fn read(folder: &Path, config: &Map<String, Value>) -> Result<Self> {
        let settings = folder.join(super::CONFIG);
        let mut added = added_tokens(config).map_err(|e| Error::file(&settings, e.to_string()))?;
        let object = |name: &str| {
            let path = folder.join(name);
            if path.exists() { read_object(&path) } else { Ok(Map::new()) }
        };
        let explicit = added.len();
        for (text, id) in object(ADDED)? {
            let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = number.filter(|_| !text.is_empty()).ok_or_else(|| {
                Error::file(&folder.join(ADDED), format!("has {text:?}: {id}, expected a token and its id"))
            })?;
            if added.iter().all(|token| token.text != text) {
                added.push(AddedToken { id, text, special: false, lstrip: false, rstrip: false, single_word: false });
            }
        }
        let mut special = Vec::new();
        for source in [config, &object(SPECIAL)?] {
            let named = NAMES.iter().filter_map(|name| source.get(*name));
            let lists = LISTS.iter().filter_map(|name| source.get(*name)).flat_map(members);
            special.extend(named.chain(lists).filter_map(token_text).filter(|t| !t.is_empty()).map(str::to_owned));
        }
        let mut seen = std::collections::HashSet::new();
        special.retain(|text| seen.insert(text.clone()));
        // `added_tokens.json` does not say it of its tokens; the other file does.
        for token in &mut added[explicit..] {
            token.special = seen.contains(&token.text);
        }
        special.retain(|text| added.iter().all(|token| token.text != *text));
        added.sort_by_key(|token| token.id);
        Ok(Self { added, special })
    }

    /// The tokens that are cut out of a text before the pieces of a `tokenizer.model` see it, with ids below `limit`:
    /// those declared, and pieces that are no part of a text.
    pub fn among(self, model: &Pieces, limit: usize) -> Vec<AddedToken> {
        let mut added = self.added;
        for (piece, id) in model.pieces.iter().zip(0..) {
            let special = piece.kind == PieceKind::Control || self.special.contains(&piece.text);
            if special && added.iter().all(|token| token.id != id && token.text != piece.text) {
                let text = piece.text.clone();
                added.push(AddedToken { id, text, special, lstrip: false, rstrip: false, single_word: false });
            }
        }
        added.retain(|token| (token.id as usize) < limit);
        added.sort_by_key(|token| token.id);
        added
    }
}

/// The text of a token: itself, or an object with `content`.
pub(crate) fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// The members of a list, or of an object of names.
fn members(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(list) => list.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}
