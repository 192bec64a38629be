//! The Burn module against the PyTorch reference: logits, states after every loop, loss, and every gradient, for all
//! eight golden recipes (`tests/reference/looped_reference.py`, float64).

use burn::tensor::Device;
use parloop_train::{LoopModel, NamedTensor};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

const GOLDENS: [&str; 8] =
    ["vanilla", "loop2", "loop2-clp", "loop2-clp-share", "plt2", "plt3", "plt2-query-gate", "loop2-share-gswa"];

struct Expected {
    ids: Vec<u32>,
    logits: Vec<f32>,
    states: Vec<f32>,
    loss: f32,
    grads: Vec<(String, Vec<f32>)>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/goldens")).join(name)
}

fn expected(name: &str) -> Expected {
    let bytes = std::fs::read(folder(name).join("expected.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> Vec<f32> {
        let data = file.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let ids = file.tensor("ids").unwrap().data().chunks_exact(8).map(|b| b[0].into()).collect();
    let grads = file.names().iter().filter_map(|n| Some((n.strip_prefix("grad.")?.to_string(), floats(n)))).collect();
    Expected { ids, logits: floats("logits"), states: floats("states"), loss: floats("loss")[0], grads }
}

/// Largest difference relative to the largest expected element.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
    let worst = found.iter().zip(expected).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
    if largest == 0.0 { worst } else { worst / largest }
}

fn values<const D: usize>(tensor: burn::Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[test]
fn logits_and_states_equal_the_reference() {
    let mut failures = Vec::new();
    for name in GOLDENS {
        let golden = expected(name);
        let time = golden.ids.len();
        let model = LoopModel::load(&folder(name), &Device::flex()).unwrap();
        // The same sequence twice in a batch: rows of one sequence must not see the other.
        let twice = [golden.ids.clone(), golden.ids.clone()].concat();
        let (logits, states) = model.forward_states(model.ids(&twice, 2, time).unwrap());
        let logits = values(logits);
        let (a, b) = logits.split_at(logits.len() / 2);
        let states: Vec<f32> = states.into_iter().flat_map(|s| values(s.narrow(0, 1, 1))).collect();
        for (what, found, wanted) in
            [("first", a, &golden.logits), ("second", b, &golden.logits), ("states", &states, &golden.states)]
        {
            let worst = difference(found, wanted);
            if worst.is_nan() || worst > 1e-4 {
                failures.push(format!("{name}: {what} differ by {worst}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn loss_and_every_gradient_equal_the_reference() {
    let mut failures = Vec::new();
    // Gradient checkpointing is what the fused operations leave to the composed ones.
    let devices = [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()];
    for (name, device) in GOLDENS.iter().flat_map(|name| devices.iter().map(move |device| (name, device))) {
        let golden = expected(name);
        let time = golden.ids.len() - 1;
        let model = LoopModel::load(&folder(name), device).unwrap();
        let ids = model.ids(&golden.ids[..time], 1, time).unwrap();
        let targets = model.ids(&golden.ids[1..], 1, time).unwrap();
        let (loss, grads) = model.loss_and_gradients(ids, targets);
        if (loss - golden.loss).abs() > 1e-5 {
            failures.push(format!("{name}: loss {loss}, expected {}", golden.loss));
        }
        let grads: std::collections::HashMap<String, NamedTensor> =
            grads.into_iter().map(|g| (g.name.clone(), g)).collect();
        assert_eq!(grads.len(), golden.grads.len(), "{name}");
        for (weight, wanted) in &golden.grads {
            let worst = difference(&grads[weight].values, wanted);
            if worst.is_nan() || worst > 1e-3 {
                failures.push(format!("{name}: gradient of {weight} differs by {worst}"));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
