//! `parloop quantize`: a model as one GGUF file.

use super::{bytes, counted, output};
use crate::args::machine::Machine;
use crate::args::model::Source;
use crate::args::names::{STORED, named, type_name};
use anyhow::{Context, Result};
use clap::{Args, ValueHint};
use parloop_model::{DType, gguf};
use std::path::PathBuf;

/// Write a model as one GGUF file, its matrices in a type of choice
///
/// A plain transformer becomes a file of architecture `llama`, which llama.cpp opens too; a looped model becomes one of
/// architecture `parloop`, which holds its recipe and which other engines refuse. Norms, gates and biases stay f32;
/// for types below 6 bits the output head is stored as q6_k. docs/gguf.md has the details.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop quantize out/plt2 --type q8_0 --out plt2.gguf
  parloop quantize out/plt2 --type q4_k --out plt2-q4.gguf
  parloop quantize model.gguf --type q4_0 --out smaller.gguf      from one GGUF file to another
  parloop run plt2.gguf -p 'Once'

Types, in bits a weight: f32, f16 and bf16 (16), q8_0 (8.5), q6_k (6.6), q5_1 (6), q5_k and q5_0 (5.5), q4_1 (5),
q4_k and q4_0 (4.5). Rows of a matrix that are no whole number of the type's blocks (256 weights for q4_k, q5_k and
q6_k, otherwise 32) are stored as q5_0, q5_1, q8_0 or f16 instead; the command says which.")]
pub struct Quantize {
    #[command(flatten)]
    model: Source,
    /// File to be written
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, required_unless_present = "file", conflicts_with = "file")]
    out: Option<PathBuf>,
    /// The file to be written, without --out
    #[arg(hide = true)]
    file: Option<PathBuf>,
    /// Type of the matrices
    #[arg(long = "type", value_name = "TYPE", value_parser = named(STORED))]
    dtype: DType,
    #[command(flatten)]
    replace: output::Replace,
    #[command(flatten)]
    machine: Machine,
}

pub fn quantize(args: &Quantize) -> Result<()> {
    let target = args.out.as_ref().or(args.file.as_ref()).context("give the file to be written with --out")?;
    let out = target.display();
    // The tensors are read from the mapped file while the new one is written.
    args.replace.file(target, &[&args.model.path()?])?;
    let checkpoint = args.model.open()?;
    output::parent(target)?;
    let bar = indicatif::ProgressBar::new(0).with_message("writing tensors");
    let threads = args.machine.threads()?;
    let written = gguf::quantize(&checkpoint, target, args.dtype, threads, &mut counted(&bar));
    bar.finish_and_clear();
    let written = written?;
    for (name, width, kind) in &written.fallbacks {
        let (wanted, kind) = (type_name(args.dtype), type_name(*kind));
        say!("{name}: rows of {width} are no whole blocks of {wanted}, stored as {kind}");
    }
    say!("{:<8} {:>8} {:>14} {:>12}", "type", "tensors", "weights", "size");
    for (kind, tensors, elements) in &written.types {
        let size = *elements as f64 * kind.bits() / 8.0;
        say!("{:<8} {tensors:>8} {elements:>14} {:>12}", type_name(*kind), bytes(size as usize));
    }
    let bits = 8.0 * written.tensor_bytes as f64 / written.elements as f64;
    say!("wrote {out}: {}, {bits:.2} bits a weight", bytes(written.bytes as usize));
    Ok(())
}
