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

/// A cache line, so that what is read by the line never straddles two.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Line(pub [u8; 64]);

impl Line {
    /// All zeros.
    pub const ZERO: Self = Self([0; 64]);
}

/// Scratch space of lines, in huge pages, that grows on demand.
#[derive(Default)]
pub(crate) struct Lines(Option<Memory>);

impl Lines {
    /// No lines yet.
    pub const NONE: Self = Self(None);

    /// At least `count` lines; what they hold is unspecified but valid.
    ///
    /// # Panics
    /// If the system refuses the memory, as growing a vector would.
    pub fn at_least(&mut self, count: usize) -> &mut [Line] {
        let bytes = count * size_of::<Line>();
        if self.0.as_ref().is_none_or(|memory| memory.bytes < bytes) {
            // Whole huge pages: a smaller block gets none.
            let memory = Memory::new(bytes.next_multiple_of(2 << 20));
            self.0 = Some(memory.unwrap_or_else(|e| panic!("no memory for {bytes} bytes of scratch space: {e}")));
        }
        let bytes = self.0.as_mut().map(Memory::bytes_mut).unwrap_or_default();
        // SAFETY: mapped memory is aligned to pages; lines are bytes.
        let (_, lines, _) = unsafe { bytes.align_to_mut::<Line>() };
        lines
    }
}

/// Bytes of memory that a program could still take, where the system tells (Linux).
pub fn available() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<usize>().ok()? * 1024)
}
