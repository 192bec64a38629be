//! One run of a study: trained (or gone on with), tested, written down.

use super::Place;
use super::file::{Learns, Run, Study, TEST_SEED, TRAIN_SEED};
use crate::interrupt;
use anyhow::{Context, Result};
use parloop_engine::{Engine, Model};
use parloop_eval::results::{Ending, Row};
use parloop_eval::{Split, Task, items, perplexity, score};
use parloop_model::{Checkpoint, ModelConfig, tensors};
use parloop_train::data::{Source, TokenFile};
use parloop_train::{Error, Hooks, LogRow, Summary, TrainJob, TrainOptions, train};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The name of a run's result in its folder.
pub const RESULT: &str = "result.json";

/// The folder of a run.
pub fn folder(place: &Place, run: &Run) -> PathBuf {
    place.out.join("runs").join(&run.name)
}

pub fn run(study: &Study, place: &Place, name: &str) -> Result<()> {
    let run = study.run(name)?;
    let folder = folder(place, run);
    if folder.join(RESULT).exists() {
        say!("{} is done: {}", run.name, folder.join(RESULT).display());
        return Ok(());
    }
    interrupt::watch()?;
    stop_with_the_parent();
    let row = result(study, place, run, &folder)?;
    let text = serde_json::to_string(&row)?;
    let (path, aside) = (folder.join(RESULT), folder.join("result.json.tmp"));
    let failed = || format!("cannot write {}", path.display());
    fs::write(&aside, text).and_then(|()| fs::rename(&aside, &path)).with_context(failed)
}

/// A run that a study started ends, with a checkpoint, when the study is gone: nobody would take its result.
fn stop_with_the_parent() {
    #[cfg(unix)]
    {
        let parent = std::os::unix::process::parent_id();
        std::thread::spawn(move || {
            while std::os::unix::process::parent_id() == parent {
                std::thread::sleep(Duration::from_millis(500));
            }
            interrupt::flag().store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}

fn result(study: &Study, place: &Place, run: &Run, folder: &Path) -> Result<Row> {
    let data = match &run.learns {
        Learns::Text { path } => path.clone(),
        Learns::Task { task, train, .. } => problems(&place.out, task, Split::Train, TRAIN_SEED, *train)?,
    };
    let mut job = TrainJob::new(&data, folder, run.options.clone());
    job.resume = TrainOptions::of_run(folder).is_ok();
    let trained = train(&job, &mut Hooks::new(interrupt::flag()));
    let ending = match &trained {
        Ok(Summary { stopped: true, .. }) => return Err(crate::commands::Interrupted.into()),
        Ok(_) => Ending::Done,
        Err(error @ (Error::Unstable { .. } | Error::Weights { .. })) => Ending::Diverged(error.to_string()),
        Err(_) => {
            trained?;
            unreachable!("the error was returned")
        }
    };
    let config = run.options.model_config(vocabulary(&run.options, trained.as_ref().ok())?, None)?;
    let log = log(folder)?;
    let mut row = Row {
        format: Row::FORMAT,
        study: study.name.clone(),
        about: study.about.clone(),
        command: command(study, place),
        run: run.name.clone(),
        task: run.task.clone(),
        size: run.size.clone(),
        arm: run.arm.clone(),
        seed: run.seed,
        ending,
        loops: config.recipe.count,
        layers: config.num_hidden_layers,
        parameters: tensors::parameters(&config),
        flops_per_token: flops_per_token(&config),
        steps: log.last().map_or(0, |row| row.step),
        tokens: log.last().map_or(0, |row| row.tokens),
        curve: log.iter().filter_map(|row| Some((row.step, row.val_loss?))).collect(),
        seconds: seconds(&log),
        peak_bytes: peak_bytes(),
        options: serde_json::to_value(&run.options)?.as_object().cloned().unwrap_or_default(),
        version: crate::args::VERSION.to_owned(),
        machine: machine(),
        ..Row::default()
    };
    if let Ok(summary) = &trained {
        test(place, run, &summary.checkpoint, &mut row)?;
    }
    // Of no use any more, and as large as the text.
    let _ = fs::remove_file(folder.join("tokens.bin"));
    Ok(row)
}

/// The study's command, without the folders of this machine.
fn command(study: &Study, place: &Place) -> String {
    let bare = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let data = place.data.as_deref().map_or(String::new(), |path| format!(" --data {}", bare(path)));
    let quick = if place.quick { " --quick" } else { "" };
    format!("parloop study {}{data} --out out/{}{quick}", bare(&place.file), study.name)
}

fn vocabulary(options: &TrainOptions, summary: Option<&Summary>) -> Result<usize> {
    Ok(match summary {
        Some(summary) => Checkpoint::open(&summary.checkpoint)?.config().vocab_size,
        None if options.tokenizer == "bytes" => 256,
        None => options.vocab_size,
    })
}

/// Tests the finished model.
fn test(place: &Place, run: &Run, checkpoint: &Path, row: &mut Row) -> Result<()> {
    let checkpoint = Checkpoint::open(checkpoint)?;
    let mut engine = Engine::new(Arc::new(Model::new(&checkpoint)?), Some(1))?;
    match &run.learns {
        Learns::Text { path } => {
            let tokenizer = super::super::tokenizer(&checkpoint)?;
            let aside = folder(place, run).join("tokens.bin");
            let file = TokenFile::prepare(&Source::open(path)?, tokenizer, run.options.val_fraction, &aside)?;
            let held = file.ids(file.train()..file.train() + file.val());
            let (context, bytes) = (run.options.context, file.val_bytes() as usize);
            let found = perplexity::perplexity(&mut engine, &held, bytes, context, context, None)?;
            (row.nats, row.bits_per_byte) = (Some(found.nats_per_token), Some(found.bits_per_byte));
        }
        Learns::Task { task, tests, .. } => {
            for split in task.splits()?.into_iter().filter(|split| *split != Split::Train) {
                let path = problems(&place.out, task, split, TEST_SEED, *tests)?;
                let scores = score::score(&mut engine, &path, &items::read(&path)?)?;
                row.splits.insert(split.name().to_owned(), scores);
            }
        }
    }
    Ok(())
}

/// A file of problems, made if it is not there.
pub fn problems(out: &Path, task: &Task, split: Split, seed: u64, count: usize) -> Result<PathBuf> {
    let folder = out.join("data");
    let path = folder.join(format!("{}.{}.{count}.jsonl", task.label(), split.name()));
    if path.exists() {
        return Ok(path);
    }
    let failed = || format!("cannot write {}", path.display());
    fs::create_dir_all(&folder).with_context(failed)?;
    let mut bytes = Vec::new();
    items::write(&task.problems(split, seed, count)?, &mut bytes)?;
    // Several runs may make the same file at once: each its own, and the last one wins with the same content.
    let aside = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&aside, bytes).and_then(|()| fs::rename(&aside, &path)).with_context(failed)?;
    Ok(path)
}

fn log(folder: &Path) -> Result<Vec<LogRow>> {
    let path = folder.join("train.jsonl");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// Seconds of training by the log, whatever was interrupted in between.
fn seconds(log: &[LogRow]) -> f64 {
    let before = std::iter::once(0).chain(log.iter().map(|row| row.tokens));
    log.iter().zip(before).map(|(row, before)| (row.tokens - before) as f64 / row.tokens_per_second.max(1e-9)).sum()
}

/// 2 x weights of the matrices x how often a token goes through them; later loops with shared keys and values but
/// without a window of their own make none.
fn flops_per_token(config: &ModelConfig) -> u64 {
    let d = config.hidden_size;
    let (q, kv) = (config.query_width(), config.kv_width());
    let pass = |r: usize| {
        let own = if config.recipe.has_own_kv(r) { 2 * d * kv } else { 0 };
        config.num_hidden_layers * (2 * d * q + own + 3 * d * config.intermediate_size)
    };
    let passes: usize = (0..config.recipe.count).map(pass).sum();
    2 * (passes + d * config.vocab_size) as u64
}

/// The most memory that this process held.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).map_or(0, |kb| kb * 1024)
}

/// What a result was made on.
pub fn machine() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let isa = parloop_kernels::Isa::best();
    let cores = crate::commands::plural(cores, "core", "cores");
    format!("{}, {cores}, {isa:?}", model.map_or(std::env::consts::ARCH, |(_, name)| name.trim()))
}
