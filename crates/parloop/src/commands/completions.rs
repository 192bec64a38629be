//! `parloop completions`: scripts with which shells complete commands, options and their values.

use crate::args::Args;
use anyhow::Result;
use clap::CommandFactory;
use std::io::Write;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  parloop completions bash > ~/.local/share/bash-completion/completions/parloop")]
pub struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

pub fn completions(args: &Completions) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "parloop", &mut script);
    Ok(std::io::stdout().lock().write_all(&script)?)
}
