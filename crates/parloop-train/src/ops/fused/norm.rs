//! RMSNorm, for whole tensors and for the chunks of rows of other operations.

use super::HostOp;
use super::pool::{self, Buffer};
use super::simd::{self, ROWS};
use rayon::prelude::*;

/// Inputs: x `[rows, d]`, weight `[d]`.
#[derive(Clone, Debug)]
pub(crate) struct RmsNorm {
    pub width: usize,
    pub eps: f32,
}

impl HostOp<2> for RmsNorm {
    /// 1 / sqrt(mean(x^2) + eps) of each row.
    type Saved = Vec<f32>;

    fn forward(&self, [x, weight]: [&[f32]; 2]) -> (Vec<f32>, Vec<f32>) {
        let d = self.width;
        let (scales, mut y) = (scales(x, d, self.eps), vec![0.0; x.len()]);
        normalise(x, weight, &scales, &mut y);
        (y, scales)
    }

    fn backward(&self, [x, weight]: [&[f32]; 2], scales: Vec<f32>, grad: &[f32]) -> [Vec<f32>; 2] {
        let d = self.width;
        let mut dx = vec![0.0; x.len()];
        let units = dx.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d));
        let units = units.zip(grad.par_chunks(ROWS * d)).zip(scales.par_chunks(ROWS));
        let parts = units.map(|(((dx, x), grad), scales)| back(x, weight, scales, grad, dx)).collect();
        [dx, summed(parts, d)]
    }
}

/// `1 / sqrt(mean(x^2) + eps)` of each row of `d`.
pub(super) fn scales(x: &[f32], d: usize, eps: f32) -> Vec<f32> {
    let mut scales = vec![0.0; x.len() / d];
    scales.par_chunks_mut(ROWS).zip(x.par_chunks(ROWS * d)).for_each(|(scales, x)| {
        simd::fast(|| {
            for (scale, x) in scales.iter_mut().zip(x.chunks_exact(d)) {
                *scale = 1.0 / (simd::dot(x, x) / d as f32 + eps).sqrt();
            }
        });
    });
    scales
}

/// All rows, scaled and weighted, in a buffer.
pub(super) fn normalised(x: &[f32], weight: &[f32], scales: &[f32]) -> Buffer {
    let mut y = pool::take(x.len());
    normalise(x, weight, scales, &mut y);
    y
}

fn normalise(x: &[f32], weight: &[f32], scales: &[f32], y: &mut [f32]) {
    let rows = ROWS * weight.len();
    let chunks = y.par_chunks_mut(rows).zip(x.par_chunks(rows)).zip(scales.par_chunks(ROWS));
    chunks.for_each(|((y, x), scales)| weigh(x, weight, scales, y));
}

/// `y = x scale weight` for a chunk of rows.
pub(super) fn weigh(x: &[f32], weight: &[f32], scales: &[f32], y: &mut [f32]) {
    let d = weight.len();
    simd::fast(|| {
        for ((y, x), scale) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(scales) {
            for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * w;
            }
        }
    });
}

/// Adds the gradient of a chunk's input to `dx` and returns the chunk's part of the weight's gradient. With s the
/// scale of a row and g the gradient of the output: `dx += s (w g - x s^2 mean(w g x))`, `dw = sum of g x s`.
pub(super) fn back(x: &[f32], weight: &[f32], scales: &[f32], grad: &[f32], dx: &mut [f32]) -> Vec<f32> {
    let d = weight.len();
    let mut dw = vec![0.0; d];
    let mut weighted = vec![0.0; d];
    simd::fast(|| {
        let rows = dx.chunks_exact_mut(d).zip(x.chunks_exact(d)).zip(grad.chunks_exact(d));
        for (((dx, x), g), s) in rows.zip(scales) {
            for i in 0..d {
                dw[i] += g[i] * x[i] * s;
                weighted[i] = g[i] * weight[i];
            }
            let shrink = s * s * (simd::dot(&weighted, x) / d as f32);
            for i in 0..d {
                dx[i] += s * (weighted[i] - x[i] * shrink);
            }
        }
    });
    dw
}

/// The sum of the chunks' parts, in their order.
pub(super) fn summed(parts: Vec<Vec<f32>>, d: usize) -> Vec<f32> {
    let mut sum = vec![0.0; d];
    for part in parts {
        sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    sum
}
