//! SentencePiece: the same ids and the same text as the library of that name, from a `tokenizer.model` or from pieces
//! that another file holds.
//!
//! Encoding normalises the text (spaces become `▁`), cuts it with one of two algorithms (BPE, unigram), and spells
//! what no piece covers in byte pieces or as the unknown piece. On top of that come the conventions of a checkpoint
//! ([`Conventions`]): added tokens that are cut out of the text first, and the tokens put before and after it.
//!
//! Source: the C++ library, whose file each part names.

mod bpe;
mod decode;
mod normalize;
pub(super) mod prefixes;
mod proto;
mod unigram;

use super::conventions::{AddedToken, Conventions, SpacePrefix};
use crate::{Error, Result};
pub(super) use decode::Decode;
use normalize::{Normalize, Rules};
use prefixes::Prefixes;
use std::collections::HashMap;

/// How a normalised text is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PiecesKind {
    /// Neighbours are joined in the order of scores.
    Bpe,
    /// The cut whose scores have the largest sum.
    #[default]
    Unigram,
}

/// What a piece is for. The numbers are those of `tokenizer.model`, and of GGUF's `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceKind {
    /// A piece of text.
    Normal = 1,
    /// Stands for text that no piece covers.
    Unknown = 2,
    /// Begins or ends something; never part of a text.
    Control = 3,
    /// A piece of text that is never cut or joined.
    UserDefined = 4,
    /// A piece that encoding does not use.
    Unused = 5,
    /// A byte, spelled `<0x0A>`.
    Byte = 6,
}

impl PieceKind {
    /// The kind with a number from a file.
    pub fn from_number(number: u64) -> Option<Self> {
        [Self::Normal, Self::Unknown, Self::Control, Self::UserDefined, Self::Unused, Self::Byte]
            .into_iter()
            .find(|kind| *kind as u64 == number)
    }
}

/// An entry of the vocabulary; its place in the list is its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Piece {
    /// The text, with `▁` for spaces.
    pub text: String,
    /// Order of joining (BPE), or logarithm of a probability (unigram).
    pub score: f32,
    /// What it is for.
    pub kind: PieceKind,
}

/// What is done to a text before it is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Normalizer {
    /// Replacement rules in SentencePiece's compiled form; empty for none.
    pub precompiled_charsmap: Vec<u8>,
    /// Put a space before the text, so that its first word looks like any other.
    pub add_dummy_prefix: bool,
    /// Drop spaces at both ends, and all but one of a run.
    pub remove_extra_whitespaces: bool,
    /// Write spaces as `▁`.
    pub escape_whitespaces: bool,
}

impl Default for Normalizer {
    fn default() -> Self {
        Self {
            precompiled_charsmap: Vec::new(),
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
        }
    }
}

/// A SentencePiece model as plain data.
#[derive(Clone, Debug, PartialEq)]
pub struct Pieces {
    /// How text is cut.
    pub kind: PiecesKind,
    /// The vocabulary.
    pub pieces: Vec<Piece>,
    /// What is done to a text first.
    pub normalizer: Normalizer,
    /// Spell unknown characters in byte pieces; needs all 256 of them.
    pub byte_fallback: bool,
    /// Put the dummy space after the text instead of before it.
    pub space_as_suffix: bool,
    /// What the unknown piece looks like in text.
    pub unknown_surface: String,
    /// The piece that begins a text, if the model has one.
    pub bos: Option<u32>,
    /// The piece that ends a text, if the model has one.
    pub eos: Option<u32>,
}

impl Default for Pieces {
    fn default() -> Self {
        Self {
            kind: PiecesKind::default(),
            pieces: Vec::new(),
            normalizer: Normalizer::default(),
            byte_fallback: false,
            space_as_suffix: false,
            unknown_surface: " \u{2047} ".into(),
            bos: None,
            eos: None,
        }
    }
}

impl Pieces {
    /// Reads the bytes of a `tokenizer.model`.
    ///
    /// # Errors
    /// The bytes are cut or not a SentencePiece model, or one of a kind that is not supported.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        proto::read(bytes)
    }

    /// The bytes of a `tokenizer.model` with this content.
    pub fn to_bytes(&self) -> Vec<u8> {
        proto::write(self)
    }
}

/// A SentencePiece tokenizer, ready for use.
#[derive(Clone, Debug)]
pub struct SentencePiece {
    model: Pieces,
    conventions: Conventions,
    vocabulary: Vocabulary,
    normalize: Normalize,
    unknown: u32,
    /// Ids of the bytes, if unknown characters are spelled.
    bytes: Option<Vec<u32>>,
    /// The texts of `conventions.added`; their ids are places in that list.
    added: Prefixes,
    /// Places in `conventions.added` by token id.
    places: HashMap<u32, usize>,
    /// Number of ids.
    size: usize,
}

/// The pieces in the forms the algorithms need.
#[derive(Clone, Debug)]
struct Vocabulary {
    kinds: Vec<PieceKind>,
    /// -0 is +0 here: they are equal in C++ and must be so in a total order.
    scores: Vec<f32>,
    /// Pieces of text: normal, user-defined and unused ones.
    texts: HashMap<String, u32>,
    /// Control, unknown and byte pieces.
    reserved: HashMap<String, u32>,
    /// Pieces of text by their beginning (unigram only).
    pieces: Prefixes,
    /// User-defined pieces by their beginning.
    symbols: Prefixes,
    /// Bytes of the longest piece of text.
    longest: usize,
    lowest: f32,
    highest: f32,
}

impl Vocabulary {
    fn new(model: &Pieces) -> Result<Self> {
        let (mut texts, mut reserved) = (HashMap::new(), HashMap::new());
        // C++ starts from the smallest positive number, so a model of negative scores has that as its highest.
        let (mut lowest, mut highest) = (f32::MAX, f32::MIN_POSITIVE);
        for (piece, id) in model.pieces.iter().zip(0..) {
            if piece.text.is_empty() {
                return Err(Error::Input(format!("piece {id} is empty, expected some text")));
            }
            if !piece.score.is_finite() {
                return Err(Error::Input(format!("piece {id} has the score {}, expected a number", piece.score)));
            }
            let of_text = matches!(piece.kind, PieceKind::Normal | PieceKind::UserDefined | PieceKind::Unused);
            let names = if of_text { &mut texts } else { &mut reserved };
            if let Some(first) = names.insert(piece.text.clone(), id) {
                return Err(Error::Input(format!("pieces {first} and {id} are both {:?}", piece.text)));
            }
            if piece.kind == PieceKind::Normal {
                (lowest, highest) = (lowest.min(piece.score), highest.max(piece.score));
            }
        }
        let ids = |some: &dyn Fn(&Piece) -> bool| {
            Prefixes::new(model.pieces.iter().zip(0..).filter(|(p, _)| some(p)).map(|(p, id)| (p.text.as_str(), id)))
        };
        let unigram = model.kind == PiecesKind::Unigram;
        Ok(Self {
            kinds: model.pieces.iter().map(|p| p.kind).collect(),
            scores: model.pieces.iter().map(|p| p.score + 0.0).collect(),
            pieces: ids(&|p| unigram && texts.contains_key(&p.text) && !reserved_kind(p.kind))?,
            symbols: ids(&|p| p.kind == PieceKind::UserDefined)?,
            longest: texts.keys().map(String::len).max().unwrap_or(0),
            texts,
            reserved,
            lowest,
            highest,
        })
    }

    /// The id of exactly this text, whatever it is for.
    fn id(&self, text: &str) -> Option<u32> {
        self.reserved.get(text).or_else(|| self.texts.get(text)).copied()
    }

    /// The id of a piece of text.
    fn usable(&self, text: &str) -> Option<u32> {
        self.texts.get(text).copied()
    }

    fn is_unused(&self, id: u32) -> bool {
        self.kinds[id as usize] == PieceKind::Unused
    }

    fn is_symbol(&self, id: u32) -> bool {
        self.kinds[id as usize] == PieceKind::UserDefined
    }
}

fn reserved_kind(kind: PieceKind) -> bool {
    matches!(kind, PieceKind::Unknown | PieceKind::Control | PieceKind::Byte)
}

impl SentencePiece {
    /// A tokenizer of these pieces and conventions.
    ///
    /// # Errors
    /// A piece is empty, stands twice or has no score; there is not exactly one unknown piece; byte pieces are missing
    /// though unknown characters are to be spelled; the rules are broken; or an added token contradicts another.
    pub fn new(model: Pieces, conventions: Conventions) -> Result<Self> {
        let vocabulary = Vocabulary::new(&model)?;
        let unknown: Vec<u32> =
            (0..).zip(&model.pieces).filter(|(_, p)| p.kind == PieceKind::Unknown).map(|(id, _)| id).collect();
        let [unknown] = unknown[..] else {
            return Err(Error::Input(format!("has {} unknown pieces, expected exactly one", unknown.len())));
        };
        let spelled = (0..=255u8).map(|byte| {
            let name = format!("<0x{byte:02X}>");
            let id =
                vocabulary.reserved.get(&name).copied().filter(|id| vocabulary.kinds[*id as usize] == PieceKind::Byte);
            id.ok_or_else(|| Error::Input(format!("has no byte piece {name}, which its byte_fallback needs")))
        });
        let bytes = if model.byte_fallback { Some(spelled.collect::<Result<Vec<u32>>>()?) } else { None };
        let added = Prefixes::new(conventions.added.iter().map(|t| t.text.as_str()).zip(0..))?;
        let normalize = Normalize {
            spec: model.normalizer.clone(),
            rules: Rules::new(&model.normalizer.precompiled_charsmap)?,
            symbols: vocabulary.symbols.clone(),
            space_as_suffix: model.space_as_suffix,
        };
        // The first of several tokens with one id counts.
        let places: HashMap<u32, usize> =
            conventions.added.iter().enumerate().rev().map(|(place, t)| (t.id, place)).collect();
        let size = places.keys().map(|id| *id as usize + 1).max().unwrap_or(0).max(model.pieces.len());
        Ok(Self { model, conventions, vocabulary, normalize, unknown, bytes, added, places, size })
    }

    /// The pieces.
    pub fn pieces(&self) -> &Pieces {
        &self.model
    }

    /// The conventions around the pieces.
    pub fn conventions(&self) -> &Conventions {
        &self.conventions
    }

    /// Number of ids: one more than the largest.
    pub fn vocab_size(&self) -> usize {
        self.size
    }

    /// The id of a token by its text.
    pub fn id(&self, text: &str) -> Option<u32> {
        let added = self.conventions.added.iter().find(|t| t.text == text).map(|t| t.id);
        added.or_else(|| self.vocabulary.id(text))
    }

    /// The text by which a token is called.
    pub fn token(&self, id: u32) -> Option<&str> {
        let added = self.added_token(id).map(|t| t.text.as_str());
        added.or_else(|| self.model.pieces.get(id as usize).map(|p| p.text.as_str()))
    }

    /// Whether a token is left out of the text.
    pub fn is_special(&self, id: u32) -> bool {
        match self.added_token(id) {
            Some(token) => token.special,
            None => self.model.pieces.get(id as usize).is_some_and(|p| p.kind == PieceKind::Control),
        }
    }

    fn added_token(&self, id: u32) -> Option<&AddedToken> {
        self.places.get(&id).map(|place| &self.conventions.added[*place])
    }

    /// Ids of a text; `around` puts the tokens that begin and end a text around it, as the conventions say.
    pub fn encode(&self, text: &str, around: bool) -> Vec<u32> {
        self.encode_literal(text, around, &[])
    }

    /// [`SentencePiece::encode`], where no special token begins at the offsets in `literal`.
    pub(super) fn encode_literal(&self, text: &str, around: bool, literal: &[usize]) -> Vec<u32> {
        let mut ids = Vec::new();
        if around && self.conventions.add_bos {
            ids.extend(self.model.bos);
        }
        let mut first = true;
        super::conventions::split(
            text,
            &self.conventions.added,
            |rest| {
                let found = self.added.longest(rest)?;
                let special = self.conventions.added[found.1 as usize].special;
                let is_text = special && literal.binary_search(&(text.len() - rest.len())).is_ok();
                (!is_text).then_some(found)
            },
            |fragment, token| {
                let dummy = match self.conventions.space_prefix {
                    SpacePrefix::Model => self.model.normalizer.add_dummy_prefix,
                    SpacePrefix::EveryFragment => true,
                    SpacePrefix::TextStart => first,
                    SpacePrefix::Never => false,
                };
                self.fragment(fragment, dummy, &mut ids);
                ids.extend(token.map(|t| t.id));
                first = false;
            },
        );
        if around && self.conventions.add_eos {
            ids.extend(self.model.eos);
        }
        ids
    }

    /// Whether a special token stands at the beginning of a text.
    pub(super) fn begins_special(&self, text: &str) -> bool {
        self.added.longest(text.as_bytes()).is_some_and(|(_, i)| self.conventions.added[i as usize].special)
    }

    /// Ids of a text without added tokens (`sentencepiece_processor.cc`, `PopulateSentencePieceText`).
    fn fragment(&self, text: &str, dummy: bool, ids: &mut Vec<u32>) {
        let normalized = self.normalize.apply(text, dummy);
        let mut after_unknown = false;
        let each = |piece: &str, id: Option<u32>| {
            let id = id.unwrap_or(self.unknown);
            let unknown = id == self.unknown;
            match &self.bytes {
                Some(bytes) if unknown => ids.extend(piece.bytes().map(|b| bytes[usize::from(b)])),
                // A run of unknown characters is one unknown token.
                _ if unknown && after_unknown => {}
                _ => ids.push(id),
            }
            after_unknown = unknown;
        };
        match self.model.kind {
            PiecesKind::Bpe => bpe::encode(&self.vocabulary, &normalized, each),
            PiecesKind::Unigram => unigram::encode(&self.vocabulary, &normalized, each),
        }
    }
}

#[cfg(test)]
mod tests;
