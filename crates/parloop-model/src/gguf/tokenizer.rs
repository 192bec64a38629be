//! Tokenizers in metadata: byte-level BPE (`tokenizer.ggml.model` = "gpt2"), SentencePiece ([`pieces`]) and whole
//! `tokenizer.json` texts (`tokenizer.huggingface.json`).

mod pieces;
mod pre;

use super::metadata::Metadata;
use super::reader::Result;
use super::value::{Array, Pairs, Value};
use crate::tokenizer::byte_level::CHARACTERS;
use crate::tokenizer::sentencepiece::PiecesKind;
use crate::{ModelConfig, Stops, Tokenizer};
use serde_json::{Map, Value as Json, json};
use std::collections::{BTreeSet, HashMap};

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const BOS: &str = "tokenizer.ggml.bos_token_id";
const EOS: &str = "tokenizer.ggml.eos_token_id";
const EOT: &str = "tokenizer.ggml.eot_token_id";
const EOM: &str = "tokenizer.ggml.eom_token_id";
const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
const WHOLE: &str = "tokenizer.huggingface.json";
/// Every id that ends a text, where there are more than one. A key of ours; other engines do without.
const ENDS: &str = "tokenizer.parloop.end_token_ids";

/// Kinds of tokens in [`TYPES`] (`enum llama_token_type`).
mod kind {
    pub const NORMAL: i32 = 1;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
}

/// Control tokens that end a turn or a text by their name, as llama.cpp has them (`special_eog_ids`).
const END_NAMES: [&str; 12] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

fn byte_level() -> Json {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false })
}

/// The file's tokenizer; `None` if it has none.
///
/// Added tokens from `limit` on have no embedding, so that no model can have learnt them; they are left out.
pub(super) fn read(metadata: &Metadata<'_>, limit: usize) -> Result<Option<Tokenizer>> {
    let json = match (metadata.text(MODEL)?, metadata.text(WHOLE)?) {
        (Some("gpt2"), _) => byte_level_bpe(metadata, limit)?.to_string(),
        (Some("llama"), _) => return pieces::read(metadata, PiecesKind::Bpe, limit).map(Some),
        (Some("t5"), _) => return pieces::read(metadata, PiecesKind::Unigram, limit).map(Some),
        (None | Some("none" | "no_vocab"), None) => return Ok(None),
        (None | Some("none" | "no_vocab"), Some(text)) => text.to_owned(),
        (Some(other), _) => {
            let expected = "\"gpt2\" (byte-level BPE), \"llama\" or \"t5\" (SentencePiece)";
            return Err(format!("has {MODEL} = \"{other}\", expected {expected}"));
        }
    };
    Tokenizer::from_json(&json).map(Some).map_err(|e| format!("has a tokenizer that {e}"))
}

/// Ids that end a text: those of the keys, and control tokens that are known to.
pub(super) fn ends(metadata: &Metadata<'_>) -> Result<Vec<u32>> {
    if let Some(array) = metadata.array(ENDS)? {
        let ids = array.integers().and_then(|ids| ids.into_iter().map(|id| id.try_into().ok()).collect());
        return ids.ok_or_else(|| format!("has {ENDS} with something else than token ids"));
    }
    let mut ends = Vec::new();
    for key in [EOS, EOT, EOM] {
        ends.extend(metadata.id(key)?);
    }
    if let (Some(tokens), Some(types)) = (metadata.array(TOKENS)?, metadata.array(TYPES)?) {
        for (id, (token, kind)) in tokens.values().zip(types.values()).enumerate() {
            if let (Value::String(text), Some(kind)) = (token, kind.integer())
                && kind == i64::from(kind::CONTROL)
                && END_NAMES.contains(&text.as_str())
            {
                ends.push(id as u32);
            }
        }
    }
    let mut seen = BTreeSet::new();
    ends.retain(|id| seen.insert(*id));
    Ok(ends)
}

/// Texts and kinds of the vocabulary.
fn vocabulary(metadata: &Metadata<'_>) -> Result<(Vec<String>, Vec<i64>)> {
    let tokens = metadata.required(TOKENS, metadata.array(TOKENS)?)?;
    let texts = tokens.texts().ok_or_else(|| format!("has {TOKENS} with something else than texts"))?;
    let kinds = match metadata.array(TYPES)? {
        None => vec![i64::from(kind::NORMAL); texts.len()],
        Some(array) => array.integers().ok_or_else(|| format!("has {TYPES} with something else than numbers"))?,
    };
    match kinds.len() == texts.len() {
        true => Ok((texts, kinds)),
        false => Err(format!("has {} tokens but {} token types", texts.len(), kinds.len())),
    }
}

/// The `tokenizer.json` of the file's byte-level BPE.
fn byte_level_bpe(metadata: &Metadata<'_>, limit: usize) -> Result<Json> {
    let name = metadata.text(PRE)?.unwrap_or("default");
    let pre = pre::by_name(name).ok_or_else(|| format!("has {PRE} = \"{name}\", which this version does not know"))?;
    let (texts, kinds) = vocabulary(metadata)?;
    let (mut vocab, mut added) = (Map::new(), Vec::new());
    for (id, (text, kind)) in texts.iter().zip(&kinds).enumerate() {
        // Rows without a token are filled up with unused ones; what the tokenizer does not know is never sampled.
        let added_kind = *kind == i64::from(kind::CONTROL) || *kind == i64::from(kind::USER_DEFINED);
        if text.is_empty() || *kind == i64::from(kind::UNUSED) || id >= limit && added_kind {
            continue;
        }
        if let Some(other) = vocab.insert(text.clone(), id.into()) {
            return Err(format!("has the token {text:?} twice, with ids {other} and {id}"));
        }
        if added_kind {
            added.push(json!({
                "id": id, "content": text, "special": *kind == i64::from(kind::CONTROL),
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            }));
        }
    }
    let merges = metadata.required(MERGES, metadata.array(MERGES)?)?;
    let merges = merges.texts().ok_or_else(|| format!("has {MERGES} with something else than texts"))?;
    let merges: Vec<Json> = merges
        .iter()
        .map(|merge| {
            // A token may begin with a space of its own.
            let at = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(at, _)| at);
            let at = at.ok_or_else(|| format!("has the merge {merge:?}, expected two tokens and a space between"))?;
            Ok(json!([merge[..at], merge[at + 1..]]))
        })
        .collect::<Result<_>>()?;
    let around = |key: &str, add: bool, id: &str| -> Result<Option<(String, u32)>> {
        if !metadata.bool(key)?.unwrap_or(add) {
            return Ok(None);
        }
        let id = metadata.required(id, metadata.id(id)?)?;
        let text = texts.get(id as usize).ok_or_else(|| format!("has no token {id}, which {key} puts around texts"))?;
        Ok(Some((text.clone(), id)))
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": added,
        "pre_tokenizer": pre::to_json(&pre),
        "post_processor": template(around(ADD_BOS, pre.add_bos, BOS)?, around(ADD_EOS, false, EOS)?),
        "decoder": byte_level(),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre.ignore_merges, "vocab": vocab, "merges": merges,
        },
    }))
}

/// The `post_processor` that puts tokens before and after a text.
fn template(before: Option<(String, u32)>, after: Option<(String, u32)>) -> Json {
    if before.is_none() && after.is_none() {
        return Json::Null;
    }
    let token = |t: &(String, u32)| json!({ "SpecialToken": { "id": t.0, "type_id": 0 } });
    let text = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let of = |parts: &[Json]| -> Vec<Json> {
        before.iter().map(token).chain(parts.iter().cloned()).chain(after.iter().map(token)).collect()
    };
    let special: Map<String, Json> = before
        .iter()
        .chain(&after)
        .map(|(text, id)| (text.clone(), json!({ "id": text, "ids": [id], "tokens": [text] })))
        .collect();
    json!({ "type": "TemplateProcessing", "single": of(&[text("A")]), "pair": of(&[text("A"), text("B")]),
            "special_tokens": special })
}

/// The keys of a tokenizer, and of the ids that begin and end a text, whoever names them.
///
/// # Errors
/// The tokenizer does something that the keys cannot express.
pub(super) fn to_metadata(tokenizer: Option<&Tokenizer>, config: &ModelConfig, stops: &Stops) -> crate::Result<Pairs> {
    let mut pairs = match tokenizer {
        None => vec![pair(MODEL, text("none"))],
        Some(Tokenizer::Bytes) => vocabulary_keys(byte_tokens(), &[], "gpt-2", config.vocab_size),
        Some(Tokenizer::SentencePiece(inner)) => pieces::to_metadata(inner, config.vocab_size)?,
        Some(Tokenizer::HuggingFace(inner)) => {
            let whole = inner.to_json(false);
            let json: Json = serde_json::from_str(&whole).unwrap_or_default();
            bpe_keys(&json, config.vocab_size)
                .unwrap_or_else(|| vec![pair(MODEL, text("none")), pair(WHOLE, Value::String(whole))])
        }
    };
    // The keys of a tokenizer that puts tokens around a text already name them.
    let mut id = |key: &str, id: Option<u32>| {
        if let Some(id) = id.filter(|_| pairs.iter().all(|(k, _)| k != key)) {
            pairs.push(pair(key, Value::U32(id)));
        }
    };
    id(BOS, config.bos_token_id);
    let mut ends: Vec<u32> = config.eos_ids().to_vec();
    ends.extend(stops.ids().iter().filter(|id| !config.eos_ids().contains(id)));
    id(EOS, ends.first().copied());
    id(EOT, ends.get(1).copied());
    id(EOM, ends.get(2).copied());
    pairs.push(pair(ENDS, Value::Array(Array::i32s(ends.iter().map(|id| *id as i32)))));
    Ok(pairs)
}

fn pair(key: &str, value: Value) -> (String, Value) {
    (key.to_owned(), value)
}

fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

/// The texts of the 256 bytes in byte-level BPE.
fn byte_tokens() -> HashMap<u32, (String, i32)> {
    (0..).zip(CHARACTERS.iter()).map(|(byte, c)| (byte, (c.to_string(), kind::NORMAL))).collect()
}

/// The keys of a `tokenizer.json`, if it is a byte-level BPE that these keys can express.
fn bpe_keys(json: &Json, vocab_size: usize) -> Option<Pairs> {
    let model = &json["model"];
    let plain = model["type"] == "BPE"
        && json["normalizer"].is_null()
        && json["decoder"]["type"] == "ByteLevel"
        && ["unk_token", "continuing_subword_prefix", "end_of_word_suffix"].iter().all(|k| model[*k].is_null())
        && model["byte_fallback"] != true;
    let name = pre::name_of(&json["pre_tokenizer"], model["ignore_merges"] == true).filter(|_| plain)?;
    let mut tokens = HashMap::new();
    for (text, id) in model["vocab"].as_object()? {
        tokens.insert(id.as_u64()?.try_into().ok()?, (text.clone(), kind::NORMAL));
    }
    for token in json["added_tokens"].as_array()? {
        let strips = ["lstrip", "rstrip", "single_word"].iter().any(|k| token[*k] == true);
        let kind = if token["special"] == true { kind::CONTROL } else { kind::USER_DEFINED };
        let text = token["content"].as_str().filter(|_| !strips)?.to_owned();
        tokens.insert(token["id"].as_u64()?.try_into().ok()?, (text, kind));
    }
    let merges = model["merges"].as_array()?.iter().map(|merge| match merge {
        Json::String(text) => Some(text.clone()),
        pair => Some(format!("{} {}", pair[0].as_str()?, pair[1].as_str()?)),
    });
    let merges = merges.collect::<Option<Vec<String>>>()?;
    let mut pairs = vocabulary_keys(tokens, &merges, name, vocab_size);
    let (before, after) = around(&json["post_processor"])?;
    for (add, key, id) in [(ADD_BOS, BOS, before), (ADD_EOS, EOS, after)] {
        pairs.push(pair(add, Value::Bool(id.is_some())));
        pairs.extend(id.map(|id| pair(key, Value::U32(id))));
    }
    Some(pairs)
}

/// The ids that a `post_processor` puts before and after a text; `None` if it does something else.
fn around(processor: &Json) -> Option<(Option<u32>, Option<u32>)> {
    match processor["type"].as_str() {
        None if processor.is_null() => Some((None, None)),
        // Changes offsets only.
        Some("ByteLevel") => Some((None, None)),
        Some("Sequence") => {
            let all = processor["processors"].as_array()?.iter().map(around).collect::<Option<Vec<_>>>()?;
            Some(all.into_iter().fold((None, None), |(a, b), (x, y)| (a.or(x), b.or(y))))
        }
        Some("TemplateProcessing") => {
            let parts = processor["single"].as_array()?;
            let at = parts.iter().position(|p| p.get("Sequence").is_some())?;
            let ids: Vec<u32> = parts
                .iter()
                .filter_map(|p| p["SpecialToken"]["id"].as_str())
                .map(|name| processor["special_tokens"][name]["ids"][0].as_u64()?.try_into().ok())
                .collect::<Option<_>>()?;
            match (at, parts.len()) {
                (0, 1) => Some((None, None)),
                (1, 2) => Some((ids.first().copied(), None)),
                (0, 2) => Some((None, ids.first().copied())),
                (1, 3) => Some((ids.first().copied(), ids.get(1).copied())),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The keys of a vocabulary. Rows without a token are filled up with unused ones.
fn vocabulary_keys(mut tokens: HashMap<u32, (String, i32)>, merges: &[String], pre: &str, vocab_size: usize) -> Pairs {
    for id in 0..vocab_size as u32 {
        tokens.entry(id).or_insert_with(|| (format!("[PAD{id}]"), kind::UNUSED));
    }
    let rows: Vec<&(String, i32)> = (0..vocab_size as u32).filter_map(|id| tokens.get(&id)).collect();
    vec![
        pair(MODEL, text("gpt2")),
        pair(PRE, text(pre)),
        pair(TOKENS, Value::Array(Array::strings(rows.iter().map(|(text, _)| text.as_str())))),
        pair(TYPES, Value::Array(Array::i32s(rows.iter().map(|(_, kind)| *kind)))),
        pair(MERGES, Value::Array(Array::strings(merges.iter().map(String::as_str)))),
    ]
}
