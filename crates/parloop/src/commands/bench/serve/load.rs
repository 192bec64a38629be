//! Requests, so many at a time or so many a second, and what came of each.

use super::texts::Random;
use crate::client::Server;
use anyhow::Result;
use serde_json::Value;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A request.
pub struct Job {
    pub body: Value,
}

/// When requests are sent.
pub struct Pace {
    /// How many are open at a time.
    pub open: usize,
    /// How many are due a second; if not given, the next is due when one has ended.
    pub rate: Option<f64>,
    pub seed: u64,
}

/// What came of a request.
#[derive(Debug, Default)]
pub struct Outcome {
    /// From when it was due to the first piece with text.
    pub first: Option<Duration>,
    /// Between pieces with text.
    pub gaps: Vec<Duration>,
    /// From when it was due to the end.
    pub whole: Duration,
    pub pieces: u64,
    /// Tokens of the prompt, those of them from a cache, and tokens written, if the server says so.
    pub usage: Option<[u64; 3]>,
    pub error: Option<String>,
}

/// A round.
pub struct Done {
    pub seconds: f64,
    pub outcomes: Vec<Outcome>,
}

/// Sends all requests and waits for their ends.
pub fn run(server: &Server, path: &str, jobs: &[Job], pace: &Pace) -> Done {
    let due = arrivals(jobs.len(), pace);
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(jobs.len())));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..pace.open {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(i) else { return };
                    let since = match &due {
                        None => Instant::now(),
                        Some(due) => {
                            let at = start + due[i];
                            std::thread::sleep(at.saturating_duration_since(Instant::now()));
                            at
                        }
                    };
                    let outcome = one(server, path, job, since);
                    outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
                }
            });
        }
    });
    let seconds = start.elapsed().as_secs_f64();
    Done { seconds, outcomes: outcomes.into_inner().unwrap_or_else(PoisonError::into_inner) }
}

/// When each request is due after the start: the times between them are those of independent arrivals.
fn arrivals(count: usize, pace: &Pace) -> Option<Vec<Duration>> {
    let rate = pace.rate?;
    let mut random = Random(pace.seed);
    let mut at = 0.0;
    let mut next = || {
        let now = Duration::from_secs_f64(at);
        at -= (1.0 - random.unit()).ln() / rate;
        now
    };
    Some((0..count).map(|_| next()).collect())
}

fn one(server: &Server, path: &str, job: &Job, since: Instant) -> Outcome {
    let mut outcome = Outcome::default();
    let mut last: Option<Instant> = None;
    let result = server.stream(path, &job.body, |event| {
        if has_text(&event) {
            let now = Instant::now();
            match last.replace(now) {
                None => outcome.first = Some(now - since),
                Some(before) => outcome.gaps.push(now - before),
            }
            outcome.pieces += 1;
        }
        if let Some(usage) = event.get("usage").filter(|u| u.is_object()) {
            outcome.usage = usage_of(usage);
        }
        Result::Ok(ControlFlow::Continue(()))
    });
    outcome.whole = since.elapsed();
    outcome.error = result.err().map(|error| format!("{error:#}"));
    outcome
}

/// Whether an event brings some of an answer: text, thoughts or a call.
fn has_text(event: &Value) -> bool {
    let filled = |value: &Value| value.as_str().is_some_and(|s| !s.is_empty());
    event["choices"].as_array().is_some_and(|choices| {
        choices.iter().any(|choice| {
            let delta = &choice["delta"];
            filled(&choice["text"])
                || ["content", "reasoning_content", "reasoning"].iter().any(|name| filled(&delta[*name]))
                || delta["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty())
        })
    })
}

fn usage_of(usage: &Value) -> Option<[u64; 3]> {
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
    Some([usage["prompt_tokens"].as_u64()?, cached, usage["completion_tokens"].as_u64()?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_pieces_with_text_are_pieces() {
        for (event, text) in [
            (json!({ "choices": [{ "text": "a" }] }), true),
            (json!({ "choices": [{ "text": "" }] }), false),
            (json!({ "choices": [{ "delta": { "role": "assistant", "content": "" } }] }), false),
            (json!({ "choices": [{ "delta": { "content": "a" } }] }), true),
            (json!({ "choices": [{ "delta": { "reasoning": "a" } }] }), true),
            (json!({ "choices": [{ "delta": { "tool_calls": [{ "index": 0 }] } }] }), true),
            (json!({ "choices": [], "usage": { "prompt_tokens": 1, "completion_tokens": 2 } }), false),
            (json!([]), false),
        ] {
            assert_eq!(has_text(&event), text, "{event}");
        }
        assert_eq!(usage_of(&json!({ "prompt_tokens": 1, "completion_tokens": 2 })), Some([1, 0, 2]));
        assert_eq!(usage_of(&json!({ "prompt_tokens": 1 })), None);
    }

    #[test]
    fn requests_at_a_rate_are_due_at_that_rate() {
        let pace = Pace { open: 1, rate: Some(50.0), seed: 3 };
        let due = arrivals(4000, &pace).unwrap();
        assert!(due.is_sorted() && due[0].is_zero());
        let seconds = due[3999].as_secs_f64();
        assert!((60.0..100.0).contains(&seconds), "4000 requests at 50 a second in {seconds} s");
        assert!(arrivals(3, &Pace { rate: None, ..pace }).is_none());
    }
}
