//! Text to token ids and back.
//!
//! Three kinds: bytes (ids 0 to 255 are the bytes of the text; needs no file), Hugging Face's `tokenizer.json`, and
//! SentencePiece's `tokenizer.model`.

pub(crate) mod byte_level;
mod bytes;
mod characters;
pub mod conventions;
mod declared;
mod decoder;
mod hugging_face;
mod literal;
pub mod sentencepiece;
mod stream;

use crate::{Error, ModelConfig, Result};
pub use conventions::{AddedToken, Conventions, SpacePrefix};
use declared::Declared;
pub(crate) use declared::{SPECIAL, token_text};
pub use hugging_face::HuggingFace;
pub use sentencepiece::{Pieces, SentencePiece};
use std::path::Path;
use std::sync::Arc;
pub use stream::TextStream;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// The `tokenizer_class` by which `tokenizer_config.json` asks for the byte-level tokenizer.
pub const BYTE_CLASS: &str = "ParloopByteTokenizer";
pub(crate) const CONFIG: &str = "tokenizer_config.json";
const FILE: &str = "tokenizer.json";
const PIECES: &str = "tokenizer.model";
const MAX_FILE_BYTES: u64 = 256 << 20;
/// Text that marks the end of a document in tokenizers trained here.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// A tokenizer.
#[derive(Clone)]
pub enum Tokenizer {
    /// Ids 0 to 255 are bytes.
    Bytes,
    /// A Hugging Face tokenizer.
    HuggingFace(Box<HuggingFace>),
    /// A SentencePiece model.
    SentencePiece(Arc<SentencePiece>),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} ids)", self.vocab_size())
    }
}

impl Tokenizer {
    /// The tokenizer of a checkpoint folder: `tokenizer.json`, else `tokenizer.model`, or the byte-level one where
    /// `tokenizer_config.json` says so. `None` if the folder has none of them.
    ///
    /// # Errors
    /// A file cannot be read or parsed, or the tokenizer knows more ids than the model has embeddings.
    pub fn read(folder: &Path, config: &ModelConfig) -> Result<Option<Self>> {
        let (json, pieces, settings) = (folder.join(FILE), folder.join(PIECES), folder.join(CONFIG));
        let mut said = if settings.exists() { read_object(&settings)? } else { Default::default() };
        let limit = config.vocab_size;
        let (found, path) = if json.exists() {
            let declared = Declared::read(folder, &said)?;
            let built = HuggingFace::from_json(&read_text(&json)?).and_then(|t| t.declare(&declared, limit));
            let built = built.and_then(|t| t.without_added_from(limit));
            (Self::HuggingFace(Box::new(built.map_err(|e| Error::file(&json, e.to_string()))?)), json)
        } else if pieces.exists() {
            let model = Pieces::from_bytes(&read_bytes(&pieces)?).map_err(|e| Error::file(&pieces, e.to_string()))?;
            let mut conventions = Conventions::from_config(&said).map_err(|e| Error::file(&settings, e.to_string()))?;
            conventions.added = Declared::read(folder, &said)?.among(&model, limit);
            let built = Self::from_pieces(model, conventions);
            (built.map_err(|e| Error::file(&pieces, e.to_string()))?, pieces)
        } else if settings.exists() {
            let class = said.remove("tokenizer_class");
            if class.as_ref().and_then(|c| c.as_str()) != Some(BYTE_CLASS) {
                return Err(Error::file(&settings, format!("stands alone; expected {FILE} or {PIECES} beside it")));
            }
            (Self::Bytes, settings)
        } else {
            return Ok(None);
        };
        // Fewer ids than embeddings are usual: the rest is padding that is never sampled. Added tokens without an
        // embedding, such as a [PAD] of someone's training, are left out above, since no model can have learnt them.
        if found.vocab_size() > limit {
            let message = format!("knows {} ids, but vocab_size is only {limit}", found.vocab_size());
            return Err(Error::file(&path, message));
        }
        Ok(Some(found))
    }

    /// A SentencePiece tokenizer from its pieces, wherever they come from, and what the checkpoint adds to them.
    ///
    /// # Errors
    /// As [`SentencePiece::new`].
    pub fn from_pieces(pieces: Pieces, conventions: Conventions) -> Result<Self> {
        Ok(Self::SentencePiece(Arc::new(SentencePiece::new(pieces, conventions)?)))
    }

    /// Parses the text of a `tokenizer.json`.
    ///
    /// # Errors
    /// The text is not a tokenizer.
    pub fn from_json(text: &str) -> Result<Self> {
        Ok(Self::HuggingFace(Box::new(HuggingFace::from_json(text)?)))
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
        Ok(Self::HuggingFace(Box::new(HuggingFace::new(tokenizer))))
    }

    /// Number of ids the tokenizer knows.
    pub fn vocab_size(&self) -> usize {
        match self {
            Self::Bytes => 256,
            Self::HuggingFace(t) => t.vocab_size(),
            Self::SentencePiece(t) => t.vocab_size(),
        }
    }

    /// The id of a token by its text.
    pub fn id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Bytes => None,
            Self::HuggingFace(t) => t.id(token),
            Self::SentencePiece(t) => t.id(token),
        }
    }

    /// The text by which a token is called; what it adds to a text may differ.
    pub fn token(&self, id: u32) -> Option<String> {
        match self {
            Self::Bytes => None,
            Self::HuggingFace(t) => t.token(id),
            Self::SentencePiece(t) => t.token(id).map(str::to_owned),
        }
    }

    /// Whether a token is special: no part of a text, and left out of it.
    pub fn is_special(&self, id: u32) -> bool {
        match self {
            Self::Bytes => false,
            Self::HuggingFace(t) => t.is_special(id),
            Self::SentencePiece(t) => t.is_special(id),
        }
    }

    /// The id that ends a document, if the tokenizer has one by the usual name.
    pub fn end_of_text(&self) -> Option<u32> {
        self.id(END_OF_TEXT)
    }

    /// Ids of a text, with the special tokens that the tokenizer adds by itself.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, true)
    }

    /// Ids of a text as it stands: nothing is put before or after it. For what a chat template wrote, which holds its
    /// special tokens already.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, false)
    }

    fn encode_with(&self, text: &str, around: bool) -> Result<Vec<u32>> {
        match self {
            Self::Bytes => Ok(text.bytes().map(u32::from).collect()),
            Self::SentencePiece(t) => Ok(t.encode(text, around)),
            Self::HuggingFace(t) => t.encode(text, around),
        }
    }

    /// Ids of a text as it stands, as [`Tokenizer::encode_bare`], where no special token begins at the offsets in
    /// `literal` (in ascending order): what reads like one there is text.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode_literal(&self, text: &str, literal: &[usize]) -> Result<Vec<u32>> {
        match self {
            _ if literal.is_empty() => self.encode_bare(text),
            Self::Bytes => self.encode_bare(text),
            Self::SentencePiece(t) => Ok(t.encode_literal(text, false, literal)),
            Self::HuggingFace(t) => t.encode_literal(text, literal),
        }
    }

    /// Whether the text of a special token stands at the beginning of a text.
    pub fn begins_special(&self, text: &str) -> bool {
        match self {
            Self::Bytes => false,
            Self::SentencePiece(t) => t.begins_special(text),
            Self::HuggingFace(t) => t.begins_special(text),
        }
    }

    /// The ids that [`Tokenizer::encode`] puts before and after a text.
    ///
    /// # Errors
    /// The tokenizer refuses any text.
    pub fn around(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        let (whole, bare) = (self.encode("a")?, self.encode_bare("a")?);
        let at = whole.windows(bare.len().max(1)).position(|ids| ids == bare).unwrap_or(0);
        Ok((whole[..at].to_vec(), whole.get(at + bare.len()..).unwrap_or_default().to_vec()))
    }

    /// Text of ids; bytes that are no UTF-8 become replacement characters.
    ///
    /// # Errors
    /// The tokenizer does not know an id.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut stream = self.stream();
        let text: Result<String> = ids.iter().map(|id| stream.push(*id)).collect();
        Ok(text? + &stream.finish()?)
    }

    /// A decoder that takes one id at a time and never emits half a character.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// [`Tokenizer::stream`] for ids that go on from others, so that a space before the first word is kept.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn stream_after(&self, ids: &[u32]) -> Result<TextStream<'_>> {
        self.stream().after(ids)
    }

    /// The files a checkpoint folder needs to carry this tokenizer: name and content.
    pub fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        match self {
            Self::Bytes => {
                vec![(CONFIG, format!("{{\n  \"tokenizer_class\": \"{BYTE_CLASS}\"\n}}\n").into_bytes())]
            }
            Self::HuggingFace(t) => vec![(FILE, t.to_json(true).into_bytes())],
            Self::SentencePiece(t) => {
                let settings = serde_json::Value::Object(t.conventions().to_config());
                vec![(PIECES, t.pieces().to_bytes()), (CONFIG, format!("{settings:#}\n").into_bytes())]
            }
        }
    }
}

/// The content of a file of moderate size.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    crate::files::read(path, MAX_FILE_BYTES)
}

/// A UTF-8 file of moderate size.
pub(crate) fn read_text(path: &Path) -> Result<String> {
    crate::files::read_text(path, MAX_FILE_BYTES)
}

/// A JSON object in a file of moderate size.
pub(crate) fn read_object(path: &Path) -> Result<serde_json::Map<String, serde_json::Value>> {
    serde_json::from_str(&read_text(path)?).map_err(|e| Error::file(path, format!("is not a JSON object: {e}")))
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
        let again = Tokenizer::from_json(std::str::from_utf8(&bpe.files()[0].1).unwrap()).unwrap();
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
