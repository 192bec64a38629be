//! Token files: a source's ids, written once, memory-mapped afterwards.
//!
//! 64 bytes of header (little-endian): magic, version, bytes of an id (2 or 4), key of source and tokenizer, training
//! ids, validation ids, validation bytes of text, hash of the ids, hash of the header so far. Then the ids.

use super::Hash;
use super::source::Source;
use crate::{Error, Result};
use parloop_model::Tokenizer;
use parloop_model::mapped::MappedFile;
use rayon::prelude::*;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"PLTOKENS";
const VERSION: u32 = 2;
const HEADER: usize = 64;
/// Text is tokenised in chunks of about this many bytes, cut after a line, several at once.
const CHUNK: usize = 1 << 18;

/// A tokenised source.
#[derive(Clone, Debug)]
pub struct TokenFile {
    bytes: MappedFile,
    path: PathBuf,
    header: Header,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Header {
    width: u32,
    key: u64,
    train: u64,
    val: u64,
    val_bytes: u64,
    content: u64,
}

impl Header {
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.width.to_le_bytes());
        for field in [self.key, self.train, self.val, self.val_bytes, self.content] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(Hash::of(&bytes).to_le_bytes());
        bytes
    }

    /// The header of a file of `len` bytes, if it is one.
    fn read(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..HEADER)?;
        let word = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
        let width = (word(8)? >> 32) as u32;
        let found =
            Self { width, key: word(16)?, train: word(24)?, val: word(32)?, val_bytes: word(40)?, content: word(48)? };
        let ids = found.train.checked_add(found.val)?.checked_mul(width.into())?;
        let whole = ids.checked_add(HEADER as u64)? == bytes.len() as u64;
        (header == found.to_bytes() && matches!(width, 2 | 4) && whole).then_some(found)
    }
}

impl TokenFile {
    /// The source's ids: from `path` if it was made of the same files by the same tokenizer, else made now.
    /// Documents (files) begin and end with what the tokenizer puts around a text; one that ends none is followed by
    /// the usual mark, if the tokenizer has it.
    ///
    /// # Errors
    /// The text cannot be read or is not UTF-8, or the token file cannot be written.
    pub fn prepare(source: &Source, tokenizer: &Tokenizer, val_fraction: f64, path: &Path) -> Result<Self> {
        let mut key = Hash::new();
        key.add(&source.key().to_le_bytes());
        key.add(&val_fraction.to_le_bytes());
        key.add(&tokenizer_hash(tokenizer).to_le_bytes());
        if let Some(found) = Self::open(path).filter(|found| found.header.key == key.0) {
            return Ok(found);
        }
        let mut held = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAGIC.len() as u64).read_to_end(&mut held));
        if read.is_ok() && !MAGIC.starts_with(&held) {
            return Err(Error::Foreign { path: path.to_owned() });
        }
        write(source, tokenizer, val_fraction, key.0, path)?;
        Self::open(path).ok_or_else(|| Error::TokenFile { path: path.to_owned() })
    }

    /// A whole token file, or nothing.
    fn open(path: &Path) -> Option<Self> {
        let bytes = path.exists().then(|| MappedFile::open(path).ok())??;
        let header = Header::read(bytes.as_ref())?;
        Some(Self { bytes, path: path.to_owned(), header })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of training ids.
    pub fn train(&self) -> usize {
        self.header.train as usize
    }

    /// Number of validation ids.
    pub fn val(&self) -> usize {
        self.header.val as usize
    }

    /// Bytes of text that the validation ids stand for.
    pub fn val_bytes(&self) -> u64 {
        self.header.val_bytes
    }

    /// A hash of all ids: the same data, the same number.
    pub fn content(&self) -> u64 {
        self.header.content
    }

    /// Ids by position; validation ids follow the training ids. Positions past the end give nothing.
    pub fn ids(&self, range: Range<usize>) -> Vec<u32> {
        let width = self.header.width as usize;
        let all = &self.bytes.as_ref()[HEADER..];
        let end = range.end.min(all.len() / width);
        let bytes = &all[range.start.min(end) * width..end * width];
        match width {
            2 => bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]).into()).collect(),
            _ => bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        }
    }
}

/// Changes whenever the tokenizer would.
pub(crate) fn tokenizer_hash(tokenizer: &Tokenizer) -> u64 {
    let mut hash = Hash::new();
    for (name, bytes) in tokenizer.files() {
        hash.add(name.as_bytes());
        hash.add(&bytes);
    }
    hash.0
}

fn write(source: &Source, tokenizer: &Tokenizer, val_fraction: f64, key: u64, path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let result = write_aside(source, tokenizer, val_fraction, key, path, &aside)
        .and_then(|()| fs::rename(&aside, path).map_err(|e| Error::io("write", path, e)));
    if result.is_err() {
        // Half a token file is of no use, and the error that matters is the first one.
        let _ = fs::remove_file(&aside);
    }
    result
}

fn write_aside(
    source: &Source,
    tokenizer: &Tokenizer,
    val_fraction: f64,
    key: u64,
    path: &Path,
    aside: &Path,
) -> Result<()> {
    let failed = |e| Error::io("write", path, e);
    let width = if tokenizer.vocab_size() <= 1 << 16 { 2 } else { 4 };
    let mut header = Header { width, key, train: 0, val: 0, val_bytes: 0, content: 0 };
    let mut hash = Hash::new();
    let mut file = BufWriter::new(File::create(aside).map_err(failed)?);
    file.write_all(&[0; HEADER]).map_err(failed)?;
    let (begin, end) = around(tokenizer, None)?;
    for piece in source.pieces(val_fraction) {
        let piece = piece?;
        let (train, val) = piece.text.split_at(piece.cut);
        for (text, is_val) in [(train, false), (val, true)] {
            if text.is_empty() {
                continue;
            }
            let mut ids = Vec::new();
            // A document begins and ends where its file does, not where validation starts.
            if !is_val || train.is_empty() {
                ids.extend(&begin);
            }
            encode(tokenizer, text, is_val && !train.is_empty(), &mut ids)?;
            if is_val || val.is_empty() {
                ids.extend(&end);
            }
            let bytes: Vec<u8> = match width {
                2 => ids.iter().flat_map(|id| (*id as u16).to_le_bytes()).collect(),
                _ => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
            };
            hash.add(&bytes);
            file.write_all(&bytes).map_err(failed)?;
            if is_val {
                header.val += ids.len() as u64;
                header.val_bytes += text.len() as u64;
            } else {
                header.train += ids.len() as u64;
            }
        }
    }
    header.content = hash.0;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    file.write_all(&header.to_bytes()).map_err(failed)?;
    file.into_inner().map_err(|e| failed(e.into_error()))?.sync_all().map_err(failed)
}

/// What is put before and after a document: what the tokenizer puts around a text; where it ends none, the mark of that
/// name or the usual one, if the tokenizer has it.
pub(super) fn around(tokenizer: &Tokenizer, end_token: Option<&str>) -> Result<(Vec<u32>, Vec<u32>)> {
    let (begin, mut end) = tokenizer.around()?;
    if end.is_empty() {
        end.extend(tokenizer.end_of_text().or_else(|| tokenizer.id(end_token?)));
    }
    Ok((begin, end))
}

/// Ids of a long text, tokenised in chunks that end after a line. Nothing is put around the chunks, and none but the
/// first begins a text, nor does that one if it `goes_on` from another.
pub(super) fn encode(tokenizer: &Tokenizer, text: &str, goes_on: bool, out: &mut Vec<u32>) -> Result<()> {
    let mut chunks = Vec::new();
    let mut rest = text;
    while rest.len() > CHUNK {
        let end = match rest.as_bytes()[CHUNK..].iter().position(|b| *b == b'\n') {
            Some(at) => CHUNK + at + 1,
            None => break,
        };
        let (chunk, tail) = rest.split_at(end);
        chunks.push(chunk);
        rest = tail;
    }
    chunks.push(rest);
    let line_end = tokenizer.encode_bare("\n")?;
    let ids = chunks.par_iter().enumerate().map(|(i, chunk)| -> Result<Vec<u32>> {
        if i == 0 && !goes_on {
            return Ok(tokenizer.encode_bare(chunk)?);
        }
        // Some tokenizers put a space before what begins a text: here it follows the end of a line.
        let ids = tokenizer.encode_bare(&format!("\n{chunk}"))?;
        match ids.strip_prefix(&line_end[..]) {
            Some(rest) => Ok(rest.to_vec()),
            None => Ok(tokenizer.encode_bare(chunk)?),
        }
    });
    ids.collect::<Result<Vec<Vec<u32>>>>()?.into_iter().for_each(|ids| out.extend(ids));
    Ok(())
}
