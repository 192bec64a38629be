//! One error type: what was looked at, what was found, what was expected, what to do.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can be wrong with a model as it comes from outside.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb: "read", "write", "map".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file's content is not what its name promises.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was found, what was expected, what to do.
        message: String,
    },
    /// What is wrong with a file's content.
    #[error("{}: {error}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: Box<Error>,
    },
    /// A configuration has a key that could mean another model, or nothing.
    #[error(
        "has the key \"{key}\" = {value}, which this version does not know and will not ignore; remove it if it changes nothing"
    )]
    UnknownKey {
        /// The key, with those of the objects that it lies in.
        key: String,
        /// Its value, at most some sixty characters of it.
        value: String,
    },
    /// A configuration or recipe that cannot be computed.
    #[error("{0}")]
    Config(String),
    /// A tensor is missing, superfluous, or has the wrong type or shape.
    #[error("tensor {name}: {message}")]
    Tensor {
        /// The checkpoint's name of the tensor.
        name: String,
        /// What was found and what was expected.
        message: String,
    },
    /// The tensors of a checkpoint are not those of the model that its configuration describes.
    #[error("{0}")]
    Tensors(Box<crate::checkpoint::Mismatch>),
    /// Text or ids that the model cannot take.
    #[error("{0}")]
    Input(String),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
    pub(crate) fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), message: message.into() }
    }
    /// The same, found in a file.
    pub(crate) fn in_file(self, path: &Path) -> Self {
        Self::In { path: path.to_owned(), error: Box::new(self) }
    }
    /// What is wrong, wherever it was found.
    pub fn innermost(&self) -> &Self {
        match self {
            Self::In { error, .. } => error.innermost(),
            other => other,
        }
    }
    pub(crate) fn tensor(name: &str, message: impl Into<String>) -> Self {
        Self::Tensor { name: name.to_owned(), message: message.into() }
    }
}
