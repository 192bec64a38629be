//! Whole files that should be small.

use crate::{Error, Result};
use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;

/// What the system says of a file that holds data. A pipe would be waited for, and a device has no end.
pub(crate) fn regular(path: &Path) -> Result<Metadata> {
    let found = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
    if found.is_file() { Ok(found) } else { Err(Error::file(path, "is not a regular file")) }
}

/// The content of a file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let size = regular(path)?.len();
    if size > limit {
        return Err(Error::file(path, format!("is {size} bytes long, expected at most {limit}")));
    }
    let mut bytes = Vec::new();
    // A file may grow, and some of the system's claim to be empty.
    let read = File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(|e| Error::io("read", path, e))?;
    Ok(bytes)
}

/// The content of a UTF-8 file of at most `limit` bytes. A byte-order mark at its beginning is no part of it.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String> {
    let text = String::from_utf8(read(path, limit)?).map_err(|_| Error::file(path, "is not UTF-8 text"))?;
    Ok(match text.strip_prefix('\u{FEFF}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

#[cfg(all(test, unix))]
mod tests {
    use crate::Checkpoint;
    use std::path::Path;

    #[test]
    fn pipes_and_devices_are_refused_at_once() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/plt2");
        for name in ["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"] {
            let folder = tempfile::tempdir().unwrap();
            for file in ["config.json", "model.safetensors"] {
                std::fs::copy(golden.join(file), folder.path().join(file)).unwrap();
            }
            let path = folder.path().join(name);
            let _ = std::fs::remove_file(&path);
            std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
            let message = Checkpoint::open(folder.path()).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("not a regular file"), "{message}");
            std::fs::remove_file(&path).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
            let message = Checkpoint::open(folder.path()).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains("not a regular file"), "{message}");
        }
    }
}
