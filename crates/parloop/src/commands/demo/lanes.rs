//! Three ways of writing the same text, computed step by step in turn.

use crate::terminal::Colour;
use anyhow::Result;
use parloop_engine::{Engine, Model, Passes, Prefill, SampleOptions, Sampler, Sequence};
use parloop_model::{ModelConfig, Recipe};
use std::sync::Arc;
use std::time::Instant;

/// One way of writing.
pub struct Lane {
    pub name: &'static str,
    pub colour: Colour,
    model: Arc<Model>,
    passes: Passes,
    pub sequence: Sequence,
    sampler: Sampler,
    /// The tokens written.
    pub ids: Vec<u32>,
    /// Seconds of each step.
    times: Vec<f64>,
}

impl Lane {
    /// What this lane computes.
    pub fn config(&self) -> &ModelConfig {
        self.model.config()
    }

    fn new(
        name: &'static str,
        colour: Colour,
        engine: &mut Engine,
        model: Arc<Model>,
        passes: Passes,
        seed: u64,
    ) -> Result<Self> {
        let config = model.config();
        let known = model.tokenizer().map_or(config.vocab_size, |t| t.vocab_size());
        let sampler = Sampler::new(SampleOptions { seed, ..SampleOptions::default() }, known)?;
        engine.set_model(model.clone());
        Ok(Self {
            name,
            colour,
            passes,
            sequence: engine.sequence(),
            model,
            sampler,
            ids: Vec::new(),
            times: Vec::new(),
        })
    }

    /// The median time of a step.
    pub fn median(&self) -> f64 {
        /// Steps that only warm caches and threads up.
        const WARM: usize = 8;
        let mut times: Vec<f64> = self.times.iter().skip(WARM.min(self.times.len() / 2)).copied().collect();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// What the three ways wrote, and how long it took them.
pub struct Recording {
    /// One loop; all loops in one pass; loop by loop.
    pub lanes: [Lane; 3],
    /// Tokens that each wrote.
    pub steps: usize,
    /// Loops of the model.
    pub loops: usize,
    /// Whether the last two gave the same logits, to the last bit, in every step.
    pub same_bits: bool,
}

/// Lets the three ways write. They take turns step by step, so that whatever else the machine does hits all alike.
pub fn record(engine: &mut Engine, prompt: &[u32], tokens: usize, seed: u64) -> Result<Recording> {
    let model = engine.model().clone();
    let loops = model.config().recipe.count;
    let one = Arc::new(model.with_recipe(Recipe { count: 1, ..model.config().recipe.clone() })?);
    let mut lanes = [
        Lane::new("one loop", Colour::Blue, engine, one, Passes::One, seed)?,
        Lane::new("loops in one pass", Colour::Green, engine, model.clone(), Passes::One, seed)?,
        Lane::new("loops in turn", Colour::Yellow, engine, model.clone(), Passes::Sequential, seed)?,
    ];
    let mut same_bits = true;
    let mut next = [0; 3];
    for (lane, next) in lanes.iter_mut().zip(&mut next) {
        engine.set_model(lane.model.clone());
        let logits = engine.prefill(&mut lane.sequence, prompt, &Prefill::default())?;
        prompt.iter().for_each(|id| lane.sampler.accept(*id));
        *next = lane.sampler.sample(logits)?;
    }
    for _ in 0..tokens {
        let mut bits: [Vec<u32>; 3] = Default::default();
        for ((lane, next), bits) in lanes.iter_mut().zip(&mut next).zip(&mut bits) {
            lane.ids.push(*next);
            lane.sampler.accept(*next);
            engine.set_model(lane.model.clone());
            let start = Instant::now();
            let logits = engine.step(&mut [&mut lane.sequence], &[*next], lane.passes)?;
            lane.times.push(start.elapsed().as_secs_f64().max(1e-9));
            *next = lane.sampler.sample(logits)?;
            *bits = logits.iter().map(|l| l.to_bits()).collect();
        }
        same_bits &= bits[1] == bits[2];
    }
    engine.set_model(model);
    Ok(Recording { lanes, steps: tokens, loops, same_bits })
}
