//! The output head and the cross-entropy of its logits.

use super::HostOp;
use super::matmul::{Panels, outer, times, times_chunk};
use super::pool::{self, Buffer};
use super::simd::{self, ROWS};
use rayon::prelude::*;
use std::sync::Arc;

/// Inputs: final-normed rows `[rows, d]` and the head, `[d, V]` or (tied) the embedding `[V, d]`; output: the mean of
/// `-log softmax(logits)[target]` over the rows that have a target, `[1]`.
#[derive(Clone, Debug)]
pub(crate) struct HeadLoss {
    pub d: usize,
    pub vocabulary: usize,
    pub tied: bool,
    /// `None` where nothing is asked.
    pub targets: Arc<Vec<Option<usize>>>,
}

impl HostOp<2> for HeadLoss {
    /// The gradient of the logits: `(softmax(logits) - onehot(target)) / rows that have one`; 0 for
    /// the others.
    type Saved = Buffer;

    fn forward(&self, [x, head]: [&[f32]; 2]) -> (Vec<f32>, Buffer) {
        let (d, v, rows) = (self.d, self.vocabulary, self.targets.len());
        let panels = if self.tied { Panels::of_transposed(head, v, d) } else { Panels::of(head, d, v) };
        let asked = self.targets.iter().flatten().count().max(1);
        let mut logits = pool::take(rows * v);
        let mut losses = vec![0.0; rows];
        let chunks = logits.par_chunks_mut(ROWS * v).zip(x.par_chunks(ROWS * d));
        let chunks = chunks.zip(losses.par_chunks_mut(ROWS)).zip(self.targets.par_chunks(ROWS));
        chunks.for_each(|(((logits, x), losses), targets)| {
            times_chunk(x, &panels, logits);
            simd::fast(|| {
                for ((row, loss), target) in logits.chunks_exact_mut(v).zip(losses).zip(targets) {
                    let Some(target) = *target else {
                        row.fill(0.0);
                        continue;
                    };
                    let (max, picked) = (simd::max(row), row[target]);
                    for x in row.iter_mut() {
                        *x = simd::exp(*x - max);
                    }
                    let sum = simd::sum(row);
                    *loss = max + sum.ln() - picked;
                    let scale = 1.0 / (sum * asked as f32);
                    row.iter_mut().for_each(|x| *x *= scale);
                    row[target] -= 1.0 / asked as f32;
                }
            });
        });
        // The rows' losses are added in f64: thousands of them, about equal.
        let total: f64 = losses.into_iter().map(f64::from).sum();
        (vec![(total / asked as f64) as f32], logits)
    }

    fn backward(&self, [x, head]: [&[f32]; 2], mut logits: Buffer, grad: &[f32]) -> [Vec<f32>; 2] {
        let (d, v) = (self.d, self.vocabulary);
        if grad[0] != 1.0 {
            logits.par_iter_mut().for_each(|x| *x *= grad[0]);
        }
        if self.tied {
            return [times(&logits, &Panels::of(head, v, d)), outer(&logits, v, x, d)];
        }
        [times(&logits, &Panels::of_transposed(head, d, v)), outer(x, d, &logits, v)]
    }
}
