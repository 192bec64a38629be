//! AVX2 with FMA, and AVX-512.

use super::{Simd, Target, Work};
use std::arch::x86_64::*;

/// Eight lanes in a ymm register.
#[derive(Clone, Copy)]
pub struct Avx2;

/// Sixteen lanes in a zmm register.
#[derive(Clone, Copy)]
pub struct Avx512;

/// AVX2 and dot products of bytes.
pub struct Avx2Vnni;

/// AVX-512 and dot products of bytes.
pub struct Avx512Vnni;

/// AVX-512 and dot products of bf16 numbers.
pub struct Avx512Bf16;

/// `Target`: functions compiled with these features.
macro_rules! target {
    ($name:ident, $vectors:ident, $features:literal) => {
        impl Target for $name {
            type S = $vectors;

            #[inline(always)]
            unsafe fn compiled<W: Work>(work: W) {
                #[target_feature(enable = $features)]
                #[inline(never)]
                unsafe fn inner<W: Work>(work: W) {
                    // SAFETY: the features are enabled here; the rest is the caller's promise.
                    unsafe { work.run() }
                }
                // SAFETY: the caller's promise.
                unsafe { inner(work) }
            }
        }
    };
}
target!(Avx2, Avx2, "avx2,fma,f16c");
target!(Avx2Vnni, Avx2, "avx2,fma,f16c,avxvnni");
target!(Avx512, Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");
target!(Avx512Vnni, Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512vnni");
target!(Avx512Bf16, Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512bf16");

mod dots;

// SAFETY (all blocks below): the trait's contract promises the instruction set and valid pointers.

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        unsafe { _mm256_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        unsafe { _mm256_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::V) -> Self::V {
        unsafe {
            let n = _mm256_cvtps_epi32(n);
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(n, _mm256_set1_epi32(127))))
        }
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn select_lt(a: Self::V, limit: Self::V, value: Self::V, other: Self::V) -> Self::V {
        unsafe { _mm256_blendv_ps(other, value, _mm256_cmp_ps::<_CMP_LT_OQ>(a, limit)) }
    }
    #[inline(always)]
    unsafe fn reduce_add(v: Self::V) -> f32 {
        unsafe {
            let s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let s = _mm_add_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps::<1>(s, s)))
        }
    }
    #[inline(always)]
    unsafe fn reduce_add4(v: [Self::V; 4]) -> [f32; 4] {
        unsafe {
            let a = _mm256_hadd_ps(v[0], v[1]);
            let b = _mm256_hadd_ps(v[2], v[3]);
            let s = _mm256_hadd_ps(a, b);
            let s = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps::<1>(s));
            std::mem::transmute::<__m128, [f32; 4]>(s)
        }
    }
    #[inline(always)]
    unsafe fn reduce_max(v: Self::V) -> f32 {
        unsafe {
            let s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let s = _mm_max_ps(s, _mm_movehl_ps(s, s));
            _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps::<1>(s, s)))
        }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::V {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_bf16_as_f32(p: *const u16) -> Self::V {
        unsafe {
            let w = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(w))
        }
    }
    #[inline(always)]
    unsafe fn load_i8_as_f32(p: *const i8) -> Self::V {
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
    }
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self::V {
        unsafe { _mm512_setzero_ps() }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        unsafe { _mm512_storeu_ps(p, v) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn pow2(n: Self::V) -> Self::V {
        unsafe { _mm512_scalef_ps(_mm512_set1_ps(1.0), n) }
    }
    #[inline(always)]
    unsafe fn round(a: Self::V) -> Self::V {
        unsafe { _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    unsafe fn select_lt(a: Self::V, limit: Self::V, value: Self::V, other: Self::V) -> Self::V {
        unsafe { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, limit), other, value) }
    }
    #[inline(always)]
    unsafe fn reduce_add(v: Self::V) -> f32 {
        unsafe { Avx2::reduce_add(halves(v)) }
    }
    #[inline(always)]
    unsafe fn reduce_add4(v: [Self::V; 4]) -> [f32; 4] {
        unsafe { Avx2::reduce_add4([halves(v[0]), halves(v[1]), halves(v[2]), halves(v[3])]) }
    }
    #[inline(always)]
    unsafe fn reduce_max(v: Self::V) -> f32 {
        unsafe { _mm512_reduce_max_ps(v) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> Self::V {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_bf16_as_f32(p: *const u16) -> Self::V {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_i8_as_f32(p: *const i8) -> Self::V {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
}

/// Transposes 16 x 16 elements of 32 bits: `to[j][i] = from[i][j]`, rows `from_pitch` and `to_pitch` elements apart.
///
/// # Safety
/// AVX-512 must be available, and all 16 rows of 16 elements valid on either side, without overlap.
#[inline(always)]
pub(crate) unsafe fn transpose(from: *const f32, from_pitch: usize, to: *mut f32, to_pitch: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut rows = [_mm512_setzero_ps(); 16];
        for i in 0..16 {
            rows[i] = _mm512_loadu_ps(from.add(i * from_pitch));
        }
        // Pairs of elements, then of pairs, then of lanes of 128 bits, then of halves.
        let mut pairs = [_mm512_setzero_ps(); 16];
        for i in 0..8 {
            pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        // quads[4 g + c] holds column c of each 128-bit lane, for rows 4 g .. 4 g + 4.
        let mut quads = [_mm512_setzero_ps(); 16];
        for g in 0..4 {
            for half in 0..2 {
                let (a, b) = (_mm512_castps_pd(pairs[4 * g + half]), _mm512_castps_pd(pairs[4 * g + 2 + half]));
                quads[4 * g + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                quads[4 * g + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
        }
        for c in 0..4 {
            let (a, b) = (quads[c], quads[4 + c]);
            let (d, e) = (quads[8 + c], quads[12 + c]);
            let (low, high) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xDD>(a, b));
            let (low2, high2) = (_mm512_shuffle_f32x4::<0x88>(d, e), _mm512_shuffle_f32x4::<0xDD>(d, e));
            _mm512_storeu_ps(to.add(c * to_pitch), _mm512_shuffle_f32x4::<0x88>(low, low2));
            _mm512_storeu_ps(to.add((4 + c) * to_pitch), _mm512_shuffle_f32x4::<0x88>(high, high2));
            _mm512_storeu_ps(to.add((8 + c) * to_pitch), _mm512_shuffle_f32x4::<0xDD>(low, low2));
            _mm512_storeu_ps(to.add((12 + c) * to_pitch), _mm512_shuffle_f32x4::<0xDD>(high, high2));
        }
    }
}

/// Lower half plus upper half.
#[inline(always)]
unsafe fn halves(v: __m512) -> __m256 {
    unsafe { _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v)) }
}
