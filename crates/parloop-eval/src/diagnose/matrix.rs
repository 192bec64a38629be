//! Singular values, for the effective rank.

/// Sweeps of Jacobi's method at most; a dozen is usual.
const SWEEPS: usize = 60;

/// `exp(H)` with H the entropy of the singular values of `rows`, normalised to sum 1 (Roy and Vetterli 2007).
pub fn effective_rank(rows: &[Vec<f64>]) -> f64 {
    // The smaller of the two Gram matrices has the same values.
    let (n, d) = (rows.len(), rows.first().map_or(0, Vec::len));
    let dot = |a: &mut dyn Iterator<Item = (f64, f64)>| a.map(|(a, b)| a * b).sum::<f64>();
    let gram: Vec<Vec<f64>> = if n <= d {
        (0..n)
            .map(|i| (0..n).map(|j| dot(&mut rows[i].iter().copied().zip(rows[j].iter().copied()))).collect())
            .collect()
    } else {
        (0..d).map(|i| (0..d).map(|j| dot(&mut rows.iter().map(|row| (row[i], row[j])))).collect()).collect()
    };
    let values: Vec<f64> = eigenvalues(gram).into_iter().map(|v| v.max(0.0).sqrt()).collect();
    let sum: f64 = values.iter().sum();
    let shares = values.iter().map(|v| v / sum).filter(|p| *p > 0.0);
    if sum > 0.0 { (-shares.map(|p| p * p.ln()).sum::<f64>()).exp() } else { 0.0 }
}

/// Eigenvalues of a symmetric matrix by cyclic Jacobi rotations.
fn eigenvalues(mut a: Vec<Vec<f64>>) -> Vec<f64> {
    let n = a.len();
    for _ in 0..SWEEPS {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i][j].powi(2)).sum();
        let all: f64 = (0..n).map(|i| a[i][i].powi(2)).sum();
        if off <= 1e-24 * all.max(f64::MIN_POSITIVE) {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                rotate(&mut a, p, q);
            }
        }
    }
    (0..n).map(|i| a[i][i]).collect()
}

/// Makes `a[p][q]` zero.
fn rotate(a: &mut [Vec<f64>], p: usize, q: usize) {
    if a[p][q] == 0.0 {
        return;
    }
    let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
    let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let t = if theta == 0.0 { 1.0 } else { t };
    let c = 1.0 / (t * t + 1.0).sqrt();
    let s = t * c;
    for row in a.iter_mut() {
        (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
    }
    for k in 0..a.len() {
        let (x, y) = (a[p][k], a[q][k]);
        a[p][k] = c * x - s * y;
        a[q][k] = s * x + c * y;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_matrices_that_are_known() {
        let identity: Vec<Vec<f64>> = (0..5).map(|i| (0..5).map(|j| f64::from(u8::from(i == j))).collect()).collect();
        assert!((effective_rank(&identity) - 5.0).abs() < 1e-9);
        let one = vec![vec![1.0, 2.0, 3.0], vec![2.0, 4.0, 6.0], vec![-1.0, -2.0, -3.0], vec![0.5, 1.0, 1.5]];
        assert!((effective_rank(&one) - 1.0).abs() < 1e-4);
        // Singular values 3 and 1.
        let p = [0.75f64, 0.25];
        let expected = (-p.iter().map(|p| p * p.ln()).sum::<f64>()).exp();
        assert!((effective_rank(&[vec![2.0, 1.0], vec![1.0, 2.0]]) - expected).abs() < 1e-9);
        assert_eq!(effective_rank(&vec![vec![0.0; 3]; 2]), 0.0);
    }
}
