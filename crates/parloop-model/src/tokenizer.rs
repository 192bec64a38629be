//! Text to token ids and back.
//!
//! Two kinds: bytes (ids 0 to 255 are the bytes of the text; needs no file) and Hugging Face's `tokenizer.json`.

use crate::{Error, ModelConfig, Result};
use std::path::Path;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// The `tokenizer_class` by which `tokenizer_config.json` asks for the byte-level tokenizer.
pub const BYTE_CLASS: &str = "ParloopByteTokenizer";
const CONFIG: &str = "tokenizer_config.json";
const FILE: &str = "tokenizer.json";
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Text that marks the end of a document in tokenizers trained here.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// A tokenizer.
#[derive(Clone)]
pub enum Tokenizer {
    /// Ids 0 to 255 are bytes.
    Bytes,
    /// A Hugging Face tokenizer.
    HuggingFace(Box<tokenizers::Tokenizer>),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} ids)", self.vocab_size())
    }
}

impl Tokenizer {
    /// The tokenizer of a checkpoint folder: `tokenizer.json`, or the byte-level one where `tokenizer_config.json`
    /// says so. `None` if the folder has neither.
    ///
    /// # Errors
    /// A file cannot be read or parsed, or the tokenizer knows more ids than the model has embeddings.
    pub fn read(folder: &Path, config: &ModelConfig) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        let (found, path) = if path.exists() {
            (Self::from_json(&read_small(&path)?).map_err(|e| Error::file(&path, e.to_string()))?, path)
        } else {
            let path = folder.join(CONFIG);
            if !path.exists() {
                return Ok(None);
            }
            let value: serde_json::Value = serde_json::from_str(&read_small(&path)?)
                .map_err(|e| Error::file(&path, format!("is not JSON: {e}")))?;
            if value.get("tokenizer_class").and_then(|c| c.as_str()) != Some(BYTE_CLASS) {
                return Err(Error::file(&path, format!("stands alone; expected {FILE} beside it")));
            }
            (Self::Bytes, path)
        };
        if found.vocab_size() > config.vocab_size {
            return Err(Error::file(
                &path,
                format!("knows {} ids, but vocab_size is only {}", found.vocab_size(), config.vocab_size),
            ));
        }
        Ok(Some(found))
    }

    /// Parses the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// The text is not a tokenizer.
    pub fn from_json(text: &str) -> Result<Self> {
        text.parse::<tokenizers::Tokenizer>()
            .map(|t| Self::HuggingFace(Box::new(t)))
            .map_err(|e| Error::Input(format!("is not a Hugging Face tokenizer: {e}")))
    }

    /// Trains a byte-level BPE tokenizer with `vocab_size` ids on a text; the last id is [`END_OF_TEXT`]. A short or
    /// uniform text gives fewer.
    ///
    /// # Errors
    /// `vocab_size` is too small to hold every byte, or absurdly large.
    pub fn train_bpe(text: &str, vocab_size: usize) -> Result<Self> {
        if !(257..=1 << 20).contains(&vocab_size) {
            return Err(Error::Input(format!(
                "a BPE vocabulary of {vocab_size} was asked for, expected 257 (every byte and the end mark) to 1048576"
            )));
        }
        let fail = |e: tokenizers::Error| Error::Input(format!("the tokenizer could not be trained: {e}"));
        let mut trainer: tokenizers::models::TrainerWrapper = BpeTrainer::builder()
            .vocab_size(vocab_size - 1)
            .show_progress(false)
            .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
            .build()
            .into();
        let level = ByteLevel::default().add_prefix_space(false);
        let mut tokenizer = tokenizers::Tokenizer::new(BPE::default());
        tokenizer.with_pre_tokenizer(Some(level)).with_decoder(Some(level));
        tokenizer.train(&mut trainer, text.split_inclusive('\n').map(str::to_owned)).map_err(fail)?;
        tokenizer
            .add_special_tokens([tokenizers::AddedToken::from(END_OF_TEXT, true)])
            .map_err(|e| Error::Input(e.to_string()))?;
        Ok(Self::HuggingFace(Box::new(tokenizer)))
    }

    /// Number of ids the tokenizer knows.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Bytes => 256,
            Self::HuggingFace(t) => t.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1),
        }
    }

    /// The id that ends a document, if the tokenizer has one by the usual name.
    pub fn end_of_text(&self) -> Option<u32> {
        match self {
            Self::Bytes => None,
            Self::HuggingFace(t) => t.token_to_id(END_OF_TEXT),
        }
    }

    /// Ids of a text, with the special tokens that the tokenizer adds by itself.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Self::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Self::HuggingFace(t) => t
                .encode_fast(text, true)
                .map(|e| e.get_ids().to_vec())
                .map_err(|e| Error::Input(format!("the tokenizer refused the text: {e}"))),
        }
    }

    /// Text of ids; bytes that are no UTF-8 become replacement characters.
    ///
    /// # Errors
    /// The tokenizer does not know an id.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match self {
            Self::Bytes => {
                let bytes: Vec<u8> = ids.iter().map(|id| u8::try_from(*id).unwrap_or(b'?')).collect();
                Ok(String::from_utf8_lossy(&bytes).into_owned())
            }
            Self::HuggingFace(t) => {
                t.decode(ids, true).map_err(|e| Error::Input(format!("the ids cannot be decoded: {e}")))
            }
        }
    }

    /// A decoder that takes one id at a time and never emits half a character.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, ids: Vec::new(), emitted: 0, bytes: Vec::new() }
    }

    /// The files a checkpoint folder needs to carry this tokenizer: name and content.
    pub fn files(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Bytes => {
                vec![(CONFIG, format!("{{\n  \"tokenizer_class\": \"{BYTE_CLASS}\"\n}}\n"))]
            }
            Self::HuggingFace(t) => vec![(FILE, t.to_string(true).unwrap_or_default())],
        }
    }
}

fn read_small(path: &Path) -> Result<String> {
    let size = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?.len();
    if size > MAX_FILE_BYTES {
        return Err(Error::file(path, format!("is {size} bytes long, expected at most {MAX_FILE_BYTES}")));
    }
    std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))
}

/// Turns ids into text piece by piece. Bytes of an unfinished character wait for the rest of it.
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Ids whose text is not settled yet, after those that give it context.
    ids: Vec<u32>,
    /// Bytes of the text of `ids` that were already given out.
    emitted: usize,
    /// Unfinished character of the byte-level tokenizer.
    bytes: Vec<u8>,
}

impl TextStream<'_> {
    /// Takes the next id and returns the text that is now certain, possibly none.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        if matches!(self.tokenizer, Tokenizer::Bytes) {
            self.bytes.push(u8::try_from(id).unwrap_or(b'?'));
            return Ok(self.whole_characters());
        }
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids)?;
        if text.ends_with('\u{FFFD}') && self.ids.len() < 64 {
            return Ok(String::new());
        }
        let new = text.get(self.emitted..).unwrap_or_default().to_owned();
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
        let text = if matches!(self.tokenizer, Tokenizer::Bytes) {
            String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned()
        } else {
            let text = self.tokenizer.decode(&self.ids)?;
            text.get(self.emitted..).unwrap_or_default().to_owned()
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

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "Grüße, 世界! 👩‍🚀 let x = 5;\n\tnext  line";

    fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> String {
        let mut stream = tokenizer.stream();
        let mut text: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
        text += &stream.finish().unwrap();
        text
    }

    #[test]
    fn bytes_and_bpe_return_the_text_whole_and_streamed() {
        let bpe = Tokenizer::train_bpe(&"the cat sat on the mat\nwith a hat and a bat\n".repeat(20), 270).unwrap();
        let again = Tokenizer::from_json(&bpe.files()[0].1).unwrap();
        for tokenizer in [Tokenizer::Bytes, bpe, again] {
            let ids = tokenizer.encode(SAMPLE).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), SAMPLE);
            assert_eq!(streamed(&tokenizer, &ids), SAMPLE);
        }
    }

    #[test]
    fn a_stream_never_emits_half_a_character() {
        for tokenizer in [Tokenizer::Bytes, Tokenizer::train_bpe(&"ab ab abc\n".repeat(9), 258).unwrap()] {
            let mut stream = tokenizer.stream();
            for id in tokenizer.encode(SAMPLE).unwrap() {
                assert!(!stream.push(id).unwrap().contains('\u{FFFD}'));
            }
        }
    }

    #[test]
    fn broken_bytes_become_replacement_characters_and_do_not_stall() {
        let ids = [0xE4, 0x41, 0xFF, 0x42, 0xE4];
        assert_eq!(streamed(&Tokenizer::Bytes, &ids), "\u{FFFD}A\u{FFFD}B\u{FFFD}");
    }

    #[test]
    fn training_refuses_impossible_vocabularies() {
        assert!(Tokenizer::train_bpe("abc", 256).is_err());
        assert!(Tokenizer::train_bpe("abc", 5000).unwrap().vocab_size() < 300);
    }
}
