//! The engine against the outside implementation: every golden, every way to pass, every instruction set.

use parloop_engine::Observer;
use parloop_engine::{Engine, Error, Model, Passes, score};
use parloop_kernels::Isa;
use parloop_testing::{GOLDENS, Golden, MOE_GOLDENS, assert_close};
use std::sync::Arc;

/// States as `[R][T][d]`.
struct States {
    tokens: usize,
    values: Vec<Vec<f32>>,
}

impl Observer for States {
    fn state(&mut self, _: usize, r: usize, position: usize, state: &[f32]) {
        self.values[r * self.tokens + position] = state.to_vec();
    }
}

#[test]
fn the_engine_reproduces_every_golden_in_every_way_to_pass() {
    let passes = [Passes::One, Passes::Sequential, Passes::Auto, Passes::Chunked(1), Passes::Chunked(7)];
    for name in GOLDENS.into_iter().chain(MOE_GOLDENS) {
        let golden = Golden::read(name);
        let model = Arc::new(Model::new(&golden.checkpoint).unwrap());
        let recipe = &model.config().recipe;
        for isa in Isa::available() {
            let mut engine = Engine::with_isa(model.clone(), 2, isa);
            let mut first: Option<Vec<f32>> = None;
            for passes in passes {
                let tokens = golden.ids.len();
                let mut states = States { tokens, values: vec![vec![]; recipe.count * tokens] };
                let result = score(&mut engine, &golden.ids, passes, true, Some(&mut states));
                if passes == Passes::One && !recipe.one_pass() {
                    assert!(matches!(result, Err(Error::OnePass(_))));
                    continue;
                }
                let score = result.unwrap();
                let what = format!("{name}, {}, {passes:?}", isa.name());
                let logits = score.logits.concat();
                assert_close(&format!("{what}: logits"), &logits, &golden.logits, 1e-4);
                assert_close(&format!("{what}: states"), &states.values.concat(), &golden.states, 1e-4);
                assert!((score.loss - f64::from(golden.loss)).abs() < 1e-5, "{what}: loss");
                // Between ways to pass there is no tolerance: the bits are the same.
                let first = first.get_or_insert_with(|| logits.clone());
                assert!(*first == logits, "{what}: bits differ between ways to pass");
            }
        }
    }
}
