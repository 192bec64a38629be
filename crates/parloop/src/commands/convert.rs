//! `parloop convert`: the same model in another element type or another family's form, in one file or in shards.

use super::{bytes, checkpoint};
use crate::args::Convert;
use anyhow::{Context, Result, ensure};
use parloop_model::checkpoint::{CheckpointWriter, TensorCopy};
use parloop_model::{DType, tensors};

pub fn convert(args: &Convert) -> Result<()> {
    let checkpoint = checkpoint(&args.model)?;
    if let (Some(from), true) = (checkpoint.path(), args.out.is_dir()) {
        let (from, out) = (std::fs::canonicalize(from)?, std::fs::canonicalize(&args.out)?);
        ensure!(!from.starts_with(&out), "{} is or holds the model itself: give another --out", args.out.display());
        ensure!(args.force, "{} exists already: give another folder, or --force to replace it", args.out.display());
    }
    // In another form the model is meant to be the same, to the last bit.
    let dtype = match (args.dtype, args.to) {
        (Some(given), _) => Some(given.dtype()),
        (None, None) => Some(DType::BF16),
        (None, Some(_)) => None,
    };
    let mut config = checkpoint.config().clone();
    if let Some(dtype) = dtype {
        config.torch_dtype = Some(dtype.name().into());
    }
    let text = args.to.map_or_else(|| Ok(config.to_json()), |family| family.write(&config))?;
    let data: Result<Vec<TensorCopy<'_>>> = tensors::expected(&config)
        .into_iter()
        .map(|spec| {
            let tensor = checkpoint.tensor(&spec.name)?;
            Ok(TensorCopy { name: spec.name, dtype: dtype.unwrap_or(tensor.dtype), tensor })
        })
        .collect();
    let writer = CheckpointWriter::create(&args.out)?;
    writer.model(&config, checkpoint.tokenizer())?;
    writer.file("config.json", text.as_bytes())?;
    // The source's own settings say all that the tokenizer's do, and more.
    for (name, bytes) in checkpoint.companions()? {
        writer.file(name, &bytes)?;
    }
    writer.weights(&data?, args.shard_mb.map(|mb| mb << 20))?;
    writer.finish()?;
    let size: u64 = std::fs::read_dir(&args.out)
        .with_context(|| format!("cannot list {}", args.out.display()))?
        .flatten()
        .filter_map(|e| Some(e.metadata().ok()?.len()))
        .sum();
    eprintln!("wrote {} ({})", args.out.display(), bytes(size as usize));
    Ok(())
}
