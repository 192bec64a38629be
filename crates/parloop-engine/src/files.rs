//! What the engine's own files have in common: how an error names one, how one is known, and how one takes its name.

use crate::{Error, Result};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// A file that is not what it should be.
pub(crate) fn bad(path: &Path, message: impl Into<String>) -> Error {
    parloop_model::Error::File { path: path.to_owned(), message: message.into() }.into()
}

/// A file that the system refuses.
pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    parloop_model::Error::Io { action, path: path.to_owned(), source }.into()
}

/// The folder that a file lies in.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether a path is a regular file that begins with these bytes.
pub(crate) fn begins_with(path: &Path, magic: &[u8]) -> Result<bool> {
    // Asked before it is opened: a pipe would be waited for.
    if !path.is_file() {
        return Ok(false);
    }
    let mut start = Vec::new();
    let read = File::open(path).and_then(|file| file.take(magic.len() as u64).read_to_end(&mut start));
    read.map_err(|e| io("read", path, e))?;
    Ok(start == magic)
}

/// Writes a file beside its place, whole and flushed by `write`, and then gives it its name, so that what is there is whole
/// or as it was before.
pub(crate) fn replace<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let rename = || {
        fs::rename(&beside, path)?;
        File::open(folder(path))?.sync_all()
    };
    let written = write(&beside).and_then(|value| match rename() {
        Ok(()) => Ok(value),
        Err(e) => Err(io("write", path, e)),
    });
    if written.is_err() {
        // It is of no use to anyone; that it may not exist is no further error.
        let _ = fs::remove_file(&beside);
    }
    written
}
