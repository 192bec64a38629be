//! Where fetched files go: by their names into a folder, or by their hashes into the cache, where names are links.

use super::listing::Entry;
use crate::cache::{Cache, Repository};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Where a model goes.
pub struct Place {
    /// Folder below which everything is written.
    root: PathBuf,
    cached: Option<Cached>,
}

/// A model in the cache.
struct Cached {
    /// The file that says which commit a branch or tag is.
    reference: Option<PathBuf>,
    commit: String,
}

/// A file to be there.
pub struct Target<'a> {
    /// What is known of it.
    pub entry: &'a Entry,
    /// Where its bytes go.
    pub path: PathBuf,
}

impl Place {
    /// A folder of one's own.
    pub fn folder(root: PathBuf) -> Self {
        Self { root, cached: None }
    }

    /// The model's folder in the cache.
    ///
    /// # Errors
    /// The hub names no commit, without which a version has no place there.
    pub fn cache(model: &Repository, revision: &str, commit: Option<&str>) -> Result<Self> {
        let root = Cache::from_environment()?.folder(model);
        let commit = commit.context(
            "the hub does not say which commit it is, so it has no place among the fetched models: give a folder with --out",
        )?;
        let is_name = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', ':', '\0']);
        let reference = (revision != commit && revision.split('/').all(is_name))
            .then(|| revision.split('/').fold(root.join("refs"), |path, part| path.join(part)));
        Ok(Self { root, cached: Some(Cached { reference, commit: commit.to_owned() }) })
    }

    /// Folder below which everything is written.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder to be told to people, where files have their names.
    pub fn shown(&self) -> PathBuf {
        self.cached.as_ref().map_or(self.root.clone(), |cached| self.root.join("snapshots").join(&cached.commit))
    }

    /// Makes the folder.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.root).with_context(|| format!("cannot create {}", self.root.display()))
    }

    /// Where a file goes.
    pub fn target<'a>(&self, entry: &'a Entry) -> Target<'a> {
        let path = match (&self.cached, &entry.hash) {
            (Some(_), Some(hash)) => self.root.join("blobs").join(hash.digits()),
            // What the hub has no hash of goes under its name.
            _ => self.shown().join(&entry.name),
        };
        Target { entry, path }
    }

    /// Gives a file that is there its name, if its bytes lie elsewhere.
    pub fn name(&self, target: &Target<'_>) -> Result<()> {
        let link = self.shown().join(&target.entry.name);
        if link == target.path {
            return Ok(());
        }
        let cannot = || format!("cannot write {}", link.display());
        let folder = link.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        if fs::symlink_metadata(&link).is_ok() {
            fs::remove_file(&link).with_context(cannot)?;
        }
        // A relative link, so that the cache can be moved.
        let ups = target.entry.name.split('/').count() + 1;
        let relative = std::iter::repeat_n("..", ups).collect::<PathBuf>();
        let blob = target.path.strip_prefix(&self.root).unwrap_or(&target.path);
        link_or_copy(&relative.join(blob), &target.path, &link).with_context(cannot)
    }

    /// Says which commit the branch or tag is, once all is there.
    pub fn finish(&self) -> Result<()> {
        let Some(Cached { reference: Some(reference), commit }) = &self.cached else { return Ok(()) };
        let folder = reference.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(reference, commit).with_context(|| format!("cannot write {}", reference.display()))
    }
}

#[cfg(unix)]
fn link_or_copy(relative: &Path, _: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(relative, link)
}

/// Links need a right there that few users have; a second name for the same bytes needs none.
#[cfg(not(unix))]
fn link_or_copy(_: &Path, target: &Path, link: &Path) -> std::io::Result<()> {
    fs::hard_link(target, link).or_else(|_| fs::copy(target, link).map(|_| ()))
}
