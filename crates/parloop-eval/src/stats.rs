//! Statistics of few seeds: means, spreads, and bootstrap intervals of differences between arms that share seeds.

use crate::rng::Rng;
use serde::{Deserialize, Serialize};

/// Draws of a bootstrap.
const DRAWS: usize = 10_000;

/// Mean and spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Values.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their sample standard deviation; 0 for one value.
    pub deviation: f64,
}

impl Spread {
    /// Of some values; `None` of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len();
        let mean = (count > 0).then(|| values.iter().sum::<f64>() / count as f64)?;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let deviation = if count > 1 { (squares / (count - 1) as f64).sqrt() } else { 0.0 };
        Some(Self { count, mean, deviation })
    }
}

/// The mean of paired differences with an interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Pairs.
    pub count: usize,
    /// Mean of the differences.
    pub mean: f64,
    /// Lower end of the 95 % bootstrap interval of the mean.
    pub low: f64,
    /// Upper end.
    pub high: f64,
    /// How many differences have the sign of the mean.
    pub agree: usize,
}

impl Paired {
    /// Of differences, one a seed: percentile bootstrap over seeds, 10 000 draws of a fixed generator. With fewer than
    /// five pairs the interval is too narrow to be more than a hint: with n pairs of equal sign, chance alone gives
    /// them with probability 2^(1-n).
    pub fn of(differences: &[f64]) -> Option<Self> {
        let spread = Spread::of(differences)?;
        let n = differences.len();
        let mut rng = Rng::new(0, 0xb007, n as u64);
        let mean = |rng: &mut Rng| (0..n).map(|_| differences[rng.below(n)]).sum::<f64>() / n as f64;
        let mut means: Vec<f64> = (0..DRAWS).map(|_| mean(&mut rng)).collect();
        means.sort_by(f64::total_cmp);
        let agree = differences.iter().filter(|d| d.signum() == spread.mean.signum() && **d != 0.0).count();
        let at = |share: f64| means[((DRAWS - 1) as f64 * share).round() as usize];
        Some(Self { count: n, mean: spread.mean, low: at(0.025), high: at(0.975), agree })
    }

    /// Whether the interval leaves out zero and there are enough pairs for that to mean something.
    pub fn is_clear(&self) -> bool {
        self.count >= 3 && self.agree == self.count && (self.low > 0.0 || self.high < 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_are_those_of_the_textbook() {
        let spread = Spread::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert!((spread.mean - 5.0).abs() < 1e-12 && (spread.deviation - (32f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(Spread::of(&[3.0]).unwrap().deviation, 0.0);
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn an_interval_covers_the_mean_as_often_as_it_says() {
        // Differences of known mean: intervals of 20 pairs should hold it about 19 times in 20 (a percentile bootstrap
        // of so few is a little narrow).
        let mut held = 0;
        for trial in 0..400 {
            let mut rng = Rng::new(5, 1, trial);
            let values: Vec<f64> = (0..20).map(|_| 0.3 + rng.normal()).collect();
            let paired = Paired::of(&values).unwrap();
            assert!(paired.low <= paired.mean && paired.mean <= paired.high);
            held += usize::from(paired.low <= 0.3 && 0.3 <= paired.high);
        }
        assert!((350..398).contains(&held), "{held} of 400");
    }

    #[test]
    fn clear_needs_enough_pairs_of_one_sign() {
        assert!(Paired::of(&[0.1, 0.2, 0.15]).unwrap().is_clear());
        assert!(!Paired::of(&[0.1, 0.2]).unwrap().is_clear());
        assert!(!Paired::of(&[0.1, -0.2, 0.15, 0.1]).unwrap().is_clear());
        assert!(!Paired::of(&[0.0, 0.0, 0.0]).unwrap().is_clear());
    }
}
