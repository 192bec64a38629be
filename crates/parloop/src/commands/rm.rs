//! `parloop rm`: removes a fetched model.

use super::bytes;
use crate::cache::{Cache, Repository};
use anyhow::Result;
use clap::Args;

/// Remove a fetched model from the folder of fetched models
#[derive(Debug, Args)]
#[command(after_help = "Example:
  parloop rm OWNER/NAME")]
pub struct Rm {
    /// The model's name, as `parloop list` shows it
    #[arg(value_name = "OWNER/NAME")]
    model: Repository,
}

pub fn rm(args: &Rm) -> Result<()> {
    let held = Cache::from_environment()?.remove(&args.model)?;
    say!("removed {} ({})", held.folder.display(), bytes(held.bytes as usize));
    Ok(())
}
