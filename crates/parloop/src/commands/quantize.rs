//! `parloop quantize`: a model as one GGUF file.

use super::{bytes, counted};
use crate::args::{Quantize, short_name};
use anyhow::{Result, ensure};
use parloop_model::{Checkpoint, gguf};

pub fn quantize(args: &Quantize) -> Result<()> {
    let out = args.out.display();
    ensure!(!args.out.is_dir(), "{out} is a folder: give the name of a file to be written");
    let checkpoint = Checkpoint::open(&args.model)?;
    if args.out.exists() {
        // The tensors are read from the mapped file while the new one is written.
        let same = std::fs::canonicalize(&args.model)? == std::fs::canonicalize(&args.out)?;
        ensure!(!same, "{out} is the model itself: give another file");
        ensure!(args.force, "{out} exists already: give another file, or --force to replace it");
    }
    let bar = indicatif::ProgressBar::new(0).with_message("writing tensors");
    let threads = args.machine.threads()?;
    let written = gguf::quantize(&checkpoint, &args.out, args.dtype, threads, &mut counted(&bar));
    bar.finish_and_clear();
    let written = written?;
    for (name, width, kind) in &written.fallbacks {
        let (wanted, kind) = (short_name(args.dtype), short_name(*kind));
        eprintln!("{name}: rows of {width} are no whole blocks of {wanted}, stored as {kind}");
    }
    eprintln!("{:<8} {:>8} {:>14} {:>12}", "type", "tensors", "weights", "size");
    for (kind, tensors, elements) in &written.types {
        let size = *elements as f64 * kind.bits() / 8.0;
        eprintln!("{:<8} {tensors:>8} {elements:>14} {:>12}", short_name(*kind), bytes(size as usize));
    }
    let bits = 8.0 * written.tensor_bytes as f64 / written.elements as f64;
    eprintln!("wrote {out}: {}, {bits:.2} bits a weight", bytes(written.bytes as usize));
    Ok(())
}
