//! What the machine can do: read bandwidth and peak arithmetic, measured with the pool that does the work.

use crate::isa::kernel;
use crate::memory::Memory;
use crate::project::Projector;
use crate::simd::Simd;
use crate::weights::WeightType;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Bytes of a task of the read test.
const CHUNK: usize = 1 << 20;

/// Memory to be read by the bandwidth test.
pub struct ReadTest {
    memory: Memory,
}

impl ReadTest {
    /// A buffer of about `bytes`, rounded up to whole megabytes. As large as the weights that a pass reads, it is
    /// cached as they are.
    ///
    /// # Errors
    /// There is not enough memory.
    pub fn new(bytes: usize) -> std::io::Result<Self> {
        let mut memory = Memory::new(bytes.next_multiple_of(CHUNK).max(CHUNK))?;
        // Not zeros: untouched pages would all be one shared page, read from the cache.
        memory.bytes_mut().fill(1);
        Ok(Self { memory })
    }

    /// Reads the buffer once with all threads; bytes a second.
    pub fn run(&self, on: &mut Projector) -> f64 {
        let isa = on.isa();
        let bytes = self.memory.as_ref();
        let start = Instant::now();
        let sum = AtomicU64::new(0);
        on.pool.run(bytes.len() / CHUNK, |i| {
            let mut total = 0.0;
            // SAFETY: a projector's instruction set is available.
            unsafe { read(isa, &bytes[i * CHUNK..(i + 1) * CHUNK], &mut total) };
            sum.fetch_add(u64::from(total.to_bits()), Ordering::Relaxed);
        });
        black_box(sum.into_inner());
        bytes.len() as f64 / start.elapsed().as_secs_f64()
    }
}

kernel! {
    /// Sums a stretch of memory.
    fn read(part: &[u8], total: &mut f32) = read_generic
}

#[inline(always)]
unsafe fn read_generic<S: Simd>(part: &[u8], total: &mut f32) {
    // SAFETY: the instruction set is the caller's promise; `part` is a whole number of steps long.
    unsafe {
        let mut acc = [S::zero(); 8];
        for chunk in part.chunks_exact(4 * 8 * S::LANES) {
            for j in 0..acc.len() {
                acc[j] = S::add(acc[j], S::load(chunk.as_ptr().add(4 * j * S::LANES).cast()));
            }
        }
        for v in acc {
            *total += S::reduce_add(v);
        }
    }
}

/// Floating-point operations a second (a multiply and an add are two) that the kernels' inner instruction for a
/// weight type and many rows reaches from registers, with all threads.
pub fn peak(on: &mut Projector, kind: WeightType) -> f64 {
    const ROUNDS: usize = 200_000;
    let (isa, tasks) = (on.isa(), 4 * on.pool.threads());
    let operations = AtomicU64::new(0);
    let one = |_: usize| {
        operations.fetch_add(Projector::peak(isa, kind, ROUNDS) as u64, Ordering::Relaxed);
    };
    // Once to warm up.
    on.pool.run(tasks, one);
    operations.store(0, Ordering::Relaxed);
    let start = Instant::now();
    on.pool.run(tasks, one);
    let seconds = start.elapsed().as_secs_f64();
    operations.into_inner() as f64 / seconds
}
