//! `parloop convert`: the same model in another element type, in one file or in shards.

use super::{bytes, checkpoint};
use crate::args::Convert;
use anyhow::{Context, Result, ensure};
use parloop_model::checkpoint::{CheckpointWriter, TensorData};
use parloop_model::tensors;
use std::borrow::Cow;

pub fn convert(args: &Convert) -> Result<()> {
    let checkpoint = checkpoint(&args.model)?;
    if let (Some(from), true) = (checkpoint.path(), args.out.is_dir()) {
        let (from, out) = (std::fs::canonicalize(from)?, std::fs::canonicalize(&args.out)?);
        ensure!(!from.starts_with(&out), "{} is or holds the model itself: give another --out", args.out.display());
        ensure!(args.force, "{} exists already: give another folder, or --force to replace it", args.out.display());
    }
    let mut config = checkpoint.config().clone();
    config.torch_dtype = Some(args.dtype.dtype().name().into());
    let data: Result<Vec<TensorData<'_>>> = tensors::expected(&config)
        .into_iter()
        .map(|spec| {
            let values = Cow::Owned(checkpoint.tensor(&spec.name)?.to_f32());
            Ok(TensorData { name: spec.name, shape: spec.shape, dtype: args.dtype.dtype(), values })
        })
        .collect();
    let writer = CheckpointWriter::create(&args.out)?;
    writer.model(&config, checkpoint.tokenizer())?;
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
