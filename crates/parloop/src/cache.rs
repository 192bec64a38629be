//! Where fetched models lie: a folder in the layout that programs for the hub share, so that what one of them fetched
//! is found by the others.
//!
//! `models--OWNER--NAME/` holds `blobs/` (files by their hash), `refs/` (the commit that a branch stood at) and
//! `snapshots/COMMIT/` (files by their names, links to the blobs).

use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

/// A model's name on a hub.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Repository {
    pub owner: String,
    pub name: String,
}

impl FromStr for Repository {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let usual = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_name = |name: &str| name.chars().all(usual) && name.contains(|c: char| c.is_ascii_alphanumeric());
        match text.split_once('/') {
            Some((owner, name)) if is_name(owner) && is_name(name) => {
                Ok(Self { owner: owner.into(), name: name.into() })
            }
            _ => Err("expected OWNER/NAME, two names of letters, digits and ._- with a slash between them".into()),
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// The folder of all fetched models.
pub struct Cache {
    root: PathBuf,
}

/// What the cache holds of a model.
pub struct Held {
    pub name: Repository,
    /// Folder of everything of this model.
    pub folder: PathBuf,
    /// Bytes of all its files, each counted once.
    pub bytes: u64,
    /// Folder of the version that is used.
    pub snapshot: Option<PathBuf>,
}

impl Cache {
    /// The folder that the environment names, as other programs for the hub read it.
    ///
    /// # Errors
    /// No variable says where a cache could be.
    pub fn from_environment() -> Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = || variable("HOME").or_else(|| variable("USERPROFILE"));
        let caches = || variable("XDG_CACHE_HOME").or_else(|| Some(home()?.join(".cache")));
        let root = variable("HF_HUB_CACHE")
            .or_else(|| Some(variable("HF_HOME")?.join("hub")))
            .or_else(|| Some(caches()?.join("huggingface").join("hub")));
        let root = root.context("there is no folder for fetched models: set HF_HUB_CACHE to one")?;
        Ok(Self { root })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of a model, whether or not it is there.
    pub fn folder(&self, name: &Repository) -> PathBuf {
        self.root.join(format!("models--{}--{}", name.owner, name.name))
    }

    /// The folder or GGUF file to be opened for a model.
    ///
    /// # Errors
    /// It is not in the cache, which is said with the command that fetches it, or there are several to choose from.
    pub fn find(&self, name: &Repository) -> Result<PathBuf> {
        let folder = self.folder(name);
        // What may not be looked at is not the same as what is not there.
        let held = if is_folder(&self.root)? && is_folder(&folder)? { snapshot(&folder)? } else { None };
        let Some(snapshot) = held else {
            bail!(
                "{name} is neither a file or folder here nor among the fetched models in {}: fetch it with \
                 `parloop pull {name}`, or give the path of a model",
                self.root.display()
            );
        };
        if snapshot.join("config.json").exists() {
            return Ok(snapshot);
        }
        let mut files: Vec<PathBuf> = paths(&snapshot)?.into_iter().filter(|p| is_gguf(p)).collect();
        files.sort();
        match &files[..] {
            // Of a model in parts, the first opens the others.
            [first, ..] if files.len() == 1 || is_first_part(first) => Ok(first.clone()),
            [] => bail!(
                "{} holds neither a config.json nor a GGUF file: fetch the model with `parloop pull {name}`",
                snapshot.display()
            ),
            [first, ..] => {
                bail!("{name} is held as {} GGUF files: give the path of one, such as {}", files.len(), first.display())
            }
        }
    }

    /// Everything that is held, by name.
    ///
    /// # Errors
    /// The folder cannot be read; that there is none is no error.
    pub fn models(&self) -> Result<Vec<Held>> {
        if !is_folder(&self.root)? {
            return Ok(Vec::new());
        }
        let named = |path: PathBuf| {
            let (owner, name) = path.file_name()?.to_str()?.strip_prefix("models--")?.split_once("--")?;
            Some((format!("{owner}/{name}").parse().ok()?, path))
        };
        let found = paths(&self.root)?.into_iter().filter_map(named);
        let mut held: Vec<Held> = found.map(|(name, folder)| self.held(name, folder)).collect::<Result<_>>()?;
        held.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(held)
    }

    fn held(&self, name: Repository, folder: PathBuf) -> Result<Held> {
        Ok(Held { name, bytes: size(&folder)?, snapshot: snapshot(&folder)?, folder })
    }

    /// Removes a model; returns what was held of it.
    ///
    /// # Errors
    /// It is not there, or cannot be removed.
    pub fn remove(&self, name: &Repository) -> Result<Held> {
        let folder = self.folder(name);
        let root = self.root.display();
        ensure!(
            is_folder(&self.root)? && is_folder(&folder)?,
            "{name} is not among the fetched models in {root}: `parloop list` shows them"
        );
        let held = self.held(name.clone(), folder)?;
        std::fs::remove_dir_all(&held.folder).with_context(|| format!("cannot remove {}", held.folder.display()))?;
        Ok(held)
    }
}

/// The version of a model that is used: the one that `main` stood at when it was fetched, or else the newest.
fn snapshot(folder: &Path) -> Result<Option<PathBuf>> {
    let snapshots = folder.join("snapshots");
    if let Ok(commit) = std::fs::read_to_string(folder.join("refs").join("main")) {
        let commit = commit.trim();
        // A name, and not a way to another folder.
        if !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric()) && snapshots.join(commit).is_dir() {
            return Ok(Some(snapshots.join(commit)));
        }
    }
    if !is_folder(&snapshots)? {
        return Ok(None);
    }
    let time = |p: &PathBuf| std::fs::metadata(p).and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(paths(&snapshots)?.into_iter().filter(|p| p.is_dir()).max_by_key(time))
}

/// Whether a folder is there and may be looked into.
///
/// # Errors
/// The system does not let us look, or something else is in its place.
fn is_folder(path: &Path) -> Result<bool> {
    let shown = path.display();
    let looked = std::fs::metadata(path).and_then(|found| match found.is_dir() {
        true => std::fs::read_dir(path).map(|_| true),
        false => Ok(false),
    });
    match looked {
        Ok(true) => Ok(true),
        Ok(false) => bail!("{shown} is not a folder: set HF_HUB_CACHE to the folder of fetched models"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => bail!("cannot look into {shown}: {error}; allow it, or set HF_HUB_CACHE to another folder"),
    }
}

/// What is in a folder.
fn paths(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot list {}", folder.display());
    let entries = std::fs::read_dir(folder).with_context(cannot)?;
    entries.map(|entry| Ok(entry.with_context(cannot)?.path())).collect()
}

/// Bytes of the files below a folder; links are not followed, so that each file counts once.
fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for path in paths(folder)? {
        let found = std::fs::symlink_metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
        bytes += if found.is_dir() {
            size(&path)?
        } else if found.is_file() {
            found.len()
        } else {
            0
        };
    }
    Ok(bytes)
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
}

fn is_first_part(path: &Path) -> bool {
    path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.contains("-00001-of-"))
}
