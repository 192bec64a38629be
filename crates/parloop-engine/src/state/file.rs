//! State files.
//!
//! ```text
//! "plpstate"  version u32  length of the header u32  header (JSON)  checksum of all so far
//! tokens      [n] u32
//! last        [d] f32, the last loop's output                          } only if the header
//! carried     [R-1][d] f32, if the recipe shifts                       } says "whole"
//! for each loop and layer with keys and values of its own, position by position:
//!   a cache   [n] positions
//!   a ring    the last min(n, left) positions                          } only if "whole"
//! checksum    of everything before it
//! ```
//!
//! Everything is little-endian; checksums are XXH3 of 128 bits. A position is what
//! [`KvTiles::bytes_of`](parloop_kernels::KvTiles::bytes_of) gives, so a file does not depend on how keys and values
//! lie in memory.
//!
//! Rings and carried vectors could be left out, since they can be rebuilt. They are kept because they are small beside
//! the cache and slow to rebuild: for LoopCoder-V2 in bf16 a ring of 64 positions is 3.7 MB beside the 470 MB of 8192
//! tokens, and rebuilding it means 897 positions of two loops, 16 % of the work of the whole prompt.

use super::header::{Header, LIMIT, MAGIC, VERSION};
use crate::files::{bad, begins_with, folder, io, replace};
use crate::{Engine, Error, Result, Sequence};
use parloop_kernels::{KvTiles, Spares, memory};
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::path::Path;
use twox_hash::xxhash3_128::Hasher;

/// Bytes of a checksum.
const CHECKSUM: usize = 16;

impl Engine {
    /// Refuses a path to which [`Engine::save_state`] would not write, before work is done for it.
    ///
    /// # Errors
    /// It names no file, lies in no folder, or names something that exists and is not a saved state.
    pub fn check_state_path(path: &Path) -> Result<()> {
        path.file_name().ok_or_else(|| bad(path, "is not the name of a file; give a file to be written"))?;
        if !folder(path).is_dir() {
            return Err(bad(path, "lies in a folder that does not exist; create it, or give another name"));
        }
        if path.exists() && !begins_with(path, MAGIC)? {
            return Err(bad(path, "exists and is not a saved state, so it is not replaced; give another name"));
        }
        Ok(())
    }

    /// Saves a sequence to a file: written beside it, flushed to disk, and renamed, so that the file is whole or as it
    /// was before.
    ///
    /// # Errors
    /// The file cannot be written, or exists and is not a saved state.
    pub fn save_state(&self, sequence: &Sequence, path: &Path) -> Result<()> {
        Self::check_state_path(path)?;
        replace(path, |beside| self.write_state(sequence, beside).map_err(|e| io("write", path, e)))
    }

    fn write_state(&self, sequence: &Sequence, path: &Path) -> std::io::Result<()> {
        let header = Header::of(self, sequence);
        let text = serde_json::to_vec(&header)?;
        let mut out = Hashed::new(BufWriter::new(File::create(path)?));
        out.write(MAGIC)?;
        out.write(&VERSION.to_le_bytes())?;
        out.write(&(text.len() as u32).to_le_bytes())?;
        out.write(&text)?;
        out.write_checksum()?;
        let tokens: Vec<u8> = sequence.tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
        out.write(&tokens)?;
        if header.whole {
            let carried = sequence.carried.iter().filter(|_| header.recipe.shift);
            for vector in std::iter::once(&sequence.last).chain(carried) {
                let bytes: Vec<u8> = vector.iter().flat_map(|v| v.to_le_bytes()).collect();
                out.write(&bytes)?;
            }
        }
        let mut bytes = Vec::new();
        for kv in sequence.kv.iter().flatten() {
            for t in positions(kv, header.tokens, header.whole) {
                bytes.clear();
                kv.bytes_of(t, &mut bytes);
                out.write(&bytes)?;
            }
        }
        out.write_checksum()?;
        out.inner.into_inner()?.sync_all()
    }

    /// Loads a sequence that [`Engine::save_state`] saved. It goes on bit for bit as the one that was saved.
    ///
    /// # Errors
    /// The file cannot be read, is cut or altered, is of another version, or was made by another model, with another
    /// type of weights or of keys and values, or on another instruction set; or there is not enough memory for it.
    pub fn load_state(&self, path: &Path) -> Result<Sequence> {
        // Asked before it is opened: a pipe would be waited for.
        let info = fs::metadata(path).map_err(|e| io("open", path, e))?;
        if !info.is_file() {
            return Err(bad(path, "is not a regular file; expected a saved state"));
        }
        let file = File::open(path).map_err(|e| io("open", path, e))?;
        let mut from = Hashed::new(BufReader::new(file));
        let header = read_header(&mut from, path)?;
        if let Some(mismatch) = header.mismatch(self) {
            return Err(Error::State { path: path.to_owned(), mismatch });
        }
        let mut sequence = self.sequence();
        let (tokens, whole) = (header.tokens, header.whole);
        let carried = if header.recipe.shift { sequence.carried.len() } else { 0 };
        let d = self.model.config().hidden_size;
        // Before anything is allocated: whether the file holds what its header promises. The sizes of the model were
        // checked when it was loaded, and the number of tokens against its context; 128 bits hold any product of them.
        let vectors = if whole { 1 + carried } else { 0 };
        let kv = |kv: &KvTiles| kv.position_bytes() as u128 * positions(kv, tokens, whole).len() as u128;
        let rest = 4 * tokens as u128
            + 4 * (vectors as u128 * d as u128)
            + sequence.kv.iter().flatten().map(kv).sum::<u128>()
            + CHECKSUM as u128;
        let expected = u128::from(from.count) + rest;
        if u128::from(info.len()) != expected {
            let message =
                format!("is {} bytes long, expected {expected}: it is cut or damaged; make it anew", info.len());
            return Err(bad(path, message));
        }
        if let Some(free) = memory::available().filter(|free| rest > *free as u128) {
            return Err(bad(path, format!("needs {rest} bytes of memory, {free} are available; free some")));
        }
        self.read_content(&mut from, &header, &mut sequence).map_err(|e| io("read", path, e))?;
        if !from.checksum_fits().map_err(|e| io("read", path, e))? {
            return Err(bad(path, "is damaged or altered: its checksum does not fit; make it anew"));
        }
        if tokens > 0 {
            self.model.config().check_tokens(&sequence.tokens)?;
        }
        Ok(sequence)
    }

    fn read_content(
        &self,
        from: &mut Hashed<BufReader<File>>,
        header: &Header,
        sequence: &mut Sequence,
    ) -> std::io::Result<()> {
        let mut bytes = vec![0; 4 * header.tokens];
        from.read(&mut bytes)?;
        sequence.tokens = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        if header.whole {
            let mut bytes = vec![0; 4 * self.model.config().hidden_size];
            let carried = sequence.carried.iter_mut().filter(|_| header.recipe.shift);
            for vector in std::iter::once(&mut sequence.last).chain(carried) {
                from.read(&mut bytes)?;
                *vector = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            }
        }
        let mut spares = Spares::new(&self.pool);
        for kv in sequence.kv.iter_mut().flatten() {
            let mut bytes = vec![0; kv.position_bytes()];
            for t in positions(kv, header.tokens, header.whole) {
                from.read(&mut bytes)?;
                kv.reserve(t, 1, &mut spares).map_err(std::io::Error::other)?;
                kv.write_bytes(t, &bytes);
            }
        }
        Ok(())
    }
}

/// The positions of a cache or ring that a file of `tokens` tokens holds.
fn positions(kv: &KvTiles, tokens: usize, whole: bool) -> Range<usize> {
    match kv.window() {
        None => 0..tokens,
        Some(left) if whole => tokens.saturating_sub(left)..tokens,
        Some(_) => 0..0,
    }
}

fn read_header(from: &mut Hashed<BufReader<File>>, path: &Path) -> Result<Header> {
    let cut = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => bad(path, "ends within its header: it is cut; make it anew"),
        _ => io("read", path, e),
    };
    if !from.begins_with_magic().map_err(|e| io("read", path, e))? {
        return Err(bad(path, "is not a saved state of parloop"));
    }
    let version = from.number().map_err(cut)?;
    if version != VERSION {
        return Err(bad(path, format!("is a state of version {version}, expected version {VERSION}; make it anew")));
    }
    let length = from.number().map_err(cut)?;
    if length > LIMIT {
        return Err(bad(path, format!("has a header of {length} bytes, expected at most {LIMIT}: it is damaged")));
    }
    let mut text = vec![0; length as usize];
    from.read(&mut text).map_err(cut)?;
    if !from.checksum_fits().map_err(cut)? {
        return Err(bad(path, "has a damaged or altered header: its checksum does not fit; make it anew"));
    }
    serde_json::from_slice(&text).map_err(|e| bad(path, format!("has a header that cannot be read: {e}")))
}

/// A file whose bytes are hashed as they pass.
struct Hashed<T> {
    inner: T,
    hash: Hasher,
    /// Bytes that have passed.
    count: u64,
}

impl<T> Hashed<T> {
    fn new(inner: T) -> Self {
        Self { inner, hash: Hasher::new(), count: 0 }
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.hash.write(bytes);
        self.count += bytes.len() as u64;
    }
}

impl<T: Write> Hashed<T> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.passed(bytes);
        self.inner.write_all(bytes)
    }

    fn write_checksum(&mut self) -> std::io::Result<()> {
        let sum = self.hash.finish_128().to_le_bytes();
        self.write(&sum)
    }
}

impl<T: Read> Hashed<T> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<()> {
        self.inner.read_exact(bytes)?;
        self.passed(bytes);
        Ok(())
    }

    fn number(&mut self) -> std::io::Result<u32> {
        let mut bytes = [0; 4];
        self.read(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn checksum_fits(&mut self) -> std::io::Result<bool> {
        let expected = self.hash.finish_128().to_le_bytes();
        let mut found = [0; CHECKSUM];
        self.read(&mut found)?;
        Ok(found == expected)
    }

    /// Whether the file starts as states do; a shorter file does not.
    fn begins_with_magic(&mut self) -> std::io::Result<bool> {
        let mut start = [0; MAGIC.len()];
        match self.read(&mut start) {
            Ok(()) => Ok(&start == MAGIC),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(e),
        }
    }
}
