//! A long prompt fed in pieces beside sequences that decode: what it costs, and how long the others wait.
//!
//!     cargo run --release -p parloop-engine --example pieces -- [TOKENS] [DECODING] [PIECE...]
//!
//! The model has LoopCoder-V2's 14 layers, window and recipe, a quarter of its widths, and random weights in q8. Rows are
//! counted, and bits compared with those of each sequence alone; both must be equal for every size of a piece.

mod shape;

use parloop_engine::{Engine, Error, Model, Outcome, Passes, Prefill, Prompt, Result, Sequence, Want, Work};
use parloop_kernels::{KvType, WeightType};
use std::sync::Arc;
use std::time::Instant;

/// The token that sequence `i` takes in at its step `n`: written down, so that it can be repeated alone.
fn token(i: usize, n: usize) -> u32 {
    ((i * 7919 + n * 104_729) % 19200) as u32
}

/// Steps of sequence `i` alone: the logits after the last of them.
fn alone(engine: &mut Engine, i: usize, steps: usize) -> Result<Vec<f32>> {
    let mut sequence = engine.sequence();
    let mut logits = Vec::new();
    for n in 0..steps {
        logits = engine.step(&mut [&mut sequence], &[token(i, n)], Passes::Auto)?.to_vec();
    }
    Ok(logits)
}

fn main() -> Result<()> {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let tokens = numbers.first().copied().unwrap_or(8192).clamp(64, 100_000);
    let decoding = numbers.get(1).copied().unwrap_or(4).clamp(1, 64);
    let pieces = if numbers.len() > 2 { numbers[2..].to_vec() } else { vec![128, 256, 512, 2048] };
    let mut engine = Engine::new(Arc::new(Model::random(shape::quarter(), WeightType::Q8)?), None)?;
    engine.set_kv_type(KvType::Bf16);
    let prompt: Vec<u32> = (0..tokens).map(|n| token(99, n)).collect();

    let mut whole = engine.sequence();
    let options = Prefill { chunk: 512, ..Prefill::default() };
    let start = Instant::now();
    let expected = engine.prefill(&mut whole, &prompt, &options)?.to_vec();
    let (seconds, rows) = (start.elapsed().as_secs_f64(), engine.layer_rows());
    println!(
        "{tokens} tokens alone: {rows} rows of layers, {seconds:.2} s, {} on {}",
        engine.threads(),
        engine.isa().name()
    );
    println!("piece   rows of the prompt   turns   prompt, s   others' tokens/s   longest gap, ms   bits");
    for piece in pieces {
        let options = Prefill { chunk: piece.max(1), ..Prefill::default() };
        let mut long = engine.sequence();
        let mut prompt = Prompt::new(prompt.clone(), Want::Last).options(options);
        let mut others: Vec<Sequence> = (0..decoding).map(|_| engine.sequence()).collect();
        let (before, start) = (engine.layer_rows(), Instant::now());
        let (mut steps, mut gap, mut same, mut done) = (0, 0f64, true, false);
        let mut last = Vec::new();
        while !done {
            let mut next: Vec<Prompt> = (0..decoding).map(|i| Prompt::new(vec![token(i, steps)], Want::Last)).collect();
            let steps_work = others.iter_mut().zip(&mut next).map(|(sequence, prompt)| Work { sequence, prompt });
            let mut work: Vec<Work<'_>> = steps_work.collect();
            work.push(Work { sequence: &mut long, prompt: &mut prompt });
            let turn = Instant::now();
            let outcomes = engine.turn(&mut work, 2 * decoding + piece.max(1), None);
            gap = gap.max(turn.elapsed().as_secs_f64());
            steps += 1;
            for (i, outcome) in outcomes.into_iter().enumerate() {
                match outcome {
                    Outcome::Done(Some(logits)) if i == decoding => {
                        (same, done) = (same && engine.turn_logits(logits) == expected, true);
                    }
                    Outcome::Done(Some(logits)) if i + 1 == decoding => last = engine.turn_logits(logits).to_vec(),
                    Outcome::Refused(error) => return Err(error),
                    _ => (),
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();
        let own = engine.layer_rows() - before - (steps * decoding * 2 * 14) as u64;
        same = same && alone(&mut engine, decoding - 1, steps)? == last;
        if own != rows || !same {
            return Err(Error::Input(format!("pieces of {piece}: {own} rows for {rows}, equal bits: {same}")));
        }
        let speed = (steps * decoding) as f64 / seconds;
        println!("{piece:>5} {own:>20} {steps:>7} {seconds:>11.2} {speed:>18.1} {:>17.0}   equal", 1e3 * gap);
    }
    Ok(())
}
