//! The arithmetic of parloop on CPUs.
//!
//! Everything works on **rows**: a row is a vector of one (sequence, loop, position), and a call takes any number of
//! them. Weights are read once per call whatever the number of rows; that is what makes the loops of a Parallel Loop
//! Transformer almost free at decode.
//!
//! | module | idea |
//! |---|---|
//! | [`isa`] | which instructions are used; `PARLOOP_ISA` forces a set |
//! | [`machine`] | what a run uses of the machine: instructions, threads, profile |
//! | [`pool`] | persistent worker threads that share the tasks of a call |
//! | [`weights`] | matrices behind an opaque type, used where they lie |
//! | [`quant`] | blocks of 32 weights in 8 or 4 bits |
//! | [`project`] | norm, matrix products, residual or SwiGLU, in one call |
//! | [`experts`] | the results of a row's experts, put together |
//! | [`kv`] | keys and values in tiles of 16 positions: growing caches and rings |
//! | [`mod@attend`] | attention of many rows over cache and window, with the gate |
//! | [`memory`] | huge pages for weights |
//! | [`measure`] | the machine's read bandwidth and peak arithmetic |
//! | [`profile`] | where the time of a run goes |
//! | [`ops`] | norms, rotary embedding, softmax helpers |
//!
//! **A row's result never depends on its company.** For one weight type and one instruction set it is bit-equal
//! whatever the other rows of the call, the number of threads, and how a prompt was cut into calls. Each output is
//! accumulated over the inner dimension in one fixed order, and attention reduces over key blocks at fixed positions.
//!
//! All `unsafe` of the project is here (and in one file that maps checkpoints): raw pointers of disjoint output
//! ranges handed to workers, and vector intrinsics. Most kernels are written once, generic over [`simd::Simd`], and
//! compiled for each instruction set; which kernel serves which weights on which machine is a table in `project`.
#![warn(unsafe_op_in_unsafe_fn)]

#[cfg(target_endian = "big")]
compile_error!("weights are used in place as little-endian data; big-endian machines are not supported");

pub mod attend;
pub mod experts;
pub mod isa;
pub mod kv;
pub mod machine;
pub mod measure;
pub mod memory;
pub mod ops;
pub mod pool;
pub mod profile;
pub mod project;
pub mod quant;
pub mod simd;
pub mod weights;

pub use attend::{Attend, Branch, attend};
pub use isa::Isa;
pub use kv::{KvPool, KvTiles, KvType, Spares};
pub use machine::Machine;
pub use pool::Pool;
pub use profile::{Op, Profile};
pub use project::{Bias, Effect, Linear, Norm, Product, Projector};
pub use weights::{WeightType, Weights};

/// A slice whose disjoint parts are written by several workers.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<T>(*mut T, usize);

// SAFETY: the pointer is only dereferenced through `SharedMut::slice`, whose callers write disjoint ranges.
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> SharedMut<T> {
    pub fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr(), slice.len())
    }

    /// The same memory as elements of another kind, of which any bytes are valid (numbers).
    pub fn cast<U: Copy>(self) -> SharedMut<U> {
        assert!(align_of::<U>() <= align_of::<T>(), "alignment of a part");
        SharedMut(self.0.cast(), self.1 * size_of::<T>() / size_of::<U>())
    }

    /// # Safety
    /// No other live reference may overlap `start .. start + len`, and the slice it was made from must outlive the
    /// use.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start.checked_add(len).is_some_and(|end| end <= self.1), "part of a slice out of range");
        // SAFETY: in range by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}
