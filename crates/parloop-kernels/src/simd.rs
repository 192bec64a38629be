//! Vectors of f32, one implementation per instruction set.
//!
//! Kernels are generic over [`Simd`] and marked `#[inline(always)]`, so that they are compiled inside a function that
//! enables the instruction set (`isa::kernel!`).

/// A vector of f32 lanes and the few operations the kernels need.
///
/// # Safety
/// Every method may only be called where the implementation's instruction set is available; pointers must be valid
/// for [`Simd::LANES`] elements (no alignment needed).
#[allow(clippy::missing_safety_doc)] // Stated once, above.
pub trait Simd: Copy + 'static {
    /// The vector.
    type V: Copy;
    /// f32 lanes of a vector; a power of two that divides 16.
    const LANES: usize;

    /// All lanes zero.
    unsafe fn zero() -> Self::V;
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// Loads lanes.
    unsafe fn load(p: *const f32) -> Self::V;
    /// Stores lanes.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// a + b
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// a - b
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// a * b
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// a / b
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// a * b + c, fused where the instruction set has it.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Lane-wise maximum.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// 2^n for integral lanes in [-126, 127].
    unsafe fn pow2(n: Self::V) -> Self::V;
    /// Lanes rounded to the nearest integer.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `value` where `a < limit`, else `other`.
    unsafe fn select_lt(a: Self::V, limit: Self::V, value: Self::V, other: Self::V) -> Self::V;
    /// Sum of the lanes, in a fixed order.
    unsafe fn reduce_add(v: Self::V) -> f32;
    /// Sums of four vectors, each in the same fixed order (which may differ from [`Simd::reduce_add`]'s).
    unsafe fn reduce_add4(v: [Self::V; 4]) -> [f32; 4];
    /// Largest lane.
    unsafe fn reduce_max(v: Self::V) -> f32;
    /// Loads [`Simd::LANES`] signed bytes as f32.
    unsafe fn load_i8_as_f32(p: *const i8) -> Self::V;
    /// Loads [`Simd::LANES`] bf16 numbers as f32.
    unsafe fn load_bf16_as_f32(p: *const u16) -> Self::V;
    /// Loads IEEE half-precision numbers.
    unsafe fn load_f16(p: *const u16) -> Self::V;

    /// Asks for the cache line at `p`, which may be any address, to be brought near. The hardware's own prefetching
    /// stops at the end of a page, which a stream of weights crosses all the time.
    unsafe fn prefetch(p: *const u8);

    /// e^x to about 2 ulp; 0 below -87.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // Cody-Waite reduction and the degree-5 polynomial of the Cephes library's expf.
        // SAFETY: the caller's promise covers every method.
        unsafe {
            let low = Self::splat(-87.0);
            let clamped = Self::max(x, low);
            let clamped = Self::select_lt(clamped, Self::splat(88.0), clamped, Self::splat(88.0));
            let n = Self::round(Self::mul(clamped, Self::splat(std::f32::consts::LOG2_E)));
            let r = Self::fma(n, Self::splat(-0.693_359_4), clamped);
            let r = Self::fma(n, Self::splat(2.121_944_4e-4), r);
            let mut p = Self::splat(1.987_569_1e-4);
            for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
                p = Self::fma(p, r, Self::splat(c));
            }
            let p = Self::fma(Self::mul(p, r), r, Self::add(r, Self::splat(1.0)));
            Self::select_lt(x, low, Self::zero(), Self::mul(p, Self::pow2(n)))
        }
    }
}

/// A set of instructions that code is compiled for: a vector type, and perhaps more.
pub trait Target: 'static {
    /// Its vectors.
    type S: Simd;

    /// Runs work compiled for this target, in a function of its own.
    ///
    /// # Safety
    /// The target's instructions must be available; the rest as the work demands.
    unsafe fn compiled<W: Work>(work: W);
}

/// What [`Target::compiled`] runs. A trait, not a closure: closures do not take on the instruction set of the function
/// they are written in, so vector instructions inside them would become calls.
pub trait Work {
    /// Does the work. Implementations are `#[inline(always)]`, to be compiled for the caller's target.
    ///
    /// # Safety
    /// As the maker of the work says.
    unsafe fn run(self);
}

/// Dot products of bf16 weights.
///
/// # Safety
/// As [`Simd`]: pointers must be valid for a step.
#[allow(clippy::missing_safety_doc)] // Stated once, above.
pub trait HalfDot: 'static {
    /// What it needs.
    type T: Target;
    /// A vector of weights.
    type W: Copy;
    /// Weights of a step.
    const STEP: usize;
    /// Whether it takes activations in bf16 (otherwise they stay f32).
    const BF16_INPUT: bool;

    /// Loads weights.
    unsafe fn load(p: *const u16) -> Self::W;
    /// `acc + sum of w * x` over one step; `x` points at bf16 or f32 activations as [`HalfDot::BF16_INPUT`] says.
    unsafe fn dot(acc: VectorOf<Self::T>, w: Self::W, x: *const u8) -> VectorOf<Self::T>;
}

/// The vector of f32 lanes of a target.
pub type VectorOf<T> = <<T as Target>::S as Simd>::V;

/// Dot products of bytes.
///
/// # Safety
/// As [`Simd`]: pointers must be valid for four bytes a lane.
#[allow(clippy::missing_safety_doc)] // Stated once, above.
pub trait ByteDot: 'static {
    /// What it needs.
    type T: Target;
    /// A vector of four times as many bytes as the target has f32 lanes.
    type I: Copy;
    /// As many sums as the target has f32 lanes, in 32 bits, perhaps each in parts.
    type Sums: Copy;
    /// What [`ByteDot::dot_q8`] adds to the weights: its result is too large by this times the sum of the activations.
    const Q8_OFFSET: i32;

    /// All sums `x`.
    unsafe fn start(x: i32) -> Self::Sums;
    /// The four bytes of `x` in every lane.
    unsafe fn splat(x: i32) -> Self::I;
    /// Loads lanes.
    unsafe fn load(p: *const u8) -> Self::I;
    /// The lower four bits of each byte.
    unsafe fn low_nibbles(v: Self::I) -> Self::I;
    /// The upper four bits of each byte.
    unsafe fn high_nibbles(v: Self::I) -> Self::I;
    /// Lane by lane `acc + w . x` for four bytes each: `w` holds an 8-bit weight plus 128; `x` is signed, not -128.
    unsafe fn dot_q8(acc: Self::Sums, w: Self::I, x: Self::I) -> Self::Sums;
    /// Lane by lane `acc + w . x` for four bytes each: `w` from 0 to 15, `x` signed.
    unsafe fn dot_q4(acc: Self::Sums, w: Self::I, x: Self::I) -> Self::Sums;
    /// Sums to f32.
    unsafe fn to_float(v: Self::Sums) -> VectorOf<Self::T>;
}

/// bf16 weights widened to f32 and multiplied with f32 activations: any vectors can.
pub struct Widened<S>(std::marker::PhantomData<S>);

impl<S: Simd + Target<S = S>> HalfDot for Widened<S> {
    type T = S;
    type W = S::V;
    const STEP: usize = S::LANES;
    const BF16_INPUT: bool = false;

    #[inline(always)]
    unsafe fn load(p: *const u16) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load_bf16_as_f32(p) }
    }
    #[inline(always)]
    unsafe fn dot(acc: S::V, w: S::V, x: *const u8) -> S::V {
        // SAFETY: the caller's promise; `x` points at f32 activations.
        unsafe { S::fma(w, S::load(x.cast()), acc) }
    }
}

/// bf16 to f32, exactly.
#[inline(always)]
pub fn bf16_to_f32(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// f32 to bf16, to nearest even.
#[inline(always)]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) as u16
}

/// IEEE half precision to f32, exactly: without a branch, so that the compiler can do several at once.
#[inline(always)]
pub(crate) fn f16_to_f32(h: u16) -> f32 {
    // Exponent and fraction moved to their places, and the exponent's other bias made up for by a product, which also
    // makes normal numbers of those that are not. All ones in the exponent stay so.
    let bits = u32::from(h & 0x7FFF) << 13;
    let special = if bits >= 0x7C00 << 13 { 0x7F80_0000 } else { 0 };
    let size = f32::from_bits(bits) * f32::from_bits(0x7780_0000);
    f32::from_bits(size.to_bits() | special | u32::from(h & 0x8000) << 16)
}

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::transpose;
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx2Vnni, Avx512, Avx512Bf16, Avx512Vnni};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_of_half_precision_is_converted_exactly() {
        for bits in 0..=u16::MAX {
            let (want, got) = (half::f16::from_bits(bits).to_f32(), f16_to_f32(bits));
            assert!(want.to_bits() == got.to_bits() || want.is_nan() && got.is_nan(), "{bits:#x}: {got}, not {want}");
        }
    }
}
