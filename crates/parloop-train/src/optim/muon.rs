//! Muon (Jordan and others, 2024): the change of a matrix is its momentum made nearly orthogonal.
//!
//! With g the gradient of a matrix `[out, in]` and a the learning rate:
//!
//! ```text
//! m = momentum m + g          u = g + momentum m (Nesterov)
//! W = (1 - a decay) W - a 0.2 sqrt(max(out, in)) orthogonal(u)
//! ```
//!
//! The factor makes a change as large as AdamW's usually are (Liu and others, 2025, section 2.2), so that one learning rate and
//! one decay serve both. Matrices that lie side by side in a parameter (q, k and v; gate and up) are taken one by one.

use crate::weights::Slot;
use burn::tensor::Tensor;
use parloop_model::tensors::Role;

/// Coefficients of the iteration `X = a X + b (X X^T) X + c (X X^T)^2 X`, which brings all singular values near 1.
const COEFFICIENTS: [f32; 3] = [3.4445, -4.7750, 2.0315];
const ITERATIONS: usize = 5;

/// Whether a parameter is made of matrices of a layer.
pub(super) fn takes(slot: &Slot) -> bool {
    slot.transposed && slot.parts.iter().all(|part| part.role == Role::Matrix)
}

/// The change of a parameter, flat, from `u`, flat, before the learning rate.
pub(super) fn change(slot: &Slot, u: Tensor<1>) -> Tensor<1> {
    let shape = slot.shape();
    let (rows, width, size) = (shape[0], shape[1], u.dims());
    let u = u.reshape([rows, width]);
    let mut column = 0;
    let parts = slot.parts.iter().map(|part| {
        let outputs = part.shape[0];
        let one = u.clone().narrow(1, column, outputs);
        column += outputs;
        orthogonal(one).mul_scalar(0.2 * (rows.max(outputs) as f32).sqrt())
    });
    Tensor::cat(parts.collect(), 1).reshape(size)
}

/// The nearest matrix whose singular values are all about 1 (0.7 to 1.2 where they were not 0).
pub(super) fn orthogonal(u: Tensor<2>) -> Tensor<2> {
    let [rows, columns] = u.dims();
    let norm = u.clone().powi_scalar(2).sum().sqrt().add_scalar(1e-7).reshape([1, 1]);
    let u = u / norm;
    let tall = rows > columns;
    let mut x = if tall { u.transpose() } else { u };
    let [a, b, c] = COEFFICIENTS;
    for _ in 0..ITERATIONS {
        let square = x.clone().matmul(x.clone().transpose());
        let factor = square.clone().mul_scalar(b) + square.clone().matmul(square).mul_scalar(c);
        x = x.clone().mul_scalar(a) + factor.matmul(x);
    }
    if tall { x.transpose() } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};
    use parloop_eval::Rng;

    /// Rows of a random matrix, and of what `orthogonal` makes of it.
    fn example(rows: usize, columns: usize) -> [Vec<Vec<f64>>; 2] {
        let mut rng = Rng::new(7, rows as u64, columns as u64);
        let values: Vec<f32> = (0..rows * columns).map(|_| rng.normal() as f32).collect();
        let data = TensorData::new(values.clone(), [rows, columns]);
        let found: Vec<f32> = orthogonal(Tensor::from_data(data, &Device::flex())).into_data().iter::<f32>().collect();
        [values, found].map(|v| v.chunks_exact(columns).map(|r| r.iter().map(|x| f64::from(*x)).collect()).collect())
    }

    fn product(a: &[Vec<f64>], b: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let column = |j: usize| b.iter().map(move |row| row[j]);
        a.iter()
            .map(|row| (0..b[0].len()).map(|j| row.iter().zip(column(j)).map(|(x, y)| x * y).sum()).collect())
            .collect()
    }

    fn transposed(a: &[Vec<f64>]) -> Vec<Vec<f64>> {
        (0..a[0].len()).map(|j| a.iter().map(|row| row[j]).collect()).collect()
    }

    /// The polynomial by plain loops in double precision, and its purpose: no direction is longer than 1.3 or forgotten.
    #[test]
    fn it_is_the_polynomial_and_nearly_orthogonal() {
        for (rows, columns) in [(6, 6), (4, 9), (9, 4), (1, 5)] {
            let [u, found] = example(rows, columns);
            let norm = u.iter().flatten().map(|x| x * x).sum::<f64>().sqrt() + 1e-7;
            let mut x: Vec<Vec<f64>> = u.iter().map(|row| row.iter().map(|v| v / norm).collect()).collect();
            if rows > columns {
                x = transposed(&x);
            }
            for _ in 0..ITERATIONS {
                let square = product(&x, &transposed(&x));
                let fourth = product(&square, &square);
                let [a, b, c] = COEFFICIENTS.map(f64::from);
                let sum = |i: usize, j: usize| b * square[i][j] + c * fourth[i][j];
                let factor: Vec<Vec<f64>> = (0..x.len()).map(|i| (0..x.len()).map(|j| sum(i, j)).collect()).collect();
                let turned = product(&factor, &x);
                x = x.iter().zip(turned).map(|(x, t)| x.iter().zip(t).map(|(x, t)| a * x + t).collect()).collect();
            }
            if rows > columns {
                x = transposed(&x);
            }
            for (found, expected) in found.iter().flatten().zip(x.iter().flatten()) {
                assert!((found - expected).abs() < 1e-4, "{rows} x {columns}: {found} instead of {expected}");
            }
            let rank = rows.min(columns) as f64;
            let squares: f64 = found.iter().flatten().map(|x| x * x).sum();
            assert!(squares < 1.3 * 1.3 * rank && squares > 0.3 * rank, "{rows} x {columns}: {squares}");
        }
    }
}
