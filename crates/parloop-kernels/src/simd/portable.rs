//! Plain Rust: arrays of eight lanes that the compiler vectorises for the target's baseline.

use super::{ByteDot, Simd, Target, VectorOf, Work, bf16_to_f32};

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
        unsafe { p.cast::<[u16; N]>().read_unaligned() }.map(|h| half::f16::from_bits(h).to_f32())
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

impl ByteDot for Portable {
    type T = Self;
    type I = [i32; N];
    const Q8_OFFSET: i32 = 128;

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
    unsafe fn dot_q8(acc: Self::I, w: Self::I, x: Self::I) -> Self::I {
        std::array::from_fn(|i| {
            let (w, x) = (w[i].to_le_bytes(), x[i].to_le_bytes());
            (0..4).fold(acc[i], |acc, j| acc + i32::from(w[j]) * i32::from(x[j] as i8))
        })
    }
    #[inline(always)]
    unsafe fn dot_q4(acc: Self::I, w: Self::I, x: Self::I) -> Self::I {
        // SAFETY: no pointers.
        unsafe { Self::dot_q8(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn to_float(v: Self::I) -> VectorOf<Self::T> {
        v.map(|v| v as f32)
    }
}
