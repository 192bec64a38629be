//! Encoding a text in which some special tokens are text: what people say must not end a turn or begin another.

use super::conventions::{AddedToken, split};
use super::sentencepiece::prefixes::Prefixes;
use crate::{Error, Result};
use serde_json::Value;
use tokenizers::{PreTokenizerWrapper, Tokenizer};

/// A tokenizer's special tokens, and the tokenizer without them.
#[derive(Clone)]
pub(super) struct Literal {
    special: Vec<AddedToken>,
    texts: Prefixes,
    /// For what begins a text.
    first: Tokenizer,
    /// For what follows a special token.
    further: Tokenizer,
}

impl Literal {
    pub fn new(tokenizer: &Tokenizer) -> Result<Self> {
        let mut special: Vec<AddedToken> = tokenizer
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special && !token.content.is_empty())
            .map(|(id, token)| AddedToken {
                id,
                text: token.content,
                special: true,
                lstrip: token.lstrip,
                rstrip: token.rstrip,
                single_word: token.single_word,
            })
            .collect();
        special.sort_by_key(|token| token.id);
        let texts = Prefixes::new(special.iter().map(|t| t.text.as_str()).zip(0..))?;
        let mut first = tokenizer.clone();
        first.set_encode_special_tokens(true);
        let mut further = first.clone();
        if let Some(pre) = further.get_pre_tokenizer() {
            let mut json = serde_json::to_value(pre).unwrap_or_default();
            never_first(&mut json);
            let pre: Option<PreTokenizerWrapper> = serde_json::from_value(json).ok();
            further.with_pre_tokenizer(pre);
        }
        Ok(Self { special, texts, first, further })
    }

    /// Whether the text of a special token stands at the beginning of a text.
    pub fn begins(&self, text: &str) -> bool {
        self.texts.longest(text.as_bytes()).is_some()
    }

    /// Ids of a text, where no special token begins at the offsets in `literal`.
    pub fn encode(&self, text: &str, literal: &[usize]) -> Result<Vec<u32>> {
        let (mut ids, mut failed, mut begun) = (Vec::new(), None, false);
        split(
            text,
            &self.special,
            |rest| match literal.binary_search(&(text.len() - rest.len())) {
                Ok(_) => None,
                Err(_) => self.texts.longest(rest),
            },
            |fragment, token| {
                let tokenizer = if begun { &self.further } else { &self.first };
                match tokenizer.encode_fast(fragment, false) {
                    Ok(encoding) => ids.extend(encoding.get_ids()),
                    Err(e) => failed = Some(Error::Input(format!("the tokenizer refused the text: {e}"))),
                }
                ids.extend(token.map(|t| t.id));
                begun = true;
            },
        );
        failed.map_or(Ok(ids), Err)
    }
}

/// A space that is put before a text only is put before nothing else.
fn never_first(pre: &mut Value) {
    if pre["prepend_scheme"] == "first" {
        pre["prepend_scheme"] = "never".into();
    }
    pre["pretokenizers"].as_array_mut().into_iter().flatten().for_each(never_first);
}
