//! `parloop pull`: fetches a model's files from a hub.
//!
//! The hub is whatever `HF_ENDPOINT` names, or else the usual one, and is not trusted: what it lists decides nothing but names inside one
//! folder, and sizes and hashes that the files must then have.

mod fetch;
mod hub;
mod listing;
mod place;
mod retry;

use super::{bytes, output, plural};
use crate::cache::Repository;
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueHint};
use fetch::Found;
use hub::Hub;
use indicatif::{ProgressBar, ProgressStyle};
use listing::Listing;
use place::{Place, Target};
use std::path::PathBuf;

/// Fetch a model from a hub, to be run by its name or from a folder
///
/// The hub is https://huggingface.co, or the address in HF_ENDPOINT; HF_TOKEN, if it is set, is sent to that address and
/// to no other. Sizes and hashes are checked. What is already there and right is not fetched again, and what was
/// interrupted goes on from its .part file when the same command is run again.
///
/// Without --out the model goes to the folder of fetched models, which `parloop list` names, and runs by its name.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop pull OWNER/NAME                                   then: parloop run OWNER/NAME -p 'Once'
  parloop pull OWNER/NAME --out models/instruct --revision v1.1
  parloop pull OWNER/NAME --include '*Q4_K_M.gguf'          this file only

Without --include: config.json, generation_config.json, special_tokens_map.json, added_tokens.json, tokenizer*,
chat_template*, and the safetensors files with their index.")]
pub struct Pull {
    /// The model's name on the hub
    #[arg(value_name = "OWNER/NAME")]
    model: Repository,
    /// Folder to write to, instead of the folder of fetched models
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    out: Option<PathBuf>,
    /// Branch, tag or commit
    #[arg(long, value_name = "REV", default_value = "main", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    revision: String,
    /// Fetch the files whose path matches, and no others; may be given more than once
    #[arg(long, value_name = "GLOB")]
    include: Vec<glob::Pattern>,
    #[command(flatten)]
    replace: output::Replace,
}

pub fn pull(args: &Pull) -> Result<()> {
    args.out.as_deref().map(output::is_folder).transpose()?;
    let hub = Hub::from_environment()?;
    let source = format!("{} at {}", args.model, args.revision);
    let listing = Listing::get(&hub, &args.model, &args.revision).with_context(|| format!("cannot list {source}"))?;
    let chosen = listing.choose(&args.include).with_context(|| format!("nothing was fetched of {source}"))?;
    let place = match &args.out {
        Some(folder) => Place::folder(folder.clone()),
        None => Place::cache(&args.model, &args.revision, listing.commit.as_deref())?,
    };
    place.create()?;

    let mut missing = Vec::new();
    for entry in &chosen {
        let target = place.target(entry);
        match fetch::found(&target)? {
            Found::Whole => {
                place.name(&target)?;
                say!("{} is there already", entry.name);
            }
            Found::Nothing => missing.push(target),
            Found::Other => {
                // In the folder of fetched models only what was fetched has these names.
                let may = args.replace.force || args.out.is_none();
                ensure!(
                    may,
                    "{} exists already and is not what the hub has: give another --out, or --force to replace it",
                    target.path.display()
                );
                missing.push(target);
            }
        }
    }
    check_space(&place, &missing)?;
    let bar = bar(missing.iter().map(|target| target.entry.size).sum());
    let mut before = 0;
    for target in &missing {
        let entry = target.entry;
        bar.set_message(entry.name.clone());
        let url = hub.file(&args.model, listing.commit.as_deref().unwrap_or(&args.revision), &entry.name);
        let shown = |done| bar.set_position(before + done);
        let said = |text: &str| bar.suspend(|| say!("{text}"));
        fetch::fetch(&hub, &url, target, &shown, &said)
            .and_then(|()| place.name(target))
            .with_context(|| format!("cannot fetch {} of {source}", entry.name))?;
        before += entry.size;
        said(&format!("fetched {} ({})", entry.name, bytes(entry.size as usize)));
    }
    bar.finish_and_clear();
    place.finish()?;
    let commit = listing.commit.map_or(String::new(), |commit| format!(", commit {commit}"));
    let all: u64 = chosen.iter().map(|e| e.size).sum();
    let folder = place.shown();
    let files = plural(chosen.len(), "file", "files");
    say!("{} holds {source}: {files}, {}{commit}", folder.display(), bytes(all as usize));
    if args.out.is_none() {
        say!("try it: parloop run {} -p 'Once'", args.model);
    }
    Ok(())
}

/// Refuses to begin what cannot end for lack of room.
fn check_space(place: &Place, missing: &[Target<'_>]) -> Result<()> {
    // A system that does not say how much is free is no reason to stop.
    let Ok(free) = fs4::available_space(place.root()) else { return Ok(()) };
    let needed: u64 = missing.iter().map(|target| target.entry.size - fetch::present(target)).sum();
    ensure!(
        needed <= free,
        "{needed} more bytes are to be written to {}, where {free} are free: make room, or give another --out",
        place.root().display()
    );
    Ok(())
}

/// Drawn on a terminal only.
fn bar(bytes: u64) -> ProgressBar {
    let template = "{bar:24} {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left  {msg}";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style)
}
