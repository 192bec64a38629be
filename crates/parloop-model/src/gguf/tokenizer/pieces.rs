//! SentencePiece in metadata: `tokenizer.ggml.model` = "llama" (BPE) or "t5" (unigram).
//!
//! Keys and what holds where one is absent are those of llama.cpp (`llama_vocab::impl::load`). Where a space is put only
//! at the start of a text, a key of ours says so.

use super::{ADD_BOS, ADD_EOS, BOS, EOS, MODEL, TOKENS, TYPES, kind, pair, text, vocabulary};
use crate::gguf::metadata::Metadata;
use crate::gguf::reader::Result;
use crate::gguf::value::{Array, Pairs, Value};
use crate::tokenizer::sentencepiece::{Normalizer, Piece, PieceKind, PiecesKind};
use crate::tokenizer::{AddedToken, Conventions, Pieces, SentencePiece, SpacePrefix};
use crate::{Error, Tokenizer};

const SCORES: &str = "tokenizer.ggml.scores";
const UNKNOWN: &str = "tokenizer.ggml.unknown_token_id";
const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
const EXTRA_SPACES: &str = "tokenizer.ggml.remove_extra_whitespaces";
const CHARSMAP: &str = "tokenizer.ggml.precompiled_charsmap";
/// A key of ours: a space is put before text only at its start. Other engines put it after added tokens too.
const TEXT_START: &str = "tokenizer.parloop.space_prefix_at_start_only";
/// Score of tokens that are no pieces.
const NO_SCORE: f32 = -1000.0;
/// Stands for a space inside pieces.
const SPACE: char = '\u{2581}';

/// The file's SentencePiece tokenizer.
pub(super) fn read(metadata: &Metadata<'_>, algorithm: PiecesKind, limit: usize) -> Result<Tokenizer> {
    let bpe = algorithm == PiecesKind::Bpe;
    let (texts, kinds) = vocabulary(metadata)?;
    let scores = metadata.required(SCORES, metadata.array(SCORES)?)?.numbers();
    let scores = scores.filter(|s| s.len() == texts.len());
    let scores = scores.ok_or_else(|| format!("has {SCORES} that are not {} numbers", texts.len()))?;
    let unknown = metadata.id(UNKNOWN)?;
    let some_unknown = kinds.contains(&(PieceKind::Unknown as i64));
    let mut pieces = Vec::with_capacity(texts.len());
    for (id, ((text, kind), score)) in texts.into_iter().zip(kinds).zip(scores).enumerate() {
        let kind = u64::try_from(kind).ok().and_then(PieceKind::from_number);
        let mut kind = kind.ok_or_else(|| format!("has {TYPES} with a number that is no kind of token"))?;
        if !some_unknown && unknown == Some(id as u32) {
            kind = PieceKind::Unknown;
        }
        pieces.push(Piece { text, score, kind });
    }
    // Rows without a token are filled up with unused ones; what the tokenizer does not know is never sampled.
    while pieces.last().is_some_and(|p| p.kind == PieceKind::Unused && p.text.starts_with("[PAD")) {
        pieces.pop();
    }
    let added_kind = |p: &Piece| matches!(p.kind, PieceKind::Control | PieceKind::UserDefined | PieceKind::Unused);
    while pieces.len() > limit && pieces.last().is_some_and(added_kind) {
        pieces.pop();
    }
    // llama.cpp cuts these out of the text first. User-defined pieces of spaces are for the algorithm.
    let added = (0..)
        .zip(&pieces)
        .filter(|(_, p)| match p.kind {
            PieceKind::Control => true,
            PieceKind::UserDefined => !p.text.contains(SPACE),
            _ => false,
        })
        .map(|(id, p)| AddedToken {
            id,
            text: p.text.clone(),
            special: p.kind == PieceKind::Control,
            lstrip: false,
            rstrip: false,
            single_word: false,
        });
    let conventions = Conventions {
        added: added.collect(),
        add_bos: metadata.bool(ADD_BOS)?.unwrap_or(bpe),
        add_eos: metadata.bool(ADD_EOS)?.unwrap_or(!bpe),
        space_prefix: match metadata.bool(TEXT_START)? {
            Some(true) => SpacePrefix::TextStart,
            _ => SpacePrefix::Model,
        },
    };
    let charsmap = metadata.array(CHARSMAP)?;
    let charsmap = charsmap.map(|a| a.raw().ok_or_else(|| format!("has {CHARSMAP} that is not bytes"))).transpose()?;
    let model = Pieces {
        kind: algorithm,
        normalizer: Normalizer {
            precompiled_charsmap: charsmap.unwrap_or_default().to_vec(),
            add_dummy_prefix: metadata.bool(SPACE_PREFIX)?.unwrap_or(bpe),
            remove_extra_whitespaces: metadata.bool(EXTRA_SPACES)?.unwrap_or(false),
            escape_whitespaces: true,
        },
        byte_fallback: pieces.iter().filter(|p| p.kind == PieceKind::Byte).count() == 256,
        bos: metadata.id(BOS)?,
        eos: metadata.id(EOS)?,
        pieces,
        ..Pieces::default()
    };
    Tokenizer::from_pieces(model, conventions).map_err(|e| format!("has a tokenizer that {e}"))
}

/// The keys of a SentencePiece tokenizer.
///
/// # Errors
/// The tokenizer does something that these keys cannot express.
pub(super) fn to_metadata(tokenizer: &SentencePiece, vocab_size: usize) -> crate::Result<Pairs> {
    let (model, conventions) = (tokenizer.pieces(), tokenizer.conventions());
    let refused = [
        (model.space_as_suffix, "puts its space after the text"),
        (!model.normalizer.escape_whitespaces, "does not write spaces as \u{2581}"),
        (
            conventions.added.iter().any(|t| t.lstrip || t.rstrip || t.single_word),
            "has added tokens that look at what is around them",
        ),
    ];
    if let Some((_, what)) = refused.into_iter().find(|(found, _)| *found) {
        let message = format!("the tokenizer {what}, which a GGUF file cannot express; keep the model as a folder");
        return Err(Error::Input(message));
    }
    let mut rows: Vec<(String, f32, i32)> =
        model.pieces.iter().map(|p| (p.text.clone(), p.score, p.kind as i32)).collect();
    let unused = |id: usize| (format!("[PAD{id}]"), NO_SCORE, kind::UNUSED);
    rows.extend((rows.len()..vocab_size).map(unused));
    for token in &conventions.added {
        if let Some(row) = rows.get_mut(token.id as usize) {
            // A piece keeps its score, and the unknown one what it is.
            row.0 = token.text.clone();
            if row.2 != PieceKind::Unknown as i32 {
                row.2 = if token.special { kind::CONTROL } else { kind::USER_DEFINED };
            }
        }
    }
    let name = if model.kind == PiecesKind::Bpe { "llama" } else { "t5" };
    let prefix = match conventions.space_prefix {
        SpacePrefix::Model => model.normalizer.add_dummy_prefix,
        SpacePrefix::EveryFragment | SpacePrefix::TextStart => true,
        SpacePrefix::Never => false,
    };
    let mut pairs = vec![
        pair(MODEL, text(name)),
        pair(super::PRE, text("default")),
        pair(TOKENS, Value::Array(Array::strings(rows.iter().map(|r| r.0.as_str())))),
        pair(SCORES, Value::Array(Array::f32s(rows.iter().map(|r| r.1)))),
        pair(TYPES, Value::Array(Array::i32s(rows.iter().map(|r| r.2)))),
        pair(ADD_BOS, Value::Bool(conventions.add_bos && model.bos.is_some())),
        pair(ADD_EOS, Value::Bool(conventions.add_eos && model.eos.is_some())),
        pair(SPACE_PREFIX, Value::Bool(prefix)),
        pair(EXTRA_SPACES, Value::Bool(model.normalizer.remove_extra_whitespaces)),
    ];
    let unknown = model.pieces.iter().position(|p| p.kind == PieceKind::Unknown);
    pairs.extend(unknown.map(|id| pair(UNKNOWN, Value::U32(id as u32))));
    pairs.extend(model.bos.map(|id| pair(BOS, Value::U32(id))));
    pairs.extend(model.eos.map(|id| pair(EOS, Value::U32(id))));
    if !model.normalizer.precompiled_charsmap.is_empty() {
        let bytes = model.normalizer.precompiled_charsmap.iter().copied();
        pairs.push(pair(CHARSMAP, Value::Array(Array::u8s(bytes))));
    }
    if conventions.space_prefix == SpacePrefix::TextStart {
        pairs.push(pair(TEXT_START, Value::Bool(true)));
    }
    Ok(pairs)
}
