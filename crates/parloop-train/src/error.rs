//! One error type: which flag, file or step, what was found, what was expected, what to do.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can stop a training run before its last step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option is out of range or contradicts another one.
    #[error("--{flag} is {found}, expected {expected}")]
    Option {
        /// The flag as typed on the command line (without dashes); the TOML key is the same with underscores.
        flag: &'static str,
        /// The value given.
        found: String,
        /// What is allowed, and why.
        expected: String,
    },
    /// A training file (TOML) that cannot be read as options.
    #[error("{0}")]
    Config(String),
    /// The operating system refused a file operation.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The training text cannot be used.
    #[error("{}: {message}", path.display())]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// What was found, what was expected, what to do.
        message: String,
    },
    /// A checkpoint cannot be written; earlier ones are untouched.
    #[error("cannot save the checkpoint {}: {message} (earlier checkpoints are untouched)", path.display())]
    Save {
        /// The checkpoint's folder.
        path: PathBuf,
        /// The reason.
        message: String,
    },
    /// A run cannot be continued from what is in its folder.
    #[error("cannot resume from {}: {message}", path.display())]
    Resume {
        /// The checkpoint or output folder.
        path: PathBuf,
        /// What differs and what to do.
        message: String,
    },
    /// The loss or the gradient stopped being a number.
    #[error(
        "the {what} of step {step} is {value}: training stopped. {advice}; a smaller --lr or a stronger --clip \
         (a smaller number) usually helps"
    )]
    NotFinite {
        /// "loss" or "gradient norm".
        what: &'static str,
        /// The step, counted from 1.
        step: usize,
        /// The value found.
        value: f64,
        /// Which checkpoint still holds good weights.
        advice: String,
    },
    /// The model side refused something: configuration, checkpoint, tokenizer.
    #[error(transparent)]
    Model(#[from] parloop_model::Error),
    /// The weights given do not fit the configuration.
    #[error("tensor {name}: {message}")]
    Tensor {
        /// The checkpoint's name of the tensor.
        name: String,
        /// What was found and what was expected.
        message: String,
    },
    /// The device asked for is not part of this build.
    #[error("--device is {found}, but this build knows only {known}: rebuild with `--features {found}`")]
    Device {
        /// The device asked for.
        found: String,
        /// Devices that were compiled in.
        known: &'static str,
    },
}

impl Error {
    pub(crate) fn option(flag: &'static str, found: impl ToString, expected: impl Into<String>) -> Self {
        Self::Option { flag, found: found.to_string(), expected: expected.into() }
    }
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
    pub(crate) fn data(path: &Path, message: impl Into<String>) -> Self {
        Self::Data { path: path.to_owned(), message: message.into() }
    }
    pub(crate) fn save(path: &Path, message: impl ToString) -> Self {
        Self::Save { path: path.to_owned(), message: message.to_string() }
    }
    pub(crate) fn resume(path: &Path, message: impl Into<String>) -> Self {
        Self::Resume { path: path.to_owned(), message: message.into() }
    }
    pub(crate) fn tensor(name: &str, message: impl Into<String>) -> Self {
        Self::Tensor { name: name.to_owned(), message: message.into() }
    }
}
