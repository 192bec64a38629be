//! Trains from a TOML file: `cargo run --release -p parloop-train --example train -- TEXT OUT [OPTIONS.toml] [--resume]`.
//! `parloop train` is the command for people; this one needs nothing but this crate.

use parloop_train::{Hooks, TrainJob, TrainOptions, train};
use std::sync::atomic::AtomicBool;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (flags, args): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let [data, out, rest @ ..] = args.as_slice() else {
        return Err("usage: train TEXT OUT [OPTIONS.toml] [--resume]".into());
    };
    let resume = flags.iter().any(|f| f == "--resume");
    let options = match rest.first() {
        Some(file) => TrainOptions::from_toml(&std::fs::read_to_string(file)?)?,
        None if resume => TrainOptions::of_run(out.as_ref())?,
        None => TrainOptions::default(),
    };
    let job = TrainJob { data: data.into(), out: out.into(), resume, options };
    let stop = AtomicBool::new(false);
    let summary = train(&job, &mut Hooks { stop: &stop, sampler: None, quiet: false })?;
    println!("{summary:#?}");
    Ok(())
}
