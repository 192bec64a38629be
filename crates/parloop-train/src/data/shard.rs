//! Shards: files of ids with their masks and document ends, memory-mapped.
//!
//! 64 bytes of header (little-endian): magic (8), version (4), bytes of an id, 2 or 4 (2), whether there is a mask (2), ids
//! (8), documents (8), bytes of text (8), hash of what follows the header (8), zeros (8), hash of the header so far (8). Then
//! three parts, each filled up to a multiple of 8 bytes: the ids; a bit for each id, set where it is asked for; for each
//! document the place behind its last id and the bytes of its text (8 each).

use super::Hash;
use crate::{Error, Result};
use parloop_model::mapped::MappedFile;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"PLSHARDS";
const VERSION: u32 = 1;
const HEADER: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Header {
    width: u16,
    masked: bool,
    tokens: u64,
    documents: u64,
    text: u64,
    content: u64,
}

impl Header {
    fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.width.to_le_bytes());
        bytes.extend(u16::from(self.masked).to_le_bytes());
        for field in [self.tokens, self.documents, self.text, self.content, 0] {
            bytes.extend(field.to_le_bytes());
        }
        bytes.extend(Hash::of(&bytes).to_le_bytes());
        bytes
    }

    /// The header of a file, if it is one and the file is as long as it says; where its parts begin.
    fn read(bytes: &[u8]) -> Option<(Self, [usize; 3])> {
        let header = bytes.get(..HEADER)?;
        let word = |at: usize| Some(u64::from_le_bytes(header.get(at..at + 8)?.try_into().ok()?));
        let kind = word(8)? >> 32;
        let found = Self {
            width: kind as u16,
            masked: kind >> 16 == 1,
            tokens: word(16)?,
            documents: word(24)?,
            text: word(32)?,
            content: word(40)?,
        };
        let padded = |bytes: u64| bytes.checked_next_multiple_of(8);
        let mask = HEADER as u64 + padded(found.tokens.checked_mul(found.width.into())?)?;
        let documents = mask.checked_add(if found.masked { padded(found.tokens.div_ceil(8))? } else { 0 })?;
        let end = documents.checked_add(found.documents.checked_mul(16)?)?;
        let whole = header == found.to_bytes() && matches!(found.width, 2 | 4) && end == bytes.len() as u64;
        whole.then_some((found, [HEADER, mask as usize, documents as usize]))
    }
}

/// A shard, mapped.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    bytes: MappedFile,
    path: PathBuf,
    header: Header,
    parts: [usize; 3],
}

impl Shard {
    /// Maps a shard and checks that it is whole.
    ///
    /// # Errors
    /// It cannot be read or is no whole shard.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let wrong = |message: &str| Error::Prepared { path: path.to_owned(), message: message.into() };
        let bytes = MappedFile::open(path).map_err(|e| wrong(&format!("cannot be read ({e})")))?;
        let (header, parts) = Header::read(bytes.as_ref()).ok_or_else(|| wrong("is cut, damaged or no shard"))?;
        let shard = Self { bytes, path: path.to_owned(), header, parts };
        let count = shard.documents();
        let last = count.checked_sub(1).map_or(0, |n| shard.pair(n).0);
        if !(0..count).map(|n| shard.pair(n).0).is_sorted() || last != header.tokens {
            return Err(wrong("is damaged: its documents do not end where its ids do"));
        }
        Ok(shard)
    }

    /// Reads all of it and compares it with its hash; ids must lie below `limit`.
    ///
    /// # Errors
    /// It was changed.
    pub(super) fn verify(&self, limit: usize) -> Result<()> {
        let wrong = |message: String| Error::Prepared { path: self.path.clone(), message };
        if Hash::of(&self.bytes.as_ref()[HEADER..]) != self.header.content {
            return Err(wrong("has changed since it was written".into()));
        }
        const STRETCH: usize = 1 << 16;
        for start in (0..self.tokens()).step_by(STRETCH) {
            if let Some(id) = self.ids(start..start + STRETCH).into_iter().find(|id| *id as usize >= limit) {
                return Err(wrong(format!("holds id {id}; the tokenizer's ids run from 0 to {}", limit - 1)));
            }
        }
        Ok(())
    }

    pub(super) fn tokens(&self) -> usize {
        self.header.tokens as usize
    }
    pub(super) fn documents(&self) -> usize {
        self.header.documents as usize
    }
    pub(super) fn is_masked(&self) -> bool {
        self.header.masked
    }
    pub(super) fn content(&self) -> u64 {
        self.header.content
    }

    /// Ids by position; positions past the end give nothing.
    pub(super) fn ids(&self, range: Range<usize>) -> Vec<u32> {
        let width = usize::from(self.header.width);
        let all = &self.bytes.as_ref()[self.parts[0]..self.parts[0] + self.tokens() * width];
        let end = range.end.min(self.tokens());
        let bytes = &all[range.start.min(end) * width..end * width];
        match width {
            2 => bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]).into()).collect(),
            _ => bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        }
    }

    /// Whether the id at a position is asked for; every one is where there is no mask.
    pub(super) fn is_asked(&self, at: usize) -> bool {
        !self.header.masked || self.bytes.as_ref()[self.parts[1] + at / 8] >> (at % 8) & 1 == 1
    }

    /// Positions of a document, and bytes of its text.
    pub(super) fn document(&self, n: usize) -> (Range<usize>, u64) {
        let (end, text) = self.pair(n);
        let start = n.checked_sub(1).map_or(0, |before| self.pair(before).0);
        (start as usize..end as usize, text)
    }

    fn pair(&self, n: usize) -> (u64, u64) {
        let at = self.parts[2] + 16 * n;
        let word = |at: usize| {
            let bytes = &self.bytes.as_ref()[at..at + 8];
            u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
        };
        (word(at), word(at + 8))
    }
}

/// A shard being written.
pub(super) struct ShardWriter {
    file: BufWriter<File>,
    path: PathBuf,
    hash: Hash,
    width: u16,
    tokens: u64,
    text: u64,
    /// Bits of the mask, where there is one.
    mask: Option<Vec<u8>>,
    documents: Vec<(u64, u64)>,
    /// Bytes of the text of the document under way.
    open: u64,
}

impl ShardWriter {
    pub(super) fn create(path: &Path, width: u16, masked: bool) -> Result<Self> {
        let failed = |e| Error::io("write", path, e);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(failed)?);
        file.write_all(&[0; HEADER]).map_err(failed)?;
        let (hash, mask) = (Hash::new(), masked.then(Vec::new));
        Ok(Self { file, path: path.to_owned(), hash, width, tokens: 0, text: 0, mask, documents: Vec::new(), open: 0 })
    }

    pub(super) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Adds ids of the document under way, that stand for so many bytes of text; `asked` as many, if there is a mask.
    pub(super) fn add(&mut self, ids: &[u32], asked: &[bool], text: u64) -> Result<()> {
        let bytes: Vec<u8> = match self.width {
            2 => ids.iter().flat_map(|id| (*id as u16).to_le_bytes()).collect(),
            _ => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        };
        self.put(&bytes)?;
        if let Some(mask) = &mut self.mask {
            for (at, asked) in (self.tokens..).zip(asked) {
                if at % 8 == 0 {
                    mask.push(0);
                }
                if let Some(byte) = mask.last_mut() {
                    *byte |= u8::from(*asked) << (at % 8);
                }
            }
        }
        self.tokens += ids.len() as u64;
        self.open += text;
        Ok(())
    }

    /// Ends the document under way.
    pub(super) fn end(&mut self) {
        self.documents.push((self.tokens, self.open));
        self.text += std::mem::take(&mut self.open);
    }

    /// Writes what is left and the header, and flushes everything to disk: ids, documents, bytes of text, hash.
    pub(super) fn finish(mut self) -> Result<[u64; 4]> {
        self.fill(self.tokens * u64::from(self.width))?;
        let mask = self.mask.take();
        if let Some(mask) = &mask {
            self.put(mask)?;
            self.fill(mask.len() as u64)?;
        }
        let pairs = std::mem::take(&mut self.documents);
        let documents: Vec<u8> =
            pairs.iter().flat_map(|(end, text)| [end.to_le_bytes(), text.to_le_bytes()].concat()).collect();
        self.put(&documents)?;
        let header = Header {
            width: self.width,
            masked: mask.is_some(),
            tokens: self.tokens,
            documents: pairs.len() as u64,
            text: self.text,
            content: self.hash.0,
        };
        let Self { mut file, path, .. } = self;
        let write = || {
            file.seek(SeekFrom::Start(0))?;
            file.write_all(&header.to_bytes())?;
            file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
        };
        write().map_err(|e| Error::io("write", &path, e))?;
        Ok([header.tokens, header.documents, header.text, header.content])
    }

    fn fill(&mut self, bytes: u64) -> Result<()> {
        self.put(&[0; 8][..(bytes.next_multiple_of(8) - bytes) as usize])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.add(bytes);
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }
}
