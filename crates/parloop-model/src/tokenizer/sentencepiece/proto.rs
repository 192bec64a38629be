//! `tokenizer.model`: the protobuf message `ModelProto` of SentencePiece (`sentencepiece_model.proto`), of which only
//! the fields that change ids or text are read and written.

use super::{Normalizer, Piece, PieceKind, Pieces, PiecesKind};
use crate::{Error, Result};

/// The most pieces a model may hold; far beyond any vocabulary in use.
const MAX_PIECES: usize = 1 << 24;

/// Field numbers of `ModelProto`, `SentencePiece`, `TrainerSpec` and `NormalizerSpec`.
mod field {
    pub const PIECES: u32 = 1;
    pub const TRAINER: u32 = 2;
    pub const NORMALIZER: u32 = 3;
    pub const DENORMALIZER: u32 = 5;

    pub const PIECE: u32 = 1;
    pub const SCORE: u32 = 2;
    pub const TYPE: u32 = 3;

    pub const MODEL_TYPE: u32 = 3;
    pub const SPACE_AS_SUFFIX: u32 = 24;
    pub const BYTE_FALLBACK: u32 = 35;
    pub const UNK_SURFACE: u32 = 44;
    pub const BOS_PIECE: u32 = 46;
    pub const EOS_PIECE: u32 = 47;

    pub const CHARSMAP: u32 = 2;
    pub const DUMMY_PREFIX: u32 = 3;
    pub const REMOVE_SPACES: u32 = 4;
    pub const ESCAPE_SPACES: u32 = 5;
}

/// The value of a field as it stands on the wire.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
    Fixed64,
}

impl<'a> Value<'a> {
    fn bytes(self, what: &str) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(broken(&format!("{what} is not a string"))),
        }
    }

    fn text(self, what: &str) -> Result<String> {
        let text = std::str::from_utf8(self.bytes(what)?).map_err(|_| broken(&format!("{what} is not UTF-8")))?;
        Ok(text.to_owned())
    }

    fn number(self, what: &str) -> Result<u64> {
        match self {
            Self::Number(n) => Ok(n),
            _ => Err(broken(&format!("{what} is not a whole number"))),
        }
    }

    fn float(self, what: &str) -> Result<f32> {
        match self {
            Self::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err(broken(&format!("{what} is not a 32-bit number"))),
        }
    }
}

fn broken(what: &str) -> Error {
    Error::Input(format!("is not a SentencePiece model: {what}"))
}

/// The fields of a message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| broken("a field number is too large"))?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => {
                let b = self.take(4)?;
                Value::Fixed32([b[0], b[1], b[2], b[3]])
            }
            other => return Err(broken(&format!("a field has the unknown wire type {other}"))),
        };
        Ok(Some((number, value)))
    }

    fn varint(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(broken("a number has more than ten bytes"))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| broken(&format!("a field of {count} bytes runs past the end; the file may be cut")))?;
        self.0 = rest;
        Ok(taken)
    }
}

/// Reads a model; the result is not yet checked for sense.
pub(super) fn read(bytes: &[u8]) -> Result<Pieces> {
    // The defaults of the format are those of `Pieces`.
    let mut model = Pieces::default();
    let (mut bos, mut eos) = ("<s>".to_owned(), "</s>".to_owned());
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            field::PIECES => {
                if model.pieces.len() == MAX_PIECES {
                    return Err(broken(&format!("it has more than {MAX_PIECES} pieces")));
                }
                model.pieces.push(piece(value.bytes("a piece")?)?);
            }
            field::TRAINER => trainer(value.bytes("the trainer")?, &mut model, &mut bos, &mut eos)?,
            field::NORMALIZER => normalizer(value.bytes("the normaliser")?, &mut model.normalizer)?,
            field::DENORMALIZER => {
                let mut rules = Normalizer::default();
                normalizer(value.bytes("the denormaliser")?, &mut rules)?;
                if !rules.precompiled_charsmap.is_empty() {
                    return Err(Error::Input("has denormalisation rules, which are not supported".into()));
                }
            }
            _ => {}
        }
    }
    let control = |name: &str| {
        let at = model.pieces.iter().position(|p| p.kind == PieceKind::Control && p.text == name);
        at.and_then(|id| u32::try_from(id).ok())
    };
    (model.bos, model.eos) = (control(&bos), control(&eos));
    Ok(model)
}

fn piece(bytes: &[u8]) -> Result<Piece> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: PieceKind::Normal };
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            field::PIECE => piece.text = value.text("the text of a piece")?,
            field::SCORE => piece.score = value.float("the score of a piece")?,
            field::TYPE => {
                let kind = value.number("the type of a piece")?;
                piece.kind = PieceKind::from_number(kind)
                    .ok_or_else(|| broken(&format!("a piece has type {kind}, expected 1 to 6")))?;
            }
            _ => {}
        }
    }
    Ok(piece)
}

fn trainer(bytes: &[u8], model: &mut Pieces, bos: &mut String, eos: &mut String) -> Result<()> {
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            field::MODEL_TYPE => {
                model.kind = match value.number("model_type")? {
                    1 => PiecesKind::Unigram,
                    2 => PiecesKind::Bpe,
                    other => {
                        return Err(Error::Input(format!(
                            "is a SentencePiece model of type {other}, expected 1 (unigram) or 2 (BPE)"
                        )));
                    }
                }
            }
            field::SPACE_AS_SUFFIX => model.space_as_suffix = value.number("treat_whitespace_as_suffix")? != 0,
            field::BYTE_FALLBACK => model.byte_fallback = value.number("byte_fallback")? != 0,
            field::UNK_SURFACE => model.unknown_surface = value.text("unk_surface")?,
            field::BOS_PIECE => *bos = value.text("bos_piece")?,
            field::EOS_PIECE => *eos = value.text("eos_piece")?,
            _ => {}
        }
    }
    Ok(())
}

fn normalizer(bytes: &[u8], into: &mut Normalizer) -> Result<()> {
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match number {
            field::CHARSMAP => into.precompiled_charsmap = value.bytes("precompiled_charsmap")?.to_vec(),
            field::DUMMY_PREFIX => into.add_dummy_prefix = value.number("add_dummy_prefix")? != 0,
            field::REMOVE_SPACES => into.remove_extra_whitespaces = value.number("remove_extra_whitespaces")? != 0,
            field::ESCAPE_SPACES => into.escape_whitespaces = value.number("escape_whitespaces")? != 0,
            _ => {}
        }
    }
    Ok(())
}

/// A message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }
    fn number(&mut self, field: u32, number: u64) {
        self.varint(u64::from(field) << 3);
        self.varint(number);
    }
    fn float(&mut self, field: u32, value: f32) {
        self.varint(u64::from(field) << 3 | 5);
        self.0.extend(value.to_le_bytes());
    }
    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
    }
}

/// The bytes of a `tokenizer.model`.
pub(super) fn write(model: &Pieces) -> Vec<u8> {
    let mut file = Message::default();
    for piece in &model.pieces {
        let mut one = Message::default();
        one.bytes(field::PIECE, piece.text.as_bytes());
        one.float(field::SCORE, piece.score);
        one.number(field::TYPE, piece.kind as u64);
        file.bytes(field::PIECES, &one.0);
    }
    let mut trainer = Message::default();
    trainer.number(field::MODEL_TYPE, if model.kind == PiecesKind::Bpe { 2 } else { 1 });
    trainer.number(field::SPACE_AS_SUFFIX, u64::from(model.space_as_suffix));
    trainer.number(field::BYTE_FALLBACK, u64::from(model.byte_fallback));
    trainer.bytes(field::UNK_SURFACE, model.unknown_surface.as_bytes());
    for (number, id) in [(field::BOS_PIECE, model.bos), (field::EOS_PIECE, model.eos)] {
        if let Some(piece) = id.and_then(|id| model.pieces.get(id as usize)) {
            trainer.bytes(number, piece.text.as_bytes());
        }
    }
    file.bytes(field::TRAINER, &trainer.0);
    let (mut rules, n) = (Message::default(), &model.normalizer);
    rules.bytes(field::CHARSMAP, &n.precompiled_charsmap);
    rules.number(field::DUMMY_PREFIX, u64::from(n.add_dummy_prefix));
    rules.number(field::REMOVE_SPACES, u64::from(n.remove_extra_whitespaces));
    rules.number(field::ESCAPE_SPACES, u64::from(n.escape_whitespaces));
    file.bytes(field::NORMALIZER, &rules.0);
    file.0
}
