//! Ids to text, one at a time (`sentencepiece_processor.cc`, `Decode`).

use super::{PieceKind, SentencePiece, SpacePrefix, normalize::SPACE};
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
                let text = whole_characters(&mut self.bytes, false);
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
        whole_characters(&mut self.bytes, true)
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

/// The byte that a piece such as `<0x0A>` stands for.
fn byte(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Takes whole characters off the front; a byte that cannot belong to one becomes a replacement character. An
/// unfinished character stays, unless nothing will follow.
fn whole_characters(bytes: &mut Vec<u8>, last: bool) -> String {
    let mut text = String::new();
    let mut taken = 0;
    while taken < bytes.len() {
        match std::str::from_utf8(&bytes[taken..]) {
            Ok(valid) => {
                text.push_str(valid);
                taken = bytes.len();
            }
            Err(e) if e.valid_up_to() > 0 => {
                text.push_str(&String::from_utf8_lossy(&bytes[taken..taken + e.valid_up_to()]));
                taken += e.valid_up_to();
            }
            Err(e) if e.error_len().is_none() && !last => break,
            // The C++ library gives up one byte at a time.
            Err(_) => {
                text.push('\u{FFFD}');
                taken += 1;
            }
        }
    }
    bytes.drain(..taken);
    text
}
