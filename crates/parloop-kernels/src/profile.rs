//! Where the time of a run goes: calls, seconds and bytes of weights for each kind of operation.

use std::fmt::Write;
use std::time::Instant;

/// The environment variable that switches profiling on.
pub const VARIABLE: &str = "PARLOOP_PROFILE";

/// Whether `PARLOOP_PROFILE` is set to anything but 0.
pub fn asked_for() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|v| v != "0")
}

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    Qkv,
    Rope,
    Store,
    Gate,
    Attend,
    Output,
    FeedForwardIn,
    FeedForwardOut,
    Router,
    Combine,
    Head,
}

const NAMES: [&str; 11] = [
    "norm, q k v",
    "rope",
    "store k v",
    "gate",
    "attention",
    "o_proj",
    "norm, gate up",
    "down_proj",
    "norm, router",
    "add experts",
    "norm, head",
];

/// Totals of one kind of operation.
#[derive(Clone, Copy, Debug, Default)]
struct Total {
    calls: u64,
    seconds: f64,
    bytes: u64,
}

/// Totals of all kinds. Costs one branch an operation while switched off.
#[derive(Debug, Default)]
pub struct Profile {
    on: bool,
    totals: [Total; NAMES.len()],
}

impl Profile {
    /// No totals yet; kept if `on`.
    pub fn new(on: bool) -> Self {
        Self { on, ..Self::default() }
    }

    /// Whether totals are kept.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// The time an operation begins, if totals are kept.
    pub fn start(&self) -> Option<Instant> {
        self.on.then(Instant::now)
    }

    /// Adds an operation that began at `start` and read `bytes` of weights.
    pub fn add(&mut self, op: Op, start: Option<Instant>, bytes: usize) {
        if let Some(start) = start {
            let total = &mut self.totals[op as usize];
            total.calls += 1;
            total.seconds += start.elapsed().as_secs_f64();
            total.bytes += bytes as u64;
        }
    }

    /// Seconds spent in matrix products and in everything.
    pub fn seconds(&self) -> (f64, f64) {
        let products = [Op::Qkv, Op::Gate, Op::Output, Op::FeedForwardIn, Op::FeedForwardOut, Op::Router, Op::Head];
        let sum = products.iter().map(|op| self.totals[*op as usize].seconds).sum();
        (sum, self.totals.iter().map(|t| t.seconds).sum())
    }

    /// A table, the costliest operation first.
    pub fn table(&self) -> String {
        let all = self.seconds().1.max(f64::MIN_POSITIVE);
        let mut rows: Vec<_> = NAMES.iter().zip(self.totals).filter(|(_, t)| t.calls > 0).collect();
        rows.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
        let mut text = format!(
            "{:<14} {:>9} {:>10} {:>7} {:>10} {:>7}\n",
            "operation", "calls", "ms", "share", "us a call", "GB/s"
        );
        for (name, t) in rows {
            let rate = if t.bytes > 0 { format!("{:.1}", t.bytes as f64 / t.seconds / 1e9) } else { "-".into() };
            let _ = writeln!(
                text,
                "{name:<14} {:>9} {:>10.2} {:>6.1}% {:>10.2} {rate:>7}",
                t.calls,
                t.seconds * 1e3,
                100.0 * t.seconds / all,
                t.seconds * 1e6 / t.calls as f64
            );
        }
        text
    }
}
