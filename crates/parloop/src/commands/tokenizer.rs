//! `parloop tokenizer`: a tokenizer of one's own.

use super::data::FormatArg;
use super::output;
use crate::args::numbers::from_to;
use anyhow::{Context, Result, ensure};
use clap::{Args, Subcommand, ValueHint};
use indicatif::ProgressBar;
use parloop_train::data::sample_text;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Train a tokenizer
#[derive(Debug, Args)]
pub struct Tokenizer {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Train(Train),
}

/// Train a byte-level BPE tokenizer on texts
///
/// Writes a tokenizer.json; its last id is <|endoftext|>, which ends documents.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop tokenizer train texts/ --vocab-size 8192 --out tokenizer.json
  parloop tokenizer train web.jsonl --text-key content --vocab-size 16384 --out tokenizer.json
  parloop data prepare texts/ --tokenizer tokenizer.json --out data/texts")]
struct Train {
    /// Text files, lines of JSON (.jsonl), parquet files, folders of all these; - for standard input
    #[arg(required = true, value_name = "INPUT", value_hint = ValueHint::AnyPath)]
    inputs: Vec<PathBuf>,
    /// Ids, the bytes and the end mark among them
    #[arg(long, value_name = "N", value_parser = from_to::<u32, 257, 1_048_576>, allow_negative_numbers = true)]
    vocab_size: u32,
    /// File to write
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: PathBuf,
    #[command(flatten)]
    replace: output::Replace,
    /// Read every input so, whatever it is called
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// Key of the text in lines of JSON, its column in parquet files
    #[arg(long, value_name = "KEY", default_value = "text")]
    text_key: String,
    /// Megabytes of text to look at, from the beginning
    #[arg(long, value_name = "MB", default_value = "256", value_parser = from_to::<u32, 1, 65_536>, allow_negative_numbers = true)]
    megabytes: u32,
}

pub fn tokenizer(args: &Tokenizer) -> Result<()> {
    let What::Train(args) = &args.what;
    args.replace.file(&args.out, &args.inputs.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
    let input = args.inputs.iter().any(|input| input == Path::new("-"));
    ensure!(
        !input || matches!(args.format, Some(FormatArg::Text | FormatArg::Jsonl)),
        "standard input has no name to tell its form by: give --format text or --format jsonl"
    );
    let format = args.format.map(Into::into);
    let text = sample_text(&args.inputs, format, &args.text_key, (args.megabytes as usize) << 20)?;
    ensure!(!text.is_empty(), "the inputs hold no text to train a tokenizer on");
    let bar = ProgressBar::new_spinner().with_message(format!("training on {}", super::bytes(text.len())));
    bar.enable_steady_tick(Duration::from_millis(100));
    let trained = parloop_model::Tokenizer::train_bpe(&text, args.vocab_size as usize);
    bar.finish_and_clear();
    let trained = trained?;
    let file = trained.files().into_iter().find(|(name, _)| *name == "tokenizer.json");
    let (_, bytes) = file.context("the tokenizer has no file")?;
    output::write(&args.out, &bytes)?;
    say!("saved {}: {} ids, trained on {}", args.out.display(), trained.vocab_size(), super::bytes(text.len()));
    Ok(())
}
