//! The fused operations against what defines them: the same model composed of Burn's operations, and differences of
//! the loss. The goldens check gradients at one length and one sequence; here lengths lie around every edge at which
//! the fused operations cut their work: 48 queries of attention, 128 rows, tiles of 32.

mod common;

use burn::tensor::Device;
use common::models::{ids, models, numbers, weights};
use parloop_model::ModelConfig;
use parloop_train::data::IGNORED;
use parloop_train::{LoopModel, NamedTensor};
use proptest::prelude::*;

/// What the fused operations cut at.
const BLOCKS: [usize; 3] = [32, 48, 128];
const LONGEST: usize = 300;

/// Any length, or one beside a multiple of a block.
fn lengths() -> impl Strategy<Value = usize> {
    let edges: Vec<usize> = BLOCKS
        .iter()
        .flat_map(|block| (1..=LONGEST / block).flat_map(move |n| [n * block - 1, n * block, n * block + 1]))
        .collect();
    prop_oneof![1 => 1..=LONGEST, 3 => prop::sample::select(edges)]
}

/// Windows that end beside a tile or a block, or anywhere.
fn windows() -> impl Strategy<Value = usize> {
    let edges = vec![0, 1, 30, 31, 32, 33, 46, 47, 48, 49, 95, 96];
    prop_oneof![1 => 0..LONGEST, 3 => prop::sample::select(edges)]
}

/// On this device all operations are composed: checkpointing of gradients is not what the fused ones do.
fn composed() -> Device {
    Device::flex().autodiff().gradient_checkpointing()
}

fn loss_and_gradients(
    (config, seed): &(ModelConfig, u64),
    (batch, time): (usize, usize),
    device: &Device,
) -> (f32, Vec<NamedTensor>) {
    let model = LoopModel::from_tensors(config, &weights(config, *seed), device).unwrap();
    let ids = |seed| model.ids(&ids(seed, batch * time), batch, time).unwrap();
    model.loss_and_gradients(ids(*seed), ids(seed / 3 + 1))
}

proptest! {
    #![proptest_config(parloop_testing::cases(40))]

    #[test]
    fn fused_gradients_equal_composed_ones(
        model in models(windows(), LONGEST), time in lengths(), batch in 1usize..5,
    ) {
        let (loss, found) = loss_and_gradients(&model, (batch, time), &Device::flex().autodiff());
        let (expected_loss, expected) = loss_and_gradients(&model, (batch, time), &composed());
        prop_assert!((loss - expected_loss).abs() <= 1e-5 * expected_loss.abs(), "{loss} {expected_loss}");
        prop_assert_eq!(found.len(), expected.len());
        // A gradient that cancels to nothing (of a query that sees one key) is rounded as its terms are, which are as
        // large as other gradients.
        let of_all = expected.iter().flat_map(|t| &t.values).fold(0.0f32, |a, b| a.max(b.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert_eq!(&found.name, &expected.name);
            let largest = expected.values.iter().fold(1e-6f32, |a, b| a.max(b.abs()));
            for (a, b) in found.values.iter().zip(&expected.values) {
                let allowed = 1e-3 * largest + 1e-6 * of_all;
                prop_assert!((a - b).abs() <= allowed, "{}: {a} {b}, largest {largest} of {of_all}", found.name);
            }
        }
    }
}

proptest! {
    #![proptest_config(parloop_testing::cases(24))]

    #[test]
    fn what_is_not_asked_does_not_count(
        model in models(windows(), LONGEST), time in 2usize..70, batch in 1usize..4, seed in any::<u64>(),
    ) {
        let (config, weight_seed) = &model;
        let rows = batch * time;
        let wanted: Vec<u32> = ids(seed / 3 + 1, rows);
        // Two ways to ask for some and not for others, of which each position is in one.
        let first = |i: usize| (seed >> (i % 60)) & 1 == 0 || i == 0;
        let ask = |part: bool| -> Vec<u32> {
            wanted.iter().enumerate().map(|(i, id)| if first(i) == part { *id } else { IGNORED }).collect()
        };
        let on = |device: &Device, targets: &[u32]| {
            let model = LoopModel::from_tensors(config, &weights(config, *weight_seed), device).unwrap();
            let ids = model.ids(&ids(seed, rows), batch, time).unwrap();
            model.loss_and_gradients(ids, model.targets(targets, batch, time).unwrap())
        };
        let (fused, composed) = (Device::flex().autodiff(), composed());
        let (whole, gradients) = on(&fused, &wanted);
        let mut sum = 0.0;
        let mut sums: Vec<Vec<f64>> = gradients.iter().map(|t| vec![0.0; t.values.len()]).collect();
        for part in [true, false] {
            let targets = ask(part);
            let asked = targets.iter().filter(|t| **t != IGNORED).count();
            let (loss, found) = on(&fused, &targets);
            let (expected, _) = on(&composed, &targets);
            prop_assert!((loss - expected).abs() <= 1e-5 * expected.abs().max(1e-3), "{loss} {expected}");
            sum += f64::from(loss) * asked as f64;
            for (sum, found) in sums.iter_mut().zip(&found) {
                sum.iter_mut().zip(&found.values).for_each(|(s, g)| *s += f64::from(*g) * asked as f64);
            }
        }
        // Sums over the parts are those over the whole, of the loss and of each gradient.
        prop_assert!((sum / rows as f64 - f64::from(whole)).abs() <= 1e-5 * f64::from(whole));
        let of_all = gradients.iter().flat_map(|t| &t.values).fold(0.0f32, |a, b| a.max(b.abs()));
        for (sum, whole) in sums.iter().zip(&gradients) {
            for (a, b) in sum.iter().zip(&whole.values) {
                let a = a / rows as f64;
                prop_assert!((a - f64::from(*b)).abs() <= 1e-4 * f64::from(of_all), "{}: {a} {b}", whole.name);
            }
        }
    }
}

/// In the direction of a few random vectors, the gradient is the change of the loss. Central differences in f32: their
/// own error is about 1e-7 / step, so the step is large, and the loss is smooth.
#[test]
fn gradients_are_differences_of_the_loss() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let device = Device::flex().autodiff();
    for (time, batch, left) in [(1, 1, 0), (33, 2, 31), (49, 1, 48), (97, 3, 47), (129, 2, 32)] {
        let (config, seed) = models(Just(left), LONGEST).new_tree(&mut runner).unwrap().current();
        let start = weights(&config, seed);
        let (_, gradients) = loss_and_gradients(&(config.clone(), seed), (batch, time), &device);
        let by_name = |name: &str| gradients.iter().find(|g| g.name == name).unwrap();
        let mut next = numbers(seed ^ 77);
        for _ in 0..3 {
            let direction: Vec<Vec<f32>> = start.iter().map(|t| t.values.iter().map(|_| next()).collect()).collect();
            let slope: f64 = start
                .iter()
                .zip(&direction)
                .flat_map(|(t, d)| by_name(&t.name).values.iter().zip(d))
                .map(|(g, d)| f64::from(*g) * f64::from(*d))
                .sum();
            let size: f64 = gradients.iter().flat_map(|g| &g.values).map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let step = 2e-3;
            let loss = |sign: f32| {
                let moved: Vec<NamedTensor> = start
                    .iter()
                    .zip(&direction)
                    .map(|(t, d)| NamedTensor {
                        values: t.values.iter().zip(d).map(|(v, d)| v + sign * step * d).collect(),
                        ..t.clone()
                    })
                    .collect();
                let model = LoopModel::from_tensors(&config, &moved, &Device::flex()).unwrap();
                let ids = |seed| model.ids(&ids(seed, batch * time), batch, time).unwrap();
                let loss = model.loss(ids(seed), ids(seed / 3 + 1)).into_data();
                f64::from(loss.iter::<f32>().next().unwrap())
            };
            let difference = (loss(1.0) - loss(-1.0)) / (2.0 * f64::from(step));
            // Random directions of unit elements: the slope is about as large as the gradient's norm.
            assert!((difference - slope).abs() < 0.02 * size, "T {time}: {difference} {slope} of {size}");
        }
    }
}
