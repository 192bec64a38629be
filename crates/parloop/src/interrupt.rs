//! Ctrl-C: asked once, what is being written ends in order; asked twice, the program ends at once.

use anyhow::{Context, Result};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether Ctrl-C was pressed since [`forget`].
static ASKED: AtomicBool = AtomicBool::new(false);

/// Exit code of a program that Ctrl-C ended, as shells expect it.
const CODE: i32 = 130;

/// Watches for Ctrl-C from now on.
///
/// # Errors
/// The system does not let it.
pub fn watch() -> Result<()> {
    let handler = || {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(CODE);
        }
    };
    ctrlc::set_handler(handler).context("cannot watch for Ctrl-C")
}

/// Whether Ctrl-C was pressed.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// What was asked for is done.
pub fn forget() {
    ASKED.store(false, Ordering::Relaxed);
}

/// The flag that [`asked`] reads, for work that looks at a flag.
#[cfg(feature = "train")]
pub fn flag() -> &'static AtomicBool {
    &ASKED
}
