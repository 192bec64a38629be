//! Steps that are not taken: a loss or a gradient that is no number, or a gradient far above its usual size.
//!
//! The usual size is a running mean of the gradient's norm, 0.98 of the old and 0.02 of the new one; it judges once it has
//! seen enough steps. A norm that was too large counts as the largest that would not have been, so that gradients which
//! really have grown are taken after some steps.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Share of the running mean that a step leaves.
const KEPT: f64 = 0.98;
/// Steps to be seen before the mean judges.
const SEEN: usize = 20;

/// What the guard remembers between steps, as a checkpoint holds it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Skips {
    /// Steps skipped in all.
    pub skipped: usize,
    /// Steps skipped since the last one that was taken.
    pub in_row: usize,
    /// Norms that the mean has seen.
    seen: usize,
    /// The bits of the running mean: a decimal fraction need not come back as it was.
    level: u64,
}

/// Why a step is skipped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Reason {
    /// "loss" or "gradient norm".
    pub what: &'static str,
    pub value: f64,
    /// The usual norm, if that is what it exceeds.
    pub usual: Option<f64>,
}

/// Judges each step before it is taken.
pub(super) struct Guard {
    /// Multiple of the usual norm from which a step is skipped; 0 for none.
    pub spike: f64,
    /// Skipped steps in a row that end the run.
    pub most: usize,
    pub skips: Skips,
}

impl Guard {
    /// Why a step with this loss and, if it is known, this norm is to be skipped. Asked once a step with a norm.
    pub(super) fn judge(&mut self, loss: f64, norm: Option<f64>) -> Option<Reason> {
        if !loss.is_finite() {
            return Some(Reason { what: "loss", value: loss, usual: None });
        }
        let value = norm?;
        if !value.is_finite() {
            return Some(Reason { what: "gradient norm", value, usual: None });
        }
        let skips = &mut self.skips;
        let level = f64::from_bits(skips.level);
        let highest = if self.spike > 0.0 && skips.seen >= SEEN { self.spike * level } else { f64::INFINITY };
        let counted = value.min(highest);
        let new = if skips.seen == 0 { counted } else { KEPT * level + (1.0 - KEPT) * counted };
        (skips.level, skips.seen) = (new.to_bits(), skips.seen + 1);
        (value > highest).then_some(Reason { what: "gradient norm", value, usual: Some(level) })
    }

    /// Counts a step that was taken.
    pub(super) fn taken(&mut self) {
        self.skips.in_row = 0;
    }

    /// Counts a step that was skipped.
    ///
    /// # Errors
    /// It is one too many in a row.
    pub(super) fn skipped(&mut self, reason: Reason, step: usize, good: Option<(usize, PathBuf)>) -> Result<()> {
        self.skips.skipped += 1;
        self.skips.in_row += 1;
        if self.skips.in_row < self.most {
            return Ok(());
        }
        let Reason { what, value, usual } = reason;
        Err(Error::Unstable { what, step, value, usual, in_row: self.skips.in_row, good })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard { spike: 10.0, most: 3, skips: Skips::default() }
    }

    #[test]
    fn spikes_are_told_from_growth() {
        let mut guard = guard();
        // The first steps are never judged by size.
        assert!((0..20).all(|i| guard.judge(1.0, Some(if i == 3 { 2000.0 } else { 1.0 })).is_none()));
        let mut guard = Guard { skips: Skips::default(), ..guard };
        assert!((0..30).all(|_| guard.judge(1.0, Some(2.0)).is_none()));
        assert_eq!(guard.judge(1.0, Some(19.9)), None);
        let reason = guard.judge(1.0, Some(50.0)).unwrap();
        assert!(reason.what == "gradient norm" && reason.usual.is_some_and(|usual| (2.0..2.5).contains(&usual)));
        // Gradients that stay large are taken in the end.
        let steps = (0..100).take_while(|_| guard.judge(1.0, Some(50.0)).is_some()).count();
        assert!((1..30).contains(&steps), "{steps}");
        assert!(Guard { spike: 0.0, ..guard }.judge(1.0, Some(1e9)).is_none());
    }

    #[test]
    fn no_number_is_skipped_and_too_many_end_the_run() {
        let mut guard = guard();
        for (loss, norm) in [(f64::NAN, None), (f64::INFINITY, Some(1.0)), (1.0, Some(f64::NAN))] {
            let before = guard.skips.clone();
            assert!(guard.judge(loss, norm).is_some());
            assert_eq!(guard.skips, before, "what is no number moves no mean");
        }
        let reason = guard.judge(f64::NAN, None).unwrap();
        assert!(guard.skipped(reason, 1, None).is_ok() && guard.skipped(reason, 2, None).is_ok());
        guard.taken();
        assert!((3..5).all(|step| guard.skipped(reason, step, None).is_ok()));
        let message = guard.skipped(reason, 5, None).unwrap_err().to_string();
        assert!(message.contains("loss of step 5 is NaN") && message.contains('3'), "{message}");
        assert_eq!((guard.skips.skipped, guard.skips.in_row), (5, 3));
        let text = serde_json::to_string(&guard.skips).unwrap();
        assert_eq!(serde_json::from_str::<Skips>(&text).unwrap(), guard.skips);
    }
}
