//! `parloop pack`: weights as the kernels read them, kept beside the model.

use super::{bytes, counted};
use crate::args::Pack;
use anyhow::Result;
use parloop_engine::packed;
use parloop_kernels::{Machine, Pool};
use parloop_model::Checkpoint;

pub fn pack(args: &Pack) -> Result<()> {
    let checkpoint = Checkpoint::open(&args.model)?;
    let bar = indicatif::ProgressBar::new(0).with_message("packing weights");
    let Machine { isa, threads, .. } = args.machine.chosen()?;
    let written = packed::write(&checkpoint, args.weights, &mut Pool::on(isa, threads), &mut counted(&bar));
    bar.finish_and_clear();
    let written = written?;
    eprintln!("wrote {}: {} matrices, {}", written.path.display(), written.matrices, bytes(written.bytes as usize));
    Ok(())
}
