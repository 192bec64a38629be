//! From a job to a run: tokenizer, token file, model and optimiser, new or as a checkpoint left them.

use super::guard::{Guard, Skips};
use super::report::Log;
use super::save::{OPTIMISER, State, checkpoints};
use super::{Run, TrainJob, record};
use crate::data::{Examples, Feed, Kind, Prepared, Source, TokenFile, Windows, tokenizer_hash};
use crate::model::LoopModel;
use crate::optim::{AdamWSettings, LoraSettings, Optimiser};
use crate::options::{OF_INIT, OptimizerChoice, ScalesChoice, TrainOptions, TuneChoice};
use crate::weights::{NamedTensor, SCALES};
use crate::{Error, Result};
use burn::tensor::Device;
use parloop_model::mapped::MappedFile;
use parloop_model::{ChatTemplate, Checkpoint, ModelConfig, TextSettings, Tokenizer, family};
use safetensors::SafeTensors;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Text that a tokenizer is trained on, at most.
const TOKENIZER_SAMPLE: usize = 32 << 20;

pub(super) fn prepare(job: &TrainJob) -> Result<Run<'_>> {
    let options = &job.options;
    options.check()?;
    let device = options.device.open()?;
    let data = Data::open(job)?;
    let earlier = earlier(job)?;
    match data.vocabulary().filter(|_| options.init.is_empty()) {
        Some(vocab_size) => TrainOptions { vocab_size, ..options.clone() }.check_memory()?,
        None => options.check_memory()?,
    }
    fs::create_dir_all(&job.out).map_err(|e| Error::io("create", &job.out, e))?;
    let lock = Lock::take(&job.out)?;
    remove_leftovers(&job.out);

    let start = if earlier.is_none() { options.start()? } else { None };
    let tokenizer = match (&earlier, &data) {
        (Some((folder, state)), _) => same_tokenizer(folder, state, options)?,
        (None, Data::Prepared(data)) => prepared_tokenizer(options, data, start.as_ref().map(|(c, _)| c))?,
        (None, Data::Source(source)) => new_tokenizer(options, source, start.as_ref().map(|(c, _)| c))?,
    };
    // Chat templates and the like go with the model, wherever they come from.
    let settings = match (&earlier, &start, &data) {
        (Some((folder, _)), ..) => Checkpoint::open(folder)?.settings().clone(),
        (_, Some((checkpoint, _)), _) => checkpoint.settings().clone(),
        (.., Data::Prepared(data)) => data.settings().clone(),
        _ => TextSettings::default(),
    };
    let feed = feed(job, data, &tokenizer, &settings)?;
    let vocabulary = options.vocabulary(tokenizer.vocab_size());
    if tokenizer.vocab_size() > vocabulary {
        let expected = format!("at least the {} ids of the tokenizer", tokenizer.vocab_size());
        return Err(Error::option("vocab_size", vocabulary, expected));
    }
    let mut config = options.model_config(vocabulary, tokenizer.end_of_text())?;
    // A model that is started from knows itself what ends its texts.
    let ends = match (&earlier, &start) {
        (Some((folder, _)), _) => family::read(folder, &[])?.config.eos_token_id,
        (_, Some((checkpoint, _))) => checkpoint.config().eos_token_id.clone(),
        _ => None,
    };
    if ends.is_some() {
        config.eos_token_id = ends;
    }
    let new = optimiser(options);
    let learned = options.scales != ScalesChoice::Fixed;
    let mut skips = Skips::default();
    let (model, optimiser, step, saved) = match earlier {
        Some((folder, state)) => {
            options.check_same_run(&state.options)?;
            if state.data != format!("{:016x}", feed.content()) {
                return Err(Error::OtherText { path: folder, data: job.data.clone() });
            }
            // A checkpoint has the recipe of its last step.
            let recipe = options.recipe_at(&config.recipe, state.step.saturating_sub(1));
            let then = ModelConfig { recipe, ..config.clone() };
            let (model, optimiser) = restore(&folder, &state, then, new, learned, &device)?;
            skips = state.skips;
            (model, optimiser, state.step, Some((state.step, folder)))
        }
        None => {
            let (gate, seed) = (options.gate_logit(), options.seed);
            let config = ModelConfig { recipe: options.with_first_scales(config.recipe.clone()), ..config.clone() };
            let model = match &start {
                Some((checkpoint, layers)) => LoopModel::start(&config, (checkpoint, layers), gate, seed, &device)?,
                None => LoopModel::init(&config, options.init_std, gate, seed, &device)?,
            };
            (if learned { model.with_learned_scales() } else { model }, new, 0, None)
        }
    };
    let log = Log::open(&job.out.join("train.jsonl"), step, options.tensorboard)?;
    record::write(job, step, &feed, &tokenizer, &config)?;
    Ok(Run {
        options,
        recipe: config.recipe,
        out: job.out.clone(),
        tokenizer,
        settings,
        feed,
        model,
        optimiser,
        step,
        saved,
        good: None,
        guard: Guard { spike: options.spike, most: options.skips, skips },
        log,
        training: Duration::ZERO,
        _lock: lock,
    })
}

/// What a run is given to train on.
enum Data {
    /// Texts or a file of examples, to be tokenised.
    Source(Source),
    /// A folder of shards.
    Prepared(Box<Prepared>),
}

impl Data {
    fn open(job: &TrainJob) -> Result<Self> {
        if Prepared::is_in(&job.data) {
            return Prepared::open(&job.data).map(|data| Self::Prepared(Box::new(data)));
        }
        let source = Source::open(&job.data)?;
        source.refuse_inside(&job.out)?;
        Ok(Self::Source(source))
    }
}

impl Data {
    /// Ids of the tokenizer, where the data brings one.
    fn vocabulary(&self) -> Option<usize> {
        match self {
            Self::Source(_) => None,
            Self::Prepared(data) => Some(data.manifest().vocabulary),
        }
    }
}

fn feed(job: &TrainJob, data: Data, tokenizer: &Tokenizer, settings: &TextSettings) -> Result<Feed> {
    let options = &job.options;
    let (time, batch, seed, share) = (options.context, options.batch, options.seed, options.val_fraction);
    let source = match data {
        Data::Prepared(data) => {
            if tokenizer_hash(data.tokenizer()) != tokenizer_hash(tokenizer) {
                return Err(other_tokenizer(&data));
            }
            return Ok(match data.manifest().kind {
                Kind::Text => Feed::Text(Box::new(Windows::prepared(*data, share, time, batch, seed)?)),
                Kind::Answers => Feed::Examples(Box::new(Examples::prepared(*data, share, time, batch, seed)?)),
            });
        }
        Data::Source(source) => source,
    };
    if Examples::are_in(&job.data) {
        let template = settings.chat.as_ref().map(ChatTemplate::new).transpose()?;
        let with = (tokenizer, template.as_ref());
        return Ok(Feed::Examples(Box::new(Examples::read(&job.data, with, share, time, batch, seed)?)));
    }
    let tokens = TokenFile::prepare(&source, tokenizer, share, &job.out.join("tokens.bin"))?;
    Ok(Feed::Text(Box::new(Windows::new(tokens, source.path(), time, batch, seed)?)))
}

fn other_tokenizer(data: &Prepared) -> Error {
    let message = "was prepared with another tokenizer than the model's: prepare it with that one".into();
    Error::Prepared { path: data.path().to_owned(), message }
}

/// The tokenizer of prepared data, which must be the one that the options ask for.
fn prepared_tokenizer(options: &TrainOptions, data: &Prepared, start: Option<&Checkpoint>) -> Result<Tokenizer> {
    let own = data.tokenizer();
    let wanted = match options.tokenizer.as_str() {
        // The one that would be trained on the text was, or another was chosen, when that was prepared.
        "bpe" => own.clone(),
        "bytes" => Tokenizer::Bytes,
        OF_INIT => start.and_then(|checkpoint| checkpoint.tokenizer().cloned()).unwrap_or_else(|| own.clone()),
        path => of_file(path)?,
    };
    if tokenizer_hash(&wanted) == tokenizer_hash(own) { Ok(wanted) } else { Err(other_tokenizer(data)) }
}

fn of_file(path: &str) -> Result<Tokenizer> {
    let text = fs::read_to_string(path).map_err(|e| {
        Error::option("tokenizer", format!("\"{path}\""), format!("bytes, bpe, or a tokenizer.json: {e}"))
    })?;
    Tokenizer::from_json(&text).map_err(|e| Error::option("tokenizer", format!("\"{path}\""), e.to_string()))
}

/// The optimiser that the options describe, before its first step.
pub(crate) fn optimiser(options: &TrainOptions) -> Optimiser {
    let new = Optimiser::new(AdamWSettings {
        beta1: options.beta1,
        beta2: options.beta2,
        epsilon: options.epsilon,
        weight_decay: options.weight_decay,
    })
    .with_scales_rate(options.scales_lr);
    let new = match options.optimizer {
        OptimizerChoice::AdamW => new,
        OptimizerChoice::Muon => new.with_muon(options.momentum),
    };
    match options.tune {
        TuneChoice::All => new,
        TuneChoice::New => new.only_new(),
        TuneChoice::Lora => {
            let targets = options.lora_targets.split(',').map(|name| name.trim().to_owned());
            new.with_lora(LoraSettings {
                rank: options.lora_rank,
                alpha: options.lora_alpha,
                targets: targets.filter(|name| !name.is_empty()).collect(),
                seed: options.seed,
            })
        }
    }
}

/// One run at a time writes into a folder. The lock goes with the run, and with the process if that is killed.
pub(super) struct Lock {
    path: PathBuf,
    _file: fs::File,
}

impl Lock {
    fn take(out: &Path) -> Result<Self> {
        let path = out.join("train.lock");
        let file = fs::File::create(&path).map_err(|e| Error::io("create", &path, e))?;
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => Err(Error::Locked { out: out.to_owned() }),
            // Where the file system knows no locks, nothing is promised.
            Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(Self { path, _file: file }),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A file that stays behind is not locked and does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

/// The checkpoint to continue from, if the job is to continue; refuses to write into another run's folder.
fn earlier(job: &TrainJob) -> Result<Option<(PathBuf, State)>> {
    let newest = checkpoints(&job.out).pop();
    if let Ok(Some(shown)) = parloop_model::checkpoint::newest_checkpoint(&job.out)
        && newest.as_ref().is_none_or(|(_, folder)| *folder != shown)
    {
        let message = "it has no trainer.json, so it is not whole; remove it to go on from an earlier checkpoint";
        return Err(Error::resume(&shown, message));
    }
    match (job.resume, newest) {
        (true, Some((_, folder))) => State::read(&folder).map(|state| Some((folder, state))),
        (true, None) => Err(Error::NoCheckpoint { out: job.out.clone() }),
        (false, Some((_, newest))) => Err(Error::Occupied { out: job.out.clone(), newest }),
        (false, None) => Ok(None),
    }
}

/// What a run that was killed while saving may have left.
fn remove_leftovers(out: &Path) {
    for entry in fs::read_dir(out).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(".checkpoint-") && name.ends_with(".tmp") {
            // A leftover that cannot be removed does no harm.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn new_tokenizer(options: &TrainOptions, source: &Source, start: Option<&Checkpoint>) -> Result<Tokenizer> {
    match options.tokenizer.as_str() {
        OF_INIT => start.and_then(|checkpoint| checkpoint.tokenizer().cloned()).ok_or_else(|| {
            let expected = "bytes, bpe or a tokenizer.json: the checkpoint of `init` has none";
            Error::option("tokenizer", "\"init\"", expected)
        }),
        "bytes" => Ok(Tokenizer::Bytes),
        "bpe" if Examples::are_in(source.path()) => Err(Error::TokenizerOfExamples { path: source.path().to_owned() }),
        "bpe" => {
            let sample = source.sample(options.val_fraction, TOKENIZER_SAMPLE)?;
            Tokenizer::train_bpe(&sample, options.vocab_size).map_err(|e| {
                Error::option("vocab_size", options.vocab_size, format!("a size that the text can fill: {e}"))
            })
        }
        path => of_file(path),
    }
}

/// The checkpoint's tokenizer, if the options still ask for it.
fn same_tokenizer(folder: &Path, state: &State, options: &TrainOptions) -> Result<Tokenizer> {
    let config = family::read(folder, &[])?.config;
    let missing = || Error::resume(folder, "it has no tokenizer");
    let tokenizer = Tokenizer::read(folder, &config)?.ok_or_else(missing)?;
    if format!("{:016x}", tokenizer_hash(&tokenizer)) != state.tokenizer {
        return Err(Error::resume(folder, "its tokenizer is not the one that the run was started with"));
    }
    let (now, then) = (&options.tokenizer, &state.options.tokenizer);
    let other_file = || fs::read_to_string(now).ok().and_then(|t| Tokenizer::from_json(&t).ok());
    if now != then && other_file().is_none_or(|other| tokenizer_hash(&other) != tokenizer_hash(&tokenizer)) {
        return Err(Error::Differs { option: "tokenizer", now: now.clone(), then: then.clone() });
    }
    Ok(tokenizer)
}

/// The model and the optimiser as they were saved.
fn restore(
    folder: &Path,
    state: &State,
    mut config: ModelConfig,
    new: Optimiser,
    learned: bool,
    device: &Device,
) -> Result<(LoopModel, Optimiser)> {
    let mut model = LoopModel::load(folder, device)?;
    if learned {
        let found = &model.config().recipe;
        (config.recipe.embedding_scale, config.recipe.hidden_scale) = (found.embedding_scale, found.hidden_scale);
    }
    if *model.config() != config {
        return Err(Error::resume(folder, "its config.json does not describe the model of its trainer.json"));
    }
    let path = folder.join(OPTIMISER);
    let bytes = MappedFile::open(&path)?;
    let broken = |e: &dyn std::fmt::Display| Error::resume(folder, format!("{OPTIMISER} is not whole: {e}"));
    let file = SafeTensors::deserialize(bytes.as_ref()).map_err(|e| broken(&e))?;
    let mut moments = Vec::new();
    for (name, view) in file.tensors() {
        if view.dtype() != safetensors::Dtype::F32 {
            return Err(Error::tensor(&name, format!("has type {:?}, expected F32", view.dtype())));
        }
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        moments.push(NamedTensor { name, shape: view.shape().to_vec(), values });
    }
    if learned {
        let found = moments.iter().find(|tensor| tensor.name == SCALES).map(|tensor| tensor.values.as_slice());
        let recipe = &mut model.config.recipe;
        match (found, recipe.embedding_scale.is_some()) {
            (Some([hidden, embedding]), true) => {
                (recipe.hidden_scale, recipe.embedding_scale) = (*hidden, Some(*embedding));
            }
            (Some([hidden]), false) => recipe.hidden_scale = *hidden,
            _ => return Err(Error::tensor(SCALES, "is missing from the optimiser's state, or of another shape")),
        }
        model = model.with_learned_scales();
    }
    let time = state.step.saturating_sub(state.skips.skipped);
    let optimiser = Optimiser::from_tensors(new, time, &moments, &model)?;
    Ok((model, optimiser))
}

impl TrainOptions {
    /// The options of the run whose newest checkpoint is in `out`: what a resumed run starts from before others
    /// are set.
    ///
    /// # Errors
    /// There is no checkpoint, or it cannot be read.
    pub fn of_run(out: &Path) -> Result<Self> {
        match checkpoints(out).pop() {
            Some((_, folder)) => State::read(&folder).map(|state| state.options),
            None => Err(Error::NoCheckpoint { out: out.to_owned() }),
        }
    }
}
