//! What the tile instructions reach from registers.

use super::{BLOCK, Config, STEP};
use std::arch::asm;

/// Floating-point operations (a multiply and an add are two) of a round of [`rounds`].
pub(super) const OPERATIONS: usize = 4 * 2 * BLOCK * BLOCK * STEP;

/// Four products at a time of 16 x 32 by 32 x 16: of bf16, or of bytes as blocks of 32 allow.
///
/// # Safety
/// Matrix tiles must be available.
pub(super) unsafe fn rounds(bytes: bool, rounds: usize) {
    let mut config = Config::new();
    (0..4).for_each(|tile| config.tile(tile, BLOCK, 64));
    let (inputs, lines) = if bytes { (STEP, 8) } else { (64, 16) };
    (4..6).for_each(|tile| config.tile(tile, BLOCK, inputs));
    (6..8).for_each(|tile| config.tile(tile, lines, 64));
    // SAFETY: the caller's promise; a valid configuration; no memory is touched but the configuration.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly));
        asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack));
        asm!("tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7", options(nostack));
        for _ in 0..rounds {
            if bytes {
                asm!("tdpbssd tmm0, tmm4, tmm6", "tdpbssd tmm1, tmm4, tmm7", options(nostack));
                asm!("tdpbssd tmm2, tmm5, tmm6", "tdpbssd tmm3, tmm5, tmm7", options(nostack));
            } else {
                asm!("tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7", options(nostack));
                asm!("tdpbf16ps tmm2, tmm5, tmm6", "tdpbf16ps tmm3, tmm5, tmm7", options(nostack));
            }
        }
        asm!("tilerelease", options(nostack));
    }
}
