//! One error type: which file, line or option, what was found, what was expected, what to do.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that stops a score, a task or a report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
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
    /// A line of a file is not what it should be.
    #[error("{}, line {line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What was found, what was expected.
        message: String,
    },
    /// A file as a whole cannot be used.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What was found, what was expected, what to do.
        message: String,
    },
    /// An option of a task is out of range.
    #[error("{option} is {found}, expected {expected}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// The value given.
        found: String,
        /// What is allowed, and why.
        expected: String,
    },
    /// The engine refused to score something.
    #[error(transparent)]
    Engine(#[from] parloop_engine::Error),
    /// The model side refused something.
    #[error(transparent)]
    Model(#[from] parloop_model::Error),
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
    pub(crate) fn line(path: &Path, line: usize, message: impl Into<String>) -> Self {
        Self::Line { path: path.to_owned(), line, message: message.into() }
    }
    pub(crate) fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), message: message.into() }
    }
    pub(crate) fn option(option: &'static str, found: impl ToString, expected: impl Into<String>) -> Self {
        Self::Option { option, found: found.to_string(), expected: expected.into() }
    }
}

/// What is wrong with one line of JSON. Its number is for the caller to say: the parser counts lines too, and sees one.
pub fn json_error(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    match text.strip_suffix(&place) {
        Some(what) => format!("{what} at column {}", error.column()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_error_of_a_line_names_no_other_line() {
        for (line, expected) in
            [("[1,", "EOF while parsing a value at column 3"), ("{]", "key must be a string at column 2")]
        {
            let error = serde_json::from_str::<serde_json::Value>(line).unwrap_err();
            assert_eq!(super::json_error(&error), expected);
        }
        let error = serde_json::from_value::<u8>(serde_json::json!("a")).unwrap_err();
        assert_eq!(super::json_error(&error), error.to_string());
    }
}
