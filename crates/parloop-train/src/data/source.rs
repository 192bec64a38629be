//! The text of a run: which files, in which order, and what of each is for validation.

use super::Hash;
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// A text file, or every file below a folder.
#[derive(Clone, Debug)]
pub struct Source {
    root: PathBuf,
    files: Vec<SourceFile>,
}

#[derive(Clone, Debug)]
struct SourceFile {
    path: PathBuf,
    bytes: u64,
    /// Nanoseconds since 1970, 0 where the system does not tell.
    modified: u128,
}

/// A piece of one file.
pub(super) struct Piece {
    pub text: String,
    /// Where the validation text starts in `text`; its length if none of it is.
    pub cut: usize,
}

impl Source {
    /// Lists the files: `path` itself, or all files below it sorted by path, without hidden ones.
    ///
    /// # Errors
    /// Nothing is there, something cannot be listed, or there is no text in it.
    pub fn open(path: &Path) -> Result<Self> {
        let mut files = Vec::new();
        let meta = fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
        if meta.is_dir() {
            let mut paths = Vec::new();
            list(path, &mut paths)?;
            paths.sort();
            for path in paths {
                let meta = fs::metadata(&path).map_err(|e| Error::io("read", &path, e))?;
                files.push(describe(&path, &meta));
            }
        } else {
            files.push(describe(path, &meta));
        }
        let source = Self { root: path.to_owned(), files };
        if source.bytes() == 0 {
            return Err(Error::NoText { path: path.to_owned() });
        }
        Ok(source)
    }

    /// Refuses a folder to write to that lies inside the one the text is read from: what is written there would be
    /// text in the next run.
    ///
    /// # Errors
    /// It does, or a path cannot be followed.
    pub fn refuse_inside(&self, out: &Path) -> Result<()> {
        let follow = |path: &Path| fs::canonicalize(path).map_err(|e| Error::io("read", path, e));
        if !self.root.is_dir() {
            return Ok(());
        }
        let root = follow(&self.root)?;
        let whole = std::path::absolute(out).map_err(|e| Error::io("read", out, e))?;
        // What does not exist yet lies where its nearest folder does.
        let Some(above) = whole.ancestors().find(|path| path.exists()) else { return Ok(()) };
        let place = follow(above)?.join(whole.strip_prefix(above).unwrap_or(Path::new("")));
        if !place.starts_with(&root) {
            return Ok(());
        }
        Err(Error::OutInside { root: self.root.clone(), out: out.to_owned() })
    }

    /// The path that was given.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// Changes whenever a file's name, size or time does.
    pub(super) fn key(&self) -> u64 {
        let mut hash = Hash::new();
        for file in &self.files {
            hash.add(file.path.to_string_lossy().as_bytes());
            hash.add(&file.bytes.to_le_bytes());
            hash.add(&file.modified.to_le_bytes());
        }
        hash.0
    }

    /// The pieces in order; the last `val_fraction` of all bytes, from the next character on, is for validation.
    pub(super) fn pieces(&self, val_fraction: f64) -> impl Iterator<Item = Result<Piece>> + '_ {
        let train = (self.bytes() as f64 * (1.0 - val_fraction)) as u64;
        let mut before = 0;
        self.files.iter().map(move |file| {
            let text = read_utf8(&file.path)?;
            let mut cut = usize::try_from(train.saturating_sub(before)).unwrap_or(usize::MAX).min(text.len());
            while !text.is_char_boundary(cut) {
                cut += 1;
            }
            before += file.bytes;
            Ok(Piece { text, cut })
        })
    }

    /// The first `limit` bytes or so of the training text, for training a tokenizer.
    ///
    /// # Errors
    /// A file cannot be read or is not UTF-8.
    pub fn sample(&self, val_fraction: f64, limit: usize) -> Result<String> {
        let mut sample = String::new();
        for piece in self.pieces(val_fraction) {
            let piece = piece?;
            let mut end = piece.cut.min(limit.saturating_sub(sample.len()));
            while !piece.text.is_char_boundary(end) {
                end += 1;
            }
            sample.push_str(&piece.text[..end]);
            if sample.len() >= limit {
                break;
            }
        }
        Ok(sample)
    }
}

/// All files below a folder, without hidden ones.
pub(super) fn list(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))? {
        let path = entry.map_err(|e| Error::io("list", folder, e))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        // Links are followed to files but not to folders, which could form a ring.
        let meta = fs::metadata(&path).map_err(|e| Error::io("read", &path, e))?;
        if meta.is_file() {
            files.push(path);
        } else if meta.is_dir() && !path.is_symlink() {
            list(&path, files)?;
        }
    }
    Ok(())
}

fn describe(path: &Path, meta: &fs::Metadata) -> SourceFile {
    let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_nanos());
    SourceFile { path: path.to_owned(), bytes: meta.len(), modified }
}

/// Reads a text file; says where it stops being UTF-8.
fn read_utf8(path: &Path) -> Result<String> {
    let bytes = fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| Error::NotText { path: path.to_owned(), offset: e.utf8_error().valid_up_to() })?;
    // A byte-order mark is no part of the text.
    Ok(match text.strip_prefix('\u{FEFF}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}
