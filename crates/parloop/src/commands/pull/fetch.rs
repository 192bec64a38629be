//! One file: written to `NAME.part`, which survives an interruption, and given its name once it is whole and right.

use super::hub::{self, Hub};
use super::listing::{Entry, Hash};
use super::place::Target;
use super::retry::{Failure, persistently};
use anyhow::{Context, Result, anyhow};
use sha2::digest::DynDigest;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use ureq::http::StatusCode;

/// The ending of a file that is not whole yet.
pub const PART: &str = ".part";
const CHUNK: usize = 256 << 10;

/// What is there of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// The announced size and hash.
    Whole,
    /// Something else under its name.
    Other,
}

/// What is there of a file, without what an interrupted run left.
pub fn found(target: &Target<'_>) -> Result<Found> {
    let (path, entry) = (&target.path, target.entry);
    let cannot = || format!("cannot read {}", path.display());
    match fs::metadata(path) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Found::Nothing),
        Err(e) => return Err(e).with_context(cannot),
        Ok(found) if found.is_dir() => {
            return Err(anyhow!("{} is a folder, expected a file: give another --out", path.display()));
        }
        Ok(found) if found.len() != entry.size => return Ok(Found::Other),
        Ok(_) => {}
    }
    let mut content = Content::new(entry);
    File::open(path).and_then(|mut file| content.read(&mut file)).with_context(cannot)?;
    Ok(if content.is_right(entry) { Found::Whole } else { Found::Other })
}

/// Bytes of the file that an earlier run left.
pub fn present(target: &Target<'_>) -> u64 {
    fs::metadata(part_path(&target.path)).map_or(0, |found| found.len().min(target.entry.size))
}

/// Fetches a file, going on from where an earlier run stopped. `shown` hears how many bytes are there, `said` what
/// goes wrong on the way.
pub fn fetch(hub: &Hub, url: &str, target: &Target<'_>, shown: &dyn Fn(u64), said: &dyn Fn(&str)) -> Result<()> {
    let mut part = Part::open(target)?;
    persistently(true, said, || {
        part.receive(hub, url, shown)?;
        part.check()
    })?;
    part.finish(&target.path)
}

fn part_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PART);
    name.into()
}

/// The bytes of a file so far: how many, and their hash.
struct Content {
    length: u64,
    digest: Option<Box<dyn DynDigest>>,
}

impl Content {
    fn new(entry: &Entry) -> Self {
        Self { length: 0, digest: entry.hash.as_ref().map(|hash| hash.digest(entry.size)) }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.digest.iter_mut().for_each(|digest| digest.update(bytes));
    }

    fn read(&mut self, file: &mut File) -> std::io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                n => self.add(&buffer[..n]),
            }
        }
    }

    /// The hash in hexadecimal digits.
    fn digits(&self) -> Option<String> {
        let digest = self.digest.clone()?.finalize();
        Some(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn is_right(&self, entry: &Entry) -> bool {
        self.length == entry.size && self.digits().as_deref() == entry.hash.as_ref().map(Hash::digits)
    }
}

/// A file that is being fetched.
struct Part<'a> {
    entry: &'a Entry,
    path: PathBuf,
    file: File,
    content: Content,
    /// Some of it was written by an earlier run, perhaps for another version of the file.
    inherited: bool,
}

impl<'a> Part<'a> {
    fn open(target: &Target<'a>) -> Result<Self> {
        let (path, entry) = (part_path(&target.path), target.entry);
        let parent = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        let cannot = || format!("cannot write {}", path.display());
        let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = open.with_context(cannot)?;
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => {
                return Err(anyhow!("{} is being written by another program: wait until it has ended", path.display()));
            }
            // Some network file systems have no locks.
            Err(fs::TryLockError::Error(_)) | Ok(()) => {}
        }
        if file.metadata().with_context(cannot)?.len() > entry.size {
            file.set_len(0).with_context(cannot)?;
        }
        let mut content = Content::new(entry);
        content.read(&mut file).with_context(cannot)?;
        Ok(Self { entry, inherited: content.length > 0, path, file, content })
    }

    fn cannot_write(&self) -> String {
        format!("cannot write {}", self.path.display())
    }

    /// Begins again with nothing.
    fn clear(&mut self) -> Result<()> {
        self.file.set_len(0).and_then(|()| self.file.rewind()).with_context(|| self.cannot_write())?;
        self.content = Content::new(self.entry);
        self.inherited = false;
        Ok(())
    }

    /// Asks for what is missing and appends it; never more than was announced.
    fn receive(&mut self, hub: &Hub, url: &str, shown: &dyn Fn(u64)) -> Result<(), Failure> {
        let size = self.entry.size;
        shown(self.content.length);
        if self.content.length == size && size > 0 {
            return Ok(());
        }
        let mut response = hub.get(url, self.content.length)?;
        let first = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let (first, total) = hub::content_range(&response)?;
                if first != self.content.length {
                    let asked = self.content.length;
                    return Err(anyhow!("the hub sends it from byte {first} on, byte {asked} was asked for").into());
                }
                self.announced(total)?;
                first
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                self.clear()?;
                return Err(Failure::passing("the hub cannot go on from where it stopped"));
            }
            // The whole file, whether or not a part of it was asked for.
            _ => 0,
        };
        self.announced(hub::content_length(&response)?.map(|length| first.saturating_add(length)))?;
        if first != self.content.length {
            self.clear()?;
        }
        let mut body = response.body_mut().as_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            let broke = |e: &dyn std::fmt::Display, length| {
                Failure::passing(format!("the connection broke after {length} of {size} bytes ({e})"))
            };
            let n = match body.read(&mut buffer) {
                Ok(0) if self.content.length < size => return Err(broke(&"end of data", self.content.length)),
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) => return Err(broke(&e, self.content.length)),
            };
            if n as u64 > size - self.content.length {
                self.discard();
                return Err(anyhow!("the hub sends more than the {size} bytes it announced; nothing was kept").into());
            }
            self.file.write_all(&buffer[..n]).with_context(|| self.cannot_write())?;
            self.content.add(&buffer[..n]);
            shown(self.content.length);
        }
    }

    /// Refuses a length other than the one in the list of files.
    fn announced(&self, length: Option<u64>) -> Result<()> {
        let listed = self.entry.size;
        match length {
            Some(length) if length != listed => Err(anyhow!(
                "the hub sends a file of {length} bytes, its list of files says {listed}; run the same command again, or ask the model's owner"
            )),
            _ => Ok(()),
        }
    }

    /// Compares the hash. What goes back to an earlier run gets one more chance, from the start.
    fn check(&mut self) -> Result<(), Failure> {
        let (Some(hash), Some(found)) = (&self.entry.hash, self.content.digits()) else { return Ok(()) };
        if found == hash.digits() {
            return Ok(());
        }
        if self.inherited {
            self.clear()?;
            return Err(Failure::passing("what an earlier run left is of another version"));
        }
        self.discard();
        Err(anyhow!(
            "it has the {} {found}, the hub announced {}; nothing was kept: run the same command again",
            hash.name(),
            hash.digits()
        )
        .into())
    }

    fn discard(&mut self) {
        // What is left is of no use to anyone; that it cannot be removed is no further error.
        let _ = self.file.set_len(0);
        let _ = fs::remove_file(&self.path);
        self.content = Content::new(self.entry);
    }

    /// Gives the file its name.
    fn finish(self, target: &Path) -> Result<()> {
        let folder = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, target))
            .and_then(|()| File::open(folder)?.sync_all())
            .with_context(|| format!("cannot write {}", target.display()))
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        // After `finish` it no longer exists under this name; an empty one tells nothing.
        if self.content.length == 0 {
            let _ = fs::remove_file(&self.path);
        }
    }
}
