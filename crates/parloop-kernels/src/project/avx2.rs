//! Kernels for 256-bit vectors, as most processors have them.
//!
//! | part | idea |
//! |---|---|
//! | [`bytes`] | quantised weights: up to four rows share each weight that was unpacked |
//! | [`halves`] | bf16 weights for few rows, read where they lie |

pub(super) mod bytes;
pub(super) mod halves;
