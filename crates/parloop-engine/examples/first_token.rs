//! Time to the first token of a prompt, with and without what a cache or a file holds of it.
//!
//!     cargo run --release -p parloop-engine --example first_token -- [TOKENS] [ROUNDS]
//!
//! The model has LoopCoder-V2's 14 layers, window and recipe, a quarter of its widths, and random weights in bf16.
//! Everything compared takes its turn in every round; times are medians.

mod shape;

use parloop_engine::{Engine, Error, Model, Prefill, PrefixCache, Result, Sequence};
use parloop_kernels::{KvType, WeightType};
use std::sync::Arc;
use std::time::Instant;

/// Prefills what the cache lacks, to the logits of the first token; milliseconds.
fn cached(engine: &mut Engine, texts: &[&Sequence], prompt: &[u32]) -> Result<(f64, usize)> {
    let mut cache = PrefixCache::new(engine.model().config(), engine.kv_type(), usize::MAX)?;
    texts.iter().for_each(|text| assert!(cache.insert(text)));
    let start = Instant::now();
    let (mut sequence, held) = cache.lookup(prompt).unwrap_or_else(|| (engine.sequence(), 0));
    match &prompt[held..] {
        [] => engine.logits(&mut sequence)?,
        rest => engine.prefill(&mut sequence, rest, &Prefill::default())?,
    };
    Ok((1e3 * start.elapsed().as_secs_f64(), held))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> Result<()> {
    let number = |i: usize, default: usize| std::env::args().nth(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (tokens, rounds) = (number(1, 2048).max(256), number(2, 7).max(1));
    let model = Arc::new(Model::random(shape::quarter(), WeightType::Bf16)?);
    let mut engine = Engine::new(model, None)?;
    engine.set_kv_type(KvType::Bf16);

    let text =
        |from: usize, salt: u32| (from..tokens).map(move |t| (t as u32).wrapping_mul(2_654_435_761 + salt) % 19200);
    let prompt: Vec<u32> = text(0, 0).collect();
    let shares = |common: usize| prompt[..common].iter().copied().chain(text(common, 2)).collect::<Vec<u32>>();
    let prefilled = |engine: &mut Engine, ids: &[u32]| -> Result<Sequence> {
        let mut sequence = engine.sequence();
        engine.prefill(&mut sequence, ids, &Prefill::default())?;
        Ok(sequence)
    };
    let end = tokens - 64;
    let whole = prefilled(&mut engine, &prompt)?;
    let before = prefilled(&mut engine, &prompt[..end])?;
    let other = prefilled(&mut engine, &shares(end))?;
    let half = prefilled(&mut engine, &shares(tokens / 2))?;
    let folder = tempfile::tempdir().map_err(|e| Error::Machine(format!("there is no temporary folder: {e}")))?;
    let path = folder.path().join("state");

    let names = [
        "nothing cached".to_owned(),
        "the whole prompt cached".into(),
        format!("{end} tokens cached, as they are"),
        format!("{end} tokens in common with a cached text, cut"),
        format!("{} tokens in common with a cached text, cut", tokens / 2),
        "the whole prompt loaded from a file".into(),
        "rolling back by one token".into(),
        "saving the state".into(),
    ];
    let mut times = vec![Vec::new(); names.len()];
    for _ in 0..rounds {
        let sides: [&[&Sequence]; 5] = [&[], &[&whole], &[&before], &[&other], &[&half]];
        for (texts, times) in sides.iter().zip(&mut times) {
            times.push(cached(&mut engine, texts, &prompt)?.0);
        }
        let start = Instant::now();
        engine.save_state(&whole, &path)?;
        times[7].push(1e3 * start.elapsed().as_secs_f64());
        let start = Instant::now();
        let mut loaded = engine.load_state(&path)?;
        engine.logits(&mut loaded)?;
        times[5].push(1e3 * start.elapsed().as_secs_f64());
        let start = Instant::now();
        engine.roll_back(&mut loaded, 1)?;
        times[6].push(1e3 * start.elapsed().as_secs_f64());
    }
    println!("prompt of {tokens} tokens; a state of {:.1} MB", whole.bytes() as f64 / 1e6);
    for (name, times) in names.iter().zip(times) {
        println!("{:>9.1} ms  {name}", median(times));
    }
    Ok(())
}
