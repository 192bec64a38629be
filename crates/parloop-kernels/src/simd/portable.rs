//! Plain Rust: arrays of eight lanes that the compiler vectorises for the target's baseline.

use super::{ByteDot, Simd, Target, VectorOf, Work, bf16_to_f32, f16_to_f32};

/// Eight lanes in an array.
#[derive(Clone, Copy)]
pub struct Portable;

const N: usize = 8;

#[inline(always)]
fn map(a: [f32; N], b: [f32; N], f: impl Fn(f32, f32) -> f32) -> [f32; N] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

// SAFETY (all methods): only the pointer methods need care, and their callers promise valid pointers.
impl Simd for Portable {
    type V = [f32; N];
    const LANES: usize = N;

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        [0.0; N]
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: valid for N elements, by the trait's contract.
        unsafe { p.cast::<[f32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: as above.
        unsafe { p.cast::<[f32; N]>().write_unaligned(v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without an FMA instruction that is a library call per lane.
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        map(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::V) -> Self::V {
        n.map(|n| f32::from_bits(((n as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        // Adding 1.5 * 2^23 leaves no room for a fraction; exact for |a| < 2^22.
        a.map(|a| (a + 12_582_912.0) - 12_582_912.0)
    }
    #[inline(always)]
    unsafe fn select_lt(a: Self::V, limit: Self::V, value: Self::V, other: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < limit[i] { value[i] } else { other[i] })
    }
    #[inline(always)]
    unsafe fn reduce_add(v: Self::V) -> f32 {
        ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
    }
    #[inline(always)]
    unsafe fn reduce_add4(v: [Self::V; 4]) -> [f32; 4] {
        // SAFETY: no pointers.
        v.map(|v| unsafe { Self::reduce_add(v) })
    }
    #[inline(always)]
    unsafe fn reduce_max(v: Self::V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, |m, x| if x > m { x } else { m })
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::V {
        // SAFETY: valid for N elements, by the trait's contract.
        unsafe { p.cast::<[u16; N]>().read_unaligned() }.map(f16_to_f32)
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}
    #[inline(always)]
    unsafe fn load_bf16_as_f32(p: *const u16) -> Self::V {
        // SAFETY: valid for N elements, by the trait's contract.
        unsafe { p.cast::<[u16; N]>().read_unaligned() }.map(bf16_to_f32)
    }
    #[inline(always)]
    unsafe fn load_i8_as_f32(p: *const i8) -> Self::V {
        // SAFETY: valid for N elements, by the trait's contract.
        unsafe { p.cast::<[i8; N]>().read_unaligned() }.map(f32::from)
    }
}

impl Target for Portable {
    type S = Self;

    unsafe fn compiled<W: Work>(work: W) {
        // SAFETY: the caller's promise.
        unsafe { work.run() }
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl ByteDot for Portable {
    type T = Self;
    type I = [i32; N];
    type Sums = [i32; N];
    const Q8_OFFSET: i32 = 128;

    #[inline(always)]
    unsafe fn start(x: i32) -> Self::Sums {
        [x; N]
    }
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self::I {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> Self::I {
        // SAFETY: valid for N x 4 bytes, by the trait's contract.
        unsafe { p.cast::<[i32; N]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn low_nibbles(v: Self::I) -> Self::I {
        v.map(|v| v & 0x0F0F_0F0F)
    }
    #[inline(always)]
    unsafe fn high_nibbles(v: Self::I) -> Self::I {
        v.map(|v| (v >> 4) & 0x0F0F_0F0F)
    }
    #[inline(always)]
    unsafe fn dot_q8(acc: Self::Sums, w: Self::I, x: Self::I) -> Self::Sums {
        std::array::from_fn(|i| {
            let (w, x) = (w[i].to_le_bytes(), x[i].to_le_bytes());
            (0..4).fold(acc[i], |acc, j| acc + i32::from(w[j]) * i32::from(x[j] as i8))
        })
    }
    #[inline(always)]
    unsafe fn dot_q4(acc: Self::Sums, w: Self::I, x: Self::I) -> Self::Sums {
        // SAFETY: no pointers.
        unsafe { Self::dot_q8(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn to_float(v: Self::Sums) -> VectorOf<Self::T> {
        v.map(|v| v as f32)
    }
}

/// With what every processor of this architecture has (SSE2): the compiler finds neither the unpacking nor the products
/// of pairs by itself.
#[cfg(target_arch = "x86_64")]
mod baseline {
    use super::{ByteDot, N, Portable, VectorOf};
    use std::arch::x86_64::*;

    /// 16 bits from 8 unsigned ones: the lower and the upper eight.
    #[inline(always)]
    unsafe fn widen(v: __m128i) -> [__m128i; 2] {
        // SAFETY: baseline instructions.
        unsafe { [_mm_unpacklo_epi8(v, _mm_setzero_si128()), _mm_unpackhi_epi8(v, _mm_setzero_si128())] }
    }

    // SAFETY (all methods): the instructions are the architecture's baseline; pointers by the trait's contract.
    impl ByteDot for Portable {
        type T = Self;
        type I = [__m128i; 2];
        /// Two outputs each, a sum in two parts.
        type Sums = [__m128i; 4];
        const Q8_OFFSET: i32 = 128;

        #[inline(always)]
        unsafe fn start(x: i32) -> Self::Sums {
            unsafe { [_mm_setr_epi32(x, 0, x, 0); 4] }
        }
        #[inline(always)]
        unsafe fn splat(x: i32) -> Self::I {
            unsafe { [_mm_set1_epi32(x); 2] }
        }
        #[inline(always)]
        unsafe fn load(p: *const u8) -> Self::I {
            unsafe { [_mm_loadu_si128(p.cast()), _mm_loadu_si128(p.add(16).cast())] }
        }
        #[inline(always)]
        unsafe fn low_nibbles(v: Self::I) -> Self::I {
            unsafe { [_mm_and_si128(v[0], _mm_set1_epi8(15)), _mm_and_si128(v[1], _mm_set1_epi8(15))] }
        }
        #[inline(always)]
        unsafe fn high_nibbles(v: Self::I) -> Self::I {
            unsafe { Self::low_nibbles([_mm_srli_epi16::<4>(v[0]), _mm_srli_epi16::<4>(v[1])]) }
        }
        #[inline(always)]
        unsafe fn dot_q8(acc: Self::Sums, w: Self::I, x: Self::I) -> Self::Sums {
            unsafe {
                // Both halves of `x` are the same four bytes over and over.
                let x = _mm_srai_epi16::<8>(_mm_unpacklo_epi8(x[0], x[0]));
                let ([a, b], [c, d]) = (widen(w[0]), widen(w[1]));
                [
                    _mm_add_epi32(acc[0], _mm_madd_epi16(a, x)),
                    _mm_add_epi32(acc[1], _mm_madd_epi16(b, x)),
                    _mm_add_epi32(acc[2], _mm_madd_epi16(c, x)),
                    _mm_add_epi32(acc[3], _mm_madd_epi16(d, x)),
                ]
            }
        }
        #[inline(always)]
        unsafe fn dot_q4(acc: Self::Sums, w: Self::I, x: Self::I) -> Self::Sums {
            unsafe { Self::dot_q8(acc, w, x) }
        }
        #[inline(always)]
        unsafe fn to_float(v: Self::Sums) -> VectorOf<Self::T> {
            unsafe {
                let mut lanes = [0.0; N];
                for half in 0..2 {
                    let (a, b) = (_mm_castsi128_ps(v[2 * half]), _mm_castsi128_ps(v[2 * half + 1]));
                    let (even, odd) = (_mm_shuffle_ps::<0x88>(a, b), _mm_shuffle_ps::<0xDD>(a, b));
                    let sums = _mm_add_epi32(_mm_castps_si128(even), _mm_castps_si128(odd));
                    _mm_storeu_ps(lanes[4 * half..].as_mut_ptr(), _mm_cvtepi32_ps(sums));
                }
                lanes
            }
        }
    }
}
