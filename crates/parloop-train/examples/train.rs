//! Trains from a TOML file: `cargo run --release -p parloop-train --example train -- TEXT OUT [OPTIONS.toml] [--resume]`.
//! `parloop train` is the command for people; this one needs nothing but this crate.

use parloop_train::{Event, Hooks, Settings, TrainJob, TrainOptions, train};
use std::sync::atomic::AtomicBool;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (flags, args): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let [data, out, rest @ ..] = args.as_slice() else {
        return Err("usage: train TEXT OUT [OPTIONS.toml] [--resume]".into());
    };
    let resume = flags.iter().any(|f| f == "--resume");
    let mut settings = if resume { Settings::all_of(&TrainOptions::of_run(out.as_ref())?) } else { Settings::new() };
    if let Some(file) = rest.first() {
        settings.add_toml(&std::fs::read_to_string(file)?)?;
    }
    let mut job = TrainJob::new(data, out, settings.options()?);
    job.resume = resume;
    let stop = AtomicBool::new(false);
    let mut hooks = Hooks::new(&stop).observer(|event| match event {
        Event::Logged(row) => println!("step {} loss {:.4}", row.step, row.loss),
        Event::Saved { checkpoint, .. } => println!("saved {}", checkpoint.display()),
        _ => {}
    });
    let summary = train(&job, &mut hooks)?;
    println!("{summary:#?}");
    Ok(())
}
