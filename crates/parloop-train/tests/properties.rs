//! Laws that hold for every recipe.

use burn::tensor::Device;
use parloop_model::reference::Reference;
use parloop_model::{Checkpoint, GateKind, KvMode, Local, ModelConfig, Recipe};
use parloop_train::{LoopModel, NamedTensor, TrainOptions};
use proptest::prelude::*;

fn recipes() -> impl Strategy<Value = Recipe> {
    let local = prop_oneof![Just(None), (0usize..12, any::<bool>()).prop_map(Some)];
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
        },
    )
}

/// Configurations whose sizes are not multiples of anything, and random weights for them.
fn models() -> impl Strategy<Value = (ModelConfig, u64)> {
    let sizes = (1usize..3, 1usize..4, 1usize..3, 1usize..20, any::<bool>(), any::<u64>());
    (recipes(), sizes).prop_map(|(recipe, (kv, group, layers, half, tied, seed))| {
        let options = TrainOptions {
            recipe: parloop_train::RecipeChoice::Full(recipe),
            hidden_size: 17,
            intermediate_size: 23,
            layers,
            heads: kv * group,
            kv_heads: kv,
            head_dim: 2 * half,
            tie_embeddings: tied,
            context: 80,
            ..TrainOptions::default()
        };
        (options.model_config(41, None).unwrap(), seed)
    })
}

/// Weights of about unit size, so that every part of the model matters.
fn weights(config: &ModelConfig, seed: u64) -> Vec<NamedTensor> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    parloop_model::tensors::expected(config)
        .into_iter()
        .map(|spec| NamedTensor {
            values: (0..spec.elements()).map(|_| next() * if spec.shape.len() == 2 { 0.4 } else { 1.0 }).collect(),
            name: spec.name,
            shape: spec.shape,
        })
        .collect()
}

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(1e-3, |a, b| a.max(b.abs()))
}

proptest! {
    #![proptest_config(parloop_testing::cases(48))]

    #[test]
    fn the_module_equals_the_scalar_reference((config, seed) in models(), time in 1usize..80) {
        let weights = weights(&config, seed);
        let model = LoopModel::from_tensors(&config, &weights, &Device::flex()).unwrap();
        let tensors = weights.iter().map(|w| {
            let bytes: Vec<u8> = w.values.iter().flat_map(|v| v.to_le_bytes()).collect();
            (w.name.clone(), w.shape.clone(), bytes)
        }).collect::<Vec<_>>();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        let checkpoint = Checkpoint::from_parts(&config.to_json(), std::sync::Arc::new(bytes), None).unwrap();
        let ids: Vec<u32> = (0..time as u64).map(|i| ((seed % 1000 + 7 * i) * (i + 3) % 41) as u32).collect();
        let expected = Reference::new(&checkpoint).unwrap().forward(&ids).unwrap();
        let found: Vec<f32> =
            model.forward(model.ids(&ids, 1, time).unwrap()).into_data().iter::<f32>().collect();
        let expected: Vec<f32> = expected.logits.into_iter().flatten().collect();
        let scale = largest(&expected);
        for (a, b) in found.iter().zip(&expected) {
            prop_assert!((a - b).abs() <= 2e-4 * scale, "{a} {b} {scale} {:?}", config.recipe);
        }
    }

    #[test]
    fn weights_survive_the_module((config, seed) in models()) {
        let weights = weights(&config, seed);
        let model = LoopModel::from_tensors(&config, &weights, &Device::flex()).unwrap();
        prop_assert_eq!(model.to_tensors(), weights);
    }
}
