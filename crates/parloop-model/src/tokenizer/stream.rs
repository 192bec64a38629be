//! Ids to text while they come, whole characters only.

use super::Tokenizer;
use super::characters::{Broken, take};
use super::decoder::Position;
use super::sentencepiece::Decode;
use crate::Result;

/// Turns ids into text piece by piece. What is not certain yet, such as bytes of an unfinished character, waits.
///
/// The pieces together are what [`Tokenizer::decode`] gives for all ids at once.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    state: State,
    /// Text that stands already, of ids whose text was not certain before others followed.
    shown: String,
}

/// Where a text stands, for each kind of tokenizer.
#[derive(Clone)]
enum State {
    Bytes(Vec<u8>),
    Pieces(Decode),
    Steps(Position),
    /// A decoder that cannot go step by step: all ids, until the end.
    Whole(Vec<u32>),
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        let state = match tokenizer {
            Tokenizer::Bytes => State::Bytes(Vec::new()),
            Tokenizer::SentencePiece(_) => State::Pieces(Decode::default()),
            Tokenizer::HuggingFace(t) if t.streams() => State::Steps(Position::default()),
            Tokenizer::HuggingFace(_) => State::Whole(Vec::new()),
        };
        Self { tokenizer, state, shown: String::new() }
    }

    /// Takes the ids that come before, whose text stands already.
    pub(super) fn after(mut self, ids: &[u32]) -> Result<Self> {
        for id in ids {
            self.raw_push(*id)?;
        }
        // What still waits was shown as the end of a text. It will come once more when it is certain.
        let state = self.state.clone();
        self.shown = self.raw_finish()?;
        self.state = state;
        Ok(self)
    }

    /// Takes the next id and returns the text that is now certain, possibly none.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        let text = self.raw_push(id)?;
        Ok(self.new_part(text))
    }

    /// The rest: an unfinished character becomes a replacement character.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String> {
        let text = self.raw_finish()?;
        let text = self.new_part(text);
        *self = Self::new(self.tokenizer);
        Ok(text)
    }

    /// A text without the beginning that stands already.
    fn new_part(&mut self, text: String) -> String {
        let same: usize =
            self.shown.chars().zip(text.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
        // Where they part, what stands was the replacement of an unfinished character.
        if same < text.len() {
            self.shown.clear();
        } else {
            self.shown.drain(..same);
        }
        text[same..].to_owned()
    }

    fn raw_push(&mut self, id: u32) -> Result<String> {
        match (&mut self.state, self.tokenizer) {
            (State::Bytes(bytes), _) => {
                bytes.push(u8::try_from(id).unwrap_or(b'?'));
                Ok(take(bytes, Broken::Beginning, false))
            }
            (State::Pieces(pieces), Tokenizer::SentencePiece(t)) => pieces.push(t, id),
            (State::Steps(at), Tokenizer::HuggingFace(t)) => t.push(at, id),
            (State::Whole(ids), _) => {
                ids.push(id);
                Ok(String::new())
            }
            _ => unreachable!("the state was made for this tokenizer"),
        }
    }

    fn raw_finish(&mut self) -> Result<String> {
        match (&mut self.state, self.tokenizer) {
            (State::Bytes(bytes), _) => Ok(take(bytes, Broken::Beginning, true)),
            (State::Pieces(pieces), _) => Ok(pieces.finish()),
            (State::Steps(at), Tokenizer::HuggingFace(t)) => t.finish(at),
            (State::Whole(ids), Tokenizer::HuggingFace(t)) => t.decode_whole(ids),
            _ => unreachable!("the state was made for this tokenizer"),
        }
    }
}
