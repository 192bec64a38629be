//! Tiny checkpoints of other families, with their configurations and tensor names, against the outside
//! implementation (`tests/reference/families.py`).

use parloop_engine::{Engine, Error, Model, Passes, Prefill, score};
use parloop_kernels::{Isa, Pool, WeightType};
use parloop_model::reference::Reference;
use parloop_model::{Checkpoint, Local, ModelConfig, Moe, Score, tensors};
use parloop_testing::{FAMILIES, FamilyCase, assert_close};
use std::sync::Arc;

#[test]
fn the_scalar_reference_reproduces_every_family() {
    for name in FAMILIES {
        let case = FamilyCase::read(name);
        let output = Reference::new(&case.checkpoint).unwrap().forward(&case.ids).unwrap();
        assert_close(name, &output.logits.concat(), &case.logits.concat(), 1e-4);
    }
}

#[test]
fn the_engine_reproduces_every_family_in_every_way_to_pass() {
    let passes = [Passes::Auto, Passes::One, Passes::Sequential, Passes::Chunked(1), Passes::Chunked(7)];
    for name in FAMILIES {
        let case = FamilyCase::read(name);
        let model = model(&case);
        for isa in Isa::available() {
            let mut engine = Engine::with_isa(model.clone(), 2, isa);
            let mut first: Option<Vec<f32>> = None;
            for passes in passes {
                let what = format!("{name}, {}, {passes:?}", isa.name());
                let result = score(&mut engine, &case.ids, passes, true, None);
                if passes == Passes::One && !model.config().recipe.one_pass() {
                    assert!(matches!(result, Err(Error::OnePass(_))), "{what}");
                    continue;
                }
                let logits = result.unwrap().logits.concat();
                assert_close(&what, &logits, &case.logits.concat(), 1e-4);
                assert!(*first.get_or_insert_with(|| logits.clone()) == logits, "{what}: bits differ between ways");
            }
        }
    }
}

/// Prompts that end before, at and after the edge of every window: the logits after a truncated prefill.
#[test]
fn prefill_is_right_for_every_prompt_length() {
    for name in FAMILIES {
        let case = FamilyCase::read(name);
        let model = model(&case);
        for isa in Isa::available() {
            let mut engine = Engine::with_isa(model.clone(), 1, isa);
            for n in 1..=case.ids.len() {
                let mut sequence = engine.sequence();
                let options = Prefill { chunk: 1 + n % 9 * 8, ..Prefill::default() };
                let logits = engine.prefill(&mut sequence, &case.ids[..n], &options).unwrap();
                let what = format!("{name}, {}, {n} tokens", isa.name());
                assert_close(&what, logits, &case.logits[n - 1], 1e-4);
            }
        }
    }
}

/// The case's weights in f32: products in bf16 would round their inputs.
fn model(case: &FamilyCase) -> Arc<Model> {
    let kind = Some(WeightType::F32);
    Arc::new(Model::load(&case.checkpoint, kind, &mut Pool::new(1), &mut |_, _| ()).unwrap())
}

/// The case's model with its description or its tensors changed.
fn changed(
    case: &FamilyCase,
    config: impl FnOnce(&mut ModelConfig),
    tensor: impl Fn(&str, &mut Vec<f32>),
) -> Vec<Vec<f32>> {
    let mut description = case.checkpoint.config().clone();
    config(&mut description);
    let values: Vec<_> = tensors::expected(&description)
        .into_iter()
        .map(|spec| {
            let mut values = case.checkpoint.tensor(&spec.name).unwrap().to_f32();
            tensor(&spec.name, &mut values);
            (spec.name, spec.shape, values)
        })
        .collect();
    let list = values.iter().map(|(name, shape, values)| (name.clone(), shape.clone(), values.as_slice()));
    let checkpoint = Checkpoint::from_f32(description, list, None).unwrap();
    Reference::new(&checkpoint).unwrap().forward(&case.ids).unwrap().logits
}

/// The largest difference of two rows of logits, relative to the largest logit.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    let largest = |of: &mut dyn Iterator<Item = f32>| of.fold(0.0f32, |m, v| m.max(v.abs()));
    largest(&mut found.iter().zip(expected).map(|(f, e)| f - e)) / largest(&mut expected.iter().copied())
}

/// Each rule that some port of LoopCoder-V2 got wrong: with only that rule broken the logits are plainly others.
#[test]
fn each_rule_of_iquestpltcoder_matters() {
    let case = FamilyCase::read("iquestpltcoder");
    let local = case.checkpoint.config().recipe.local.unwrap();
    assert_eq!(local.left, 64);
    let same = |_: &str, _: &mut Vec<f32>| ();
    let window = |left: usize| changed(&case, |c| c.recipe.local = Some(Local { left, ..local }), same);
    let right = changed(&case, |_| (), same);
    // A window of 65 keys: 64 keys are too few from position 64 on (which has 65 to see), 66 too many from 65 on.
    let (fewer, more) = (window(63), window(65));
    for t in 0..case.ids.len() {
        assert!(difference(&right[t], &case.logits[t]) < 1e-4, "position {t}");
        assert_eq!(difference(&fewer[t], &case.logits[t]) > 1e-3, t >= 64, "64 keys at position {t}");
        assert_eq!(difference(&more[t], &case.logits[t]) > 1e-3, t >= 65, "66 keys at position {t}");
    }
    // sigmoid(-z) = 1 - sigmoid(z): turned round, the gate weighs the local branch.
    let turned = |name: &str, values: &mut Vec<f32>| {
        if name.ends_with("plt_gate.weight") || name.ends_with("plt_gate.bias") {
            values.iter_mut().for_each(|v| *v = -*v);
        }
    };
    for (rule, logits) in [
        ("the shift", changed(&case, |c| c.recipe.shift = false, same)),
        ("the embedding's scale", changed(&case, |c| c.recipe.embedding_scale = Some(1.0), same)),
        ("the hidden scale", changed(&case, |c| c.recipe.hidden_scale = 1.0, same)),
        ("the norm at the loop boundary", changed(&case, |c| c.recipe.norm = false, same)),
        ("the gate on the global branch", changed(&case, |_| (), turned)),
    ] {
        let moved = (1..case.ids.len()).filter(|t| difference(&logits[*t], &case.logits[*t]) > 1e-2).count();
        assert!(moved > case.ids.len() / 2, "without {rule} only {moved} positions change");
    }
}

/// The same for what other families need.
#[test]
fn each_rule_of_the_other_families_matters() {
    type Change = fn(&mut ModelConfig);
    fn moe(config: &mut ModelConfig) -> &mut Moe {
        config.moe.as_mut().unwrap()
    }
    let cases: [(&str, &str, Change); 24] = [
        ("iquestloopcoder", "its window counts the query's own key", |c| {
            c.recipe.local.iter_mut().for_each(|l| l.left += 1);
        }),
        ("iquestloopcoder", "no norm between loops", |c| c.recipe.norm = true),
        ("ouro", "the norm between loops", |c| c.recipe.norm = false),
        ("ouro-exit", "the exit gate", |c| c.recipe.exit.iter_mut().for_each(|e| e.threshold = 1.0)),
        ("nanbeige", "the norm between loops", |c| c.recipe.norm = false),
        ("nanbeige-skip-norm", "no norm between loops", |c| c.recipe.norm = true),
        ("llama-yarn", "scaled frequencies", |c| c.extras.rope_scaling = None),
        ("llama-llama3", "scaled frequencies", |c| c.extras.rope_scaling = None),
        ("mistral", "the base of the frequencies", |c| c.rope_theta = 1e4),
        ("qwen2", "the biases of queries, keys and values", |c| c.extras.attention_bias = false),
        ("qwen2-tied", "the biases of queries, keys and values", |c| c.extras.attention_bias = false),
        ("qwen3", "the norms of queries and keys", |c| c.extras.qk_norms = parloop_model::QkNorms::None),
        ("qwen3", "the base of the frequencies", |c| c.rope_theta = 1e4),
        ("mixtral", "weights of the chosen alone", |c| moe(c).normalize = false),
        ("qwen2_moe", "weights of all", |c| moe(c).normalize = true),
        ("qwen2_moe", "the shared expert", |c| moe(c).shared = None),
        ("qwen2_moe", "the gate of the shared expert", |c| moe(c).shared.iter_mut().for_each(|s| s.gate = false)),
        ("qwen3_moe", "the number of experts of a row", |c| moe(c).top_k = 1),
        ("granitemoe", "the multipliers", |c| c.extras.multipliers = None),
        ("dots1", "sigmoid", |c| moe(c).score = Score::Softmax),
        ("dots1", "the bias of the choice", |c| moe(c).choice_bias = false),
        ("dots1", "the groups", |c| moe(c).groups = None),
        ("dots1", "the factor", |c| moe(c).scale = 1.0),
        ("glm4_moe", "the part of a head that is turned", |c| c.extras.rotary_dims = None),
    ];
    for (name, rule, change) in cases {
        let case = FamilyCase::read(name);
        let logits = changed(&case, change, |_, _| ());
        let moved = logits.iter().zip(&case.logits).filter(|(l, e)| difference(l, e) > 1e-2).count();
        assert!(moved >= 3, "{name}: without {rule} only {moved} positions change");
    }
}
