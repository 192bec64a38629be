//! What a single token adds to a text, in bytes: what grammars and tries are made of.

use super::decoder::byte;
use super::sentencepiece::PieceKind;
use super::{Tokenizer, byte_level};

impl Tokenizer {
    /// The bytes that a token adds in the middle of a text; they may be a part of a character. `None` for a token that is
    /// no text: a special one, or an id that means nothing.
    pub fn bytes(&self, id: u32) -> Option<Vec<u8>> {
        if id as usize >= self.vocab_size() || self.is_special(id) {
            return None;
        }
        match self {
            Self::Bytes => u8::try_from(id).ok().map(|byte| vec![byte]),
            Self::SentencePiece(t) => {
                let piece = t.pieces().pieces.get(id as usize);
                match piece.map(|piece| (piece.kind, byte(&piece.text))) {
                    Some((PieceKind::Byte, Some(byte))) => Some(vec![byte]),
                    Some((PieceKind::Control | PieceKind::Unknown | PieceKind::Unused, _)) => None,
                    _ => self.amid(id),
                }
            }
            Self::HuggingFace(t) if t.is_byte_level() => Some(byte_level::bytes_of(&t.token(id)?)),
            Self::HuggingFace(t) => match byte(&t.token(id)?) {
                Some(byte) => Some(vec![byte]),
                None => self.amid(id),
            },
        }
    }

    /// The text of a token that follows another.
    fn amid(&self, id: u32) -> Option<Vec<u8>> {
        let mut stream = self.stream();
        // The first may lose a space that it has after another token.
        stream.push(id).ok()?;
        let second = stream.push(id).ok()?;
        let rest = stream.finish().ok()?;
        let text = if second.is_empty() { rest } else { second };
        (!text.is_empty()).then(|| text.into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_tokens_together_are_the_text() {
        let text = "let x = 5;\n\tGrüße 世界 👩‍🚀  the cat";
        let bpe = Tokenizer::train_bpe(&"the cat sat on the mat\nwith a hat and a bat\n".repeat(20), 270).unwrap();
        for tokenizer in [Tokenizer::Bytes, bpe] {
            let ids = tokenizer.encode(text).unwrap();
            let bytes: Vec<u8> = ids.iter().flat_map(|id| tokenizer.bytes(*id).unwrap()).collect();
            assert_eq!(bytes, text.as_bytes());
            assert_eq!(tokenizer.bytes(1 << 20), None);
            assert_eq!(tokenizer.end_of_text().and_then(|id| tokenizer.bytes(id)), None);
        }
    }

    #[test]
    fn spaces_and_bytes_of_pieces_are_what_they_stand_for() {
        let json = r#"{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
            "post_processor": null, "truncation": null, "padding": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "byte_fallback": true, "unk_token": null, "merges": [],
                "vocab": {"▁cat": 0, "a": 1, "<0xE4>": 2, "▁": 3}}}"#;
        let tokenizer = Tokenizer::from_json(json).unwrap();
        let bytes: Vec<_> = (0..4).map(|id| tokenizer.bytes(id).unwrap()).collect();
        assert_eq!(bytes, [b" cat".to_vec(), b"a".to_vec(), vec![0xE4], b" ".to_vec()]);
    }
}
