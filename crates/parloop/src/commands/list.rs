//! `parloop list`: the fetched models.

use super::bytes;
use crate::cache::{Cache, Held};
use anyhow::Result;
use clap::Args;
use std::io::Write;

/// List the fetched models
///
/// They lie in the folder that HF_HUB_CACHE names, or in HF_HOME/hub, or in ~/.cache/huggingface/hub, in the layout
/// that other programs for the hub use too: what one of them fetched is listed here and runs.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  parloop list")]
pub struct List {
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub fn list(args: &List) -> Result<()> {
    let cache = Cache::from_environment()?;
    let models = cache.models()?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let one = |held: &Held| serde_json::json!({ "name": held.name.to_string(), "bytes": held.bytes, "folder": held.snapshot });
        let models: Vec<_> = models.iter().map(one).collect();
        return Ok(writeln!(out, "{}", serde_json::json!({ "folder": cache.root(), "models": models }))?);
    }
    let width = models.iter().map(|held| held.name.to_string().len()).max().unwrap_or(0);
    for held in &models {
        let whole = if held.snapshot.is_some() { "" } else { "  not fetched whole" };
        writeln!(out, "{:<width$}  {:>10}{whole}", held.name.to_string(), bytes(held.bytes as usize))?;
    }
    if models.is_empty() {
        say!("no models in {}: `parloop pull OWNER/NAME` fetches one", cache.root().display());
    }
    Ok(())
}
