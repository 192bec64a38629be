//! One error type: which option, file or step, what was found, what was expected, what to do. Options go by their
//! names in [`crate::TrainOptions`]; a program with flags or files of its own says which of them set one.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything that can stop a training run before its last step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An option is out of range or contradicts another one.
    #[error("{option} is {found}, expected {expected}")]
    Option {
        /// The option's name.
        option: &'static str,
        /// The value given.
        found: String,
        /// What is allowed, and why.
        expected: String,
    },
    /// A resumed run was given another value than the one it was started with.
    #[error("{option} is {now}, but {then} in the checkpoint to be resumed")]
    Differs {
        /// The option's name.
        option: &'static str,
        /// The value given.
        now: String,
        /// The value in the checkpoint.
        then: String,
    },
    /// No option has this name.
    #[error("there is no training option \"{name}\"")]
    UnknownOption {
        /// The name given.
        name: String,
    },
    /// A recipe that is unknown or cannot be computed.
    #[error("recipe is not usable: {message}")]
    Recipe {
        /// Which field, what was found, what is allowed.
        message: String,
    },
    /// A text that is not TOML.
    #[error("line {line} is not TOML: {message}")]
    Toml {
        /// Counted from 1.
        line: usize,
        /// The reason.
        message: String,
    },
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
    /// There is nothing to train on.
    #[error("{}: holds no text; expected a UTF-8 text file or a folder of such files", path.display())]
    NoText {
        /// The file or folder.
        path: PathBuf,
    },
    /// A file is not text.
    #[error("{}: is not UTF-8 text: the byte at offset {offset} is no part of a character; convert the file",
        path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Bytes before the first that is wrong.
        offset: usize,
    },
    /// The folder to be written lies inside the one that the text is read from.
    #[error("{}: holds {}, whose files would be read as text: write to a folder outside", root.display(), out.display())]
    OutInside {
        /// The folder of the text.
        root: PathBuf,
        /// The folder to be written.
        out: PathBuf,
    },
    /// A line cannot be read.
    #[error("{}, line {line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What was found, what was expected.
        message: String,
    },
    /// Data cannot be prepared, or prepared data cannot be used.
    #[error("{}: {message}", path.display())]
    Prepared {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, what to do.
        message: String,
    },
    /// An example cannot be trained on.
    #[error("{}, item {item}: {message}", path.display())]
    Example {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        item: usize,
        /// What was found, what was expected.
        message: String,
    },
    /// Examples are no text that a tokenizer could be trained on.
    #[error(
        "{} holds examples, which are no text to train a tokenizer on: give `tokenizer`, \"bytes\" or the path of a \
         tokenizer.json",
        path.display()
    )]
    TokenizerOfExamples {
        /// The file.
        path: PathBuf,
    },
    /// A file of somebody else's stands where the run would write.
    #[error("{} is not of a training run and would be replaced", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A file of examples cannot be read.
    #[error(transparent)]
    Task(#[from] parloop_eval::Error),
    /// The text has no window of the length asked for.
    #[error("{}: gives {tokens} training tokens, but a window of {context} needs {}: add text or lower `context`",
        path.display(), context + 1)]
    TextTooShort {
        /// The file or folder.
        path: PathBuf,
        /// Tokens in it.
        tokens: usize,
        /// Tokens of a window.
        context: usize,
    },
    /// The part kept for validation allows no prediction.
    #[error("{}: gives 1 validation token, but at least 2 are needed: raise `val_fraction` or set it to 0",
        path.display())]
    ValidationTooShort {
        /// The file or folder.
        path: PathBuf,
    },
    /// A token file that was just written is not what was written.
    #[error("{}: was just written but is not whole; is something else writing it?", path.display())]
    TokenFile {
        /// The token file.
        path: PathBuf,
    },
    /// The run cannot fit in memory.
    #[error(
        "this run needs at least {:.1} GB of memory, and {:.1} GB are available: lower `hidden_size`, `layers`, \
         `batch` or `context`",
        *needed as f64 / 1e9, *available as f64 / 1e9
    )]
    Memory {
        /// Bytes that it takes at least.
        needed: u64,
        /// Bytes that are free.
        available: u64,
    },
    /// A checkpoint cannot be written; earlier ones are untouched.
    #[error("cannot save the checkpoint {}: {source} (earlier checkpoints are untouched)", path.display())]
    Save {
        /// The checkpoint's folder.
        path: PathBuf,
        /// The reason.
        source: Box<Error>,
    },
    /// A new run was to write where another has left checkpoints.
    #[error("{} holds a run already ({}): resume it or choose another folder", out.display(), newest.display())]
    Occupied {
        /// The folder.
        out: PathBuf,
        /// Its newest checkpoint.
        newest: PathBuf,
    },
    /// Another run is writing into the folder.
    #[error("another run is writing into {}: wait for it or choose another folder", out.display())]
    Locked {
        /// The folder.
        out: PathBuf,
    },
    /// A run was to be resumed that has no checkpoint.
    #[error("cannot resume from {}: it holds no checkpoint", out.display())]
    NoCheckpoint {
        /// The folder.
        out: PathBuf,
    },
    /// A run cannot be continued from its newest checkpoint.
    #[error("cannot resume from {}: {message}", path.display())]
    Resume {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it and what to do.
        message: String,
    },
    /// The text is not the one that the run was started with.
    #[error("cannot resume from {}: {} is not the text that the run was started with", path.display(), data.display())]
    OtherText {
        /// The checkpoint.
        path: PathBuf,
        /// The file or folder given.
        data: PathBuf,
    },
    /// Too many steps in a row could not be taken.
    #[error("the {what} of step {step} is {value}{}, and {in_row} steps in a row could not be taken: training stopped. {}; \
        a smaller `lr` or a smaller `clip` usually helps", against(*usual), advice(good.as_ref()))]
    Unstable {
        /// "loss" or "gradient norm".
        what: &'static str,
        /// The step, counted from 1.
        step: usize,
        /// The value found.
        value: f64,
        /// The usual value, if this one is a number.
        usual: Option<f64>,
        /// Steps skipped since the last that was taken.
        in_row: usize,
        /// The last checkpoint from which a step could be taken, and its step.
        good: Option<(usize, PathBuf)>,
    },
    /// Weights that are no numbers are not written over good ones.
    #[error("the weights after step {step} are no longer numbers, so they are not saved. {}; a smaller `lr` or a smaller \
        `clip` usually helps", advice(good.as_ref()))]
    Weights {
        /// The step, counted from 1.
        step: usize,
        /// The last checkpoint from which a step could be taken, and its step.
        good: Option<(usize, PathBuf)>,
    },
    /// The model has a part that can be run but not trained.
    #[error("the model has {part}, which training does not know: it can be run but not trained here")]
    NotTrainable {
        /// The field of its configuration.
        part: &'static str,
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
    #[error("device is {device}, but this build has only {}", built.join(" and "))]
    Device {
        /// The device asked for, which is also the cargo feature that adds it.
        device: &'static str,
        /// Devices that were compiled in.
        built: Vec<&'static str>,
    },
}

fn against(usual: Option<f64>) -> String {
    usual.map_or(String::new(), |usual| format!(", usually {usual:.3}"))
}

fn advice(saved: Option<&(usize, PathBuf)>) -> String {
    match saved {
        Some((step, path)) => {
            format!(
                "The last good weights are those of step {step} in {}: remove newer ones to go on from there",
                path.display()
            )
        }
        None => "No good checkpoint was written yet".into(),
    }
}

impl Error {
    pub(crate) fn option(option: &'static str, found: impl ToString, expected: impl Into<String>) -> Self {
        Self::Option { option, found: found.to_string(), expected: expected.into() }
    }
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
    pub(crate) fn resume(path: &Path, message: impl Into<String>) -> Self {
        Self::Resume { path: path.to_owned(), message: message.into() }
    }
    pub(crate) fn tensor(name: &str, message: impl Into<String>) -> Self {
        Self::Tensor { name: name.to_owned(), message: message.into() }
    }
}
