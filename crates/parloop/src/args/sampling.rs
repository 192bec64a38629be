//! How the next token is chosen.

use super::numbers::{above_zero, at_least, penalty, seed, share, temperature};
use clap::Args;
use parloop_engine::SampleOptions;
use parloop_model::GenerationDefaults;

/// A flag comes before the model's `generation_config.json`, and that before the default.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct Sampling {
    /// Temperature; 0 always takes the most likely token [default: 0.8]
    #[arg(long, alias = "temperature", value_name = "T", value_parser = temperature, allow_negative_numbers = true)]
    pub temp: Option<f32>,
    /// Keep the K most likely tokens; 0 keeps all [default: 40]
    #[arg(long, value_name = "K", value_parser = at_least::<usize, 0>, allow_negative_numbers = true)]
    pub top_k: Option<usize>,
    /// Keep the most likely tokens up to this probability in sum; 1 keeps all [default: 0.95]
    #[arg(long, value_name = "P", value_parser = above_zero, allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Keep tokens at least this fraction as likely as the best; 0 keeps all [default: 0.05]
    #[arg(long, value_name = "P", value_parser = share, allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Make recent tokens less likely by this factor; 1 does nothing [default: 1]
    #[arg(long, value_name = "X", value_parser = penalty, allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,
    /// Tokens that count as recent
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = at_least::<usize, 0>, allow_negative_numbers = true)]
    pub repeat_last_n: usize,
    /// Seed; the same seed writes the same text
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = seed, allow_negative_numbers = true)]
    pub seed: u64,
}

impl Sampling {
    /// The flags, completed by what the model asks for and our defaults.
    pub fn options(&self, model: &GenerationDefaults) -> SampleOptions {
        let ours = SampleOptions::default();
        SampleOptions {
            temperature: self.temp.or(model.temperature()).unwrap_or(ours.temperature),
            top_k: self.top_k.or(model.top_k).unwrap_or(ours.top_k),
            top_p: self.top_p.or(model.top_p).unwrap_or(ours.top_p),
            min_p: self.min_p.or(model.min_p).unwrap_or(ours.min_p),
            repetition_penalty: self.repeat_penalty.or(model.repetition_penalty).unwrap_or(ours.repetition_penalty),
            repetition_window: self.repeat_last_n,
            seed: self.seed,
        }
    }
}
