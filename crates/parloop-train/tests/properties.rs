//! Laws that hold for every recipe.

mod common;

use burn::tensor::Device;
use common::models::{ids, models, weights};
use parloop_model::Checkpoint;
use parloop_model::reference::Reference;
use parloop_train::LoopModel;
use proptest::prelude::*;

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(1e-3, |a, b| a.max(b.abs()))
}

proptest! {
    #![proptest_config(parloop_testing::cases(48))]

    #[test]
    fn the_module_equals_the_scalar_reference((config, seed) in models(0usize..12, 80), time in 1usize..80) {
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
        let json = parloop_model::family::own().to_json(&config, &Default::default()).unwrap();
        let checkpoint = Checkpoint::from_parts(&json, std::sync::Arc::new(bytes), None).unwrap();
        let ids = ids(seed, time);
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
    fn weights_survive_the_module((config, seed) in models(0usize..12, 80)) {
        let weights = weights(&config, seed);
        let model = LoopModel::from_tensors(&config, &weights, &Device::flex()).unwrap();
        prop_assert_eq!(model.to_tensors(), weights);
    }
}
