//! Portable vector code: what the loops below the operations have in common.
//!
//! [`fast`] runs a closure compiled for the widest vector instructions of the machine (AVX-512, AVX2, NEON), where
//! plain loops over slices turn into vector loops; [`product`] is a small matrix product in explicit vectors.

use pulp::{Arch, Simd, WithSimd};

/// Rows of a unit of parallel work. Fixed, so that sums over units do not depend on the number of threads.
pub(crate) const ROWS: usize = 128;

/// Runs `f` with the machine's vector instructions. Everything `f` calls must be `#[inline(always)]`.
pub(crate) fn fast<R>(f: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(f)
}

/// e^x to 2 units in the last place; 0 below -87, saturated above 88; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Cephes' expf: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial for e^r, and n put into the exponent. Adding
    // 1.5 x 2^23 rounds to an integer and leaves it in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let c = if x < -87.0 { -87.0 } else { x };
    let c = if c > 88.0 { 88.0 } else { c };
    let t = c * std::f32::consts::LOG2_E + MAGIC;
    let n = t - MAGIC;
    let r = c - n * 0.693_359_4;
    let r = r + n * 2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let e = p * (r * r) + r + 1.0;
    let e = e * f32::from_bits((t.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.0 { 0.0 } else { e }
}

/// 1 / (1 + e^-x)
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

const LANES: usize = 16;

/// Reduces a slice in 16 interleaved chains, which the compiler may keep in vectors.
#[inline(always)]
fn reduce(x: &[f32], start: f32, step: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = step(*lane, *x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = step(*lane, *x);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = step(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum of a slice.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    reduce(x, 0.0, |a, b| a + b)
}

/// Largest element; -inf of an empty slice.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    reduce(x, f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

/// Sum of products.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (a, b) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let (ra, rb) = (a.remainder(), b.remainder());
    for (a, b) in a.zip(b) {
        for i in 0..LANES {
            lanes[i] += a[i] * b[i];
        }
    }
    for (i, (a, b)) in ra.iter().zip(rb).enumerate() {
        lanes[i] += a * b;
    }
    sum(&lanes)
}

/// `x += y`
pub(crate) fn add(x: &mut [f32], y: &[f32]) {
    fast(|| x.iter_mut().zip(y).for_each(|(x, y)| *x += y));
}

/// Columns of a tile on the widest instruction set; matrices given to [`product`] are padded to multiples of it.
pub(crate) const TILE: usize = 32;

/// The next multiple of [`TILE`].
pub(crate) fn padded(n: usize) -> usize {
    n.next_multiple_of(TILE)
}

/// How the left matrix of a product lies in memory.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    /// `[m, k]`, rows `stride` apart.
    Plain(&'a [f32], usize),
    /// `[k, m]`, rows `stride` apart: its transpose is meant.
    Transposed(&'a [f32], usize),
    /// `[m / 8, k, 8]`: the transpose in strips of [`STRIP`] columns, so that a tile reads memory in order.
    Strips(&'a [f32]),
}

/// Columns of a strip.
pub(crate) const STRIP: usize = 8;

/// `c = left * b`, or `c += left * b` if `add`, for `c` `[m, n]` and `b` `[k, n]`, rows `n` apart or `ldb`/`ldc`.
/// `n` is a multiple of [`TILE`]; `m` and `k` are any. Every element is summed over k in order.
pub(crate) struct Product<'a> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub left: Left<'a>,
    pub b: &'a [f32],
    pub ldb: usize,
    pub c: &'a mut [f32],
    pub ldc: usize,
    pub add: bool,
}

impl Product<'_> {
    pub(crate) fn run(self) {
        Arch::new().dispatch(self);
    }
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Two vectors a row: 16 sums in registers where there are 32, 8 or 12 where there are 16. A tile's rows must
        // not cross a strip.
        match self.left {
            _ if S::REGISTER_COUNT >= 32 => tiles::<S, 8>(simd, self),
            Left::Strips(_) => tiles::<S, 4>(simd, self),
            _ => tiles::<S, 6>(simd, self),
        }
    }
}

#[inline(always)]
fn tiles<S: Simd, const M: usize>(simd: S, mut p: Product<'_>) {
    let width = 2 * S::F32_LANES;
    let mut row = 0;
    while row < p.m {
        let left = p.m - row;
        for column in (0..p.n).step_by(width) {
            match left {
                1 => tile::<S, 1>(simd, &mut p, row, column),
                2 => tile::<S, 2>(simd, &mut p, row, column),
                3 => tile::<S, 3>(simd, &mut p, row, column),
                4 => tile::<S, 4>(simd, &mut p, row, column),
                5 if M > 5 => tile::<S, 5>(simd, &mut p, row, column),
                6 if M > 5 => tile::<S, 6>(simd, &mut p, row, column),
                7 if M > 6 => tile::<S, 7>(simd, &mut p, row, column),
                _ => tile::<S, M>(simd, &mut p, row, column),
            }
        }
        row += left.min(M);
    }
}

/// `M` rows of two vectors each, kept in registers over all of k.
#[inline(always)]
fn tile<S: Simd, const M: usize>(simd: S, p: &mut Product<'_>, row: usize, column: usize) {
    let width = 2 * S::F32_LANES;
    // Rows of b that follow one another without a gap become an iterator without bounds or strides.
    let sums = if p.ldb == width {
        let (pairs, _) = S::as_simd_f32s(p.b).0.as_chunks::<2>();
        sums::<S, M>(simd, p.left, row, p.k, pairs.iter().copied())
    } else {
        let pair = |row: &[f32]| {
            let (pair, _) = S::as_simd_f32s(&row[column..column + width]);
            [pair[0], pair[1]]
        };
        sums::<S, M>(simd, p.left, row, p.k, p.b.chunks(p.ldb).map(pair))
    };
    for (i, sums) in sums.into_iter().enumerate() {
        let start = (row + i) * p.ldc + column;
        let (out, _) = S::as_mut_simd_f32s(&mut p.c[start..start + width]);
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = if p.add { simd.add_f32s(*out, sum) } else { sum };
        }
    }
}

/// The sums of `M` rows of the left matrix with two vectors of each row of the right one.
#[inline(always)]
fn sums<S: Simd, const M: usize>(
    simd: S,
    left: Left<'_>,
    row: usize,
    k: usize,
    b: impl Iterator<Item = [S::f32s; 2]>,
) -> [[S::f32s; 2]; M] {
    let mut sums = [[simd.splat_f32s(0.0); 2]; M];
    match left {
        Left::Plain(a, stride) => {
            // Slices of exactly k elements, indexed below k: no bounds are checked inside the loop.
            let rows: [&[f32]; M] = std::array::from_fn(|i| &a[(row + i) * stride..][..k]);
            for (j, b) in (0..k).zip(b) {
                for i in 0..M {
                    let a = simd.splat_f32s(rows[i][j]);
                    sums[i][0] = simd.mul_add_e_f32s(a, b[0], sums[i][0]);
                    sums[i][1] = simd.mul_add_e_f32s(a, b[1], sums[i][1]);
                }
            }
        }
        Left::Transposed(a, stride) => {
            for (a, b) in a.chunks(stride).take(k).zip(b) {
                let a = &a[row..row + M];
                for i in 0..M {
                    let a = simd.splat_f32s(a[i]);
                    sums[i][0] = simd.mul_add_e_f32s(a, b[0], sums[i][0]);
                    sums[i][1] = simd.mul_add_e_f32s(a, b[1], sums[i][1]);
                }
            }
        }
        Left::Strips(a) => {
            let strip = a[row / STRIP * k * STRIP..].as_chunks::<STRIP>().0;
            let first = row % STRIP;
            for (a, b) in strip.iter().take(k).zip(b) {
                let a = &a[first..first + M];
                for i in 0..M {
                    let a = simd.splat_f32s(a[i]);
                    sums[i][0] = simd.mul_add_e_f32s(a, b[0], sums[i][0]);
                    sums[i][1] = simd.mul_add_e_f32s(a, b[1], sums[i][1]);
                }
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let (found, exact) = (exp(x), f64::from(x).exp());
            assert!((f64::from(found) - exact).abs() <= exact * 3e-7, "e^{x} = {found}, expected {exact}");
        }
        assert_eq!((exp(-100.0), exp(f32::NEG_INFINITY), exp(0.0)), (0.0, 0.0, 1.0));
        assert!(exp(f32::NAN).is_nan() && exp(1e9).is_finite());
    }

    #[test]
    fn reductions_reach_every_element() {
        for n in [0, 1, 15, 16, 17, 40] {
            let x: Vec<f32> = (0..n).map(|i| i as f32 - 3.0).collect();
            assert_eq!(sum(&x), x.iter().sum::<f32>());
            assert_eq!(dot(&x, &x), x.iter().map(|v| v * v).sum::<f32>());
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }

    #[test]
    fn products_equal_the_sum_of_products() {
        let value = |i: usize| ((i * 37 + 11) % 23) as f32 - 11.0;
        for (m, n, k) in [(1, 32, 1), (5, 32, 7), (6, 64, 32), (15, 32, 3), (17, 96, 5), (48, 32, 40)] {
            let a: Vec<f32> = (0..m * k).map(value).collect();
            let b: Vec<f32> = (0..k * n).map(|i| value(i + 5)).collect();
            let transposed: Vec<f32> = (0..m * k).map(|i| a[i % m * k + i / m]).collect();
            let strip = |i: usize| i / (k * STRIP) * STRIP + i % STRIP;
            let at = |i: usize| if strip(i) < m { a[strip(i) * k + i / STRIP % k] } else { 0.0 };
            let strips: Vec<f32> = (0..m.next_multiple_of(STRIP) * k).map(at).collect();
            for left in [Left::Plain(&a, k), Left::Transposed(&transposed, m), Left::Strips(&strips)] {
                let mut c = vec![1.0; m * n];
                Product { m, n, k, left, b: &b, ldb: n, c: &mut c, ldc: n, add: true }.run();
                for i in 0..m * n {
                    let expected = 1.0 + (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum::<f32>();
                    assert_eq!(c[i], expected, "{m} {n} {k}");
                }
            }
        }
    }
}
