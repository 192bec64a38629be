//! The seam between rows and what computes them: a second, naive device behind it passes the goldens, the families and
//! the laws within rounding, through every planner. So nothing that a pass depends on bypasses the seam.

mod common;

use common::naive::Naive;
use common::{length, tokens};
use parloop_engine::{Engine, Model, Outcome, Passes, Prefill, PrefixCache, Prompt, Sequence, Want, Work, score};
use parloop_kernels::{Isa, KvType};
use parloop_model::ModelConfig;
use parloop_testing::{FAMILIES, FamilyCase, GOLDENS, Golden, MOE_GOLDENS, Rng, any_config, assert_close, checkpoint};
use proptest::prelude::*;
use std::sync::Arc;

/// Between two devices, of the largest logit.
const TOLERANCE: f32 = 2e-3;

fn naive(model: &Arc<Model>) -> Engine {
    Engine::with_isa(model.clone(), 1, Isa::PORTABLE).on_device(Box::new(Naive))
}

/// Both devices over a random model without an exit gate, whose threshold a rounding may cross. If `sure`, rows take all
/// experts, for rounding may choose others too.
fn pair(rng: &mut Rng, sure: bool) -> ([Engine; 2], ModelConfig) {
    let mut config = any_config(rng);
    config.recipe.exit = None;
    if let (Some(moe), true) = (&mut config.moe, sure) {
        (moe.top_k, moe.groups) = (moe.experts, None);
    }
    let model = Arc::new(Model::new(&checkpoint(&config, rng)).unwrap());
    let cpu = Engine::with_isa(model.clone(), 2, *Isa::available().last().unwrap());
    ([cpu, naive(&model)], config)
}

#[test]
fn the_naive_device_reproduces_goldens_and_families() {
    for name in GOLDENS.into_iter().chain(MOE_GOLDENS) {
        let golden = Golden::read(name);
        let mut engine = naive(&Arc::new(Model::new(&golden.checkpoint).unwrap()));
        for passes in [Passes::Auto, Passes::Sequential, Passes::Chunked(7)] {
            let logits = score(&mut engine, &golden.ids, passes, true, None).unwrap().logits.concat();
            assert_close(&format!("{name}, {passes:?}"), &logits, &golden.logits, 1e-4);
        }
    }
    for name in FAMILIES {
        let case = FamilyCase::read(name);
        let mut engine = naive(&Arc::new(Model::new(&case.checkpoint).unwrap()));
        let logits = score(&mut engine, &case.ids, Passes::Auto, true, None).unwrap().logits.concat();
        assert_close(name, &logits, &case.logits.concat(), 1e-3);
    }
}

proptest! {
    #![proptest_config(parloop_testing::cases(8))]

    /// Whatever is done to two sequences, both devices give the same logits at every step: prompts whole, truncated and
    /// in pieces beside decoding, batches, forks, roll-backs, saved states, cached prefixes.
    #[test]
    fn two_devices_agree_in_everything_that_is_done_with_sequences(seed: u64) {
        let rng = &mut Rng(seed);
        let (engines, config) = pair(rng, true);
        let seed = rng.bits();
        let kind = [KvType::F32, KvType::Bf16, KvType::Q8][rng.range(0, 2)];
        let [cpu, naive] = engines.map(|mut engine| {
            engine.set_kv_type(kind);
            story(&mut engine, &config, &mut Rng(seed))
        });
        prop_assert_eq!(cpu.len(), naive.len());
        // Keys and values of few bits round to one side or the other of a step.
        let tolerance = [TOLERANCE, 3e-2, 3e-2][kind as usize];
        for (i, (a, b)) in cpu.iter().zip(&naive).enumerate() {
            assert_close(&format!("step {i} of {:?}", config.recipe), a, b, tolerance);
        }
    }

    /// The law of truncated prefill holds on a device that knows nothing of it, to the last bit.
    #[test]
    fn a_naive_truncated_prefill_continues_like_the_full_one(seed: u64) {
        let rng = &mut Rng(seed);
        let ([_, mut engine], config) = pair(rng, false);
        let prompt = { let n = length(rng, &config); tokens(rng, &config, n) };
        let chunk = rng.range(1, 70);
        let [full, cut] = [false, true].map(|truncate| {
            let mut sequence = engine.sequence();
            let options = Prefill { truncate, chunk, ..Prefill::default() };
            let first = engine.prefill(&mut sequence, &prompt, &options).unwrap().to_vec();
            common::continuation(&mut engine, &mut sequence, &first, 4)
        });
        prop_assert!(full == cut, "{:?}", config.recipe);
    }
}

/// Logits of everything that happens, with choices that depend on `rng` alone.
fn story(engine: &mut Engine, config: &ModelConfig, rng: &mut Rng) -> Vec<Vec<f32>> {
    let mut seen = Vec::new();
    let mut pair: Vec<Sequence> = vec![engine.sequence(), engine.sequence()];
    let mut cache = PrefixCache::new(config, engine.kv_type(), usize::MAX).unwrap();
    for sequence in &mut pair {
        let prompt = {
            let n = length(rng, config);
            tokens(rng, config, n)
        };
        let options = Prefill { chunk: rng.range(1, 40), truncate: rng.flip(), ..Prefill::default() };
        seen.push(engine.prefill(sequence, &prompt, &options).unwrap().to_vec());
    }
    for _ in 0..8 {
        match rng.range(0, 5) {
            0 => pair[1] = pair[0].clone(),
            1 => {
                let len = rng.range(0, pair[0].len());
                pair[0].truncate(len);
            }
            2 => {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("state");
                engine.save_state(&pair[1], &path).unwrap();
                pair[1] = engine.load_state(&path).unwrap();
            }
            3 => {
                cache.insert(&pair[0]);
                let text = [pair[0].tokens(), &tokens(rng, config, 5)].concat();
                pair[0] = cache.prefill(engine, &text, &Prefill::default()).unwrap().0;
            }
            4 => {
                // A prompt in small pieces, beside a sequence that decodes.
                let [a, b] = &mut pair[..] else { unreachable!() };
                let mut long = Prompt::new(tokens(rng, config, 30), Want::Last);
                let mut short = Prompt::new(tokens(rng, config, 1), Want::Last);
                let budget = config.recipe.count + rng.range(1, 12);
                let mut done = false;
                while !done {
                    let mut work = [Work { sequence: a, prompt: &mut short }, Work { sequence: b, prompt: &mut long }];
                    let outcomes = engine.turn(&mut work, budget, None);
                    for (k, outcome) in outcomes.into_iter().enumerate() {
                        let Outcome::Done(Some(i)) = outcome else { continue };
                        seen.push(engine.turn_logits(i).to_vec());
                        if k == 0 {
                            short = Prompt::new(tokens(rng, config, 1), Want::Last);
                        } else {
                            done = true;
                        }
                    }
                }
            }
            _ => {
                let next = tokens(rng, config, 2);
                let mut batch: Vec<&mut Sequence> = pair.iter_mut().collect();
                let logits = engine.step(&mut batch, &next, Passes::Auto).unwrap();
                seen.extend(logits.chunks_exact(config.vocab_size).map(<[f32]>::to_vec));
            }
        }
    }
    seen
}
