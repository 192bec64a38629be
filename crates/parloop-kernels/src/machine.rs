//! What a run uses of the machine.

use crate::isa::Isa;
use crate::pool::Pool;
use crate::profile;

/// What a run uses of the machine: decided once, and handed to whatever computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The instructions.
    pub isa: Isa,
    /// Threads, the caller's included.
    pub threads: usize,
    /// Whether a profile is kept ([`crate::profile`]).
    pub profile: bool,
}

impl Machine {
    /// The best of this machine, where the environment says nothing else (`PARLOOP_ISA`, `PARLOOP_THREADS`,
    /// `PARLOOP_PROFILE`); `threads`, if given, comes before `PARLOOP_THREADS`.
    ///
    /// # Errors
    /// A variable holds what is not available or not a number.
    pub fn chosen(threads: Option<usize>) -> Result<Self, String> {
        let threads = threads.map_or_else(Pool::default_threads, Ok)?;
        Ok(Self { isa: Isa::chosen()?, threads, profile: profile::asked_for() })
    }
}

/// A cache of the first processor, as Linux describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// 1 is the nearest.
    pub level: usize,
    /// Its size in bytes.
    pub bytes: usize,
}

/// The data caches of the first processor, the nearest first; none where the system does not tell.
pub fn caches() -> Vec<Cache> {
    let read = |index: usize, what: &str| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{what}")).ok()
    };
    let one = |index| {
        let size = read(index, "size")?;
        let size = size.trim();
        let (number, unit) = match size.strip_suffix(['K', 'M']) {
            Some(number) => (number, if size.ends_with('K') { 1 << 10 } else { 1 << 20 }),
            None => (size, 1),
        };
        let bytes = number.parse::<usize>().ok()?.checked_mul(unit)?;
        Some((read(index, "type")?, Cache { level: read(index, "level")?.trim().parse().ok()?, bytes }))
    };
    (0..8).map_while(one).filter(|(kind, _)| kind.trim() != "Instruction").map(|(_, cache)| cache).collect()
}
