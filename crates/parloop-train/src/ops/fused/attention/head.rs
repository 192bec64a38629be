//! One unit: the query heads that share a key/value head, over blocks of queries.

use super::rows::{Geometry, Unit, gather};
use crate::ops::fused::pool::{self, Buffer};
use crate::ops::fused::simd::{self, Left, Product, padded};
use std::ops::Range;

/// Queries of a block: a multiple of the product's six or eight rows, small enough for its scores to stay in cache.
const BLOCK: usize = 48;

/// Keys and values of a unit, padded, with their transposes.
pub(super) struct Keys {
    width: usize,
    /// `[time padded, width]`
    k: Buffer,
    v: Buffer,
    /// `[width, time padded]`
    kt: Buffer,
    vt: Buffer,
}

impl Keys {
    pub(super) fn new(g: &Geometry, unit: usize, rows: &[f32]) -> Self {
        let (k, v) = (gather::keys(g, unit, rows), gather::values(g, unit, rows));
        let (kt, vt) = (transposed(&k, g.padded), transposed(&v, g.padded));
        Self { width: g.padded, k, v, kt, vt }
    }

    fn time(&self) -> usize {
        self.k.len() / self.width
    }
}

/// A matrix of rows of `width`, transposed.
fn transposed(x: &[f32], width: usize) -> Buffer {
    let rows = x.len() / width;
    let mut t = pool::take(x.len());
    for (i, row) in x.chunks_exact(width).enumerate() {
        for (j, value) in row.iter().enumerate() {
            t[j * rows + i] = *value;
        }
    }
    t
}

/// What a branch gave: outputs `[group, time, width]` and each query's log of the sum of e^score.
#[derive(Clone, Debug)]
pub(crate) struct Branch {
    pub output: Buffer,
    sums: Vec<f32>,
}

/// Block buffers that a unit uses again and again.
#[derive(Default)]
pub(super) struct Scratch {
    scores: Vec<f32>,
    grads: Vec<f32>,
}

/// A block of queries and the keys it may see.
struct Block {
    queries: Range<usize>,
    /// Rounded outwards to tiles.
    keys: Range<usize>,
    left: usize,
}

impl Block {
    fn all(time: usize, left: Option<usize>) -> impl Iterator<Item = Self> {
        let left = left.unwrap_or(time);
        (0..time).step_by(BLOCK).map(move |start| {
            let end = (start + BLOCK).min(time);
            let first = start.saturating_sub(left) / simd::TILE * simd::TILE;
            Self { queries: start..end, keys: first..padded(end), left }
        })
    }

    /// Columns of the block that query `t` sees: `t - left ..= t`.
    fn seen(&self, t: usize) -> Range<usize> {
        t.saturating_sub(self.left) - self.keys.start..t + 1 - self.keys.start
    }

    /// Scores of the block, `[queries, keys]`. `q` holds the block's queries.
    fn scores(&self, q: &[f32], keys: &Keys, into: &mut Vec<f32>) {
        self.product(q, &keys.kt, keys, into);
    }

    /// `rows . matrix^T` for the block's keys, given the transposed matrix.
    fn product(&self, rows: &[f32], transposed: &[f32], keys: &Keys, into: &mut Vec<f32>) {
        let (m, n) = (self.queries.len(), self.keys.len());
        into.resize(m * n, 0.0);
        let left = Left::Plain(rows, keys.width);
        let b = &transposed[self.keys.start..];
        Product { m, n, k: keys.width, left, b, ldb: keys.time(), c: into, ldc: n, add: false }.run();
    }
}

/// Attention of queries `[group, time, width]`; `left` limits the keys before a query's own.
pub(super) fn forward(q: &[f32], keys: &Keys, time: usize, left: Option<usize>) -> Branch {
    let width = keys.width;
    let mut branch = Branch { output: pool::take(q.len()), sums: vec![0.0; q.len() / width] };
    let mut scores = Vec::new();
    let heads = q.chunks_exact(time * width).zip(branch.output.chunks_exact_mut(time * width));
    for ((q, output), sums) in heads.zip(branch.sums.chunks_exact_mut(time)) {
        for block in Block::all(time, left) {
            let rows = block.queries.start * width..block.queries.end * width;
            block.scores(&q[rows.clone()], keys, &mut scores);
            let n = block.keys.len();
            simd::fast(|| {
                for (row, t) in scores.chunks_exact_mut(n).zip(block.queries.clone()) {
                    let seen = block.seen(t);
                    let (before, rest) = row.split_at_mut(seen.start);
                    let (row, after) = rest.split_at_mut(seen.len());
                    let max = simd::max(row);
                    for x in row.iter_mut() {
                        *x = simd::exp(*x - max);
                    }
                    let sum = simd::sum(row);
                    let scale = 1.0 / sum;
                    row.iter_mut().for_each(|x| *x *= scale);
                    before.fill(0.0);
                    after.fill(0.0);
                    sums[t] = max + sum.ln();
                }
            });
            let (m, b) = (block.queries.len(), &keys.v[block.keys.start * width..]);
            let (left, c) = (Left::Plain(&scores, n), &mut output[rows]);
            Product { m, n: width, k: n, left, b, ldb: width, c, ldc: width, add: false }.run();
        }
    }
    branch
}

/// Adds the gradients of a branch to `found`, given that of its outputs. With P the probabilities:
/// `dV = P^T dY`, `dP = dY V^T`, `dS = P (dP - sum(dY Y))`, `dQ = dS K`, `dK = dS^T Q`.
pub(super) fn backward(
    q: &[f32],
    keys: &Keys,
    branch: &Branch,
    dy: &[f32],
    time: usize,
    left: Option<usize>,
    found: &mut Unit,
    scratch: &mut Scratch,
) {
    let width = keys.width;
    for head in 0..q.len() / (time * width) {
        let at = head * time * width..(head + 1) * time * width;
        let (q, y, dy) = (&q[at.clone()], &branch.output[at.clone()], &dy[at.clone()]);
        let (sums, dq) = (&branch.sums[head * time..(head + 1) * time], &mut found.queries[at]);
        for block in Block::all(time, left) {
            let rows = block.queries.start * width..block.queries.end * width;
            let (q, y, dy) = (&q[rows.clone()], &y[rows.clone()], &dy[rows.clone()]);
            let (m, n) = (block.queries.len(), block.keys.len());
            block.scores(q, keys, &mut scratch.scores);
            block.product(dy, &keys.vt, keys, &mut scratch.grads);
            simd::fast(|| {
                let grads = scratch.scores.chunks_exact_mut(n).zip(scratch.grads.chunks_exact_mut(n));
                let outputs = y.chunks_exact(width).zip(dy.chunks_exact(width));
                for (((p, d), (y, dy)), t) in grads.zip(outputs).zip(block.queries.clone()) {
                    let (seen, own, sum) = (block.seen(t), simd::dot(y, dy), sums[t]);
                    p[..seen.start].fill(0.0);
                    d[..seen.start].fill(0.0);
                    p[seen.end..].fill(0.0);
                    d[seen.end..].fill(0.0);
                    for (p, d) in p[seen.clone()].iter_mut().zip(&mut d[seen]) {
                        *p = simd::exp(*p - sum);
                        *d = *p * (*d - own);
                    }
                }
            });
            let part = block.keys.start * width..;
            let (p, d) = (&scratch.scores, &scratch.grads);
            let (c, b) = (&mut found.values[part.clone()], dy);
            let left = Left::Transposed(p, n);
            Product { m: n, n: width, k: m, left, b, ldb: width, c, ldc: width, add: true }.run();
            let (c, b) = (&mut found.keys[part.clone()], q);
            let left = Left::Transposed(d, n);
            Product { m: n, n: width, k: m, left, b, ldb: width, c, ldc: width, add: true }.run();
            let (c, b) = (&mut dq[rows], &keys.k[part]);
            let left = Left::Plain(d, n);
            Product { m, n: width, k: n, left, b, ldb: width, c, ldc: width, add: true }.run();
        }
    }
}
