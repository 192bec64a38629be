//! Checkpoints: folders in Hugging Face layout (`config.json`, safetensors in one file or in shards with an index, the
//! tokenizer's files), or a single GGUF file ([`crate::gguf`]).
//!
//! A checkpoint is untrusted input. Everything that its headers claim is checked against the files and against
//! [the tensors expected](crate::tensors::expected) before anything is viewed; after [`Checkpoint::open`] every one of
//! them exists, lies inside its file, and has the expected shape.

mod files;
mod names;
mod write;

pub use names::Mismatch;
pub use write::{CheckpointWriter, TensorCopy, TensorData, ToWrite};

pub use crate::bytes::SharedBytes;
use crate::family::{self, Description, Family, Notes};
use crate::text::TextSettings;
use crate::{ChatTemplate, Error, ModelConfig, Result, Stops, Tokenizer, gguf};
pub use crate::{DType, Tensor};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// An opened checkpoint: configuration, tokenizer and checked tensors.
#[derive(Debug)]
pub struct Checkpoint {
    config: ModelConfig,
    family: &'static Family,
    notes: Notes,
    tokenizer: Option<Tokenizer>,
    tensors: HashMap<String, Tensor>,
    unused: Vec<String>,
    settings: TextSettings,
    path: Option<PathBuf>,
}

impl Checkpoint {
    /// Opens a checkpoint folder, the newest `checkpoint-N` below a training folder, or a GGUF file.
    ///
    /// # Errors
    /// A file is missing, cut, too large or inconsistent, or a tensor is missing, superfluous, or of another type or
    /// shape than the configuration says; the message names the file or tensor.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_ignoring(path, &[])
    }

    /// [`Checkpoint::open`]; keys of `config.json` in `ignored` count as absent, whatever they say.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_ignoring(path: &Path, ignored: &[String]) -> Result<Self> {
        if path.is_file() {
            let file = gguf::read(path)?;
            let model = Self::new(file.described, file.tensors, file.tokenizer)?;
            return Ok(Self { path: Some(path.to_owned()), settings: file.settings, ..model });
        }
        let folder = &resolve(path)?;
        let described = family::read(folder, ignored)?;
        let found = files::open_folder(folder)?;
        let tokenizer = Tokenizer::read(folder, &described.config)?;
        let settings = TextSettings::read(folder, &described.config)?;
        Ok(Self { settings, path: Some(folder.clone()), ..Self::new(described, found, tokenizer)? })
    }

    /// A checkpoint whose parts are already in memory, such as the built-in model: `config.json` text, the bytes of
    /// one safetensors file, and a tokenizer.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_parts(config: &str, weights: SharedBytes, tokenizer: Option<Tokenizer>) -> Result<Self> {
        let described = family::parse(config)?;
        let mut found = HashMap::new();
        files::add_tensors(Path::new("(built-in weights)"), weights, &mut found)?;
        Self::new(described, found, tokenizer)
    }

    /// A checkpoint of f32 values in memory: name, shape and elements of every tensor.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_f32<'a>(
        config: ModelConfig,
        values: impl IntoIterator<Item = (String, Vec<usize>, &'a [f32])>,
        tokenizer: Option<Tokenizer>,
    ) -> Result<Self> {
        config.validate()?;
        let mut found = HashMap::new();
        for (name, shape, values) in values {
            let Some(tensor) = Tensor::from_f32(shape.clone(), values) else {
                return Err(Error::tensor(&name, format!("has {} elements, its shape is {shape:?}", values.len())));
            };
            found.insert(name, tensor);
        }
        Self::new(Description { config, family: family::own(), notes: Notes::default() }, found, tokenizer)
    }

    /// Names the tensors as we do and holds them against the configuration.
    fn new(described: Description, found: HashMap<String, Tensor>, tokenizer: Option<Tokenizer>) -> Result<Self> {
        let Description { config, family, notes } = described;
        let (tensors, unused) = names::check(&config, family, found)?;
        Ok(Self { config, family, notes, tokenizer, tensors, unused, settings: TextSettings::default(), path: None })
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Whose form the checkpoint has.
    pub fn family(&self) -> &'static Family {
        self.family
    }

    /// What its `config.json` says besides the model.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Tensors that the checkpoint holds though nothing needs them, such as stored rotary frequencies.
    pub fn unused(&self) -> &[String] {
        &self.unused
    }

    /// The tokenizer, if the checkpoint has one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_ref()
    }

    /// What the checkpoint says about text beyond its tokenizer.
    pub fn settings(&self) -> &TextSettings {
        &self.settings
    }

    /// The chat template, ready for use; `None` if the checkpoint has none.
    ///
    /// # Errors
    /// The template is no Jinja.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        self.settings.chat.as_ref().map(ChatTemplate::new).transpose()
    }

    /// The files of a folder that say how text is handled, those of the tokenizer among them: name and content.
    pub fn text_files(&self) -> Vec<(&'static str, Vec<u8>)> {
        self.settings.files(self.tokenizer.as_ref())
    }

    /// The same model with other words about text: what another checkpoint says, or a program.
    #[must_use]
    pub fn with_settings(self, settings: TextSettings) -> Self {
        Self { settings, ..self }
    }

    /// The tokens that end a text.
    pub fn stops(&self) -> Stops {
        let template = self.settings.chat.as_ref().map(|c| c.template.as_str());
        let TextSettings { generation, .. } = &self.settings;
        Stops::new(&self.config, generation, self.tokenizer.as_ref(), self.settings.eos_token(), template)
    }

    /// The folder or file that was opened, after resolving a training folder; `None` for a model in memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// A tensor by its checkpoint name.
    ///
    /// # Errors
    /// The configuration has no tensor of that name.
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| Error::tensor(name, "is not part of this model"))
    }
}

/// The folder that holds the model: the given one, or the newest `checkpoint-N` in a training folder.
///
/// # Errors
/// There is no such folder, or no model in it.
pub fn resolve(folder: &Path) -> Result<PathBuf> {
    if !folder.exists() {
        return Err(Error::file(folder, "does not exist; expected a checkpoint folder or a GGUF file"));
    }
    if !folder.is_dir() {
        return Err(Error::file(folder, "is neither a folder nor a regular file; expected a checkpoint"));
    }
    if folder.join("config.json").exists() {
        return Ok(folder.to_owned());
    }
    newest_checkpoint(folder)?.ok_or_else(|| {
        Error::file(folder, "holds neither config.json nor a checkpoint-N folder; expected a checkpoint folder")
    })
}

/// The `checkpoint-N` folder with the largest N below a training folder.
///
/// # Errors
/// The folder cannot be listed.
pub fn newest_checkpoint(folder: &Path) -> Result<Option<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|e| Error::io("list", folder, e))?;
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse::<u64>().ok();
    Ok(entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.join("config.json").exists())
        .filter_map(|p| Some((step(&p)?, p)))
        .max()
        .map(|(_, p)| p))
}
