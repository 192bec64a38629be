//! The products of a block with what surrounds them: the norm before q/k/v, the residual after the output, and the
//! whole feed-forward. Chunks of rows go through all steps while they are in cache; what is cheap to compute again
//! (normed rows, SwiGLU's output) is not kept for the backward pass.

use super::HostOp;
use super::matmul::{Panels, outer, times, times_chunk};
use super::pool::{self, Buffer};
use super::simd::{self, ROWS};
use super::{norm, swiglu};
use rayon::prelude::*;

/// Inputs: x `[rows, d]`, norm `[d]`, weight `[d, n]`; output `RMSNorm(x) W`.
#[derive(Clone, Debug)]
pub(crate) struct NormLinear {
    pub d: usize,
    pub n: usize,
    pub eps: f32,
}

impl HostOp<3> for NormLinear {
    /// The scale of each row.
    type Saved = Vec<f32>;

    fn forward(&self, [x, weight, w]: [&[f32]; 3]) -> (Vec<f32>, Vec<f32>) {
        let (d, n) = (self.d, self.n);
        let (scales, panels) = (norm::scales(x, d, self.eps), Panels::of(w, d, n));
        let mut y = vec![0.0; x.len() / d * n];
        let chunks = y.par_chunks_mut(ROWS * n).zip(x.par_chunks(ROWS * d)).zip(scales.par_chunks(ROWS));
        chunks.for_each(|((y, x), scales)| {
            let mut u = pool::take(x.len());
            norm::weigh(x, weight, scales, &mut u);
            times_chunk(&u, &panels, y);
        });
        (y, scales)
    }

    fn backward(&self, [x, weight, w]: [&[f32]; 3], scales: Vec<f32>, grad: &[f32]) -> [Vec<f32>; 3] {
        let (d, n) = (self.d, self.n);
        let panels = Panels::of_transposed(w, d, n);
        let mut dx = vec![0.0; x.len()];
        let units = dx.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d));
        let units = units.zip(grad.par_chunks(ROWS * n)).zip(scales.par_chunks(ROWS));
        let parts = units.map(|(((dx, x), grad), scales)| {
            let mut du = pool::take(x.len());
            times_chunk(grad, &panels, &mut du);
            norm::back(x, weight, scales, &du, dx)
        });
        let dnorm = norm::summed(parts.collect(), d);
        let u = norm::normalised(x, weight, &scales);
        [dx, dnorm, outer(&u, d, grad, n)]
    }
}

/// Inputs: x `[rows, d]`, y `[rows, k]`, weight `[k, d]`; output `x + y W`.
#[derive(Clone, Debug)]
pub(crate) struct Residual {
    pub k: usize,
    pub d: usize,
}

impl HostOp<3> for Residual {
    type Saved = ();

    fn forward(&self, [x, y, w]: [&[f32]; 3]) -> (Vec<f32>, ()) {
        let (k, d) = (self.k, self.d);
        let panels = Panels::of(w, k, d);
        let mut sum = vec![0.0; x.len()];
        let chunks = sum.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d)).zip(y.par_chunks(ROWS * k));
        chunks.for_each(|((sum, x), y)| {
            times_chunk(y, &panels, sum);
            simd::add(sum, x);
        });
        (sum, ())
    }

    fn backward(&self, [_, y, w]: [&[f32]; 3], (): (), grad: &[f32]) -> [Vec<f32>; 3] {
        let (k, d) = (self.k, self.d);
        [grad.to_vec(), times(grad, &Panels::of_transposed(w, k, d)), outer(y, k, grad, d)]
    }
}

/// Inputs: x `[rows, d]`, norm `[d]`, gate and up `[d, 2 ff]`, down `[ff, d]`;
/// output `x + (silu(gate) * up) W_down` with `[gate | up] = RMSNorm(x) W`.
#[derive(Clone, Debug)]
pub(crate) struct FeedForward {
    pub d: usize,
    pub ff: usize,
    pub eps: f32,
}

impl HostOp<4> for FeedForward {
    /// The scale of each row, and the rows `[gate | up]`.
    type Saved = (Vec<f32>, Buffer);

    fn forward(&self, [x, weight, gate_up, down]: [&[f32]; 4]) -> (Vec<f32>, Self::Saved) {
        let (d, ff) = (self.d, self.ff);
        let (up_panels, down_panels) = (Panels::of(gate_up, d, 2 * ff), Panels::of(down, ff, d));
        let scales = norm::scales(x, d, self.eps);
        let mut sum = vec![0.0; x.len()];
        let mut inner = pool::take(x.len() / d * 2 * ff);
        let chunks = sum.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d));
        chunks.zip(inner.par_chunks_mut(2 * ROWS * ff)).zip(scales.par_chunks(ROWS)).for_each(
            |(((sum, x), inner), scales)| {
                let mut u = pool::take(x.len());
                norm::weigh(x, weight, scales, &mut u);
                times_chunk(&u, &up_panels, inner);
                let mut h = pool::take(inner.len() / 2);
                swiglu::swiglu(inner, ff, &mut h);
                times_chunk(&h, &down_panels, sum);
                simd::add(sum, x);
            },
        );
        (sum, (scales, inner))
    }

    fn backward(&self, inputs: [&[f32]; 4], (scales, mut inner): Self::Saved, grad: &[f32]) -> [Vec<f32>; 4] {
        let ([x, weight, gate_up, down], d, ff) = (inputs, self.d, self.ff);
        let (up_panels, down_panels) = (Panels::of_transposed(gate_up, d, 2 * ff), Panels::of_transposed(down, ff, d));
        let mut dx = grad.to_vec();
        let mut h = pool::take(inner.len() / 2);
        let units = dx.par_chunks_mut(ROWS * d).zip(x.par_chunks(ROWS * d)).zip(grad.par_chunks(ROWS * d));
        let units = units.zip(inner.par_chunks_mut(2 * ROWS * ff)).zip(h.par_chunks_mut(ROWS * ff));
        let parts = units.zip(scales.par_chunks(ROWS)).map(|(((((dx, x), grad), inner), h), scales)| {
            times_chunk(grad, &down_panels, h);
            // From here on `inner` holds its gradient and `h` its value.
            swiglu::back(inner, ff, h);
            let mut du = pool::take(x.len());
            times_chunk(inner, &up_panels, &mut du);
            norm::back(x, weight, scales, &du, dx)
        });
        let dnorm = norm::summed(parts.collect(), d);
        let ddown = outer(&h, ff, grad, d);
        drop(h);
        let u = norm::normalised(x, weight, &scales);
        [dx, dnorm, outer(&u, d, &inner, 2 * ff), ddown]
    }
}
