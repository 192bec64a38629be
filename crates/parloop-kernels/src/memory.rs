//! Memory for weights: aligned to pages, and in huge pages where the system has them; and how much there is.
//!
//! Weights are read once a pass from one end to the other. With pages of 4 kB every 64 lines cost a page-table walk.

use memmap2::MmapMut;

/// A block of zeroed bytes.
pub struct Memory {
    map: MmapMut,
    bytes: usize,
}

impl Memory {
    /// `bytes` zeroed bytes; none are touched yet.
    ///
    /// # Errors
    /// The system refuses the memory.
    pub fn new(bytes: usize) -> std::io::Result<Self> {
        let map = MmapMut::map_anon(bytes.max(1))?;
        // A hint: where it is refused, ordinary pages serve.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self { map, bytes })
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.map[..self.bytes]
    }
}

impl AsRef<[u8]> for Memory {
    fn as_ref(&self) -> &[u8] {
        &self.map[..self.bytes]
    }
}

/// Bytes of memory that a program could still take, where the system tells (Linux).
pub fn available() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}
