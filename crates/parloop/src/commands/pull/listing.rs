//! What a hub says is in a repository, and which of it is fetched. Nothing of it is believed before it was looked at.

use super::hub::Hub;
use super::retry::{Failure, persistently};
use crate::cache::Repository;
use anyhow::{Context, Result, anyhow, bail, ensure};
use glob::{MatchOptions, Pattern};
use serde::Deserialize;
use sha2::digest::DynDigest;
use std::collections::BTreeSet;
use std::io::Read;

/// About 100,000 files.
const MAX_BYTES: u64 = 32 << 20;
const CONFIGS: [&str; 4] = ["config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json"];

#[derive(Deserialize)]
struct Answer {
    sha: Option<String>,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Large>,
}

/// A file that the repository holds by its hash only.
#[derive(Deserialize)]
struct Large {
    sha256: Option<String>,
    size: Option<u64>,
}

/// A repository's files.
pub struct Listing {
    /// The commit they are of: all of them are fetched from there, even if a branch moves on meanwhile.
    pub commit: Option<String>,
    files: Vec<Sibling>,
}

/// A file to be fetched.
#[derive(Debug)]
pub struct Entry {
    /// Path inside the folder; it leads nowhere else.
    pub name: String,
    /// Length in bytes.
    pub size: u64,
    /// What the content must hash to, if the hub says so.
    pub hash: Option<Hash>,
}

/// A hash in lower-case hexadecimal digits.
#[derive(Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256 of the content: large files.
    Sha256(String),
    /// Git's name of the content, SHA-1 of a header and the content: small files.
    Blob(String),
}

impl Hash {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::Blob(_) => "Git blob SHA-1",
        }
    }

    pub fn digits(&self) -> &str {
        match self {
            Self::Sha256(digits) | Self::Blob(digits) => digits,
        }
    }

    /// What computes it for a content of `size` bytes.
    pub fn digest(&self, size: u64) -> Box<dyn DynDigest> {
        match self {
            Self::Sha256(_) => Box::new(sha2::Sha256::default()),
            Self::Blob(_) => {
                let mut digest = sha1::Sha1::default();
                DynDigest::update(&mut digest, format!("blob {size}\0").as_bytes());
                Box::new(digest)
            }
        }
    }
}

impl Listing {
    pub fn get(hub: &Hub, model: &Repository, revision: &str) -> Result<Self> {
        let url = hub.list(model, revision);
        let text = persistently(false, &|said| say!("{said}"), || {
            let mut text = Vec::new();
            let read = hub.get(&url, 0)?.into_body().into_reader().take(MAX_BYTES + 1).read_to_end(&mut text);
            read.map_err(|e| Failure::passing(format!("the list broke off: {e}")))?;
            Ok(text)
        })?;
        ensure!(text.len() as u64 <= MAX_BYTES, "the list is longer than {MAX_BYTES} bytes, more than a model has");
        Self::parse(&text)
    }

    fn parse(text: &[u8]) -> Result<Self> {
        let answer: Answer = serde_json::from_slice(text)
            .map_err(|e| anyhow!("the hub's answer is not a list of a model's files with their names: {e}"))?;
        let mut names = BTreeSet::new();
        for Sibling { rfilename: name, .. } in &answer.siblings {
            ensure!(
                stays_inside(name),
                "it lists the file {name:?}, which is not a path inside a folder; nothing of it is to be trusted"
            );
            ensure!(names.insert(name), "it lists {name} twice");
        }
        let commit = answer.sha.filter(|sha| is_hex(sha, 40));
        Ok(Self { commit, files: answer.siblings })
    }

    /// The files that match, or without patterns those that a model needs.
    pub fn choose(&self, include: &[Pattern]) -> Result<Vec<Entry>> {
        // A leading dot must be asked for: such files are settings of programs, not part of a model.
        let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::default() };
        let matches = |name: &str| include.iter().any(|pattern| pattern.matches_with(name, options));
        // A repository may hold the same weights a second time, under names that are not read.
        let usual = self.files.iter().any(|f| is_weights(&f.rfilename) && f.rfilename.starts_with("model."));
        let needed = |name: &str| match is_weights(name) {
            true => !usual || name.starts_with("model"),
            false => is_setting(name),
        };
        let chosen: Vec<&Sibling> = self
            .files
            .iter()
            .filter(|f| if include.is_empty() { needed(&f.rfilename) } else { matches(&f.rfilename) })
            .collect();
        if include.is_empty() && !chosen.iter().any(|f| is_weights(&f.rfilename)) {
            match self.files.iter().find(|f| f.rfilename.ends_with(".gguf")) {
                Some(file) => bail!(
                    "it has no safetensors file, but files such as {0}: choose with --include '{0}'",
                    file.rfilename
                ),
                None => bail!("it has no safetensors file{}", self.some_names()),
            }
        }
        ensure!(!chosen.is_empty(), "no file matches --include{}", self.some_names());
        let entries = chosen.into_iter().map(Sibling::entry).collect::<Result<Vec<_>>>()?;
        let total = entries.iter().try_fold(0u64, |sum, e| sum.checked_add(e.size));
        ensure!(total.is_some(), "the hub announces files of more bytes than a number can hold");
        Ok(entries)
    }

    fn some_names(&self) -> String {
        let names: Vec<_> = self.files.iter().take(8).map(|f| f.rfilename.as_str()).collect();
        let more = self.files.len() - names.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        if names.is_empty() { "; it is empty".into() } else { format!("; it has {}{more}", names.join(", ")) }
    }
}

impl Sibling {
    fn entry(&self) -> Result<Entry> {
        let name = self.rfilename.clone();
        ensure!(
            is_plain(&name),
            "the name of {name} is not one that every system can store (no part of it may begin or end with a dot, end \
             with a space or .part, be longer than 200 bytes, or hold any of : * ? \" < > |)"
        );
        let sizes = [self.size, self.lfs.as_ref().and_then(|l| l.size)];
        let size = match sizes {
            [Some(a), Some(b)] if a != b => bail!("the hub announces {name} with {a} and with {b} bytes"),
            _ => sizes.into_iter().flatten().next(),
        };
        let size = size.with_context(|| format!("the hub does not say how long {name} is"))?;
        let hash = match &self.lfs {
            Some(Large { sha256: Some(digits), .. }) if is_hex(digits, 64) => Some(Hash::Sha256(digits.to_lowercase())),
            Some(Large { sha256: Some(other), .. }) => {
                bail!("the hub announces {name} with the SHA-256 {other:?}, expected 64 hexadecimal digits")
            }
            Some(_) => None,
            None => {
                self.blob.as_ref().filter(|digits| is_hex(digits, 40)).map(|digits| Hash::Blob(digits.to_lowercase()))
            }
        };
        Ok(Entry { name, size, hash })
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_weights(name: &str) -> bool {
    !name.contains('/') && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"))
}

fn is_setting(name: &str) -> bool {
    let begins = ["tokenizer", "chat_template"].iter().any(|start| name.starts_with(start));
    !name.contains('/') && (CONFIGS.contains(&name) || begins)
}

/// Whether a name, joined to a folder, is a path inside it that can be printed.
fn stays_inside(name: &str) -> bool {
    !name.contains(|c: char| c.is_control() || c == '\\')
        && name.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Whether a name that stays inside is an ordinary one on every system.
fn is_plain(name: &str) -> bool {
    name.len() <= 1000
        && name.split('/').all(|part| {
            part.len() <= 200
                && !part.contains([':', '*', '?', '"', '<', '>', '|'])
                && !part.starts_with('.')
                && !part.ends_with(['.', ' '])
                && !part.ends_with(super::fetch::PART)
        })
}

#[cfg(test)]
mod tests;
