//! `parloop pack`: weights as the kernels read them, kept beside the model.

use super::{bytes, counted, plural};
use crate::args::machine::Machine;
use crate::args::model::Source;
use crate::args::names::{WEIGHTS, named};
use anyhow::Result;
use clap::Args;
use parloop_engine::packed;
use parloop_kernels::{Machine as Chosen, Pool, WeightType};

/// Keep converted weights in a file, so that the next load takes them from there in place
///
/// Weights of 8 and 4 bits are packed for the kernels whenever a model is loaded, and packing to 4 bits searches for the
/// best scales. This does it once and writes the result beside the model: packed-TYPE.parloop in its folder, or
/// MODEL.gguf.packed.parloop beside a GGUF file. Every command that loads the model with the same --weights finds it,
/// checks it against the model and its checksums, and uses it in place. The model itself is still needed, and the file
/// may be deleted at any time.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop pack models/loopcoder-v2 --weights q4
  parloop run models/loopcoder-v2 --weights q4 -p 'fn main'     loads at once
  parloop pack model-q4_0.gguf                                  the file's own types")]
pub struct Pack {
    #[command(flatten)]
    model: Source,
    /// Type of the matrices: q8 (8.5 bits a weight), q4_1 (5 bits), q4 (4.5 bits); the file's own if left out
    #[arg(long, value_name = "TYPE", value_parser = named(WEIGHTS))]
    weights: Option<WeightType>,
    #[command(flatten)]
    machine: Machine,
}

pub fn pack(args: &Pack) -> Result<()> {
    let checkpoint = args.model.open()?;
    let bar = indicatif::ProgressBar::new(0).with_message("packing weights");
    let Chosen { isa, threads, .. } = args.machine.chosen()?;
    let written = packed::write(&checkpoint, args.weights, &mut Pool::on(isa, threads), &mut counted(&bar));
    bar.finish_and_clear();
    let written = written?;
    say!(
        "wrote {}: {}, {}",
        written.path.display(),
        plural(written.matrices, "matrix", "matrices"),
        bytes(written.bytes as usize)
    );
    Ok(())
}
