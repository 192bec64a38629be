//! Which model, and how a conversation with it is written.

use crate::cache::Cache;
use anyhow::{Result, bail};
use clap::{Args, ValueHint};
use parloop_model::Checkpoint;
use std::path::{Path, PathBuf};

/// Which model; without one, the one inside the program.
#[derive(Clone, Debug, Default, Args)]
pub struct Model {
    /// Folder of a model or of a training run (its newest checkpoint), a GGUF file, or OWNER/NAME of a model that
    /// `parloop pull` or another program fetched; without it, the built-in model
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub ignored: Ignored,
}

/// Keys of a configuration that are not known here.
#[derive(Clone, Debug, Default, Args)]
pub struct Ignored {
    /// Treat a key of config.json that is not known here as absent; only if it changes nothing that is computed
    #[arg(long = "ignore-config-key", value_name = "KEY", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub keys: Vec<String>,
}

/// Which model, where the built-in one makes no sense.
#[derive(Clone, Debug, Args)]
pub struct Source {
    /// Folder of a model or of a training run (its newest checkpoint), a GGUF file, or OWNER/NAME of a fetched model
    #[arg(value_hint = ValueHint::AnyPath)]
    pub model: PathBuf,
    #[command(flatten)]
    pub ignored: Ignored,
}

impl Model {
    /// Opens it.
    pub fn open(&self) -> Result<Checkpoint> {
        match self.path()? {
            Some(path) => Ok(Checkpoint::open_ignoring(&path, &self.ignored.keys)?),
            None => Ok(parloop::builtin::checkpoint()?),
        }
    }

    /// Where it lies; `None` for the built-in model.
    pub fn path(&self) -> Result<Option<PathBuf>> {
        self.model.as_deref().map(located).transpose()
    }
}

impl Source {
    /// Opens it.
    pub fn open(&self) -> Result<Checkpoint> {
        Ok(Checkpoint::open_ignoring(&self.path()?, &self.ignored.keys)?)
    }

    /// Where it lies.
    pub fn path(&self) -> Result<PathBuf> {
        located(&self.model)
    }
}

/// A path as it is if something is there; otherwise the model of that name in the cache.
fn located(path: &Path) -> Result<PathBuf> {
    let is_part = path.file_name().is_some_and(|name| name == "config.json" || name == "tokenizer.json")
        || path.extension().is_some_and(|end| end == "safetensors");
    if is_part && path.is_file() {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        bail!("{} is one file of a model: give its folder, {}", path.display(), folder.display());
    }
    // What may not be looked at is there: opening it will say so.
    if !matches!(path.try_exists(), Ok(false)) {
        return Ok(path.to_owned());
    }
    match path.to_str().and_then(|text| text.parse().ok()) {
        Some(name) => Cache::from_environment()?.find(&name),
        None => bail!(
            "{} is not there: give the folder of a model or of a training run, a GGUF file, or OWNER/NAME of a fetched \
             model (`parloop list` shows them)",
            path.display()
        ),
    }
}

/// How a conversation is written.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Chat")]
pub struct ChatOptions {
    /// A system message, said before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// A Jinja chat template, instead of the model's own
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub template: Option<PathBuf>,
    /// Read control tokens such as <|im_end|> in messages as what they are, not as text
    #[arg(long)]
    pub parse_special: bool,
}
