//! Products with weights: `y = x W`, and the two products of its backward pass.
//!
//! Burn's own product writes to memory that flex zeroes, copies for alignment and then overwrites, on one thread;
//! that, not its arithmetic, made it worth replacing here.

use super::HostOp;
use super::pool::{self, Buffer};
use super::simd::{Left, Product, ROWS, STRIP, TILE, padded};
use rayon::prelude::*;

/// Depth of a block of a product: a panel's block stays in the first cache.
const DEPTH: usize = 256;

/// Inputs: x `[rows, k]`, weight `[k, n]`; output `[rows, n]`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub k: usize,
    pub n: usize,
}

impl HostOp<2> for Linear {
    type Saved = ();

    fn forward(&self, [x, weight]: [&[f32]; 2]) -> (Vec<f32>, ()) {
        (times(x, &Panels::of(weight, self.k, self.n)), ())
    }

    /// `dx = dy W^T`, `dW = x^T dy`.
    fn backward(&self, [x, weight]: [&[f32]; 2], (): (), grad: &[f32]) -> [Vec<f32>; 2] {
        [times(grad, &Panels::of_transposed(weight, self.k, self.n)), outer(x, self.k, grad, self.n)]
    }
}

/// A matrix `[k, n]` cut into panels of 32 columns, each contiguous; missing columns are zero.
pub(super) struct Panels {
    k: usize,
    n: usize,
    values: Buffer,
}

impl Panels {
    /// Room for panels of `n` columns; zero where some are missing.
    fn room(k: usize, n: usize) -> Buffer {
        let size = k * padded(n);
        if n == padded(n) { pool::take(size) } else { pool::zeroed(size) }
    }

    pub(super) fn of(matrix: &[f32], k: usize, n: usize) -> Self {
        let mut values = Self::room(k, n);
        values.par_chunks_exact_mut(k * TILE).enumerate().for_each(|(panel, to)| {
            let columns = panel * TILE..n.min((panel + 1) * TILE);
            for (row, to) in matrix.chunks_exact(n).zip(to.chunks_exact_mut(TILE)) {
                to[..columns.len()].copy_from_slice(&row[columns.clone()]);
            }
        });
        Self { k, n, values }
    }

    /// Panels of the transpose of a matrix `[rows, columns]`.
    pub(super) fn of_transposed(matrix: &[f32], rows: usize, columns: usize) -> Self {
        let mut values = Self::room(columns, rows);
        values.par_chunks_exact_mut(columns * TILE).enumerate().for_each(|(panel, to)| {
            let rows = matrix.chunks_exact(columns).skip(panel * TILE).take(TILE);
            for (j, row) in rows.enumerate() {
                for (to, value) in to[j..].iter_mut().step_by(TILE).zip(row) {
                    *to = *value;
                }
            }
        });
        Self { k: columns, n: rows, values }
    }
}

/// `x . matrix` for all rows.
pub(super) fn times(x: &[f32], matrix: &Panels) -> Vec<f32> {
    let (k, n) = (matrix.k, matrix.n);
    let mut y = vec![0.0; x.len() / k * n];
    y.par_chunks_mut(ROWS * n).zip(x.par_chunks(ROWS * k)).for_each(|(y, x)| times_chunk(x, matrix, y));
    y
}

/// `y = x . matrix` for a chunk of at most [`ROWS`] rows.
pub(super) fn times_chunk(x: &[f32], matrix: &Panels, y: &mut [f32]) {
    let (k, n) = (matrix.k, matrix.n);
    let m = x.len() / k;
    for (panel, b) in matrix.values.chunks_exact(k * TILE).enumerate() {
        let column = panel * TILE;
        let whole = column + TILE <= n;
        let mut aside = [0.0; ROWS * TILE];
        for start in (0..k).step_by(DEPTH) {
            let (left, depth) = (Left::Plain(&x[start..], k), DEPTH.min(k - start));
            let (c, ldc) = if whole { (&mut y[column..], n) } else { (&mut aside[..], TILE) };
            let b = &b[start * TILE..];
            Product { m, n: TILE, k: depth, left, b, ldb: TILE, c, ldc, add: start > 0 }.run();
        }
        if !whole {
            for (y, c) in y.chunks_exact_mut(n).zip(aside.chunks_exact(TILE)) {
                y[column..].copy_from_slice(&c[..n - column]);
            }
        }
    }
}

/// A chunk of rows of `k` in strips: `[k / 8, rows, 8]`, missing columns zero.
fn strips(x: &[f32], k: usize, into: &mut [f32]) {
    let rows = x.len() / k;
    for (strip, to) in into.chunks_exact_mut(rows * STRIP).enumerate() {
        let columns = strip * STRIP..k.min((strip + 1) * STRIP);
        for (to, row) in to.as_chunks_mut::<STRIP>().0.iter_mut().zip(x.chunks_exact(k)) {
            match row[columns.clone()].as_array::<STRIP>() {
                Some(row) => *to = *row,
                None => to[..columns.len()].copy_from_slice(&row[columns.clone()]),
            }
        }
    }
}

/// `x^T y` for rows of `k` and `n`: `[k, n]`. Every element is summed over the rows in order, in chunks of fixed
/// size, whatever the number of threads that share the columns.
pub(super) fn outer(x: &[f32], k: usize, y: &[f32], n: usize) -> Vec<f32> {
    let panels = n.div_ceil(TILE);
    let share = panels.div_ceil(rayon::current_num_threads()).max(1);
    let parts: Vec<Buffer> = (0..panels)
        .into_par_iter()
        .step_by(share)
        .map(|first| {
            let count = share.min(panels - first);
            let mut sums = pool::zeroed(count * k * TILE);
            let mut b = [0.0; ROWS * TILE];
            let mut a = pool::zeroed(k.next_multiple_of(STRIP) * ROWS);
            for (x, y) in x.chunks(ROWS * k).zip(y.chunks(ROWS * n)) {
                let rows = x.len() / k;
                let a = &mut a[..k.next_multiple_of(STRIP) * rows];
                strips(x, k, a);
                for (panel, c) in sums.chunks_exact_mut(k * TILE).enumerate() {
                    let column = (first + panel) * TILE;
                    let columns = column..n.min(column + TILE);
                    for (to, row) in b.chunks_exact_mut(TILE).zip(y.chunks_exact(n)) {
                        to[..columns.len()].copy_from_slice(&row[columns.clone()]);
                    }
                    let left = Left::Strips(a);
                    Product { m: k, n: TILE, k: rows, left, b: &b, ldb: TILE, c, ldc: TILE, add: true }.run();
                }
            }
            sums
        })
        .collect();
    let parts: Vec<&[f32]> = parts.iter().flat_map(|part| part.chunks_exact(k * TILE)).collect();
    let mut w = vec![0.0; k * n];
    w.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
        for (to, part) in row.chunks_mut(TILE).zip(&parts) {
            to.copy_from_slice(&part[i * TILE..][..to.len()]);
        }
    });
    w
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against the sum of products in f64, at sizes that fill no tile and at ones that fill several.
    #[test]
    fn products_and_gradients_are_right_at_awkward_sizes() {
        for (rows, k, n) in [(1, 1, 1), (3, 7, 33), (129, 40, 32), (300, 17, 70), (128, 64, 31), (2, 515, 40)] {
            let value = |i: usize| ((i * 7919 + 13) % 101) as f32 / 50.0 - 1.0;
            let x: Vec<f32> = (0..rows * k).map(value).collect();
            let w: Vec<f32> = (0..k * n).map(|i| value(i + 3)).collect();
            let dy: Vec<f32> = (0..rows * n).map(|i| value(i + 5)).collect();
            let op = Linear { k, n };
            let (y, ()) = op.forward([&x, &w]);
            let [dx, dw] = op.backward([&x, &w], (), &dy);
            let check = |found: &[f32], width: usize, expected: &dyn Fn(usize, usize) -> f64| {
                for (i, found) in found.iter().enumerate() {
                    let expected = expected(i / width, i % width);
                    assert!((f64::from(*found) - expected).abs() < 3e-3, "{rows} {k} {n}: {found} {expected}");
                }
            };
            let sum = |count: usize, f: &dyn Fn(usize) -> f32| (0..count).map(|j| f64::from(f(j))).sum::<f64>();
            check(&y, n, &|r, c| sum(k, &|j| x[r * k + j] * w[j * n + c]));
            check(&dx, k, &|r, c| sum(n, &|j| dy[r * n + j] * w[c * n + j]));
            check(&dw, n, &|r, c| sum(rows, &|j| x[j * k + r] * dy[j * n + c]));
        }
    }
}
