//! What a server did under load, as a table and as JSON.

use super::load::Done;
use anyhow::Result;
use serde::Serialize;
use std::io::Write;
use std::time::Duration;

/// Everything that was measured.
#[derive(Default, Serialize)]
pub struct Report {
    pub rows: Vec<Row>,
}

/// One server with so many streams. Times are in milliseconds.
#[derive(Serialize)]
pub struct Row {
    pub url: String,
    pub model: String,
    pub streams: u16,
    pub rate: Option<f64>,
    pub requests: usize,
    pub failed: usize,
    pub seconds: f64,
    /// Whose count of written tokens this is: `usage` or `pieces`.
    pub counted_by: &'static str,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub written_tokens: u64,
    pub tokens_per_second: f64,
    pub first_ms: Spread,
    pub gap_ms: Spread,
    pub whole_ms: Spread,
    /// Beside the first server.
    pub ratio: Option<f64>,
    /// What the first failure said.
    pub error: Option<String>,
    #[serde(skip)]
    rounds: Vec<f64>,
    #[serde(skip)]
    samples: [Vec<f64>; 3],
    #[serde(skip)]
    compared: bool,
}

/// Median, 99th percentile and largest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub p99: f64,
    pub most: f64,
}

impl Spread {
    fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        // The smallest value that so many are not above.
        let rank = |share: f64| {
            let at = (share * sorted.len() as f64).ceil() as usize;
            sorted.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Self { median: rank(0.5), p99: rank(0.99), most: rank(1.0) }
    }
}

impl Row {
    pub fn new(url: &str, model: &str, streams: u16, rate: Option<f64>) -> Self {
        Self {
            url: url.into(),
            model: model.into(),
            streams,
            rate,
            requests: 0,
            failed: 0,
            seconds: 0.0,
            counted_by: "usage",
            prompt_tokens: 0,
            cached_tokens: 0,
            written_tokens: 0,
            tokens_per_second: 0.0,
            first_ms: Spread::default(),
            gap_ms: Spread::default(),
            whole_ms: Spread::default(),
            ratio: None,
            error: None,
            rounds: Vec::new(),
            samples: Default::default(),
            compared: false,
        }
    }

    /// Takes a round of the server that is the `which`th of those compared.
    pub fn add(&mut self, done: &Done, which: usize) {
        let ms = |time: &Duration| time.as_secs_f64() * 1e3;
        let before = self.written_tokens;
        for outcome in &done.outcomes {
            self.requests += 1;
            if let Some(error) = &outcome.error {
                self.failed += 1;
                self.error.get_or_insert_with(|| error.clone());
                continue;
            }
            match outcome.usage {
                Some([prompt, cached, written]) => {
                    self.prompt_tokens += prompt;
                    self.cached_tokens += cached;
                    self.written_tokens += written;
                }
                None => {
                    self.counted_by = "pieces";
                    self.written_tokens += outcome.pieces;
                }
            }
            self.samples[0].extend(outcome.first.as_ref().map(ms));
            self.samples[1].extend(outcome.gaps.iter().map(ms));
            self.samples[2].push(ms(&outcome.whole));
        }
        self.seconds += done.seconds;
        self.rounds.push((self.written_tokens - before) as f64 / done.seconds);
        self.tokens_per_second = Spread::of(&self.rounds).median;
        let [first, gap, whole] = self.samples.each_ref().map(|samples| Spread::of(samples));
        (self.first_ms, self.gap_ms, self.whole_ms) = (first, gap, whole);
        self.compared = which > 0;
    }
}

/// Compares each server with the first, round by round.
pub fn compare(rows: &mut [Row]) {
    let Some((first, others)) = rows.split_first_mut() else { return };
    for row in others.iter_mut().filter(|row| row.compared) {
        let ratios: Vec<f64> = row.rounds.iter().zip(&first.rounds).map(|(a, b)| a / b).collect();
        row.ratio = Some(Spread::of(&ratios).median).filter(|r| r.is_finite());
    }
}

impl Report {
    /// Prints the table; as JSON too, which then stands alone on standard output.
    pub fn print(&self, json: bool) -> Result<()> {
        let text = self.text();
        let mut out = std::io::stdout().lock();
        if json {
            say!("{}", text.trim_end());
            return Ok(writeln!(out, "{}", serde_json::to_string(self)?)?);
        }
        Ok(out.write_all(text.as_bytes())?)
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        let mut urls: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !urls.contains(&row.url.as_str()) {
                urls.push(&row.url);
                lines.push(format!("{}: {} at {}", urls.len(), row.model, row.url));
            }
        }
        let mut table = vec![HEAD.map(str::to_owned).to_vec()];
        for r in &self.rows {
            let place = urls.iter().position(|url| *url == r.url).map_or(0, |i| i + 1);
            let done = (r.requests - r.failed).max(1) as u64;
            let ms = |value: f64| if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") };
            table.push(vec![
                place.to_string(),
                r.rate.map_or_else(|| r.streams.to_string(), |rate| format!("{rate}/s")),
                r.requests.to_string(),
                r.failed.to_string(),
                (r.prompt_tokens / done).to_string(),
                format!("{:.0}", 100.0 * r.cached_tokens as f64 / r.prompt_tokens.max(1) as f64) + "%",
                (r.written_tokens / done).to_string(),
                format!("{:.1}{}", r.tokens_per_second, if r.counted_by == "usage" { "" } else { "*" }),
                ms(r.first_ms.median),
                ms(r.first_ms.p99),
                ms(r.gap_ms.median),
                ms(r.gap_ms.p99),
                ms(r.gap_ms.most),
                r.ratio.map_or("-".into(), |v| format!("{v:.2}")),
            ]);
        }
        // A column that has nothing to say is left out.
        let says = |i: &usize| match HEAD[*i] {
            "" => urls.len() > 1,
            "failed" => self.rows.iter().any(|r| r.failed > 0),
            "cached" => self.rows.iter().any(|r| r.cached_tokens > 0),
            "vs first" => table[1..].iter().any(|row| row[*i] != "-"),
            _ => true,
        };
        let shown: Vec<usize> = (0..HEAD.len()).filter(says).collect();
        let widths: Vec<usize> =
            shown.iter().map(|i| table.iter().map(|row| row[*i].chars().count()).max().unwrap_or(0)).collect();
        lines.push(String::new());
        lines.extend(table.iter().map(|row| {
            let cells = shown.iter().zip(&widths).map(|(i, w)| format!("{:>w$}", row[*i]));
            cells.collect::<Vec<_>>().join("  ")
        }));
        if self.rows.iter().any(|r| r.counted_by != "usage") {
            lines.push("* the server does not tell its usage: pieces were counted, not tokens".into());
        }
        lines.join("\n") + "\n"
    }
}

const HEAD: [&str; 14] = [
    "", "streams", "requests", "failed", "prompt", "cached", "written", "tokens/s", "first", "p99", "gap", "p99",
    "most", "vs first",
];

#[cfg(test)]
mod tests {
    use super::super::load::Outcome;
    use super::*;

    fn done(seconds: f64, count: u64) -> Done {
        let outcome = |i: u64| Outcome {
            first: Some(Duration::from_millis(10 * (i + 1))),
            gaps: vec![Duration::from_millis(2); 3],
            whole: Duration::from_millis(100),
            pieces: 3,
            usage: Some([128, 64, 10]),
            error: None,
        };
        Done { seconds, outcomes: (0..count).map(outcome).collect() }
    }

    #[test]
    fn figures_are_those_of_what_came() {
        let mut rows = vec![Row::new("http://a", "m", 4, None), Row::new("http://b", "m", 4, None)];
        for round in [1.0, 2.0, 4.0] {
            rows[0].add(&done(round, 100), 0);
            rows[1].add(&done(round / 2.0, 100), 1);
        }
        compare(&mut rows);
        let a = &rows[0];
        assert_eq!(
            (a.requests, a.failed, a.prompt_tokens, a.cached_tokens, a.written_tokens),
            (300, 0, 38400, 19200, 3000)
        );
        assert_eq!((a.tokens_per_second, a.seconds, a.ratio), (500.0, 7.0, None));
        assert_eq!(a.first_ms, Spread { median: 500.0, p99: 990.0, most: 1000.0 });
        assert_eq!(rows[1].ratio, Some(2.0));
        let text = Report { rows }.text();
        assert!(text.contains("vs first") && text.contains("2.00") && !text.contains("failed"), "{text}");
        let longest = text.lines().map(str::len).max().unwrap();
        assert!(longest <= 100, "{longest}:\n{text}");
    }

    #[test]
    fn a_server_that_does_not_tell_its_usage_is_counted_by_pieces() {
        let mut row = Row::new("http://a", "m", 1, Some(2.0));
        let mut round = done(1.0, 2);
        round.outcomes[0].usage = None;
        round.outcomes[1].error = Some("gone".into());
        row.add(&round, 0);
        assert_eq!((row.written_tokens, row.failed, row.error.as_deref()), (3, 1, Some("gone")));
        let text = Report { rows: vec![row] }.text();
        assert!(text.contains("3.0*") && text.contains("pieces were counted") && text.contains("2/s"), "{text}");
    }

    #[test]
    fn nothing_has_no_spread() {
        assert_eq!(Spread::of(&[]), Spread::default());
        assert_eq!(Spread::of(&[3.0]), Spread { median: 3.0, p99: 3.0, most: 3.0 });
    }
}
