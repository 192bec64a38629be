//! Scales with a small weighted squared error.
//!
//! For given integers q the best scale is a least-squares fit, for a given scale the best integers are the nearest
//! ones. Both functions here scan starting scales around the one that just covers the range, fit each, and keep the
//! best: the idea of `make_qx_quants` and `make_qkx2_quants` in llama.cpp's ggml-quants.c. After that they fit and
//! round in turn as long as it helps.

/// Partial sums of a loop that the compiler turns into one vector.
const LANES: usize = 8;
/// Most times that fitting and rounding take turns.
const ROUNDS: usize = 4;

/// A scale and a minimum: `x = scale q + min`.
#[derive(Clone, Copy, Debug)]
pub struct Affine {
    pub scale: f32,
    pub min: f32,
}

/// Nearest integer to `v`, which must lie within a million of zero: adding 1.5 * 2^23 leaves no room for a fraction.
/// Unlike `round_ties_even` this is vectorised everywhere.
#[inline]
pub fn nearest(v: f32) -> f32 {
    (v + 12_582_912.0) - 12_582_912.0
}

#[inline]
fn integer(v: f32, low: f32, high: f32) -> f32 {
    nearest(v.clamp(low, high))
}

/// 1 / v, and 0 for scales so small that nothing can be told apart.
#[inline]
pub fn inverse(v: f32) -> f32 {
    if v.abs() > f32::MIN_POSITIVE { 1.0 / v } else { 0.0 }
}

/// Weight of each element's squared error: large elements matter more, as in llama.cpp without an importance matrix
/// (`quantize_row_q4_K_ref`).
pub fn importance<const N: usize>(x: &[f32; N]) -> [f32; N] {
    let mean = (x.iter().map(|v| v * v).sum::<f32>() / N as f32).sqrt();
    x.map(|v| mean + v.abs())
}

/// The scale of `x = scale q` with q from `low` to `high`. `low` must be the longer side or as long as `high`.
pub fn symmetric<const N: usize>(x: &[f32; N], weight: &[f32; N], low: f32, high: f32) -> f32 {
    let most = x.iter().copied().fold(0.0f32, |m, v| if v.abs() > m.abs() { v } else { m });
    if inverse(most) == 0.0 {
        return 0.0;
    }
    // The fit of one start, and how much of the squares it explains: sum(w x q) / sum(w q q) and sum(w x q)^2 / sum(w q q).
    let fit = |inverse: f32| {
        let (mut xq, mut qq) = ([0.0f32; LANES], [0.0f32; LANES]);
        for i in (0..N).step_by(LANES) {
            for l in 0..LANES {
                let (x, w) = (x[i + l], weight[i + l]);
                let q = integer(x * inverse, low, high);
                xq[l] += w * x * q;
                qq[l] += w * q * q;
            }
        }
        let (xq, qq) = (xq.iter().sum::<f32>(), qq.iter().sum::<f32>());
        if qq > 0.0 { (xq / qq, xq * xq / qq) } else { (0.0, 0.0) }
    };
    let mut best = (most / low, f32::NEG_INFINITY);
    // The largest element may land on either end.
    let starts = (-9..=9).map(|step| low.abs() + 0.1 * step as f32);
    for start in starts.flat_map(|reach| [-reach / most, (reach + high + low) / most]) {
        let found = fit(start);
        if found.1 > best.1 {
            best = found;
        }
    }
    for _ in 0..ROUNDS {
        let again = fit(inverse(best.0));
        if again.1 <= best.1 {
            break;
        }
        best = again;
    }
    best.0
}

/// The scale and minimum of `x = scale q + min` with q from 0 to `top`; with `negative` the minimum is at most zero.
pub fn affine<const N: usize>(x: &[f32; N], weight: &[f32; N], top: f32, negative: bool) -> Affine {
    let min = x.iter().copied().fold(if negative { 0.0 } else { f32::INFINITY }, f32::min);
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if inverse(max - min) == 0.0 || max < min {
        return Affine { scale: 0.0, min };
    }
    let (mut sum_w, mut sum_x) = (0.0, 0.0);
    for i in 0..N {
        sum_w += weight[i];
        sum_x += weight[i] * x[i];
    }
    // Least squares in both unknowns for the integers of one start.
    let fit = |start: Affine| {
        let inverse = inverse(start.scale);
        let (mut q1, mut q2, mut xq) = ([0.0f32; LANES], [0.0f32; LANES], [0.0f32; LANES]);
        for i in (0..N).step_by(LANES) {
            for l in 0..LANES {
                let (x, w) = (x[i + l], weight[i + l]);
                let q = integer((x - start.min) * inverse, 0.0, top);
                q1[l] += w * q;
                q2[l] += w * q * q;
                xq[l] += w * x * q;
            }
        }
        let (q1, q2, xq) = (q1.iter().sum::<f32>(), q2.iter().sum::<f32>(), xq.iter().sum::<f32>());
        let determinant = sum_w * q2 - q1 * q1;
        if determinant <= 0.0 {
            return start;
        }
        let scale = (sum_w * xq - sum_x * q1) / determinant;
        let min = (q2 * sum_x - q1 * xq) / determinant;
        if negative && min > 0.0 { Affine { scale: xq / q2, min: 0.0 } } else { Affine { scale, min } }
    };
    let range = max - min;
    let mut best = Affine { scale: range / top, min };
    let mut least = error(x, weight, best, top);
    for step in 0..=20 {
        let mut candidate = fit(Affine { scale: range / (top - 1.0 + 0.1 * step as f32), min });
        for _ in 0..ROUNDS {
            let found = error(x, weight, candidate, top);
            if found >= least {
                break;
            }
            (best, least) = (candidate, found);
            candidate = fit(candidate);
        }
    }
    best
}

/// The weighted squared error of rounding to `scale q + min`, q from 0 to `top`.
pub fn error<const N: usize>(x: &[f32; N], weight: &[f32; N], a: Affine, top: f32) -> f32 {
    let inverse = inverse(a.scale);
    let mut sum = [0.0f32; LANES];
    for i in (0..N).step_by(LANES) {
        for l in 0..LANES {
            let q = integer((x[i + l] - a.min) * inverse, 0.0, top);
            let miss = a.scale * q + a.min - x[i + l];
            sum[l] += weight[i + l] * miss * miss;
        }
    }
    sum.iter().sum()
}

/// The integers of `x = scale q + min`, from 0 to `top`.
pub fn round_to<const N: usize>(x: &[f32; N], a: Affine, top: f32) -> [u8; N] {
    let inverse = inverse(a.scale);
    x.map(|x| integer((x - a.min) * inverse, 0.0, top) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_grids_are_found() {
        let q: [f32; 32] = std::array::from_fn(|i| ((i * 7) % 16) as f32);
        let x = q.map(|q| 0.25 * (q - 8.0));
        assert!((symmetric(&x, &[1.0; 32], -8.0, 7.0) - 0.25).abs() < 1e-6);
        let x = q.map(|q| 0.125 * q + 3.0);
        let found = affine(&x, &[1.0; 32], 15.0, false);
        assert!((found.scale - 0.125).abs() < 1e-5 && (found.min - 3.0).abs() < 1e-4, "{found:?}");
        assert_eq!(round_to(&x, found, 15.0).map(f32::from), q);
        assert!(affine(&x, &[1.0; 32], 15.0, true).min <= 0.0);
    }

    #[test]
    fn an_outlier_of_small_weight_is_given_up() {
        let mut x: [f32; 32] = std::array::from_fn(|i| (i as f32 - 16.0) * 0.1);
        x[5] = 4.0;
        let mut weight = [1.0; 32];
        weight[5] = 0.0;
        let error = |scale: f32| -> f32 {
            (0..32).filter(|i| *i != 5).map(|i| (x[i] - scale * integer(x[i] / scale, -8.0, 7.0)).powi(2)).sum()
        };
        assert!(error(symmetric(&x, &weight, -8.0, 7.0)) < error(symmetric(&x, &[1.0; 32], -8.0, 7.0)));
    }

    #[test]
    fn nothing_to_scale_gives_zero() {
        assert_eq!(symmetric(&[0.0; 16], &[1.0; 16], -32.0, 31.0), 0.0);
        let flat = affine(&[-2.0; 32], &[1.0; 32], 15.0, true);
        assert_eq!((flat.scale * 15.0 + flat.min).min(flat.min), -2.0);
    }
}
