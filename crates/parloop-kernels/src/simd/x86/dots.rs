//! Dot products of bytes and of bf16 numbers, with and without instructions of their own.

use super::{Avx512, Avx512Bf16, Avx512Vnni};
use crate::simd::{ByteDot, HalfDot};
use std::arch::x86_64::*;

// SAFETY (all blocks below): the traits' contracts promise the instruction set and valid pointers.

/// What both implementations share.
macro_rules! bytes_512 {
    () => {
        type T = Self;
        type I = __m512i;
        type Sums = __m512i;

        #[inline(always)]
        unsafe fn start(x: i32) -> __m512i {
            unsafe { _mm512_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn splat(x: i32) -> __m512i {
            unsafe { _mm512_set1_epi32(x) }
        }
        #[inline(always)]
        unsafe fn load(p: *const u8) -> __m512i {
            unsafe { _mm512_loadu_si512(p.cast()) }
        }
        #[inline(always)]
        unsafe fn low_nibbles(v: __m512i) -> __m512i {
            unsafe { _mm512_and_si512(v, _mm512_set1_epi8(0x0F)) }
        }
        #[inline(always)]
        unsafe fn high_nibbles(v: __m512i) -> __m512i {
            unsafe { _mm512_and_si512(_mm512_srli_epi16::<4>(v), _mm512_set1_epi8(0x0F)) }
        }
        #[inline(always)]
        unsafe fn to_float(v: __m512i) -> __m512 {
            unsafe { _mm512_cvtepi32_ps(v) }
        }
    };
}

impl ByteDot for Avx512 {
    const Q8_OFFSET: i32 = 0;
    bytes_512!();

    #[inline(always)]
    unsafe fn dot_q8(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        // The pairwise 16-bit sums of unsigned by signed bytes would overflow for weights up to 255. |w| by x carrying
        // w's sign stays below 2 * 127 * 127 (where w is 0, x does not matter).
        unsafe {
            let w = _mm512_xor_si512(w, _mm512_set1_epi8(-128));
            let signed = _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
            let pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(w), signed);
            _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
    #[inline(always)]
    unsafe fn dot_q4(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        unsafe {
            let pairs = _mm512_maddubs_epi16(w, x);
            _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))
        }
    }
}

impl ByteDot for Avx512Vnni {
    const Q8_OFFSET: i32 = 128;
    bytes_512!();

    #[inline(always)]
    unsafe fn dot_q8(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }
    #[inline(always)]
    unsafe fn dot_q4(acc: __m512i, w: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(acc, w, x) }
    }
}

impl HalfDot for Avx512Bf16 {
    type T = Self;
    type W = __m512bh;
    const STEP: usize = 32;
    const BF16_INPUT: bool = true;

    #[inline(always)]
    unsafe fn load(p: *const u16) -> __m512bh {
        unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(p.cast())) }
    }
    #[inline(always)]
    unsafe fn dot(acc: __m512, w: __m512bh, x: *const u8) -> __m512 {
        unsafe {
            let x = std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(x.cast()));
            _mm512_dpbf16_ps(acc, w, x)
        }
    }
}
