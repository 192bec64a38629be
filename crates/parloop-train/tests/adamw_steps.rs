//! Ten optimiser steps against PyTorch in float64 (`tests/reference/adamw_steps.py`): losses, gradient norms, rates.

use burn::tensor::Device;
use parloop_train::LoopModel;
use parloop_train::optim::{AdamWSettings, Gradients, Optimiser, Schedule, Shape};
use std::path::Path;

#[derive(serde::Deserialize)]
struct Artefact {
    golden: String,
    steps: usize,
    peak: f64,
    warmup: usize,
    floor: f64,
    beta1: f64,
    beta2: f64,
    epsilon: f64,
    weight_decay: f64,
    clip: f64,
    ids: Vec<u32>,
    losses: Vec<f64>,
    norms: Vec<f64>,
    rates: Vec<f64>,
    final_loss: f64,
}

#[test]
fn ten_steps_equal_the_reference() {
    let tests = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests"));
    let text = std::fs::read_to_string(tests.join("reference/adamw_steps.json")).unwrap();
    let a: Artefact = serde_json::from_str(&text).unwrap();
    let mut model = LoopModel::load(&tests.join("goldens").join(&a.golden), &Device::flex().autodiff()).unwrap();
    let (beta1, beta2, epsilon, weight_decay) = (a.beta1, a.beta2, a.epsilon, a.weight_decay);
    let mut optimiser = Optimiser::new(AdamWSettings { beta1, beta2, epsilon, weight_decay });
    let schedule = Schedule { shape: Shape::Cosine, peak: a.peak, warmup: a.warmup, steps: a.steps, floor: a.floor };
    let time = a.ids.len() - 1;
    let loss = |model: &LoopModel| {
        let ids = model.ids(&a.ids[..time], 1, time).unwrap();
        model.loss(ids, model.ids(&a.ids[1..], 1, time).unwrap())
    };
    let value = |loss: &burn::Tensor<1>| f64::from(loss.clone().into_data().iter::<f32>().next().unwrap());
    for step in 0..a.steps {
        let now = loss(&model);
        let mut grads = Gradients::of(&model, &now);
        let (found, norm, rate) = (value(&now), grads.norm(), schedule.rate(step + 1));
        assert!((rate - a.rates[step]).abs() < 1e-12, "rate {rate}, expected {}", a.rates[step]);
        let close = |found: f64, expected: f64| (found - expected).abs() < 2e-4 * expected.abs();
        assert!(close(found, a.losses[step]), "loss of step {}: {found}, expected {}", step + 1, a.losses[step]);
        assert!(close(norm, a.norms[step]), "norm of step {}: {norm}, expected {}", step + 1, a.norms[step]);
        if norm > a.clip {
            grads.scale(a.clip / norm);
        }
        model = optimiser.step(model, grads, rate);
    }
    let last = value(&loss(&model));
    assert!((last - a.final_loss).abs() < 2e-4 * a.final_loss, "final loss {last}, expected {}", a.final_loss);
}
