//! What was measured, for people and for programs.

use super::rounds::Side;
use crate::commands::plural;
use crate::terminal::wrap::flowing;
use anyhow::Result;
use clap::ValueEnum;
use parloop_engine::{Engine, Passes};
use parloop_kernels::WeightType;
use parloop_model::ExpertMode;
use serde::Serialize;
use std::io::Write;

/// Form of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Markdown,
    Csv,
}

/// One measured thing.
#[derive(Debug, Serialize)]
pub struct Row {
    model: String,
    test: String,
    weights: &'static str,
    /// Bytes of weights read in a pass, of experts those that rows took.
    bytes: usize,
    /// Experts of a layer that a pass of decode read on average.
    experts: Option<f64>,
    /// The same as the formula has it, for made-up routing.
    expected_experts: Option<f64>,
    /// Bytes of a pass by the formula.
    expected_bytes: Option<f64>,
    kv: &'static str,
    /// Bytes of K/V and carried vectors of the sequences at this depth (prompt and steps for prefill).
    state_bytes: usize,
    loops: usize,
    mode: &'static str,
    batch: usize,
    depth: usize,
    seconds: f64,
    tokens_per_second: f64,
    /// Standard deviation of the rounds.
    tokens_per_second_sd: f64,
    /// Bytes of weights and K/V read a second; null for prefill, which is not bound by reading.
    gb_s: Option<f64>,
    bandwidth_share: Option<f64>,
    gflop_s: f64,
    /// Share of the inner instruction's peak, measured in the same run.
    peak_share: f64,
    /// Time against one loop with the same work.
    ratio_to_one_loop: Option<f64>,
    /// The same for a prompt as its rows predict it: rows of all loops and layers against those of one loop.
    predicted_ratio_to_one_loop: Option<f64>,
    /// Lower and upper quartile of that ratio over the rounds.
    ratio_to_one_loop_quartiles: Option<[f64; 2]>,
    /// Time of loop by loop against this.
    ratio_to_sequential: Option<f64>,
}

#[derive(Debug, Default, Serialize)]
struct Machine {
    threads: usize,
    isa: &'static str,
    cpu: String,
    parloop: &'static str,
}

/// Everything of a run.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    machine: Machine,
    /// Read bandwidth, median over all rounds.
    read_gb_s: f64,
    #[serde(skip)]
    reads: Vec<f64>,
    /// Lower and upper quartile of the bandwidth, where they are far apart.
    #[serde(skip)]
    varied: Option<[f64; 2]>,
    /// What is to be known before the figures are believed.
    notes: Vec<String>,
    #[serde(rename = "results")]
    pub rows: Vec<Row>,
}

/// What rows of one weight type share.
pub struct About<'a> {
    pub name: &'a str,
    pub kind: WeightType,
    /// Operations a second.
    pub peak: f64,
    /// Bytes a second, one a round.
    pub reads: &'a [f64],
}

/// Columns of a table.
const WIDTH: usize = 100;
/// How far the upper quartile of the bandwidth may be above the lower one on a machine that does nothing else.
const BUSY: f64 = 1.15;

/// Whether a share is more than there is, and not by rounding.
fn is_over(share: f64) -> bool {
    share >= 1.005
}

/// A share of what a machine can do, in percent; more than all of it is said to be so, and by how much is noise.
pub fn share(share: f64) -> String {
    if is_over(share) { ">100".into() } else { format!("{:.0}", 100.0 * share) }
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let values = sorted(values);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Makes the row of a side; `all` are the sides it may be compared with.
pub fn row(side: &Side, all: &[Side], about: &About<'_>) -> Row {
    let (c, work) = (side.model.config(), side.work);
    let same = |s: &&Side| (s.work.batch, s.work.depth, s.work.prompt) == (work.batch, work.depth, work.prompt);
    let ratios = |other: &Side, up: bool| {
        let ratio = move |(a, b): (&f64, &f64)| if up { a / b } else { b / a };
        sorted(side.times.iter().zip(&other.times).map(ratio))
    };
    let middle = |r: &[f64], part: usize| r.get(r.len() * part / 4).copied().unwrap_or(f64::NAN);
    let one = all.iter().filter(same).find(|s| s.model.config().recipe.count == 1).map(|s| ratios(s, true));
    let sequential = all
        .iter()
        .filter(same)
        .find(|s| s.passes == Passes::Sequential && s.model.config().recipe.count == c.recipe.count)
        .filter(|_| side.passes == Passes::One)
        .map(|s| median(ratios(s, false)));
    let loops = c.recipe.count;
    let passes = if side.passes == Passes::One { 1 } else { loops };
    // Loop by loop, the layers are read once a loop, the head once.
    let experts = experts(side, passes).filter(|_| work.prompt == 0);
    let expected = expected_experts(side).filter(|_| work.prompt == 0);
    let bytes = experts.map_or(side.model.bytes_per_pass(), |experts| side.model.bytes_of_pass(experts) as usize);
    let head = side.model.head_bytes();
    let kv = parloop_engine::sequence::kv_bytes(c, side.kv);
    let read = work.steps * (passes * (bytes - head) + head + work.batch * work.depth * kv);
    let seconds = median(side.times.iter().copied());
    let rates: Vec<f64> = side.times.iter().map(|t| work.tokens() as f64 / t).collect();
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    let sd = (rates.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / rates.len() as f64).sqrt();
    let decode = work.prompt == 0;
    let share = median(side.times.iter().zip(about.reads).map(|(t, read_rate)| read as f64 / t / read_rate));
    // The head runs for the last token of a prompt only, and for the last loop only.
    let matrices = side.model.matrix_weights() as f64;
    let head = (c.vocab_size * c.hidden_size) as f64;
    // Rows of a prompt that truncation leaves out are no work.
    let prompt = work.prompt as f64 * work.prefill.relative_work(c, work.prompt);
    let rows = work.batch as f64 * (prompt + (work.steps * loops) as f64);
    let heads = (work.batch * (work.steps + usize::from(work.prompt > 0))) as f64;
    let flops = 2.0 * (rows * (matrices - head) + heads * head);
    Row {
        model: about.name.to_owned(),
        test: work.name(),
        weights: about.kind.name(),
        bytes,
        experts,
        expected_experts: expected,
        expected_bytes: expected.map(|experts| side.model.bytes_of_pass(experts)),
        kv: side.kv.name(),
        state_bytes: work.batch * parloop_engine::Sequence::bytes_at(c, side.kv, work.depth + work.prompt + work.steps),
        loops,
        mode: if side.passes == Passes::One { "one-pass" } else { "sequential" },
        batch: work.batch,
        depth: work.depth,
        seconds,
        tokens_per_second: work.tokens() as f64 / seconds,
        tokens_per_second_sd: sd,
        gb_s: decode.then_some(read as f64 / seconds / 1e9),
        bandwidth_share: decode.then_some(share),
        gflop_s: flops / seconds / 1e9,
        peak_share: flops / seconds / about.peak,
        ratio_to_one_loop: one.as_deref().map(|r| middle(r, 2)),
        predicted_ratio_to_one_loop: (!decode && work.steps == 0).then(|| work.prefill.relative_work(c, work.prompt)),
        ratio_to_one_loop_quartiles: one.as_deref().map(|r| [middle(r, 1), middle(r, 3)]),
        ratio_to_sequential: sequential,
    }
}

/// Experts of a layer that a pass of a side read on average, if it has any.
fn experts(side: &Side, passes: usize) -> Option<f64> {
    let c = side.model.config();
    let layers = (0..c.num_hidden_layers).filter(|n| !c.is_dense(*n)).count();
    let count = side.times.len() * side.work.steps * passes * layers;
    c.moe.as_ref().filter(|_| count > 0).map(|_| side.experts as f64 / count as f64)
}

/// The same by the formula.
fn expected_experts(side: &Side) -> Option<f64> {
    let recipe = &side.model.config().recipe;
    let (moe, made_up) = (side.model.config().moe.as_ref()?, side.made_up?);
    let together = side.passes == Passes::One && recipe.experts == ExpertMode::Own;
    let loops = if together { recipe.count } else { 1 };
    Some(made_up.expected(moe.experts, moe.top_k, loops, side.work.batch))
}

impl Report {
    pub fn machine(&mut self, engine: &Engine) {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or(":unknown");
        self.machine = Machine {
            threads: engine.threads(),
            isa: engine.isa().name(),
            cpu: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            parloop: env!("CARGO_PKG_VERSION"),
        };
    }

    pub fn read(&mut self, reads: &[f64]) {
        self.reads.extend(reads.iter().map(|r| r / 1e9));
        self.read_gb_s = median(self.reads.iter().copied());
        // Of one weight type: the bytes that are read for the bandwidth are the type's.
        let sorted = sorted(reads.iter().map(|r| r / 1e9));
        let quartile = |part: usize| sorted.get(sorted.len() * part / 4).copied().unwrap_or(f64::NAN);
        if quartile(3) > BUSY * quartile(1) {
            self.varied = Some([quartile(1), quartile(3)]);
        }
    }

    /// Takes the rows of a weight type, and notes what cannot be as it was measured.
    pub fn take(&mut self, rows: Vec<Row>) {
        self.rows.extend(rows);
        let over = |of: fn(&Row) -> Option<f64>| self.rows.iter().filter(move |r| of(r).is_some_and(is_over));
        let (cached, other): (Vec<&Row>, Vec<&Row>) =
            over(|r| r.bandwidth_share).partition(|r| r.bytes < super::rounds::CACHED);
        let mut notes = Vec::new();
        if let Some([low, high]) = self.varied {
            notes.push(format!(
                "The read bandwidth was {low:.1} GB/s in some rounds and {high:.1} in others: something else used the \
                 machine, so all figures are unsure. Measure again when it is quiet."
            ));
        }
        if !cached.is_empty() {
            notes.push(
                "More than 100% read: these weights fit in a cache, which is faster than the memory whose bandwidth is \
                 measured."
                    .into(),
            );
        }
        if !other.is_empty() {
            notes.push(
                "More than 100% read cannot be: something else slowed the measurement of the bandwidth, so that figure is \
                 unsure. Measure again when the machine is quiet."
                    .into(),
            );
        }
        if over(|r| Some(r.peak_share)).next().is_some() {
            notes.push(
                "More than 100% of the peak cannot be: something else slowed the measurement of the peak, so that figure \
                 is unsure. Measure again when the machine is quiet."
                    .into(),
            );
        }
        self.notes = notes;
    }

    /// One loop and the two ways of two, if they are what was measured.
    pub fn loops(&self) -> Option<super::Loops> {
        let [one, plt, turn] = &self.rows[..] else { return None };
        Some(super::Loops {
            one_loop: one.seconds,
            ratios: [1.0, plt.ratio_to_one_loop?, turn.ratio_to_one_loop?],
            read_gb_s: self.read_gb_s,
            share: one.bandwidth_share?,
            notes: self.notes.clone(),
        })
    }

    /// Prints the table; as JSON too, which then stands alone on standard output.
    pub fn print(&self, format: Format, json: bool) -> Result<()> {
        let text = self.text(format);
        let mut out = std::io::stdout().lock();
        if json {
            say!("{}", text.trim_end());
            return Ok(writeln!(out, "{}", serde_json::to_string(self)?)?);
        }
        Ok(out.write_all(text.as_bytes())?)
    }

    fn text(&self, format: Format) -> String {
        let mut lines = match format {
            Format::Table => self.narrow(),
            Format::Markdown => {
                let mut lines: Vec<String> =
                    self.table().iter().map(|row| format!("| {} |", row.join(" | "))).collect();
                lines.insert(1, format!("|{}", "---|".repeat(HEAD.len())));
                lines
            }
            Format::Csv => self.table().iter().map(|row| row.join(",")).collect(),
        };
        if format != Format::Csv {
            let m = &self.machine;
            lines.push(String::new());
            lines.push(format!(
                "read bandwidth {:.1} GB/s; {}, {}, {}",
                self.read_gb_s,
                plural(m.threads, "thread", "threads"),
                m.isa,
                m.cpu
            ));
            lines.extend(self.notes.iter().flat_map(|note| flowing(note, WIDTH, 0)));
        }
        lines.join("\n") + "\n"
    }

    /// What fits in 100 columns: the model in lines of its own, and no column that has nothing to say.
    fn narrow(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for row in &self.rows {
            let line = match row.experts {
                None => format!("{} in {}: {:.1} MB a pass", row.model, row.weights, row.bytes as f64 / 1e6),
                Some(_) => format!("{} in {}", row.model, row.weights),
            };
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines.push(String::new());
        let table = self.table();
        let says = |i: &usize| {
            let values = || table[1..].iter().map(|row| row[*i].as_str());
            match HEAD[*i] {
                "model" | "(quartiles)" => false,
                // Where it is not the same for all rows of a type.
                "MB/pass" => self.rows.iter().any(|r| r.experts.is_some()),
                "seqs" => values().any(|v| v != "1"),
                _ => values().any(|v| v != "-"),
            }
        };
        let shown: Vec<usize> = (0..HEAD.len()).filter(says).collect();
        let width = |i: usize| table.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = shown.iter().map(|i| width(*i)).collect();
        lines.extend(table.iter().map(|row| {
            let cells = shown.iter().zip(&widths).map(|(i, w)| format!("{:>w$}", row[*i]));
            cells.collect::<Vec<_>>().join("  ")
        }));
        lines
    }

    fn table(&self) -> Vec<Vec<String>> {
        let mut table = vec![HEAD.map(str::to_owned).to_vec()];
        let number = |v: Option<f64>, digits: usize| v.map_or("-".into(), |v| format!("{v:.digits$}"));
        let percent = |v: Option<f64>| v.map_or("-".into(), |v| format!("{:.0}%", 100.0 * v));
        let share = |v: Option<f64>| v.map_or("-".into(), |v| format!("{}%", share(v)));
        for r in &self.rows {
            table.push(vec![
                r.model.clone(),
                format!("{:.1}", r.bytes as f64 / 1e6),
                r.weights.into(),
                r.loops.to_string(),
                if r.mode == "one-pass" { "one" } else { "seq" }.into(),
                r.batch.to_string(),
                r.test.clone(),
                format!("{:.2}", r.tokens_per_second),
                percent(Some(r.tokens_per_second_sd / r.tokens_per_second)),
                number(r.gb_s, 1),
                share(r.bandwidth_share),
                format!("{:.0}", r.gflop_s),
                share(Some(r.peak_share)),
                number(r.ratio_to_one_loop, 3),
                r.ratio_to_one_loop_quartiles.map_or("-".into(), |[a, b]| format!("{a:.3}-{b:.3}")),
                number(r.predicted_ratio_to_one_loop, 3),
                number(r.ratio_to_sequential, 2),
                number(r.experts, 1),
                number(r.expected_experts, 1),
            ]);
        }
        table
    }
}

/// The columns.
const HEAD: [&str; 19] = [
    "model",
    "MB/pass",
    "type",
    "R",
    "passes",
    "seqs",
    "test",
    "tokens/s",
    "+-",
    "GB/s",
    "read",
    "GF/s",
    "peak",
    "x1 loop",
    "(quartiles)",
    "predicted",
    "seq/this",
    "experts",
    "formula",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_fits_in_100_columns() {
        for decode in [true, false] {
            let report = Report { rows: vec![row("bf16", decode), row("q4_1", decode)], ..Report::default() };
            let text = report.text(Format::Table);
            let longest = text.lines().map(str::len).max().unwrap();
            assert!(longest <= 100, "{longest}:\n{text}");
            assert_eq!(text.lines().filter(|l| l.contains("MB a pass")).count(), 2);
        }
    }

    #[test]
    fn more_than_there_is_is_never_shown_without_a_word() {
        let quiet = [10e9; 8];
        let text = |row: Row, reads: &[f64]| {
            let mut report = Report::default();
            report.read(reads);
            report.take(vec![row]);
            report.text(Format::Table)
        };
        assert_eq!((share(1.004), share(1.2)), ("100".into(), ">100".into()));
        let plain = text(row("bf16", true), &quiet);
        assert!(plain.contains(" 100%") && !plain.contains(">100%") && !plain.contains("unsure"), "{plain}");
        let over = text(Row { bandwidth_share: Some(1.23), ..row("bf16", true) }, &quiet);
        assert!(over.contains(">100%") && !over.contains("123%") && over.contains("100% read cannot be"), "{over}");
        let cached = text(Row { bandwidth_share: Some(1.23), bytes: 1000, ..row("bf16", true) }, &quiet);
        assert!(cached.contains("fit in a cache") && !cached.contains("cannot be"), "{cached}");
        let peak = text(Row { peak_share: 1.1, ..row("bf16", true) }, &quiet);
        assert!(peak.contains("of the peak cannot be") && !peak.contains("110%"), "{peak}");
        let busy = text(row("bf16", true), &[10e9, 6e9, 10e9, 6e9, 10e9, 6e9, 10e9, 6e9]);
        assert!(busy.contains("6.0 GB/s in some rounds and 10.0 in others"), "{busy}");
        assert!(busy.lines().all(|line| line.chars().count() <= 100), "{busy}");
    }

    fn row(weights: &'static str, decode: bool) -> Row {
        Row {
            model: "loopcoder-v2-quarter".into(),
            test: if decode { "tg128 @ d131000".into() } else { "pp131000".into() },
            weights,
            bytes: 15_200_000_000,
            experts: None,
            expected_experts: None,
            expected_bytes: None,
            kv: "f32",
            state_bytes: 1,
            loops: 64,
            mode: "sequential",
            batch: 1024,
            depth: 1,
            seconds: 1.0,
            tokens_per_second: 12345.67,
            tokens_per_second_sd: 1234.5,
            gb_s: decode.then_some(1234.5),
            bandwidth_share: decode.then_some(1.0),
            gflop_s: 12345.0,
            peak_share: 1.0,
            ratio_to_one_loop: Some(12.345),
            predicted_ratio_to_one_loop: (!decode).then_some(12.345),
            ratio_to_one_loop_quartiles: Some([1.0, 2.0]),
            ratio_to_sequential: decode.then_some(12.34),
        }
    }
}
