//! Figures in the text form that Prometheus reads: under our own names, or under those of vLLM, which dashboards and load
//! generators know.

use crate::app::App;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The names of the figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetricsNames {
    /// `parloop_...`.
    #[default]
    Own,
    /// `vllm:...`.
    Vllm,
}

/// Upper bounds of the parts of a histogram, in seconds.
const BOUNDS: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

/// How often times of which length came.
#[derive(Default)]
pub(crate) struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    pub fn add(&self, time: Duration) {
        let part = BOUNDS.iter().position(|bound| time.as_secs_f64() <= *bound).unwrap_or(BOUNDS.len());
        self.counts[part].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(time.as_micros().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn write(&self, name: &str, labels: &str, out: &mut String) {
        let mut sum = 0;
        for (i, count) in self.counts.iter().enumerate() {
            sum += count.load(Ordering::Relaxed);
            let bound = BOUNDS.get(i).map_or("+Inf".to_owned(), f64::to_string);
            let comma = if labels.is_empty() { "" } else { "," };
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {sum}");
        }
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}_sum{labels} {seconds}\n{name}_count{labels} {sum}");
    }
}

/// How long things took.
#[derive(Default)]
pub(crate) struct Times {
    /// From the arrival of a request to its first token.
    pub first: Histogram,
    /// Between two tokens of a request.
    pub gap: Histogram,
    /// From the arrival of a request to its end.
    pub whole: Histogram,
}

/// What a figure is.
enum Figure<'a> {
    Counter(u64),
    Gauge(f64),
    Times(&'a Histogram),
}

/// `GET /metrics`.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let (counters, load) = (&app.worker.counters, app.worker.counters.load());
    let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
    let counter = |n: &AtomicU64| Figure::Counter(read(n));
    let kv = load.kv_bytes as f64;
    let share = if app.kv_budget == 0 { 0.0 } else { kv / app.kv_budget as f64 };
    let (prompts, times) = (read(&counters.prompt_tokens), &counters.times);
    // Our name, vLLM's (nothing where it has none, or where ours means something else), and what it is.
    let rows = [
        ("requests_total", "", "requests taken", counter(&counters.requests)),
        ("requests_done_total", "request_success_total", "requests that came to their end", counter(&counters.done)),
        ("requests_failed_total", "", "requests that failed", counter(&counters.failed)),
        ("requests_cancelled_total", "", "requests whose client went away", counter(&counters.cancelled)),
        (
            "requests_put_back_total",
            "num_preemptions_total",
            "requests computed again for want of memory",
            Figure::Counter(load.put_back),
        ),
        ("requests_running", "num_requests_running", "requests being computed", Figure::Gauge(load.running as f64)),
        ("requests_waiting", "num_requests_waiting", "requests that wait", Figure::Gauge(load.waiting as f64)),
        ("tokens_prompt_total", "prompt_tokens_total", "tokens of prompts", Figure::Counter(prompts)),
        ("tokens_written_total", "generation_tokens_total", "tokens written", counter(&counters.written_tokens)),
        ("", "prefix_cache_queries_total", "tokens of prompts looked for in the cache", Figure::Counter(prompts)),
        (
            "tokens_cached_total",
            "prefix_cache_hits_total",
            "tokens of prompts taken from the cache",
            counter(&counters.cached_tokens),
        ),
        ("turns_total", "", "passes over the weights", counter(&counters.turns)),
        ("kv_bytes", "", "bytes of keys and values in use, cached ones included", Figure::Gauge(kv)),
        ("", "kv_cache_usage_perc", "part of the memory for keys and values in use, 0 to 1", Figure::Gauge(share)),
        (
            "first_token_seconds",
            "time_to_first_token_seconds",
            "from the arrival of a request to its first token",
            Figure::Times(&times.first),
        ),
        ("gap_seconds", "inter_token_latency_seconds", "between two tokens of a request", Figure::Times(&times.gap)),
        (
            "request_seconds",
            "e2e_request_latency_seconds",
            "from the arrival of a request to its end",
            Figure::Times(&times.whole),
        ),
    ];
    let vllm = app.metrics_names == MetricsNames::Vllm;
    // Whoever charts several servers tells them apart by it. It is the operator's word, not a client's.
    let escaped: String = app.name.chars().filter(|c| !c.is_control() && !"\"\\".contains(*c)).collect();
    let labels = if vllm { format!("model_name=\"{escaped}\"") } else { String::new() };
    let around = if vllm { format!("{{{labels}}}") } else { String::new() };
    let mut out = String::new();
    for (own, other, help, figure) in rows {
        let name = if vllm { other } else { own };
        if name.is_empty() {
            continue;
        }
        let name = if vllm { format!("vllm:{name}") } else { format!("parloop_{name}") };
        let kind = match figure {
            Figure::Counter(_) => "counter",
            Figure::Gauge(_) => "gauge",
            Figure::Times(_) => "histogram",
        };
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        let _ = match figure {
            Figure::Counter(n) => writeln!(out, "{name}{around} {n}"),
            Figure::Gauge(x) => writeln!(out, "{name}{around} {x}"),
            Figure::Times(times) => {
                times.write(&name, &labels, &mut out);
                Ok(())
            }
        };
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], out).into_response()
}
