//! What a person sees: a progress line on a terminal, plain lines elsewhere.

use super::LogRow;
use crate::data::Windows;
use crate::model::LoopModel;
use crate::options::TrainOptions;
use indicatif::{ProgressBar, ProgressStyle};
use parloop_model::tensors;
use std::io::IsTerminal;

pub(super) struct Progress {
    quiet: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(super) fn new(quiet: bool) -> Self {
        Self { quiet, bar: None }
    }

    pub(super) fn start(&mut self, model: &LoopModel, windows: &Windows, options: &TrainOptions, step: usize) {
        if self.quiet {
            return;
        }
        let (config, tokens) = (model.config(), windows.tokens());
        eprintln!(
            "model: {:.2}M parameters, {} layers, width {}, vocabulary {}; {}",
            tensors::parameters(config) as f64 / 1e6,
            config.num_hidden_layers,
            config.hidden_size,
            config.vocab_size,
            config.recipe.describe()
        );
        eprintln!("text: {} training tokens, {} validation tokens", tokens.train(), tokens.val());
        eprintln!(
            "run: {} steps of {} tokens{}",
            options.steps,
            options.tokens_per_step(),
            if step > 0 { format!(", continued after step {step}") } else { String::new() }
        );
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(options.steps as u64).with_position(step as u64);
            let template = "{bar:24} step {pos}/{len}  {msg}  {eta} left";
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.reset_eta();
            self.bar = Some(bar);
        }
    }

    pub(super) fn row(&self, row: &LogRow, steps: usize) {
        if self.quiet {
            return;
        }
        let facts = format!("loss {:.4}  {:.0} tokens/s", row.loss, row.tokens_per_second);
        let validation = row
            .val_loss
            .zip(row.val_bits_per_byte)
            .map(|(nats, bits)| format!("validation loss {nats:.4} nats per token, {bits:.4} bits per byte"));
        if let Some(bar) = &self.bar {
            bar.set_position(row.step as u64);
            bar.set_message(facts);
            if let Some(validation) = validation {
                bar.println(format!("step {}: {validation}", row.step));
            }
            return;
        }
        let per_step = row.tokens as f64 / row.step as f64;
        let left = (steps - row.step) as f64 * per_step / row.tokens_per_second.max(1e-9);
        let validation = validation.map_or(String::new(), |v| format!("  {v}"));
        eprintln!("step {}/{steps}  {facts}  lr {:.2e}  {} left{validation}", row.step, row.lr, clock(left));
    }

    pub(super) fn sample(&self, step: usize, prompt: &str, text: &str) {
        let text = format!("--- step {step} ---\n{prompt}|{text}\n---");
        match &self.bar {
            Some(bar) => bar.println(text),
            None if !self.quiet => eprintln!("{text}"),
            None => {}
        }
    }

    pub(super) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }
}

/// Seconds as `h:mm:ss`.
fn clock(seconds: f64) -> String {
    let s = seconds as u64;
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}
