//! What is kept from one run to the next.

use clap::{Args, ValueHint};
use std::path::PathBuf;

/// Files that hold what was computed for a text.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "State (what was computed for a text, kept in a file)")]
pub struct State {
    /// Use of this file what it has in common with the prompt, and keep the prompt's state in it for the next run
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub prompt_cache: Option<PathBuf>,
    /// Go on from the text whose state --save-state kept; the prompt, which may be empty, follows it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "prompt_cache")]
    pub load_state: Option<PathBuf>,
    /// Keep the state after the whole text, for --load-state; also when Ctrl-C ends the run
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub save_state: Option<PathBuf>,
}
