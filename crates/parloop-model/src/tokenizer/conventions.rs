//! What a checkpoint adds to bare pieces: added tokens, tokens around a text, and where a space is put before it.
//! `tokenizer_config.json` says so for a `tokenizer.model`, metadata keys do in other formats.

use crate::{Error, Result};
use serde_json::{Map, Value};

/// A token that is cut out of the text before anything else looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddedToken {
    /// Its id; may be one of a piece.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Left out when ids become text.
    pub special: bool,
    /// Takes the white space before it along.
    pub lstrip: bool,
    /// Takes the white space after it along.
    pub rstrip: bool,
    /// Is only found between characters that belong to no word.
    pub single_word: bool,
}

/// Which fragments of a text (what lies between added tokens) get a space put before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpacePrefix {
    /// All of them, if the model says `add_dummy_prefix`.
    #[default]
    Model,
    /// All of them.
    EveryFragment,
    /// Only one that begins the text.
    TextStart,
    /// None.
    Never,
}

/// The conventions of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conventions {
    /// Tokens that are cut out of the text first.
    pub added: Vec<AddedToken>,
    /// Put the model's first token before a text.
    pub add_bos: bool,
    /// Put the model's last token after a text.
    pub add_eos: bool,
    /// Where a space is put before text.
    pub space_prefix: SpacePrefix,
}

/// The largest id an added token may have, as large as the largest vocabulary.
const MAX_ID: u32 = 1 << 24;

impl Conventions {
    /// Reads the keys of a `tokenizer_config.json` that concern a `tokenizer.model`: `added_tokens_decoder`,
    /// `add_bos_token` (true where nothing is said and the model has such a token, as its users expect),
    /// `add_eos_token`, and the space before text: `add_prefix_space` decides whether there is one, `legacy` (true
    /// where nothing is said) whether also after added tokens.
    ///
    /// # Errors
    /// A key holds something of another type.
    pub fn from_config(config: &Map<String, Value>) -> Result<Self> {
        let flag = |key: &str| match config.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(Error::Input(format!("has \"{key}\" = {other}, expected true or false"))),
        };
        let space_prefix = match (flag("add_prefix_space")?, flag("legacy")?.unwrap_or(true)) {
            (Some(false), _) => SpacePrefix::Never,
            (None, true) => SpacePrefix::Model,
            (Some(true), true) => SpacePrefix::EveryFragment,
            (_, false) => SpacePrefix::TextStart,
        };
        Ok(Self {
            added: added_tokens(config)?,
            add_bos: flag("add_bos_token")?.unwrap_or(true),
            add_eos: flag("add_eos_token")?.unwrap_or(false),
            space_prefix,
        })
    }

    /// The keys that [`Conventions::from_config`] reads.
    pub fn to_config(&self) -> Map<String, Value> {
        let added = self.added.iter().map(|t| {
            let token = serde_json::json!({
                "content": t.text, "special": t.special, "lstrip": t.lstrip, "rstrip": t.rstrip,
                "single_word": t.single_word, "normalized": false,
            });
            (t.id.to_string(), token)
        });
        let mut config = Map::new();
        config.insert("added_tokens_decoder".into(), Value::Object(added.collect()));
        config.insert("add_bos_token".into(), self.add_bos.into());
        config.insert("add_eos_token".into(), self.add_eos.into());
        let (prefix, legacy) = match self.space_prefix {
            SpacePrefix::Model => (None, true),
            SpacePrefix::EveryFragment => (Some(true), true),
            SpacePrefix::TextStart => (None, false),
            SpacePrefix::Never => (Some(false), true),
        };
        config.extend(prefix.map(|p| ("add_prefix_space".to_owned(), p.into())));
        config.insert("legacy".into(), legacy.into());
        config
    }
}

/// The tokens of `added_tokens_decoder` in a `tokenizer_config.json`, in the order of their ids.
///
/// # Errors
/// The key holds something else.
pub(super) fn added_tokens(config: &Map<String, Value>) -> Result<Vec<AddedToken>> {
    let mut added = Vec::new();
    let Some(list) = config.get("added_tokens_decoder") else { return Ok(added) };
    let bad = |what: &str| Error::Input(format!("has an added_tokens_decoder that is not usable: {what}"));
    for (id, token) in list.as_object().ok_or_else(|| bad("it is not an object"))? {
        let number = id.parse().ok().filter(|id| *id < MAX_ID);
        let id = number.ok_or_else(|| bad(&format!("\"{id}\" is not a token id")))?;
        let text = token.get("content").and_then(Value::as_str).filter(|text| !text.is_empty());
        let text = text.ok_or_else(|| bad(&format!("token {id} has no content")))?.to_owned();
        let is = |key| token.get(key).and_then(Value::as_bool).unwrap_or(false);
        added.push(AddedToken {
            id,
            text,
            special: is("special"),
            lstrip: is("lstrip"),
            rstrip: is("rstrip"),
            single_word: is("single_word"),
        });
    }
    added.sort_by_key(|t| t.id);
    Ok(added)
}

/// Cuts a text at its added tokens: `each(text before, token)`, and at last `each(rest, None)`. `longest` says which
/// token a text starts with: its length and its place in `added`.
pub(super) fn split<'a>(
    text: &str,
    added: &'a [AddedToken],
    longest: impl Fn(&[u8]) -> Option<(usize, u32)>,
    mut each: impl FnMut(&str, Option<&'a AddedToken>),
) {
    let in_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let (mut start, mut at) = (0, 0);
    while let Some(character) = text[at..].chars().next() {
        let token = longest(&text.as_bytes()[at..]).map(|(length, i)| (at + length, &added[i as usize])).filter(
            |(end, token)| {
                let (before, after) = (text[..at].chars().next_back(), text[*end..].chars().next());
                !(token.single_word && (in_word(before) || in_word(after)))
            },
        );
        let Some((end, token)) = token else {
            at += character.len_utf8();
            continue;
        };
        let before = &text[start..at];
        each(if token.lstrip { before.trim_end() } else { before }, Some(token));
        let after = &text[end..];
        let after = if token.rstrip { after.trim_start() } else { after };
        start = text.len() - after.len();
        at = start;
    }
    each(&text[start..], None);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Conventions> {
        Conventions::from_config(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn conventions_survive_a_round_trip() {
        let text = r#"{"added_tokens_decoder": {"7": {"content": "<x>", "special": true, "lstrip": true},
            "3": {"content": "y"}}, "add_bos_token": false, "add_eos_token": true}"#;
        let first = parse(text).unwrap();
        assert_eq!(
            first.added.iter().map(|t| (t.id, t.special, t.lstrip)).collect::<Vec<_>>(),
            [(3, false, false), (7, true, true)]
        );
        for space_prefix in [SpacePrefix::Model, SpacePrefix::EveryFragment, SpacePrefix::TextStart, SpacePrefix::Never]
        {
            let one = Conventions { space_prefix, ..first.clone() };
            assert_eq!(Conventions::from_config(&one.to_config()).unwrap(), one);
        }
    }

    #[test]
    fn what_is_not_said_has_the_usual_meaning() {
        let usual = Conventions { add_bos: true, ..Conventions::default() };
        assert_eq!(parse("{}").unwrap(), usual);
        assert_eq!(parse(r#"{"legacy": null, "add_prefix_space": null}"#).unwrap(), usual);
        assert_eq!(parse(r#"{"legacy": false}"#).unwrap().space_prefix, SpacePrefix::TextStart);
        assert_eq!(parse(r#"{"legacy": false, "add_prefix_space": false}"#).unwrap().space_prefix, SpacePrefix::Never);
    }

    #[test]
    fn wrong_types_are_named() {
        for (text, word) in [
            (r#"{"legacy": 1}"#, "legacy"),
            (r#"{"add_bos_token": "yes"}"#, "add_bos_token"),
            (r#"{"added_tokens_decoder": []}"#, "not an object"),
            (r#"{"added_tokens_decoder": {"x": {"content": "a"}}}"#, "\"x\""),
            (r#"{"added_tokens_decoder": {"99999999999": {"content": "a"}}}"#, "99999999999"),
            (r#"{"added_tokens_decoder": {"5": {"content": ""}}}"#, "token 5"),
        ] {
            let message = parse(text).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }
}
