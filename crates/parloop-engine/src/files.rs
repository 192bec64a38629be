//! What the engine's own files have in common: how an error names one, and how one takes its name.

use crate::Error;
use std::fs::{self, File};
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

/// Gives a file that is whole and flushed its name, for good.
pub(crate) fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::rename(from, to)?;
    File::open(folder(to))?.sync_all()
}
