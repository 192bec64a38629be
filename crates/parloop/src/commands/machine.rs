//! `parloop inspect --machine`: what the kernels find on this machine, and what is cheap on it.

use super::bench::report::share;
use super::bytes;
use crate::args::machine::Machine;
use anyhow::Result;
use parloop_kernels::measure::{ReadTest, peak};
use parloop_kernels::{Effect, Isa, Op, Product, Projector, WeightType, Weights, machine};
use std::fmt::Write as _;
use std::time::Instant;

/// Bytes of weights that a measurement reads: more than most caches hold.
const BYTES: usize = 200 << 20;
/// Columns of the matrix measured: LoopCoder-V2's width.
const WIDTH: usize = 5120;
/// Rows measured: loops of one sequence.
const ROWS: usize = 4;
/// Rounds, of which the medians count.
const ROUNDS: usize = 5;
/// Time against one row up to which a further loop counts as free.
const FREE: f64 = 1.05;

/// What a weight type does here.
struct Measured {
    kind: WeightType,
    /// The inner instructions for one row and for many.
    kernels: [&'static str; 2],
    /// Operations a second that the inner instruction for many rows reaches from registers.
    peak: f64,
    /// Seconds a weight, for 1 to [`ROWS`] rows.
    seconds: [f64; ROWS],
}

impl Measured {
    /// Rows that take no more than [`FREE`] of the time of one.
    fn free(&self) -> usize {
        (1..=ROWS).take_while(|rows| self.seconds[rows - 1] <= FREE * self.seconds[0]).count()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Times products of 1 to [`ROWS`] rows in turn.
fn measure(on: &mut Projector, kind: WeightType) -> Result<Measured> {
    let outputs = (BYTES / kind.bytes(16, WIDTH) * 16).max(16);
    let weights = Weights::random(kind, outputs, WIDTH, 1)?;
    let x: Vec<f32> = (0..ROWS * WIDTH).map(|i| (i % 13) as f32 - 6.0).collect();
    let mut out = vec![0.0; ROWS * outputs];
    let mut times = vec![vec![]; ROWS];
    // The first round warms up.
    for round in 0..=ROUNDS {
        for (rows, times) in (1..).zip(&mut times) {
            let out = &mut out[..rows * outputs];
            let product = Product { weights: &weights, rows: 0..rows, effect: Effect::Store, out };
            let began = Instant::now();
            on.project(Op::Head, &x[..rows * WIDTH], WIDTH, None, &mut [product]);
            if round > 0 {
                times.push(began.elapsed().as_secs_f64() / (outputs * WIDTH) as f64);
            }
        }
    }
    let mut seconds = [0.0; ROWS];
    seconds.iter_mut().zip(times).for_each(|(s, times)| *s = median(times));
    let kernels = [on.kernel_name(kind, 1), on.kernel_name(kind, 512)];
    Ok(Measured { kind, kernels, peak: peak(on, kind), seconds })
}

/// Bytes a second that all threads read together.
fn read_bandwidth(on: &mut Projector) -> Result<f64> {
    let test = ReadTest::new(BYTES)?;
    test.run(on);
    Ok(median((0..ROUNDS).map(|_| test.run(on)).collect()))
}

/// A report on the machine: text, or one JSON object.
pub fn report(machine: &Machine, as_json: bool) -> Result<String> {
    let chosen = machine.chosen()?;
    let mut on = Projector::on(chosen);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut bandwidth = read_bandwidth(&mut on)?;
    let kinds = [WeightType::Bf16, WeightType::Q8, WeightType::Q4];
    let measured: Vec<Measured> = kinds.into_iter().map(|kind| measure(&mut on, kind)).collect::<Result<_>>()?;
    // What else the machine does can only make a reading slower.
    bandwidth = bandwidth.max(read_bandwidth(&mut on)?);
    let available: Vec<&str> = Isa::available().into_iter().map(Isa::name).collect();
    if as_json {
        let types: Vec<_> = measured
            .iter()
            .map(|m| {
                serde_json::json!({
                    "type": m.kind.name(), "kernel_of_one_row": m.kernels[0], "kernel_of_many_rows": m.kernels[1],
                    "peak_gflop_s": m.peak / 1e9, "nanoseconds_a_weight": m.seconds.map(|s| s * 1e9), "free_loops": m.free(),
                })
            })
            .collect();
        let caches: Vec<_> = machine::caches().iter().map(|c| c.bytes).collect();
        let object = serde_json::json!({
            "isa": chosen.isa.name(), "available": available, "threads": on.pool.threads(), "processors": processors,
            "caches": caches, "read_gb_s": bandwidth / 1e9, "weights": types,
        });
        return Ok(format!("{object}\n"));
    }
    let mut text = String::new();
    writeln!(text, "instructions    {}: {}", chosen.isa.name(), chosen.isa.describe())?;
    writeln!(text, "                PARLOOP_ISA can force {}", available.join(", "))?;
    let threads = on.pool.threads();
    writeln!(
        text,
        "threads         {threads} of {processors} that the system offers; --threads or PARLOOP_THREADS changes it"
    )?;
    let caches: Vec<String> = machine::caches().iter().map(|c| format!("L{} {}", c.level, bytes(c.bytes))).collect();
    if !caches.is_empty() {
        writeln!(text, "caches          {}", caches.join(", "))?;
    }
    writeln!(text, "read bandwidth  {:.1} GB/s with all threads", bandwidth / 1e9)?;
    writeln!(
        text,
        "\nweights  of the bandwidth, 1 row  R = 2   R = 3   R = 4   peak GFLOP/s  kernel of one row; of many"
    )?;
    let mut over = false;
    for m in &measured {
        let used = m.kind.bytes(16, WIDTH) as f64 / (16 * WIDTH) as f64 / m.seconds[0] / bandwidth;
        let share = share(used);
        over |= share.starts_with('>');
        write!(text, "{:<8} {share:>22} %", m.kind.name())?;
        for rows in 2..=ROWS {
            write!(text, "  {:.2}x", m.seconds[rows - 1] / m.seconds[0])?;
            text.push(' ');
        }
        writeln!(text, "{:>13.0}  {}; {}", m.peak / 1e9, m.kernels[0], m.kernels[1])?;
    }
    if over {
        writeln!(
            text,
            "More than 100 % of the bandwidth cannot be: something else slowed its measurement, so it is unsure."
        )?;
    }
    text.push('\n');
    for m in &measured {
        let free = m.free();
        let loops = if free == 1 { "one loop only".into() } else { format!("up to {free} loops cost what one costs") };
        writeln!(text, "{:<5} {loops} (within 5 %)", m.kind.name())?;
    }
    let at = |rows: usize| measured.iter().min_by(|a, b| a.seconds[rows - 1].total_cmp(&b.seconds[rows - 1]));
    for rows in [1, 2] {
        if let (Some(best), Some(bf16)) = (at(rows), measured.first()) {
            let gain = bf16.seconds[rows - 1] / best.seconds[rows - 1];
            writeln!(text, "fastest for R = {rows}: --weights {}, {gain:.2} times bf16", best.kind.name())?;
        }
    }
    Ok(text)
}
