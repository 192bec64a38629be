//! Scales and minima for blocks of weights, found for 16 outputs at a time: a vector lane is an output, so no sum runs
//! across lanes. Every instruction set computes the same numbers in the same order (no fused operations), hence finds
//! the same scales.

use super::{BLOCK, Bits, OUTPUTS};
use crate::isa::kernel;
use crate::simd::Simd;
use half::f16;

/// One number of each of 16 outputs.
pub(super) type Lanes = [f32; OUTPUTS];

/// A block of 16 outputs, quantised.
pub(super) struct Block {
    /// Exactly f16 numbers, as are the minima.
    pub scales: Lanes,
    pub minima: Lanes,
    /// Whole numbers in the range of the type, for each input.
    pub values: [Lanes; BLOCK],
}

impl Block {
    /// Zero weights.
    pub const ZERO: Self = Self { scales: [0.0; OUTPUTS], minima: [0.0; OUTPUTS], values: [[0.0; OUTPUTS]; BLOCK] };
}

kernel! {
    /// Quantises a block of 16 outputs.
    pub(super) fn quantize(bits: Bits, x: &[Lanes; BLOCK], out: &mut Block) = quantize_generic
}

#[inline(always)]
unsafe fn quantize_generic<S: Simd>(bits: Bits, x: &[Lanes; BLOCK], out: &mut Block) {
    let mut at = 0;
    while at < OUTPUTS {
        // SAFETY: the caller's promise; LANES divides OUTPUTS, and `at` is a multiple of it.
        unsafe {
            let x = Part { x, at };
            let (scale, min) = match bits {
                Bits::Eight => (half::<S>(S::div(x.largest::<S>().0, S::splat(127.0))), S::zero()),
                Bits::Four => (four::<S>(x), S::zero()),
                Bits::FourMin => four_min::<S>(x),
            };
            let range = match bits {
                Bits::Eight => (-127.0, 127.0),
                Bits::Four => FOUR,
                Bits::FourMin => FOUR_MIN,
            };
            S::store(out.scales[at..].as_mut_ptr(), scale);
            S::store(out.minima[at..].as_mut_ptr(), min);
            let inverse = inverse::<S>(scale);
            for i in 0..BLOCK {
                let q = step::<S>(S::sub(x.load::<S>(i), min), inverse, range);
                S::store(out.values[i][at..].as_mut_ptr(), q);
            }
        }
        at += S::LANES;
    }
}

/// Smallest and largest value of the 4-bit types.
const FOUR: (f32, f32) = (-8.0, 7.0);
const FOUR_MIN: (f32, f32) = (0.0, 15.0);

/// The weights of as many outputs as a vector has lanes.
#[derive(Clone, Copy)]
struct Part<'a> {
    x: &'a [Lanes; BLOCK],
    at: usize,
}

impl Part<'_> {
    #[inline(always)]
    unsafe fn load<S: Simd>(self, i: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::load(self.x[i][self.at..].as_ptr()) }
    }

    /// The largest magnitude, and the weight that has it.
    #[inline(always)]
    unsafe fn largest<S: Simd>(self) -> (S::V, S::V) {
        // SAFETY: the caller's promise.
        unsafe {
            let (mut most, mut weight) = (S::zero(), S::zero());
            for i in 0..BLOCK {
                let x = self.load::<S>(i);
                let size = S::max(x, S::sub(S::zero(), x));
                weight = S::select_lt(most, size, x, weight);
                most = S::max(most, size);
            }
            (most, weight)
        }
    }
}

/// `1 / scale`, or 0 for a scale of 0.
#[inline(always)]
unsafe fn inverse<S: Simd>(scale: S::V) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        let size = S::max(scale, S::sub(S::zero(), scale));
        S::select_lt(S::zero(), size, S::div(S::splat(1.0), scale), S::zero())
    }
}

/// `x / scale`, rounded to a whole number of the range.
#[inline(always)]
unsafe fn step<S: Simd>(x: S::V, inverse: S::V, (low, high): (f32, f32)) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        let most = S::splat(high);
        let x = S::max(S::mul(x, inverse), S::splat(low));
        S::round(S::select_lt(x, most, x, most))
    }
}

/// Rounded to the nearest f16.
#[inline(always)]
unsafe fn half<S: Simd>(x: S::V) -> S::V {
    let mut lanes = [0.0; OUTPUTS];
    // SAFETY: the caller's promise; no instruction set has more lanes.
    unsafe {
        S::store(lanes.as_mut_ptr(), x);
        for lane in &mut lanes[..S::LANES] {
            *lane = nearest_half(*lane);
        }
        S::load(lanes.as_ptr())
    }
}

/// `x` rounded to the nearest f16 (to even), by arithmetic that becomes vectors.
#[inline(always)]
fn nearest_half(x: f32) -> f32 {
    let bits = x.to_bits();
    // 13 of the 23 bits of the fraction go.
    let normal = f32::from_bits((bits + 0xFFF + (bits >> 13 & 1)) & !0x1FFF);
    // Below its normal numbers f16 counts in steps of 2^-24, as f32 does between 0.5 and 1.
    let size = f32::from_bits(bits & 0x7FFF_FFFF);
    let small = f32::from_bits(((size + 0.75) - 0.75).to_bits() | bits & 0x8000_0000);
    let fits = if size < 6.103_515_6e-5 { small } else { normal };
    if size >= 65_520.0 { f16::INFINITY.to_f32().copysign(x) } else { fits }
}

/// Tries scales around the one that just reaches the largest weight, refits each by least squares, and gives the one
/// with the smallest squared error. The largest weight may land on either end of -8..7.
#[inline(always)]
unsafe fn four<S: Simd>(x: Part<'_>) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        let most = x.largest::<S>().1;
        let (mut least, mut best) = (S::splat(f32::INFINITY), S::zero());
        for reach in [-8.8f32, -8.4, -8.0, -7.6, -7.2, -6.8, 7.6, 7.2, 6.8] {
            let first = S::div(most, S::splat(reach));
            let turned = inverse::<S>(first);
            let (mut qq, mut xq) = (S::zero(), S::zero());
            for i in 0..BLOCK {
                let x = x.load::<S>(i);
                let q = step::<S>(x, turned, FOUR);
                qq = S::add(qq, S::mul(q, q));
                xq = S::add(xq, S::mul(x, q));
            }
            let scale = half::<S>(S::select_lt(S::zero(), qq, S::div(xq, qq), first));
            let error = error::<S>(x, scale, S::zero(), FOUR);
            best = S::select_lt(error, least, scale, best);
            least = S::select_lt(error, least, error, least);
        }
        best
    }
}

/// Tries ranges around the one that just holds all weights, refits scale and minimum of each by least squares, and
/// gives those with the smallest squared error.
#[inline(always)]
unsafe fn four_min<S: Simd>(x: Part<'_>) -> (S::V, S::V) {
    // SAFETY: the caller's promise.
    unsafe {
        let (mut low, mut high, mut total) = (x.load::<S>(0), x.load::<S>(0), S::zero());
        for i in 0..BLOCK {
            let x = x.load::<S>(i);
            low = S::select_lt(x, low, x, low);
            high = S::max(high, x);
            total = S::add(total, x);
        }
        let width = S::sub(high, low);
        let (mut least, mut best) = (S::splat(f32::INFINITY), (S::zero(), S::zero()));
        for (cut_low, cut_high) in [(0.0, 0.0), (0.02, 0.02), (0.04, 0.0), (0.0, 0.04), (0.05, 0.05), (-0.02, -0.02)] {
            let from = S::add(low, S::mul(S::splat(cut_low), width));
            let to = S::sub(high, S::mul(S::splat(cut_high), width));
            let (mut scale, mut min) = (S::div(S::sub(to, from), S::splat(15.0)), from);
            for refit in [false, true] {
                let (d, m) = (half::<S>(scale), half::<S>(min));
                let error = error::<S>(x, d, m, FOUR_MIN);
                best = (S::select_lt(error, least, d, best.0), S::select_lt(error, least, m, best.1));
                least = S::select_lt(error, least, error, least);
                if refit {
                    continue;
                }
                // Least squares of x = scale q + min.
                let turned = inverse::<S>(d);
                let (mut qq, mut xq, mut sum) = (S::zero(), S::zero(), S::zero());
                for i in 0..BLOCK {
                    let x = x.load::<S>(i);
                    let q = step::<S>(S::sub(x, m), turned, FOUR_MIN);
                    (qq, xq, sum) = (S::add(qq, S::mul(q, q)), S::add(xq, S::mul(x, q)), S::add(sum, q));
                }
                let n = S::splat(BLOCK as f32);
                let spread = S::sub(S::mul(n, qq), S::mul(sum, sum));
                let fitted = S::div(S::sub(S::mul(n, xq), S::mul(sum, total)), spread);
                let shifted = S::div(S::sub(total, S::mul(fitted, sum)), n);
                scale = S::select_lt(S::zero(), spread, fitted, scale);
                min = S::select_lt(S::zero(), spread, shifted, min);
            }
        }
        best
    }
}

/// The sum of `(x - scale q - min)^2` for the best q.
#[inline(always)]
unsafe fn error<S: Simd>(x: Part<'_>, scale: S::V, min: S::V, range: (f32, f32)) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        let (turned, mut sum) = (inverse::<S>(scale), S::zero());
        for i in 0..BLOCK {
            let x = S::sub(x.load::<S>(i), min);
            let rest = S::sub(x, S::mul(scale, step::<S>(x, turned, range)));
            sum = S::add(sum, S::mul(rest, rest));
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_as_the_library_rounds_them() {
        let mut state = 1u32;
        for _ in 0..2_000_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = f32::from_bits(state);
            if x.is_finite() {
                assert_eq!(nearest_half(x).to_bits(), f16::from_f32(x).to_f32().to_bits(), "{x:e}");
            }
        }
        for x in [0.0, -0.0, 6.1e-5, 6.103_515_6e-5, 5.96e-8, 2.9e-8, 65_504.0, 65_519.9, 65_520.0, -1e9] {
            assert_eq!(nearest_half(x).to_bits(), f16::from_f32(x).to_f32().to_bits(), "{x:e}");
        }
    }

    #[test]
    fn every_instruction_set_finds_the_same() {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state as f32 / u32::MAX as f32 - 0.5
        };
        for bits in [Bits::Eight, Bits::Four, Bits::FourMin] {
            for size in [1e-6, 0.02, 3.0, 1e4] {
                let x: [Lanes; BLOCK] = std::array::from_fn(|_| std::array::from_fn(|_| size * next() * next()));
                let all: Vec<Block> = crate::isa::Isa::available()
                    .into_iter()
                    .map(|isa| {
                        let mut out = Block::ZERO;
                        // SAFETY: the instruction set is available.
                        unsafe { quantize(isa, bits, &x, &mut out) };
                        out
                    })
                    .collect();
                for other in &all[1..] {
                    assert_eq!((other.scales, other.minima), (all[0].scales, all[0].minima), "{bits:?} {size}");
                    assert_eq!(other.values, all[0].values, "{bits:?} {size}");
                }
            }
        }
    }
}
