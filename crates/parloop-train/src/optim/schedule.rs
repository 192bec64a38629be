//! The learning rate over a run.

use serde::{Deserialize, Serialize};

/// Linear warm-up to a peak, then half a cosine down to a floor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// Highest learning rate.
    pub peak: f64,
    /// Steps of linear warm-up; 0 starts at the peak.
    pub warmup: usize,
    /// Steps of the whole run.
    pub steps: usize,
    /// Last learning rate as a fraction of the peak.
    pub floor: f64,
}

impl Schedule {
    /// Learning rate of a step; steps count from 1 to `steps`, and the floor holds after that.
    ///
    /// `peak * step / warmup` up to `warmup`; then `peak * (floor + (1 - floor) * (1 + cos(pi * p)) / 2)` with p the
    /// share of the remaining steps that is done.
    pub fn rate(&self, step: usize) -> f64 {
        if step <= self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let left = self.steps.saturating_sub(self.warmup).max(1);
        let done = (step - self.warmup).min(left) as f64 / left as f64;
        self.peak * (self.floor + (1.0 - self.floor) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos()))
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    #[test]
    fn rises_to_the_peak_and_falls_to_the_floor() {
        let schedule = Schedule { peak: 2.0, warmup: 4, steps: 20, floor: 0.1 };
        assert_eq!([1, 2, 4].map(|s| schedule.rate(s)), [0.5, 1.0, 2.0]);
        assert!((schedule.rate(12) - 2.0 * 0.55).abs() < 1e-12);
        assert!((schedule.rate(20) - 0.2).abs() < 1e-12 && (schedule.rate(99) - 0.2).abs() < 1e-12);
        assert!((4..20).all(|s| schedule.rate(s + 1) < schedule.rate(s)));
        assert_eq!(Schedule { warmup: 0, steps: 0, ..schedule }.rate(1), 0.2);
    }
}
