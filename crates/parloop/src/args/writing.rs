//! How a text is written: what `parloop run` and `parloop chat` have in common.

use super::names::{PASSES, named};
use super::numbers::{from_to, tokens};
use super::sampling::Sampling;
use clap::Args;
use parloop_engine::{Generation, Passes, Prefill};
use parloop_model::GenerationDefaults;

/// How a text is written.
#[derive(Clone, Debug, Args)]
pub struct Writing {
    /// Tokens to write at most, -1 for as many as the context holds; the model's own setting if left out, or else 100
    /// (1000 for an answer of chat)
    #[arg(short = 'n', long, value_name = "N", value_parser = tokens, allow_negative_numbers = true)]
    pub tokens: Option<usize>,
    /// End the text before this, which is not printed; may be given more than once
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub stop: Vec<String>,
    /// Go on past the model's end-of-text token
    #[arg(long)]
    pub ignore_eos: bool,
    /// How the loops of a token run: auto is one pass for all where the recipe allows it
    #[arg(long, alias = "mode", value_name = "WAY", default_value = "auto", value_parser = named(PASSES))]
    pub passes: Passes,
    /// Prompt tokens processed at a time
    #[arg(long, default_value = "512", value_name = "N", value_parser = from_to::<usize, 1, { 1 << 20 }>, allow_negative_numbers = true)]
    pub chunk: usize,
    /// Do not print the line of figures
    #[arg(short, long)]
    pub quiet: bool,
    /// Print JSON objects instead of text, one a line and nothing else on standard output
    #[arg(long)]
    pub json: bool,
}

impl Writing {
    /// The flags, completed by what the model asks for; `usual` tokens where neither says how many.
    pub fn generation(&self, sampling: &Sampling, model: &GenerationDefaults, usual: usize) -> Generation {
        Generation {
            tokens: self.tokens.or(model.max_new_tokens).unwrap_or(usual),
            sampling: sampling.options(model),
            prefill: Prefill { chunk: self.chunk, ..Prefill::default() },
            passes: self.passes,
            ignore_end: self.ignore_eos,
        }
    }
}
