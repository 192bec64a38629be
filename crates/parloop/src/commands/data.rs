//! `parloop data`: text and conversations become what training reads.

use super::{bytes, output, plural};
use crate::args::model::{Ignored, Source};
use crate::args::numbers::from_to;
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use indicatif::{ProgressBar, ProgressStyle};
use parloop_model::{TextSettings, Tokenizer};
use parloop_train::data::{Format, Kind, Manifest, PrepareJob, Prepared, prepare};
use std::path::{Path, PathBuf};

/// Prepare data for training, or check data that was prepared
#[derive(Debug, Args)]
pub struct Data {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Prepare(Prepare),
    Check(Check),
}

/// Tokenise texts, examples and conversations once, into shards that training maps
///
/// The folder holds shards with ids, masks and document ends, the tokenizer, and `manifest.json` with the hash of everything
/// that was read and written. `parloop train --data FOLDER` checks the hashes and takes the tokenizer from it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop data prepare texts/ --tokenizer tokenizer.json --out data/texts
  parloop data prepare web.jsonl --text-key content --tokenizer models/base --out data/web
  parloop data prepare chats.jsonl --tokenizer models/instruct --out data/chats    through the model's chat template
  zcat web.jsonl.gz | parloop data prepare - --format jsonl --tokenizer bytes --out data/web
  parloop train --data data/web --out out/plt2

A text file is a document, and so is each line of a JSON file: {\"text\": ...}, {\"messages\": [{\"role\", \"content\"}, ...]} or
{\"prompt\": ..., \"answer\": ...}, and each row of a parquet file. Of conversations and prompts only the answers are trained on. Documents begin and end with the tokenizer's marks.")]
struct Prepare {
    /// Text files, lines of JSON (.jsonl), parquet files, folders of all these; - for standard input
    #[arg(required = true, value_name = "INPUT", value_hint = ValueHint::AnyPath)]
    inputs: Vec<PathBuf>,
    /// bytes, a tokenizer.json, or a model whose tokenizer and chat template are taken
    #[arg(long, value_name = "TOKENIZER", value_hint = ValueHint::AnyPath)]
    tokenizer: PathBuf,
    /// Folder to write
    #[arg(short, long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    #[command(flatten)]
    replace: output::Replace,
    #[command(flatten)]
    ignored: Ignored,
    /// Read every input so, whatever it is called
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// Key of the text in lines of JSON, its column in parquet files
    #[arg(long, value_name = "KEY", default_value = "text")]
    text_key: String,
    /// Leave out documents of more tokens
    #[arg(long, value_name = "N", value_parser = from_to::<u32, 1, 1_000_000_000>, allow_negative_numbers = true)]
    longest: Option<u32>,
    /// Tokens of a shard
    #[arg(long, value_name = "N", default_value = "134217728", value_parser = from_to::<u64, 1, 1_000_000_000_000>, allow_negative_numbers = true)]
    shard_tokens: u64,
    /// Draw no bar
    #[arg(short, long)]
    quiet: bool,
}

/// Compare prepared data with its hashes, and the files that it was made of with theirs
#[derive(Debug, Args)]
struct Check {
    /// Folder that `parloop data prepare` wrote
    #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    folder: PathBuf,
}

/// How inputs are read.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FormatArg {
    /// A document each file
    Text,
    /// A document each line
    Jsonl,
    /// A document each row
    Parquet,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Text => Self::Text,
            FormatArg::Jsonl => Self::Lines,
            FormatArg::Parquet => Self::Parquet,
        }
    }
}

pub fn data(args: &Data) -> Result<()> {
    match &args.what {
        What::Prepare(args) => make(args),
        What::Check(args) => check(args),
    }
}

fn make(args: &Prepare) -> Result<()> {
    let input = args.inputs.iter().any(|input| input == Path::new("-"));
    if input && !matches!(args.format, Some(FormatArg::Text | FormatArg::Jsonl)) {
        bail!("standard input has no name to tell its form by: give --format text or --format jsonl");
    }
    let read: Vec<&Path> = args.inputs.iter().chain([&args.tokenizer]).map(PathBuf::as_path).collect();
    args.replace.folder(&args.out, &read)?;
    let (tokenizer, settings) = tokenizer(&args.tokenizer, &args.ignored)?;
    let mut job = PrepareJob::new(args.inputs.clone(), &args.out);
    job.replace = args.replace.force;
    job.format = args.format.map(Into::into);
    job.text_key.clone_from(&args.text_key);
    job.longest = args.longest.map_or(0, |n| n as usize);
    job.shard_tokens = args.shard_tokens;
    let bar = if args.quiet { ProgressBar::hidden() } else { bytes_bar() };
    let done = prepare(&job, &tokenizer, &settings, &mut |done, all| {
        if all > 0 {
            bar.set_length(all);
        }
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let manifest = done?;
    if !args.quiet {
        say!("{}", described(&manifest));
        if manifest.left_out > 0 {
            let documents = plural(manifest.left_out as usize, "document was", "documents were");
            say!("{documents} left out: more tokens than --longest");
        }
        say!("saved {}; train on it: parloop train --data {0} --out FOLDER", args.out.display());
    }
    Ok(())
}

/// A bar of bytes, on a terminal.
fn bytes_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left");
    ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn described(manifest: &Manifest) -> String {
    format!(
        "{} in {} {}, {:.3} tokens a byte; {} of {}",
        plural(manifest.tokens as usize, "token", "tokens"),
        plural(manifest.documents as usize, "document", "documents"),
        match manifest.kind {
            Kind::Text => "of text",
            Kind::Answers => "with answers",
        },
        manifest.tokens as f64 / manifest.text.max(1) as f64,
        plural(manifest.shards.len(), "shard", "shards"),
        plural(manifest.sources.len(), "file", "files")
    )
}

fn check(args: &Check) -> Result<()> {
    if !Prepared::is_in(&args.folder) {
        bail!("{} is not a folder that `parloop data prepare` wrote: it has no manifest.json", args.folder.display());
    }
    let data = Prepared::open(&args.folder)?;
    put!("{}; {} of text", described(data.manifest()), bytes(data.manifest().text as usize));
    let changed = data.changed_sources()?;
    for (path, what) in &changed {
        say!("{} {what} since it was read", path.display());
    }
    if !changed.is_empty() {
        bail!("the shards are as they were written, but {} of their files are not: prepare them again", changed.len());
    }
    Ok(())
}

/// The tokenizer of a name, and what comes with it.
pub fn tokenizer(path: &Path, ignored: &Ignored) -> Result<(Tokenizer, TextSettings)> {
    if path == Path::new("bytes") {
        return Ok((Tokenizer::Bytes, TextSettings::default()));
    }
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
        let text = super::read_text(path)?;
        let tokenizer = Tokenizer::from_json(&text).with_context(|| path.display().to_string())?;
        return Ok((tokenizer, TextSettings::default()));
    }
    let model = Source { model: path.to_owned(), ignored: ignored.clone() }.open()?;
    let tokenizer = model.tokenizer().with_context(|| format!("{} has no tokenizer", path.display()))?.clone();
    Ok((tokenizer, model.settings().clone()))
}
