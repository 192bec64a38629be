//! How fast products are on one core beside the inner instruction's peak: with few rows and weights that lie in the
//! second-level cache, what a row costs where memory does not hide it; with many, what a prompt reaches.
//!
//!     rates [ROWS,ROWS,...] [TYPE,TYPE,...]
//!
//! The types are measured in turn, in every round; figures are the best of the rounds, in GFLOP/s.

use parloop_kernels::{Effect, Isa, Op, Product, Projector, WeightType, Weights, measure};
use std::time::Instant;

/// Bytes of weights for few rows, at most: half of a common second-level cache.
const BYTES: usize = 1 << 20;
const INPUTS: usize = 2048;
/// Rows that are few.
const FEW: usize = 8;
/// Outputs for many rows: enough to make little of what is done once for each row.
const OUTPUTS: usize = 1024;
const ROUNDS: usize = 15;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let rows = arguments.next().unwrap_or_else(|| "1,2,3,4,8,16,64,256".into());
    let rows = rows.split(',').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
    let kinds = match arguments.next() {
        None => WeightType::ALL.to_vec(),
        Some(list) => list.split(',').map(str::parse).collect::<Result<Vec<_>, _>>()?,
    };
    let mut on = Projector::new(Isa::chosen()?, 1);
    print!("{:8}{:>8}", on.isa().name(), "peak");
    rows.iter().for_each(|n| print!("{n:>8}"));
    println!("   rows");
    let x: Vec<f32> = (0..rows.iter().max().unwrap_or(&1) * INPUTS).map(|i| (i % 13) as f32 - 6.0).collect();
    let mut best = vec![vec![0.0f64; rows.len() + 1]; kinds.len()];
    let weights = kinds.iter().map(|kind| {
        let line = Weights::random(*kind, 32, INPUTS, 1)?.bytes();
        let few = Weights::random(*kind, (BYTES / line).max(1) * 32, INPUTS, 1)?;
        Ok([few, Weights::random(*kind, OUTPUTS, INPUTS, 1)?])
    });
    let weights = weights.collect::<Result<Vec<_>, std::io::Error>>()?;
    let outputs = weights.iter().flatten().map(Weights::outputs).max().unwrap_or_default();
    // Not zeros, which the system would only make when they are first written.
    let mut out = vec![1.0; x.len() / INPUTS * outputs];
    for _ in 0..ROUNDS {
        for ([few, many], best) in weights.iter().zip(&mut best) {
            best[0] = best[0].max(measure::peak(&mut on, few.kind()));
            for (n, best) in rows.iter().zip(&mut best[1..]) {
                let weights = if *n <= FEW { few } else { many };
                let out = &mut out[..n * weights.outputs()];
                let times = (64 / n).max(1);
                let began = Instant::now();
                for _ in 0..times {
                    let product = Product { weights, rows: 0..*n, effect: Effect::Store, out };
                    on.project(Op::Output, &x[..n * INPUTS], INPUTS, None, &mut [product]);
                }
                let operations = 2 * times * n * INPUTS * weights.outputs();
                *best = best.max(operations as f64 / began.elapsed().as_secs_f64());
            }
        }
    }
    for ([weights, _], best) in weights.iter().zip(best) {
        print!("{:8}", weights.kind().name());
        best.iter().for_each(|rate| print!("{:8.1}", rate / 1e9));
        println!();
    }
    Ok(())
}
