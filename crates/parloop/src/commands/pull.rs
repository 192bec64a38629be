//! `parloop pull`: fetches a model's files from a hub.
//!
//! The hub is whatever `HF_ENDPOINT` names, and is not trusted: what it lists decides nothing but names inside one
//! folder, and sizes and hashes that the files must then have.

mod fetch;
mod hub;
mod listing;
mod retry;

use super::bytes;
use anyhow::{Context, Result, ensure};
use clap::Args;
use hub::Hub;
use indicatif::{ProgressBar, ProgressStyle};
use listing::{Entry, Listing};
use std::path::{Path, PathBuf};

/// Fetch a model from a hub into a folder
///
/// HF_ENDPOINT is the hub's address; HF_TOKEN, if it is set, is sent to that address and to no other. Sizes and hashes
/// are checked. What is already there and right is not fetched again, what differs is replaced, and what was
/// interrupted goes on from its .part file when the same command is run again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop pull OWNER/MODEL                                  into the folder MODEL
  parloop pull OWNER/MODEL --out models/instruct --revision v1.1
  parloop pull OWNER/MODEL --include '*Q4_K_M.gguf'         this file only

Without --include: config.json, generation_config.json, special_tokens_map.json, tokenizer*,
chat_template*, and the safetensors files with their index.")]
pub struct Pull {
    /// The model's name on the hub
    #[arg(value_name = "OWNER/MODEL")]
    pub model: Repository,
    /// Folder to write to; the model's name if left out
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
    /// Branch, tag or commit
    #[arg(long, value_name = "REV", default_value = "main", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub revision: String,
    /// Fetch the files whose path matches, and no others; may be given more than once
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<glob::Pattern>,
}

/// A model's name on a hub.
#[derive(Clone, Debug)]
pub struct Repository {
    owner: String,
    model: String,
}

impl std::str::FromStr for Repository {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let usual = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_name = |name: &str| name.chars().all(usual) && name.contains(|c: char| c.is_ascii_alphanumeric());
        match text.split_once('/') {
            Some((owner, model)) if is_name(owner) && is_name(model) => {
                Ok(Self { owner: owner.into(), model: model.into() })
            }
            _ => Err("expected OWNER/MODEL, two names of letters, digits and ._- with a slash between them".into()),
        }
    }
}

impl std::fmt::Display for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.owner, self.model)
    }
}

pub fn pull(args: &Pull) -> Result<()> {
    let hub = Hub::from_environment()?;
    let folder = args.out.clone().unwrap_or_else(|| args.model.model.clone().into());
    let source = format!("{} at {}", args.model, args.revision);
    let listing = Listing::get(&hub, &args.model, &args.revision).with_context(|| format!("cannot list {source}"))?;
    let chosen = listing.choose(&args.include).with_context(|| format!("nothing was fetched of {source}"))?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;

    let mut missing = Vec::new();
    for entry in &chosen {
        match fetch::is_whole(&folder, entry)? {
            true => eprintln!("{} is there already", entry.name),
            false => missing.push(entry),
        }
    }
    check_space(&folder, &missing)?;
    let bar = bar(missing.iter().map(|e| e.size).sum());
    let mut before = 0;
    for entry in &missing {
        bar.set_message(entry.name.clone());
        let url = hub.file(&args.model, listing.commit.as_deref().unwrap_or(&args.revision), &entry.name);
        let shown = |done| bar.set_position(before + done);
        let said = |text: &str| bar.suspend(|| eprintln!("{text}"));
        fetch::fetch(&hub, &url, &folder, entry, &shown, &said)
            .with_context(|| format!("cannot fetch {} of {source}", entry.name))?;
        before += entry.size;
        said(&format!("fetched {} ({})", entry.name, bytes(entry.size as usize)));
    }
    bar.finish_and_clear();
    let commit = listing.commit.map_or(String::new(), |commit| format!(", commit {commit}"));
    let all: u64 = chosen.iter().map(|e| e.size).sum();
    eprintln!("{} holds {source}: {} files, {}{commit}", folder.display(), chosen.len(), bytes(all as usize));
    Ok(())
}

/// Refuses to begin what cannot end for lack of room.
fn check_space(folder: &Path, missing: &[&Entry]) -> Result<()> {
    // A system that does not say how much is free is no reason to stop.
    let Ok(free) = fs4::available_space(folder) else { return Ok(()) };
    let needed: u64 = missing.iter().map(|e| e.size - fetch::present(folder, e)).sum();
    ensure!(
        needed <= free,
        "{needed} more bytes are to be written to {}, where {free} are free: make room, or give another --out",
        folder.display()
    );
    Ok(())
}

/// Drawn on a terminal only.
fn bar(bytes: u64) -> ProgressBar {
    let template = "{bar:24} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left  {msg}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style)
}
