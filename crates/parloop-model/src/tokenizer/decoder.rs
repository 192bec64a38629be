//! The `decoder` of a `tokenizer.json` as steps that take one token at a time.
//!
//! The library decodes whole lists of tokens. What one token adds to the text depends on little: whether it is the
//! first, which bytes wait for the rest of their character, and what may be cut off at the end. Each step remembers
//! that much, so a text can be shown while it is written, and decoding a list is the same as streaming it.
//!
//! The text is the library's, but for byte tokens in a row of which some belong to no character: there the library
//! gives up all of them, here (as in SentencePiece) only those.

use super::byte_level;
use super::characters::{Broken, take};
use serde_json::Value;
use tokenizers::{Decoder, DecoderWrapper};

/// One step.
#[derive(Clone)]
enum Step {
    /// Characters stand for bytes.
    ByteLevel,
    /// Tokens such as `<0x0A>` stand for bytes.
    ByteFallback,
    /// Changes each token for itself.
    Each(DecoderWrapper),
    /// Changes the first token in another way than the others.
    First(DecoderWrapper),
    /// Changes the last token in another way than the others.
    Last(DecoderWrapper),
    /// A space between tokens.
    Spaced,
    /// Takes a character off both ends of each token, at most so often.
    StripEach(char, usize, usize),
    /// Takes a character off both ends of the text, at most so often.
    Strip(char, usize, usize),
}

/// The steps of a decoder.
#[derive(Clone)]
pub(super) struct Steps(Vec<Step>);

/// What a step remembers.
#[derive(Clone, Default)]
struct Memory {
    /// Bytes of an unfinished character.
    bytes: Vec<u8>,
    /// Some token came by.
    begun: bool,
    /// A token, or the end of a text, that waits for what follows.
    held: Option<String>,
    /// Characters taken off the beginning.
    stripped: usize,
}

/// Where a text stands between tokens.
#[derive(Clone, Default)]
pub(super) struct Position(Vec<Memory>);

impl Steps {
    /// The steps of a decoder; `None` for one whose text depends on more than is remembered here.
    pub fn new(decoder: Option<&DecoderWrapper>) -> Option<Self> {
        let Some(decoder) = decoder else { return Some(Self(vec![Step::Spaced])) };
        let json = serde_json::to_value(decoder).ok()?;
        let parts = match json["type"].as_str()? {
            "Sequence" => json["decoders"].as_array()?.clone(),
            _ => vec![json],
        };
        let mut steps = Vec::new();
        // Whether the next part sees the text in one piece, and whether it sees pieces that are no tokens.
        let (mut fused, mut pieces) = (false, false);
        for part in parts {
            let library = || serde_json::from_value::<DecoderWrapper>(part.clone()).ok();
            let number = |key: &str| part[key].as_u64().and_then(|n| usize::try_from(n).ok());
            let step = match part["type"].as_str()? {
                "Fuse" => {
                    (fused, pieces) = (true, false);
                    continue;
                }
                "Replace" if !(fused || pieces) || is_one_character(&part["pattern"]) => Step::Each(library()?),
                _ if pieces => return None,
                "Strip" => {
                    let content = part["content"].as_str()?.chars().next()?;
                    let (start, stop) = (number("start")?, number("stop")?);
                    match fused {
                        true => Step::Strip(content, start, stop),
                        false => Step::StripEach(content, start, stop),
                    }
                }
                _ if fused => return None,
                "ByteLevel" => {
                    fused = true;
                    Step::ByteLevel
                }
                "ByteFallback" => {
                    pieces = true;
                    Step::ByteFallback
                }
                "Metaspace" | "WordPiece" => Step::First(library()?),
                "BPEDecoder" => Step::Last(library()?),
                _ => return None,
            };
            steps.push(step);
        }
        Some(Self(steps))
    }

    /// Whether the characters of tokens stand for bytes.
    pub fn is_byte_level(&self) -> bool {
        self.0.iter().any(|step| matches!(step, Step::ByteLevel))
    }

    /// Takes a token and returns the text that is now certain.
    ///
    /// # Errors
    /// The library's decoder fails.
    pub fn push(&self, at: &mut Position, token: String) -> tokenizers::Result<String> {
        at.0.resize(self.0.len(), Memory::default());
        self.send(0, at, token)
    }

    /// The rest of the text.
    ///
    /// # Errors
    /// The library's decoder fails.
    pub fn finish(&self, at: &mut Position) -> tokenizers::Result<String> {
        at.0.resize(self.0.len(), Memory::default());
        let mut text = String::new();
        for (i, step) in self.0.iter().enumerate() {
            let memory = &mut at.0[i];
            let rest = match step {
                Step::ByteLevel => take(&mut memory.bytes, Broken::Beginning, true),
                Step::ByteFallback => take(&mut memory.bytes, Broken::Byte, true),
                Step::Last(library) => match memory.held.take() {
                    Some(token) => library.decode_chain(vec![token])?.concat(),
                    None => continue,
                },
                Step::Strip(content, _, stop) => {
                    strip(&memory.held.take().unwrap_or_default(), *content, 0, *stop).to_owned()
                }
                _ => continue,
            };
            if !rest.is_empty() {
                text += &self.send(i + 1, at, rest)?;
            }
        }
        *at = Position::default();
        Ok(text)
    }

    /// Sends a token through the steps from one on.
    fn send(&self, first: usize, at: &mut Position, mut token: String) -> tokenizers::Result<String> {
        for (i, step) in self.0.iter().enumerate().skip(first) {
            let memory = &mut at.0[i];
            let begun = std::mem::replace(&mut memory.begun, true);
            token = match step {
                Step::ByteLevel => {
                    memory.bytes.extend(byte_level::bytes_of(&token));
                    take(&mut memory.bytes, Broken::Beginning, false)
                }
                Step::ByteFallback => match byte(&token) {
                    Some(byte) => {
                        memory.bytes.push(byte);
                        take(&mut memory.bytes, Broken::Byte, false)
                    }
                    None => take(&mut memory.bytes, Broken::Byte, true) + &token,
                },
                Step::Each(library) => library.decode_chain(vec![token])?.concat(),
                Step::First(library) if begun => {
                    library.decode_chain(vec![String::new(), token])?.pop().unwrap_or_default()
                }
                Step::First(library) => library.decode_chain(vec![token])?.concat(),
                Step::Last(library) => match memory.held.replace(token) {
                    Some(before) => library.decode_chain(vec![before, String::new()])?.swap_remove(0),
                    None => return Ok(String::new()),
                },
                Step::Spaced if begun => format!(" {token}"),
                Step::Spaced => token,
                Step::StripEach(content, start, stop) => strip(&token, *content, *start, *stop).to_owned(),
                Step::Strip(content, start, stop) => {
                    let kept = strip(&token, *content, start.saturating_sub(memory.stripped), 0);
                    // What comes before another character is the beginning.
                    memory.stripped = match kept.is_empty() {
                        true => memory.stripped + token.chars().count(),
                        false => *start,
                    };
                    let text = memory.held.take().unwrap_or_default() + kept;
                    // What may yet be the end waits.
                    let end = strip(&text, *content, 0, *stop).len();
                    memory.held = (end < text.len()).then(|| text[end..].to_owned());
                    text[..end].to_owned()
                }
            };
            // From here on the text comes in pieces: a step that gives nothing has seen no token.
            if token.is_empty() && matches!(step, Step::ByteLevel | Step::ByteFallback | Step::Strip(..)) {
                break;
            }
        }
        Ok(token)
    }
}

/// Whether a pattern can be found in a text that comes in pieces.
fn is_one_character(pattern: &Value) -> bool {
    pattern["String"].as_str().is_some_and(|text| text.chars().count() == 1)
}

/// The byte that a token such as `<0x0A>` stands for.
pub(super) fn byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// A text without up to `start` and `stop` times a character at its ends.
fn strip(text: &str, content: char, start: usize, stop: usize) -> &str {
    let mut text = text;
    for _ in 0..start {
        text = match text.strip_prefix(content) {
            Some(rest) => rest,
            None => break,
        };
    }
    for _ in 0..stop {
        text = match text.strip_suffix(content) {
            Some(rest) => rest,
            None => break,
        };
    }
    text
}
