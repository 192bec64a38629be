//! What a person sees of a run: a bar on a terminal, plain lines elsewhere.

use crate::commands::plural;
use indicatif::{ProgressBar, ProgressStyle};
use parloop_model::{ModelConfig, tensors};
use parloop_train::{Event, LogRow, TrainOptions};
use std::io::IsTerminal;

/// Draws a run's events on standard error.
#[derive(Default)]
pub struct Progress {
    steps: usize,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Draws one event.
    pub fn draw(&mut self, event: &Event<'_>) {
        match event {
            Event::Started { config, options, train_tokens, val_tokens, step, .. } => {
                say!("{}", model(config));
                say!("text: {train_tokens} training tokens, {val_tokens} validation tokens");
                say!("{}", run(options, *step));
                self.start(options.steps, *step);
            }
            Event::Logged(row) => self.row(row),
            Event::Skipped { step, what, value, usual, .. } => {
                let usual = usual.map_or(String::new(), |usual| format!(", usually {usual:.3}"));
                self.line(&format!("step {step} skipped: its {what} is {value:.3}{usual}"));
            }
            Event::Sampled { step, prompt, text } => self.line(&format!("--- step {step} ---\n{prompt}|{text}\n---")),
            Event::Ended { .. } => self.bar.iter().for_each(ProgressBar::abandon),
            _ => {}
        }
    }

    fn start(&mut self, steps: usize, step: usize) {
        self.steps = steps;
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(steps as u64).with_position(step as u64);
            let template = "{bar:24} step {pos}/{len}  {msg}  {eta} left";
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.reset_eta();
            self.bar = Some(bar);
        }
    }

    fn row(&self, row: &LogRow) {
        let facts = format!("loss {:.4}  {:.0} tokens/s", row.loss, row.tokens_per_second);
        let bytes = row.val_bits_per_byte.map_or(String::new(), |bits| format!(", {bits:.4} bits per byte"));
        let validation = row.val_loss.map(|nats| format!("validation loss {nats:.4} nats per token{bytes}"));
        if let Some(bar) = &self.bar {
            bar.set_position(row.step as u64);
            bar.set_message(facts);
            if let Some(validation) = validation {
                bar.println(format!("step {}: {validation}", row.step));
            }
            return;
        }
        let per_step = row.tokens as f64 / row.step as f64;
        let left = (self.steps - row.step) as f64 * per_step / row.tokens_per_second.max(1e-9);
        let validation = validation.map_or(String::new(), |v| format!("  {v}"));
        let (step, steps) = (row.step, self.steps);
        say!("step {step}/{steps}  {facts}  lr {:.2e}  {} left{validation}", row.lr, clock(left));
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => say!("{text}"),
        }
    }
}

fn model(config: &ModelConfig) -> String {
    format!(
        "model: {:.2}M parameters, {}, width {}, vocabulary {}; {}",
        tensors::parameters(config) as f64 / 1e6,
        plural(config.num_hidden_layers, "layer", "layers"),
        config.hidden_size,
        config.vocab_size,
        config.recipe.describe()
    )
}

fn run(options: &TrainOptions, step: usize) -> String {
    let continued = if step > 0 { format!(", continued after step {step}") } else { String::new() };
    let tokens = plural(options.tokens_per_step(), "token", "tokens");
    format!("run: {} of {tokens}{continued}", plural(options.steps, "step", "steps"))
}

/// Seconds as `h:mm:ss`.
pub fn clock(seconds: f64) -> String {
    let s = seconds as u64;
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}
