//! What the property tests share; each uses a part of it.
#![allow(dead_code)]

pub mod naive;

use parloop_engine::{Engine, Model, Passes, Sequence};
use parloop_kernels::Isa;
use parloop_model::ModelConfig;
use parloop_testing::{Rng, checkpoint};
use std::sync::Arc;

/// An engine of a random model on any instruction set and 1 to 3 threads.
pub fn engine(config: &ModelConfig, rng: &mut Rng) -> Engine {
    let model = Model::new(&checkpoint(config, rng)).unwrap();
    let sets = Isa::available();
    let isa = sets[rng.range(0, sets.len() - 1)];
    Engine::with_isa(Arc::new(model), rng.range(1, 3), isa)
}

/// Random token ids.
pub fn tokens(rng: &mut Rng, config: &ModelConfig, n: usize) -> Vec<u32> {
    (0..n).map(|_| rng.range(0, config.vocab_size - 1) as u32).collect()
}

/// A length on either side of the window's edge, 1, or far past it.
pub fn length(rng: &mut Rng, config: &ModelConfig) -> usize {
    let left = config.recipe.local.map_or(3, |l| l.left);
    match rng.range(0, 3) {
        0 => 1,
        1 => (left + rng.range(0, 3)).max(1),
        2 => rng.range(1, 20),
        _ => left * config.num_hidden_layers + rng.range(10, 60),
    }
}

/// Logits after the prompt and after each of some further tokens.
pub fn continuation(engine: &mut Engine, sequence: &mut Sequence, first: &[f32], steps: usize) -> Vec<Vec<f32>> {
    let passes = Passes::Auto;
    let mut all = vec![first.to_vec()];
    for _ in 0..steps {
        let logits = all.last().unwrap();
        let next = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32;
        all.push(engine.step(&mut [&mut *sequence], &[next], passes).unwrap().to_vec());
    }
    all
}
