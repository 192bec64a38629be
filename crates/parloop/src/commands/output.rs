//! Where commands write, and one rule for all of them: what is there is replaced only with `--force`, what a command
//! reads and what is of another kind never; folders above that are missing are made.

use anyhow::{Context, Result, ensure};
use clap::Args;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Whether what is there may be replaced.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Replace {
    /// Replace what is there already
    #[arg(long)]
    pub force: bool,
}

impl Replace {
    /// Refuses a file that is not to be written: before work starts, so that none is lost.
    ///
    /// # Errors
    /// It is there and nobody said `--force`, is one of those that are `read`, or is something else than a file.
    pub fn file(self, path: &Path, read: &[&Path]) -> Result<()> {
        let shown = path.display();
        ensure!(path.file_name().is_some(), "{shown} is not the name of a file: give one to be written");
        let Some(found) = found(path)? else { return Ok(()) };
        ensure!(!found.is_dir(), "{shown} is a folder: give the name of a file to be written");
        ensure!(found.is_file(), "{shown} is no ordinary file: give the name of a file to be written");
        let same = read.iter().any(|read| whole(read).is_some_and(|read| whole(path) == Some(read)));
        ensure!(!same, "{shown} is itself what is read: give another name");
        ensure!(self.force, "{shown} exists already: give another name, or --force to replace it");
        Ok(())
    }

    /// Refuses a folder that is not to be written.
    ///
    /// # Errors
    /// Something is in it and nobody said `--force`, it is or holds one of those that are `read`, or it is a file.
    pub fn folder(self, path: &Path, read: &[&Path]) -> Result<()> {
        let shown = path.display();
        if !is_folder(path)? {
            return Ok(());
        }
        let holds = |read: &&Path| whole(read).zip(whole(path)).is_some_and(|(read, path)| read.starts_with(path));
        ensure!(!read.iter().any(holds), "{shown} is or holds itself what is read: give another name");
        let mut entries = fs::read_dir(path).with_context(|| format!("cannot list {shown}"))?;
        let empty = entries.next().is_none();
        ensure!(self.force || empty, "{shown} exists already: give another name, or --force to replace it");
        Ok(())
    }
}

/// Whether a folder is there, to which a command adds; a file in its place is refused.
pub fn is_folder(path: &Path) -> Result<bool> {
    let Some(found) = found(path)? else { return Ok(false) };
    ensure!(found.is_dir(), "{} is a file: give the name of a folder to be written", path.display());
    Ok(true)
}

/// Makes the folders above a file or folder.
pub fn parent(path: &Path) -> Result<()> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

/// Writes a whole file.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = Writing::to(path)?;
    let written = file.write_all(bytes);
    written.with_context(|| format!("cannot write {}", path.display()))?;
    file.finish()
}

/// A file that is written beside its place and takes it when it is whole; dropped before that, it leaves nothing.
pub struct Writing {
    path: PathBuf,
    aside: PathBuf,
    file: BufWriter<File>,
}

impl Writing {
    /// Begins it.
    pub fn to(path: &Path) -> Result<Self> {
        parent(path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let aside = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
        let file = File::create(&aside).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path: path.to_owned(), aside, file: BufWriter::new(file) })
    }

    /// Gives it its name.
    pub fn finish(mut self) -> Result<()> {
        let done = self.file.flush().and_then(|()| fs::rename(&self.aside, &self.path));
        done.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        // After `finish` it no longer exists under this name.
        let _ = fs::remove_file(&self.aside);
    }
}

/// What the system says of what is there; a link that leads nowhere is there too.
fn found(path: &Path) -> Result<Option<fs::Metadata>> {
    let error = match fs::metadata(path) {
        Ok(found) => return Ok(Some(found)),
        Err(error) => error,
    };
    match error.kind() {
        std::io::ErrorKind::NotFound => Ok(fs::symlink_metadata(path).ok()),
        _ => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

fn whole(path: &Path) -> Option<PathBuf> {
    fs::canonicalize(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_replaced_only_when_told_and_what_is_read_never() {
        let temporary = tempfile::tempdir().unwrap();
        let (file, folder) = (temporary.path().join("file"), temporary.path().join("folder"));
        let (may, may_not) = (Replace { force: true }, Replace { force: false });
        let no = |result: Result<()>, word: &str| assert!(result.unwrap_err().to_string().contains(word), "{word}");
        for replace in [may, may_not] {
            replace.file(&file, &[&folder]).unwrap();
            replace.folder(&folder, &[&file]).unwrap();
        }
        write(&folder.join("deep/er/file"), b"one").unwrap();
        write(&file, b"two").unwrap();
        no(may_not.file(&file, &[]), "--force");
        no(may_not.folder(&folder, &[]), "--force");
        may.file(&file, &[&folder]).unwrap();
        may.folder(&folder, &[&file]).unwrap();
        no(may.file(&file, &[&file]), "itself");
        no(may.folder(&folder, &[&folder.join("deep/er/file")]), "itself");
        no(may.file(&folder, &[]), "is a folder");
        no(may.folder(&file, &[]), "is a file");
        no(may.file(Path::new("/"), &[]), "not the name of a file");
        no(may.file(&file.join("below"), &[]), "cannot write");
        // An empty folder loses nothing.
        std::fs::create_dir(temporary.path().join("empty")).unwrap();
        may_not.folder(&temporary.path().join("empty"), &[]).unwrap();
        // What is not finished leaves nothing behind.
        let before = fs::read_dir(temporary.path()).unwrap().count();
        Writing::to(&file).unwrap().write_all(b"three").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), before);
    }

    #[cfg(unix)]
    #[test]
    fn devices_and_links_that_lead_nowhere_are_no_place_for_a_file() {
        let replace = Replace { force: true };
        assert!(replace.file(Path::new("/dev/null"), &[]).unwrap_err().to_string().contains("no ordinary file"));
        let temporary = tempfile::tempdir().unwrap();
        let link = temporary.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert!(replace.file(&link, &[]).is_err() && replace.folder(&link, &[]).is_err());
    }
}
