//! Ids to text while they come, whole characters only.

use super::Tokenizer;
use super::sentencepiece::Decode;
use crate::Result;

/// Turns ids into text piece by piece. Bytes of an unfinished character wait for the rest of it.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Ids whose text is not settled yet, after those that give it context.
    ids: Vec<u32>,
    /// Bytes of the text of `ids` that were already given out.
    emitted: usize,
    /// Unfinished character of the byte-level tokenizer.
    bytes: Vec<u8>,
    /// State of a SentencePiece tokenizer.
    pieces: Decode,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), emitted: 0, bytes: Vec::new(), pieces: Decode::default() }
    }

    /// Takes the next id and returns the text that is now certain, possibly none.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        if matches!(self.tokenizer, Tokenizer::Bytes) {
            self.bytes.push(u8::try_from(id).unwrap_or(b'?'));
            return Ok(self.whole_characters());
        }
        if let Tokenizer::SentencePiece(t) = self.tokenizer {
            return self.pieces.push(t, id);
        }
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        if text.ends_with('\u{FFFD}') && self.ids.len() < 64 {
            return Ok(String::new());
        }
        let new = text.get(self.emitted..).unwrap_or_default().to_owned();
        if new.is_empty() && self.ids.len() > 1 {
            // An id without text, such as a special token, gives the next one no context.
            self.ids.pop();
            return Ok(new);
        }
        // A decoder may treat the first id of a text differently, so one settled id stays as context.
        self.ids.drain(..self.ids.len() - 1);
        self.emitted = self.tokenizer.decode(&self.ids)?.len();
        Ok(new)
    }

    /// The rest: an unfinished character becomes a replacement character.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        let text = match self.tokenizer {
            Tokenizer::Bytes => String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned(),
            Tokenizer::SentencePiece(_) => self.pieces.finish(),
            Tokenizer::HuggingFace(_) => {
                let text = self.tokenizer.decode(&self.ids)?;
                text.get(self.emitted..).unwrap_or_default().to_owned()
            }
        };
        self.ids.clear();
        self.emitted = 0;
        Ok(text)
    }

    /// Takes as many whole characters as the waiting bytes hold; invalid bytes become replacement characters.
    fn whole_characters(&mut self) -> String {
        let mut text = String::new();
        while !self.bytes.is_empty() {
            match std::str::from_utf8(&self.bytes) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.bytes.clear();
                }
                Err(e) => {
                    let valid = e.valid_up_to();
                    text.push_str(&String::from_utf8_lossy(&self.bytes[..valid]));
                    match e.error_len() {
                        None => {
                            self.bytes.drain(..valid);
                            break;
                        }
                        Some(bad) => {
                            text.push('\u{FFFD}');
                            self.bytes.drain(..valid + bad);
                        }
                    }
                }
            }
        }
        text
    }
}
