//! Ids to text, one at a time (`sentencepiece_processor.cc`, `Decode`).

use super::{PieceKind, SentencePiece, SpacePrefix, normalize::SPACE};
use crate::tokenizer::characters::{Broken, take};
use crate::tokenizer::decoder::byte;
use crate::{Error, Result};

/// What has to be remembered between ids.
#[derive(Clone, Debug, Default)]
pub(in crate::tokenizer) struct Decode {
    /// Bytes of an unfinished character.
    bytes: Vec<u8>,
    /// Some text was given out, so spaces are spaces and no longer the dummy prefix.
    started: bool,
    /// The last piece lost its dummy prefix.
    prefix_taken: bool,
}

impl Decode {
    /// Takes the next id and returns the text that is now certain.
    ///
    /// # Errors
    /// The id is outside the vocabulary.
    pub fn push(&mut self, tokenizer: &SentencePiece, id: u32) -> Result<String> {
        if let Some(token) = tokenizer.added_token(id) {
            let shown = if token.special { "" } else { token.text.as_str() };
            return Ok(self.after_bytes(|_| shown.to_owned()));
        }
        let Some(piece) = tokenizer.model.pieces.get(id as usize) else {
            return match tokenizer.vocab_size() {
                // Ids between the pieces and the added tokens mean nothing.
                size if (id as usize) < size => Ok(String::new()),
                size => Err(Error::Input(format!(
                    "token id {id} is unknown: the tokenizer's ids run from 0 to {}",
                    size - 1
                ))),
            };
        };
        match (piece.kind, byte(&piece.text)) {
            (PieceKind::Byte, Some(byte)) => {
                self.bytes.push(byte);
                let text = take(&mut self.bytes, Broken::Byte, false);
                self.started |= !text.is_empty();
                Ok(text)
            }
            (PieceKind::Control, _) => Ok(self.after_bytes(|_| String::new())),
            (PieceKind::Unknown, _) => Ok(self.after_bytes(|_| tokenizer.model.unknown_surface.clone())),
            _ => Ok(self.after_bytes(|this| {
                let spec = &tokenizer.model.normalizer;
                let dummy = match tokenizer.conventions.space_prefix {
                    SpacePrefix::Model => spec.add_dummy_prefix,
                    SpacePrefix::EveryFragment | SpacePrefix::TextStart => true,
                    SpacePrefix::Never => false,
                };
                let mut text = piece.text.as_str();
                if !this.started
                    && (dummy || spec.remove_extra_whitespaces)
                    && let Some(rest) = text.strip_prefix(SPACE)
                {
                    text = rest;
                    // Where runs of spaces are removed, all at the beginning go.
                    this.prefix_taken = !spec.remove_extra_whitespaces;
                }
                text.replace(SPACE, " ")
            })),
        }
    }

    /// What is left: bytes of an unfinished character become replacement characters.
    pub fn finish(&mut self) -> String {
        take(&mut self.bytes, Broken::Byte, true)
    }

    /// The waiting bytes, then a piece that is no byte.
    fn after_bytes(&mut self, piece: impl FnOnce(&mut Self) -> String) -> String {
        let mut text = self.finish();
        self.started |= self.prefix_taken || !text.is_empty();
        self.prefix_taken = false;
        let shown = piece(self);
        self.started |= !shown.is_empty();
        text += &shown;
        text
    }
}
