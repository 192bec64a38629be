//! The diagnostics against numpy's (`tests/reference/diagnose.py`), on two goldens.

use parloop_engine::{Engine, Model};
use parloop_eval::Labelled;
use parloop_eval::diagnose::{Attention, Loop, attention, loops, text};
use parloop_model::reference::Reference;
use parloop_testing::Golden;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Deserialize)]
struct Expected {
    loops: Vec<Loop>,
    attention: Attention,
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 2e-4 * (1.0 + b.abs())
}

fn json<T: serde::Serialize>(value: &T) -> serde_json::Value {
    serde_json::to_value(value).unwrap()
}

/// Every number of two JSON values.
fn compare(found: &serde_json::Value, expected: &serde_json::Value, at: &str) {
    use serde_json::Value as V;
    match (found, expected) {
        (V::Object(a), V::Object(b)) => {
            assert_eq!(a.keys().collect::<std::collections::BTreeSet<_>>(), b.keys().collect(), "{at}");
            b.iter().for_each(|(key, b)| compare(&a[key], b, &format!("{at}.{key}")));
        }
        (V::Array(a), V::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{at}");
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| compare(a, b, &format!("{at}[{i}]")));
        }
        (V::Null, V::Null) => {}
        (a, b) => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            assert!(near(a, b), "{at}: {a}, numpy {b}");
        }
    }
}

#[test]
fn diagnostics_are_numpys() {
    let numpy = include_str!("../../../tests/reference/diagnose.json");
    let all: HashMap<String, Expected> = serde_json::from_str(numpy).unwrap();
    assert_eq!(all.len(), 2);
    for (name, expected) in all {
        let golden = Golden::read(&name);
        let mut engine = Engine::new(Arc::new(Model::new(&golden.checkpoint).unwrap()), Some(1)).unwrap();
        let found = loops(&mut engine, &golden.checkpoint, &text(golden.ids.clone())).unwrap();
        compare(&json(&found), &json(&expected.loops), &name);
        let config = golden.checkpoint.config();
        let sizes = [config.recipe.count, config.num_hidden_layers, config.num_attention_heads];
        let reference = Reference::new(&golden.checkpoint).unwrap();
        let found = attention(&reference, sizes, &golden.ids).unwrap();
        compare(&json(&found), &json(&expected.attention), &name);
    }
}

#[test]
fn what_cannot_be_diagnosed_is_told() {
    let golden = Golden::read("plt2");
    let mut engine = Engine::new(Arc::new(Model::new(&golden.checkpoint).unwrap()), Some(1)).unwrap();
    let mut of = |item: Labelled| loops(&mut engine, &golden.checkpoint, &item).unwrap_err().to_string();
    assert!(of(text(vec![1])).contains("ask nothing"));
    assert!(of(text(vec![1, 60_000])).contains("60000"));
    assert!(of(Labelled { ids: vec![1], targets: vec![Some(61)], levels: vec![] }).contains("target is 61"));
}

#[test]
fn a_task_is_asked_for_its_targets() {
    let golden = Golden::read("plt3");
    let mut engine = Engine::new(Arc::new(Model::new(&golden.checkpoint).unwrap()), Some(1)).unwrap();
    let logits = Reference::new(&golden.checkpoint).unwrap().forward(&golden.ids).unwrap().logits;
    let mut item = Labelled { ids: golden.ids.clone(), targets: vec![None; golden.ids.len()], levels: vec![] };
    let best = (0..61).max_by(|a, b| logits[5][*a].total_cmp(&logits[5][*b])).unwrap();
    item.targets[5] = Some(best as u32);
    let last = loops(&mut engine, &golden.checkpoint, &item).unwrap().pop().unwrap();
    assert_eq!((last.top, last.rank), (1.0, 1.0));
}
