//! `parloop train --dry-run`: what a run would take.

use super::clock;
use crate::commands::{bytes, plural};
use anyhow::{Context, Result};
use parloop_train::data::{Manifest, Prepared};
use parloop_train::{Plan, TrainOptions, plan};
use std::io::Write;
use std::path::Path;

/// Prints what a run of these options would take.
pub fn run(options: &TrainOptions, data: &Path) -> Result<()> {
    std::fs::metadata(data).with_context(|| format!("cannot read {}", data.display()))?;
    let mut options = options.clone();
    let manifest = Prepared::is_in(data).then(|| Manifest::read(data)).transpose()?;
    if let Some(manifest) = manifest.as_ref().filter(|_| options.init.is_empty()) {
        // The data brings its tokenizer.
        (options.vocab_size, options.tokenizer) = (manifest.vocabulary, data.display().to_string());
    }
    let plan = plan(&options, true)?;
    let mut said = text(&plan, &options);
    if let Some(manifest) = manifest {
        let epochs = plan.tokens.1 as f64 / manifest.tokens as f64;
        said += &format!("{:<12} {} tokens: the run goes through them {epochs:.2} times\n", "data", manifest.tokens);
    }
    std::io::stdout().write_all(said.as_bytes())?;
    Ok(())
}

fn text(plan: &Plan, options: &TrainOptions) -> String {
    let of = |n: u64| format!("{:.2}M", n as f64 / 1e6);
    let size = |n: u64| bytes(usize::try_from(n).unwrap_or(usize::MAX));
    let mut rows = vec![
        ("recipe", plan.config.recipe.describe()),
        ("parameters", format!("{}, of which {} are trained", of(plan.parameters), of(plan.trained))),
        ("operations", format!("{:.1} MFLOP a token, forward and backward", plan.flops_per_token as f64 / 1e6)),
        ("activations", format!("{} a token of a batch", size(plan.bytes_per_token))),
        (
            "memory",
            format!(
                "at least {}: {} of weights, gradients and optimiser, {} of activations",
                size(plan.bytes()),
                size(plan.state_bytes),
                size(plan.activation_bytes)
            ),
        ),
        (
            "run",
            format!(
                "{} of {}, {} tokens in all",
                plural(options.steps, "step", "steps"),
                plural(plan.tokens.0 as usize, "token", "tokens"),
                of(plan.tokens.1)
            ),
        ),
    ];
    if let (Some((batch, step)), Some(seconds)) = (plan.seconds, plan.step_seconds) {
        let speed = plan.tokens.0 as f64 / seconds;
        rows.push((
            "measured",
            format!(
                "{batch:.3} s a batch of {} x {}, {step:.3} s the optimiser: {speed:.0} tokens/s, {:.1} GFLOP/s",
                options.batch,
                options.context,
                speed * plan.flops_per_token as f64 / 1e9
            ),
        ));
        let all = seconds * options.steps as f64;
        rows.push(("time", format!("about {} without validations and checkpoints", clock(all))));
    }
    if options.tokenizer == "bpe" {
        rows.push(("tokenizer", format!("to be trained; counted with {} ids", plan.config.vocab_size)));
    }
    rows.into_iter().map(|(name, text)| format!("{name:<12} {text}\n")).collect()
}
