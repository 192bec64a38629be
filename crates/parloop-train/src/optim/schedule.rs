//! The learning rate over a run.

/// How the learning rate goes on after its linear warm-up. With q the share of the way from the peak to the floor that
/// is left, the rate is `peak * (floor + (1 - floor) * q)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// Half a cosine: `q = (1 + cos(pi p)) / 2`, p the share of the steps after warm-up that is done.
    Cosine,
    /// A straight line: `q = 1 - p`.
    Linear,
    /// Warm-up, stable, decay (Hu et al. 2024, MiniCPM): the peak, then a straight line over the last steps.
    Wsd {
        /// Share of the run's steps in which it falls.
        decay: f64,
    },
}

/// Linear warm-up to a peak, then down to a floor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// How it falls.
    pub shape: Shape,
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
    /// Learning rate of a step; steps count from 1 to `steps`, and the floor holds after that. Up to `warmup` it is
    /// `peak * step / warmup`.
    pub fn rate(&self, step: usize) -> f64 {
        if step <= self.warmup {
            return self.peak * step as f64 / self.warmup as f64;
        }
        let start = match self.shape {
            Shape::Cosine | Shape::Linear => self.warmup,
            Shape::Wsd { decay } => self.steps - (self.steps as f64 * decay).round().min(self.steps as f64) as usize,
        };
        // A run too short for its warm-up begins to fall when that ends.
        let start = start.max(self.warmup);
        let left = self.steps.saturating_sub(start).max(1);
        let done = step.saturating_sub(start).min(left) as f64 / left as f64;
        let rest = match self.shape {
            Shape::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            Shape::Linear | Shape::Wsd { .. } => 1.0 - done,
        };
        self.peak * (self.floor + (1.0 - self.floor) * rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule { shape: Shape::Cosine, peak: 2.0, warmup: 4, steps: 20, floor: 0.1 };

    #[test]
    fn each_rises_to_the_peak_and_falls_to_the_floor() {
        for shape in [Shape::Cosine, Shape::Linear, Shape::Wsd { decay: 0.25 }, Shape::Wsd { decay: 1.0 }] {
            let schedule = Schedule { shape, ..SCHEDULE };
            assert_eq!([1, 2, 4].map(|s| schedule.rate(s)), [0.5, 1.0, 2.0], "{shape:?}");
            assert!((schedule.rate(20) - 0.2).abs() < 1e-12 && (schedule.rate(99) - 0.2).abs() < 1e-12, "{shape:?}");
            assert!((4..20).all(|s| schedule.rate(s + 1) <= schedule.rate(s)), "{shape:?}");
            let unwarmed = Schedule { warmup: 0, steps: 0, ..schedule };
            assert!(unwarmed.rate(1) <= unwarmed.peak && unwarmed.rate(2) == 0.2, "{shape:?}");
            // Warm-up longer than the run: the rate only rises.
            let short = Schedule { warmup: 30, ..schedule };
            assert!((1..20).all(|s| short.rate(s + 1) > short.rate(s)), "{shape:?}");
        }
    }

    #[test]
    fn shapes_between_the_ends() {
        let at = |shape, step| Schedule { shape, ..SCHEDULE }.rate(step);
        assert!((at(Shape::Cosine, 12) - 2.0 * 0.55).abs() < 1e-12);
        assert!((at(Shape::Cosine, 8) - 2.0 * (0.1 + 0.9 * 0.853_553_390_593_273_8)).abs() < 1e-12);
        assert!((at(Shape::Linear, 8) - 2.0 * (0.1 + 0.9 * 0.75)).abs() < 1e-12);
        // The last five of twenty steps.
        let wsd = Shape::Wsd { decay: 0.25 };
        assert_eq!([5, 10, 15].map(|step| at(wsd, step)), [2.0; 3]);
        assert!((at(wsd, 16) - 2.0 * (0.1 + 0.9 * 0.8)).abs() < 1e-12);
    }
}
