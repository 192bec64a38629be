//! The diagnostics against numpy's (`tests/reference/diagnose.py`), on two goldens.

use parloop_engine::{Engine, Model};
use parloop_eval::diagnose::{Attention, Loop, attention, loops};
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
    let text = include_str!("../../../tests/reference/diagnose.json");
    let all: HashMap<String, Expected> = serde_json::from_str(text).unwrap();
    assert_eq!(all.len(), 2);
    for (name, expected) in all {
        let golden = Golden::read(&name);
        let mut engine = Engine::new(Arc::new(Model::new(&golden.checkpoint).unwrap()), Some(1)).unwrap();
        let found = loops(&mut engine, &golden.checkpoint, &golden.ids).unwrap();
        compare(&json(&found), &json(&expected.loops), &name);
        let config = golden.checkpoint.config();
        let sizes = [config.recipe.count, config.num_hidden_layers, config.num_attention_heads];
        let reference = Reference::new(&golden.checkpoint).unwrap();
        let found = attention(&reference, sizes, &golden.ids).unwrap();
        compare(&json(&found), &json(&expected.attention), &name);
    }
}

#[test]
fn one_token_is_too_few() {
    let golden = Golden::read("plt2");
    let mut engine = Engine::new(Arc::new(Model::new(&golden.checkpoint).unwrap()), Some(1)).unwrap();
    assert!(loops(&mut engine, &golden.checkpoint, &[1]).unwrap_err().to_string().contains("at least 2"));
    assert!(loops(&mut engine, &golden.checkpoint, &[1, 60_000]).is_err());
}
