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
