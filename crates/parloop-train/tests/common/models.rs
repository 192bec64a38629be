//! Random recipes, sizes and weights, for laws that hold for every model.

use parloop_model::{GateKind, KvMode, Local, ModelConfig, Recipe};
use parloop_train::{NamedTensor, RecipeChoice, TrainOptions};
use proptest::prelude::*;

/// Recipes of up to three loops; `left` says how far a local window reaches.
pub fn recipes(left: impl Strategy<Value = usize>) -> impl Strategy<Value = Recipe> {
    let local = prop::option::of((left, any::<bool>()));
    let scales = (prop_oneof![Just(None), (0.1f32..1.5).prop_map(Some)], 0.05f32..1.5);
    (1usize..4, any::<bool>(), scales, any::<bool>(), any::<bool>(), local).prop_map(
        |(count, shift, (embedding_scale, hidden_scale), norm, shared, local)| Recipe {
            count,
            shift,
            embedding_scale,
            hidden_scale,
            norm,
            kv: if shared || local.is_some() { KvMode::Shared } else { KvMode::PerLoop },
            local: local
                .map(|(left, hidden)| Local { left, gate: if hidden { GateKind::Hidden } else { GateKind::Query } }),
            exit: None,
            experts: Default::default(),
        },
    )
}

/// Tokens that the models know.
pub const VOCABULARY: usize = 41;

/// Configurations whose sizes are not multiples of anything, and a seed for their weights.
pub fn models(left: impl Strategy<Value = usize>, context: usize) -> impl Strategy<Value = (ModelConfig, u64)> {
    let sizes = (1usize..3, 1usize..4, 1usize..3, 1usize..20, any::<bool>(), any::<u64>());
    (recipes(left), sizes).prop_map(move |(recipe, (kv, group, layers, half, tied, seed))| {
        let options = super::with(TrainOptions::default(), |o| {
            o.recipe = RecipeChoice::Full(recipe);
            (o.hidden_size, o.intermediate_size) = (17, 23);
            (o.layers, o.heads, o.kv_heads, o.head_dim) = (layers, kv * group, kv, 2 * half);
            (o.tie_embeddings, o.context) = (tied, context);
        });
        (options.model_config(VOCABULARY, None).unwrap(), seed)
    })
}

/// Weights of about unit size, so that every part of the model matters.
pub fn weights(config: &ModelConfig, seed: u64) -> Vec<NamedTensor> {
    let mut next = numbers(seed);
    parloop_model::tensors::expected(config)
        .into_iter()
        .map(|spec| NamedTensor {
            values: (0..spec.elements()).map(|_| next() * if spec.shape.len() == 2 { 0.4 } else { 1.0 }).collect(),
            name: spec.name,
            shape: spec.shape,
        })
        .collect()
}

/// A stream of numbers between -1 and 1.
pub fn numbers(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Ids of the vocabulary without an obvious period.
pub fn ids(seed: u64, count: usize) -> Vec<u32> {
    (0..count as u64).map(|i| ((seed % 1000 + 7 * i) * (i + 3) % VOCABULARY as u64) as u32).collect()
}
