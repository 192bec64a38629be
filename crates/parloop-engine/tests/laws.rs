//! Laws that hold for every recipe, compared bit for bit.
//!
//! one pass = sequential = whole = chunked; batched = alone; truncated prefill = full, and one row fewer is not.

mod common;

use common::{continuation, engine, length, tokens};
use parloop_engine::{Engine, Model, Passes, Prefill, Sequence, score};
use parloop_kernels::{Isa, KvType, Pool, WeightType};
use parloop_model::reference::Reference;
use parloop_model::{GateKind, KvMode, Local, ModelConfig, Recipe};
use parloop_testing::{Rng, any_config, assert_close, checkpoint, config_with, whole_blocks};
use proptest::prelude::*;
use std::sync::Arc;

fn prefilled(engine: &mut Engine, prompt: &[u32], options: Prefill, steps: usize) -> Vec<Vec<f32>> {
    let mut sequence = engine.sequence();
    let first = engine.prefill(&mut sequence, prompt, &options).unwrap().to_vec();
    continuation(engine, &mut sequence, &first, steps)
}

/// The configuration, and those with an exit threshold a little below and above: where a token's probability of
/// having ended lies within rounding of the threshold, engine and reference may rightly take different loops.
fn near_ties(config: &ModelConfig) -> [ModelConfig; 3] {
    [0.0, -1e-4, 1e-4].map(|step| {
        let mut config = config.clone();
        config.recipe.exit.iter_mut().for_each(|exit| exit.threshold = (exit.threshold + step).clamp(0.0, 1.0));
        config
    })
}

proptest! {
    #![proptest_config(parloop_testing::cases(48))]

    #[test]
    fn every_weight_type_on_every_instruction_set_gives_the_same_bits_in_every_way_to_pass(seed: u64) {
        let rng = &mut Rng(seed);
        let mut config = any_config(rng);
        (config.hidden_size, config.intermediate_size) = (32 * rng.range(1, 3), 32 * rng.range(1, 3));
        whole_blocks(&mut config);
        (config.head_dim, config.num_attention_heads, config.num_key_value_heads) = (16, 4, 2);
        let source = checkpoint(&config, rng);
        let ids = { let n = length(rng, &config); tokens(rng, &config, n) };
        for kind in WeightType::ALL {
            let model = Arc::new(Model::load(&source, Some(kind), &mut Pool::new(1), &mut |_, _| ()).unwrap());
            for isa in Isa::available() {
                let mut first: Option<Vec<Vec<f32>>> = None;
                for (threads, passes) in [
                    (1, Passes::Auto), (3, Passes::Auto), (2, Passes::Sequential), (2, Passes::Chunked(7)), (2, Passes::One),
                ] {
                    if passes == Passes::One && !config.recipe.one_pass() {
                        continue;
                    }
                    let mut engine = Engine::with_isa(model.clone(), threads, isa);
                    engine.set_kv_type([KvType::F32, KvType::Bf16, KvType::Q8][(seed % 3) as usize]);
                    let logits = score(&mut engine, &ids, passes, true, None).unwrap().logits;
                    let first = first.get_or_insert_with(|| logits.clone());
                    prop_assert!(*first == logits, "{kind:?} {isa:?} {passes:?} {:?}", config.recipe);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(parloop_testing::cases(200))]

    #[test]
    fn one_pass_sequential_whole_and_chunked_are_the_same_bits_and_agree_with_the_reference(seed: u64) {
        let rng = &mut Rng(seed);
        let config = any_config(rng);
        let seed = rng.0;
        let source = checkpoint(&config, rng);
        let ids = { let n = length(rng, &config); tokens(rng, &config, n) };
        let isa = *Isa::available().last().unwrap();
        let mut engine = Engine::with_isa(Arc::new(Model::new(&source).unwrap()), rng.range(1, 3), isa);
        let mut ways = vec![Passes::Auto, Passes::Sequential, Passes::Chunked(1), Passes::Chunked(rng.range(2, 30))];
        if config.recipe.one_pass() {
            ways.push(Passes::One);
        }
        let results: Vec<_> =
            ways.iter().map(|w| score(&mut engine, &ids, *w, true, None).unwrap()).collect();
        for (way, result) in ways.iter().zip(&results) {
            prop_assert!(result.logits == results[0].logits, "{way:?} differs from whole: {:?}", config.recipe);
        }
        let expected = near_ties(&config).map(|c| {
            Reference::new(&checkpoint(&c, &mut Rng(seed))).unwrap().forward(&ids).unwrap()
        });
        // A row that rounding may lead to other experts is another row.
        if expected.iter().any(|output| output.margin < 2e-4) {
            return Ok(());
        }
        let expected = expected.map(|output| output.logits);
        let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let nearest: Vec<f32> = results[0].logits.iter().enumerate().flat_map(|(t, found)| {
            let best = expected.iter().min_by(|a, b| distance(&a[t], found).total_cmp(&distance(&b[t], found)));
            best.unwrap()[t].clone()
        }).collect();
        assert_close("reference", &results[0].logits.concat(), &nearest, 2e-3);
    }

    #[test]
    fn a_truncated_prefill_continues_like_the_full_one(seed: u64) {
        let rng = &mut Rng(seed);
        let config = any_config(rng);
        let mut engine = engine(&config, rng);
        let prompt = { let n = length(rng, &config); tokens(rng, &config, n) };
        let full = Prefill { truncate: false, ..Prefill::default() };
        let cut = Prefill { truncate: true, chunk: rng.range(1, 70), ..Prefill::default() };
        let expected = prefilled(&mut engine, &prompt, full, 12);
        prop_assert!(prefilled(&mut engine, &prompt, cut, 12) == expected, "{:?}", config.recipe);
    }

    #[test]
    fn a_batch_of_sequences_is_each_of_them_alone(seed: u64) {
        let rng = &mut Rng(seed);
        let config = any_config(rng);
        let mut engine = engine(&config, rng);
        let passes = if rng.flip() { Passes::Auto } else { Passes::Sequential };
        let count = rng.range(2, 6);
        let mut together: Vec<Sequence> = (0..count).map(|_| engine.sequence()).collect();
        let mut alone = together.clone();
        for (a, b) in together.iter_mut().zip(&mut alone) {
            let prompt = { let n = length(rng, &config); tokens(rng, &config, n) };
            engine.prefill(a, &prompt, &Prefill::default()).unwrap();
            engine.prefill(b, &prompt, &Prefill { chunk: 5, ..Prefill::default() }).unwrap();
        }
        for _ in 0..6 {
            let next = tokens(rng, &config, count);
            let mut batch: Vec<&mut Sequence> = together.iter_mut().collect();
            let logits = engine.step(&mut batch, &next, passes).unwrap().to_vec();
            for (i, sequence) in alone.iter_mut().enumerate() {
                let one = engine.step(&mut [sequence], &next[i..=i], Passes::Auto).unwrap();
                prop_assert!(one == &logits[i * config.vocab_size..][..config.vocab_size]);
            }
        }
    }
}

#[test]
fn a_refused_request_changes_nothing() {
    let rng = &mut Rng(11);
    let mut config = config_with(rng, Recipe::plt(2));
    config.max_position_embeddings = 9;
    let mut engine = engine(&config, rng);
    let mut sequence = engine.sequence();
    let options = Prefill::default();
    engine.prefill(&mut sequence, &[1, 2, 3], &options).unwrap();
    assert!(engine.prefill(&mut sequence, &[], &options).is_err());
    assert!(engine.prefill(&mut sequence, &[config.vocab_size as u32], &options).is_err());
    assert!(engine.prefill(&mut sequence, &[0; 7], &options).unwrap_err().to_string().contains("context of 9"));
    assert!(engine.prefill(&mut sequence, &[0], &Prefill { chunk: 0, ..options }).is_err());
    assert_eq!(sequence.len(), 3);
    engine.prefill(&mut sequence, &[0; 6], &options).unwrap();
    assert!(engine.step(&mut [&mut sequence], &[1], Passes::One).unwrap_err().to_string().contains("full"));
}

/// Fixed seeds: once in many thousand models the row left out weighs less than rounding.
#[test]
fn one_row_fewer_is_wrong() {
    const CASES: u64 = 200;
    let mut wrong = 0;
    for seed in 0..CASES {
        let rng = &mut Rng(seed);
        let gate = if rng.flip() { GateKind::Hidden } else { GateKind::Query };
        let recipe = Recipe {
            shift: rng.flip(),
            local: Some(Local { left: rng.range(1, 5), gate }),
            embedding_scale: Some(0.7),
            hidden_scale: 0.6,
            kv: KvMode::Shared,
            ..Recipe::plt(rng.range(2, 3))
        };
        let mut config = config_with(rng, recipe);
        // Wide enough that no single row can vanish in rounding, shallow enough that it is not damped away.
        (config.hidden_size, config.head_dim, config.num_hidden_layers) = (24, 8, rng.range(1, 2));
        let mut engine = engine(&config, rng);
        let left = config.recipe.local.map_or(0, |l| l.left);
        let bound = (config.recipe.count - 1) * (1 + config.num_hidden_layers * left);
        let prompt = tokens(rng, &config, bound + 8);
        let expected = prefilled(&mut engine, &prompt, Prefill::default(), 0);
        let full = Prefill { truncate: false, ..Prefill::default() };
        assert!(prefilled(&mut engine, &prompt, full, 0) == expected);
        let short = Prefill { deficit: 1, ..Prefill::default() };
        wrong += u64::from(prefilled(&mut engine, &prompt, short, 0) != expected);
    }
    assert!(wrong >= CASES - 1, "{} of {CASES} models did not notice", CASES - wrong);
}
