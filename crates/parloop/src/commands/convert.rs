//! `parloop convert`: the same model in another element type or another family's form, in one file or in shards.

use super::{bytes, output};
use crate::args::model::Model;
use crate::args::names::{PLAIN, named};
use crate::args::numbers::from_to;
use anyhow::{Context, Result};
use clap::{Args, ValueHint};
use parloop_model::DType;
use parloop_model::checkpoint::{CheckpointWriter, TensorCopy};
use parloop_model::family::{self, Family};
use std::path::PathBuf;

/// Write a model in another element type or another family's form, whole or in shards
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop convert out/plt2 --type bf16 --out plt2-bf16
  parloop convert out/plt2 --type f32 --shard-mb 500 --out sharded
  parloop convert out/plt2 --to iquestpltcoder --out plt2-hf      LoopCoder-V2's keys and tensor names
  parloop convert LoopCoder-V2 --to parloop --out loopcoder       and back: the same numbers to the last bit")]
pub struct Convert {
    #[command(flatten)]
    model: Model,
    /// Folder to be written
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Element type of all tensors; if left out bf16, or with --to the type that each tensor has
    #[arg(long = "type", value_name = "TYPE", value_parser = named(PLAIN))]
    dtype: Option<DType>,
    /// Form of config.json and of tensor names: a family, or parloop; that of the model if left out
    #[arg(long, value_name = "FAMILY", value_parser = any_family)]
    to: Option<&'static Family>,
    /// Split the weights into files of about this many megabytes, with an index
    #[arg(long, value_name = "MB", value_parser = from_to::<u64, 1, { 1 << 24 }>, allow_negative_numbers = true)]
    shard_mb: Option<u64>,
    #[command(flatten)]
    replace: output::Replace,
}

fn any_family(text: &str) -> Result<&'static Family, String> {
    let names: Vec<_> = family::FAMILIES.into_iter().map(|f| f.model_type).collect();
    family::named(text).map_err(|_| format!("expected one of {}", names.join(", ")))
}

pub fn convert(args: &Convert) -> Result<()> {
    let checkpoint = args.model.open()?;
    args.replace.folder(&args.out, &checkpoint.path().into_iter().collect::<Vec<_>>())?;
    // In another form the model is meant to be the same, to the last bit.
    let dtype = match (args.dtype, args.to) {
        (Some(given), _) => Some(given),
        (None, None) => Some(DType::BF16),
        (None, Some(_)) => None,
    };
    let config = checkpoint.config();
    // A model stays what it is, so that programs which know it go on knowing it.
    let family = args.to.unwrap_or(checkpoint.family());
    let mut notes = checkpoint.notes().clone();
    if let Some(dtype) = dtype {
        notes.torch_dtype = Some(dtype.name().into());
    }
    let text = family.to_json(config, &notes)?;
    let tensors = family.tensors(&checkpoint)?;
    let copies = tensors.iter().map(|(name, tensor)| {
        let dtype = dtype.unwrap_or(tensor.dtype);
        TensorCopy { name: name.clone(), dtype, tensor }
    });
    let data: Vec<TensorCopy<'_>> = copies.collect();
    let writer = CheckpointWriter::create(&args.out)?;
    writer.file("config.json", text.as_bytes())?;
    for (name, bytes) in checkpoint.text_files() {
        writer.file(name, &bytes)?;
    }
    writer.weights(&data, args.shard_mb.map(|mb| mb << 20))?;
    writer.finish()?;
    let size: u64 = std::fs::read_dir(&args.out)
        .with_context(|| format!("cannot list {}", args.out.display()))?
        .flatten()
        .filter_map(|e| Some(e.metadata().ok()?.len()))
        .sum();
    say!("wrote {} ({})", args.out.display(), bytes(size as usize));
    Ok(())
}
