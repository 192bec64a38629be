//! What the machine can do: read bandwidth and peak arithmetic, measured with the pool that does the work.

use crate::isa::{Isa, kernel};
use crate::memory::Memory;
use crate::project::Projector;
#[cfg(target_arch = "x86_64")]
use crate::project::amx;
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
/// weight type reaches from registers, with all threads.
pub fn peak(on: &mut Projector, kind: WeightType) -> f64 {
    const ROUNDS: usize = 200_000;
    let (isa, tasks) = (on.isa(), 4 * on.pool.threads());
    let one = |_: usize| {
        let mut out = 0.0;
        // SAFETY: a projector's instruction set is available.
        unsafe {
            match kind {
                WeightType::F32 => peak_f32(isa, ROUNDS, &mut out),
                WeightType::Bf16 => peak_bf16(isa, ROUNDS, &mut out),
                WeightType::Q8 | WeightType::Q4Min | WeightType::Q4 => peak_int(isa, ROUNDS, &mut out),
            }
        }
        black_box(out);
    };
    let seconds = |on: &mut Projector, one: &(dyn Fn(usize) + Sync)| {
        on.pool.run(tasks, one);
        let start = Instant::now();
        on.pool.run(tasks, one);
        start.elapsed().as_secs_f64()
    };
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Amx && kind != WeightType::F32 {
        // SAFETY: a projector's instruction set is available.
        let tiles = |_: usize| unsafe { amx::peak::rounds(kind.bits().is_some(), ROUNDS) };
        return (tasks * ROUNDS * amx::peak::OPERATIONS) as f64 / seconds(on, &tiles);
    }
    let seconds = seconds(on, &one);
    let lanes = match isa {
        Isa::Avx512 | Isa::Amx => 16,
        Isa::Portable | Isa::Avx2 => 8,
    };
    // Products of a lane and instruction: four bytes, two bf16 where the instruction set has that, one f32.
    let products = match kind {
        WeightType::Q8 | WeightType::Q4Min | WeightType::Q4 => 4,
        WeightType::Bf16 if isa >= Isa::Avx512 => 2,
        WeightType::Bf16 | WeightType::F32 => 1,
    };
    (tasks * ROUNDS * CHAINS * lanes * products * 2) as f64 / seconds
}

/// Independent chains, enough to hide an instruction's latency.
const CHAINS: usize = 12;

kernel! {
    /// f32 multiply-adds.
    fn peak_f32(rounds: usize, out: &mut f32) = peak_f32_generic
}
kernel! {
    /// bf16 dot products.
    fn peak_bf16(rounds: usize, out: &mut f32) = peak_bf16_generic
}
kernel! {
    /// 8-bit dot products.
    fn peak_int(rounds: usize, out: &mut f32) = peak_int_generic
}

#[inline(always)]
unsafe fn peak_f32_generic<S: Simd>(rounds: usize, out: &mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let (mut acc, x, w) = ([S::zero(); CHAINS], S::splat(black_box(0.5)), S::splat(black_box(1.0)));
        for _ in 0..rounds {
            for a in &mut acc {
                *a = S::fma(x, w, *a);
            }
        }
        for v in acc {
            *out += S::reduce_add(v);
        }
    }
}

#[inline(always)]
unsafe fn peak_bf16_generic<S: Simd>(rounds: usize, out: &mut f32) {
    // SAFETY: the caller's promise; the buffers hold a step of either input form.
    unsafe {
        let (x, w) = (black_box([0x3F80u16; 64]), black_box([0x3F80u16; 64]));
        let (mut acc, w) = ([S::zero(); CHAINS], S::load_bf16(w.as_ptr()));
        for _ in 0..rounds {
            for a in &mut acc {
                *a = S::dot_bf16(*a, w, x.as_ptr().cast());
            }
        }
        for v in acc {
            *out += S::reduce_add(v);
        }
    }
}

#[inline(always)]
unsafe fn peak_int_generic<S: Simd>(rounds: usize, out: &mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let (mut acc, x, w) =
            ([S::splat_int(0); CHAINS], S::splat_int(black_box(0x0101_0101)), S::splat_int(black_box(0x0302_0100)));
        for _ in 0..rounds {
            for a in &mut acc {
                *a = S::dot_q4(*a, w, x);
            }
        }
        for v in acc {
            *out += S::reduce_add(S::to_float(v));
        }
    }
}
