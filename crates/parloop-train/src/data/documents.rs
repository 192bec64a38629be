//! Documents of files, folders and standard input, a bounded piece at a time.

use super::Hash;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// Bytes that are read before they are handed on.
const PIECE: usize = 8 << 20;
/// Bytes of a line of JSON at most.
const MOST_LINE: usize = 64 << 20;

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A document each file.
    Text,
    /// A document each line of JSON.
    Lines,
    /// A document each row.
    Parquet,
}

impl Format {
    /// By the ending of a name: `.jsonl` and `.ndjson` are lines of JSON, `.parquet` is that, everything else is text.
    pub fn of(path: &Path) -> Self {
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        match ending.as_deref() {
            Some("jsonl" | "ndjson") => Self::Lines,
            Some("parquet") => Self::Parquet,
            _ => Self::Text,
        }
    }
}

/// A file that was read, so that a change is noticed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Where it lies; `-` for standard input.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// A hash of its content, in hexadecimal.
    pub hash: String,
}

/// A document or a part of a long one.
pub(super) enum Document {
    /// Running text; the first and the last part of a document are told.
    Text { text: String, first: bool, last: bool },
    /// A line of JSON, and its number.
    Line { value: Value, number: usize },
}

/// Files below the inputs, each folder's sorted by path, without hidden ones.
///
/// # Errors
/// One is not there, or is neither text nor lines of JSON.
pub(super) fn list(inputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for input in inputs {
        if input == Path::new("-") {
            files.push(input.clone());
            continue;
        }
        let meta = fs::metadata(input).map_err(|e| Error::io("read", input, e))?;
        if meta.is_dir() {
            let mut below = Vec::new();
            super::source::list(input, &mut below)?;
            below.sort();
            files.extend(below);
        } else {
            files.push(input.clone());
        }
    }
    Ok(files)
}

/// Reads a file and hands its documents on in pieces of some megabytes, with the bytes that each took. `text_key` is the
/// column of a parquet file.
///
/// # Errors
/// It cannot be read, is not UTF-8 or no JSON (the place is named), or `take` fails.
pub(super) fn read(
    path: &Path,
    format: Format,
    text_key: &str,
    mut take: impl FnMut(Vec<Document>, u64) -> Result<()>,
) -> Result<SourceFile> {
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin().lock())
    } else {
        Box::new(File::open(path).map_err(|e| Error::io("read", path, e))?)
    };
    let mut reader = Hashed { inner: input, hash: Hash::new(), bytes: 0 };
    match format {
        Format::Text => text(path, &mut reader, &mut take)?,
        Format::Lines => lines(path, &mut reader, &mut take)?,
        Format::Parquet => {
            // A first reading for the hash: the parts of the file are needed in another order.
            std::io::copy(&mut reader, &mut std::io::sink()).map_err(|e| Error::io("read", path, e))?;
            rows(path, text_key, reader.bytes, &mut take)?;
        }
    }
    Ok(SourceFile { path: path.to_owned(), bytes: reader.bytes, hash: format!("{:016x}", reader.hash.0) })
}

struct Hashed<R> {
    inner: R,
    hash: Hash,
    bytes: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.hash.add(&buffer[..got]);
        self.bytes += got as u64;
        Ok(got)
    }
}

type Take<'a> = &'a mut dyn FnMut(Vec<Document>, u64) -> Result<()>;

/// One document, in parts that end after a line.
fn text(path: &Path, reader: &mut impl Read, take: Take<'_>) -> Result<()> {
    let (mut held, mut first, mut before) = (Vec::new(), true, 0);
    loop {
        let got = reader.by_ref().take(PIECE as u64).read_to_end(&mut held).map_err(|e| Error::io("read", path, e))?;
        let over = got < PIECE;
        // A part ends behind a line, if there is one; the text is over where nothing more came.
        let end = if over { held.len() } else { held.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1) };
        let rest = held.split_off(end);
        if !held.is_empty() || over && !first {
            let bytes = held.len() as u64;
            let mut part = String::from_utf8(std::mem::take(&mut held))
                .map_err(|e| Error::NotText { path: path.to_owned(), offset: before + e.utf8_error().valid_up_to() })?;
            before += part.len();
            if first && part.starts_with('\u{FEFF}') {
                part.drain(..'\u{FEFF}'.len_utf8());
            }
            take(vec![Document::Text { text: part, first, last: over }], bytes)?;
            first = false;
        }
        held = rest;
        if over {
            return Ok(());
        }
    }
}

/// Rows of a parquet file, whose bytes are counted once it is read: they are compressed.
fn rows(path: &Path, column: &str, bytes: u64, take: Take<'_>) -> Result<()> {
    let (mut held, mut size) = (Vec::new(), 0);
    super::parquet::read(path, column, &mut |text| {
        size += text.len();
        held.push(Document::Text { text, first: true, last: true });
        if size < PIECE {
            return Ok(());
        }
        size = 0;
        take(std::mem::take(&mut held), 0)
    })?;
    take(held, bytes)
}

fn lines(path: &Path, reader: &mut impl Read, take: Take<'_>) -> Result<()> {
    let mut reader = BufReader::with_capacity(1 << 20, reader);
    let wrong = |number: usize, message: String| Error::Line { path: path.to_owned(), line: number, message };
    let (mut held, mut bytes, mut line) = (Vec::new(), 0, Vec::new());
    for number in 1.. {
        line.clear();
        let got = reader.by_ref().take(MOST_LINE as u64 + 1).read_until(b'\n', &mut line);
        let got = got.map_err(|e| Error::io("read", path, e))?;
        if got > MOST_LINE {
            return Err(wrong(number, format!("is longer than {MOST_LINE} bytes")));
        }
        if bytes >= PIECE || got == 0 && !held.is_empty() {
            take(std::mem::take(&mut held), bytes as u64)?;
            bytes = 0;
        }
        if got == 0 {
            return Ok(());
        }
        bytes += got;
        let text = std::str::from_utf8(&line).map_err(|_| wrong(number, "is not UTF-8 text".into()))?.trim();
        let text = if number == 1 { text.trim_start_matches('\u{FEFF}') } else { text };
        if !text.is_empty() {
            let value: Value = serde_json::from_str(text).map_err(|e| wrong(number, format!("is not JSON: {e}")))?;
            held.push(Document::Line { value, number });
        }
    }
    Ok(())
}
