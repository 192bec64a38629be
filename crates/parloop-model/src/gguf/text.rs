//! What a model says about text beyond its tokenizer, as metadata: the keys that other engines know, and keys of ours
//! for what those cannot say.

use super::metadata::Metadata;
use super::reader::Result;
use super::value::{Array, Pairs, Value};
use crate::chat::ChatSource;
use crate::text::TextSettings;
use crate::{GenerationDefaults, Tokenizer};
use std::collections::BTreeMap;

const TEMPLATE: &str = "tokenizer.chat_template";
/// Further templates by name.
const TEMPLATES: &str = "tokenizer.chat_templates";
const TOOL_USE: &str = "tool_use";
/// Names of special tokens, and the keys of their ids (the third is misspelt in the format).
const IDS: [(&str, &str); 7] = [
    ("bos_token", "tokenizer.ggml.bos_token_id"),
    ("eos_token", "tokenizer.ggml.eos_token_id"),
    ("sep_token", "tokenizer.ggml.seperator_token_id"),
    ("unk_token", "tokenizer.ggml.unknown_token_id"),
    ("pad_token", "tokenizer.ggml.padding_token_id"),
    ("cls_token", "tokenizer.ggml.cls_token_id"),
    ("mask_token", "tokenizer.ggml.mask_token_id"),
];
/// A key of ours: the texts of the special tokens by name, as JSON. Ids cannot say which names a model gives.
const TOKENS: &str = "tokenizer.parloop.special_tokens";
/// A key of ours: the known values of `generation_config.json`, as JSON.
const GENERATION: &str = "tokenizer.parloop.generation";

/// What the file says about text.
pub(super) fn read(metadata: &Metadata<'_>, tokenizer: Option<&Tokenizer>) -> Result<TextSettings> {
    let tokens = match metadata.text(TOKENS)? {
        Some(text) => serde_json::from_str(text).map_err(|e| format!("has a {TOKENS} that is not usable: {e}"))?,
        None => tokens_of_ids(metadata, tokenizer)?,
    };
    let chat = metadata.text(TEMPLATE)?.map(str::to_owned);
    let tool_use = metadata.text(&format!("{TEMPLATE}.{TOOL_USE}"))?.map(str::to_owned);
    let chat = chat.map(|template| ChatSource { template, tool_use, tokens: tokens.clone() });
    let generation = match metadata.text(GENERATION)? {
        Some(text) => serde_json::from_str(text).map_err(|e| format!("has a {GENERATION} that is not usable: {e}"))?,
        None => sampling(metadata)?,
    };
    // What ends a text has a key of its own, which is checked.
    let generation = GenerationDefaults { eos_token_id: None, ..generation };
    Ok(TextSettings { tokens, chat, generation, ..TextSettings::default() })
}

fn tokens_of_ids(metadata: &Metadata<'_>, tokenizer: Option<&Tokenizer>) -> Result<BTreeMap<String, String>> {
    let mut tokens = BTreeMap::new();
    for (name, key) in IDS {
        let text = metadata.id(key)?.and_then(|id| tokenizer?.token(id));
        tokens.extend(text.map(|text| (name.to_owned(), text)));
    }
    Ok(tokens)
}

/// The sampling that llama.cpp's converter takes from `generation_config.json`.
fn sampling(metadata: &Metadata<'_>) -> Result<GenerationDefaults> {
    let number = |name: &str| metadata.number(&format!("general.sampling.{name}"));
    Ok(GenerationDefaults {
        temperature: number("temp")?,
        top_k: metadata.size("general.sampling.top_k")?,
        top_p: number("top_p")?,
        min_p: number("min_p")?,
        repetition_penalty: number("penalty_repeat")?,
        ..GenerationDefaults::default()
    })
}

/// The keys, but those in `present`.
pub(super) fn to_metadata(settings: &TextSettings, tokenizer: Option<&Tokenizer>, present: &Pairs) -> Pairs {
    let text = |key: &str, text: &str| (key.to_owned(), Value::String(text.to_owned()));
    let mut pairs = Vec::new();
    if let Some(chat) = &settings.chat {
        pairs.push(text(TEMPLATE, &chat.template));
        if let Some(tool_use) = &chat.tool_use {
            pairs.push((TEMPLATES.to_owned(), Value::Array(Array::strings([TOOL_USE]))));
            pairs.push(text(&format!("{TEMPLATE}.{TOOL_USE}"), tool_use));
        }
    }
    for (name, key) in IDS {
        let id = settings.tokens.get(name).and_then(|token| tokenizer?.id(token));
        let id = id.filter(|_| present.iter().all(|(k, _)| k != key));
        pairs.extend(id.map(|id| (key.to_owned(), Value::U32(id))));
    }
    pairs.push(text(TOKENS, &serde_json::to_string(&settings.tokens).unwrap_or_default()));
    // What ends a text has a key of its own.
    let generation = GenerationDefaults { eos_token_id: None, ..settings.generation.clone() };
    let number = |name: &str, value: Option<f32>| value.map(|v| (format!("general.sampling.{name}"), Value::F32(v)));
    pairs.extend(number("temp", generation.temperature()));
    pairs.extend(
        generation.top_k.and_then(|k| Some(("general.sampling.top_k".to_owned(), Value::I32(k.try_into().ok()?)))),
    );
    pairs.extend(number("top_p", generation.top_p));
    pairs.extend(number("min_p", generation.min_p));
    pairs.extend(number("penalty_repeat", generation.repetition_penalty));
    let known = generation.to_json();
    if !known.is_empty() {
        pairs.push(text(GENERATION, &serde_json::Value::Object(known).to_string()));
    }
    pairs
}
