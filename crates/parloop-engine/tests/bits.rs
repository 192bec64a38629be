//! The bits of logits, kept: a change that is to change nothing leaves them as they are.
//!
//! `bits.txt` holds a hash for each model, weight type and instruction set. What a machine lacks is not checked there;
//! so are models whose random weights come out otherwise (another mathematical library). `PARLOOP_UPDATE_BITS=1` writes
//! what this machine computes, for a change that is meant to move bits.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use parloop_engine::{Engine, Model, Passes, score};
use parloop_kernels::{Isa, Pool, WeightType};
use parloop_model::Checkpoint;
use parloop_testing::{Rng, checkpoint, config};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use twox_hash::xxhash3_128::Hasher;

fn hash(values: impl Iterator<Item = f32>) -> String {
    let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    format!("{:032x}", Hasher::oneshot(&bytes))
}

/// The built-in model, and three random ones that every weight type can hold.
fn models() -> Vec<(String, Checkpoint)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut models = vec![("shakespeare".into(), Checkpoint::open(&root.join("crates/parloop/model")).unwrap())];
    for seed in [1, 2, 3] {
        let rng = &mut Rng(seed);
        let mut config = config(rng);
        (config.hidden_size, config.intermediate_size) = (32 * rng.range(1, 3), 32 * rng.range(1, 3));
        (config.head_dim, config.num_attention_heads, config.num_key_value_heads) = (16, 4, 2);
        config.max_position_embeddings = 4096;
        models.push((format!("random-{seed}"), checkpoint(&config, rng)));
    }
    models
}

#[test]
fn logits_have_the_bits_they_had() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bits.txt");
    let update = std::env::var_os("PARLOOP_UPDATE_BITS").is_some();
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let mut kept: BTreeMap<String, String> =
        text.lines().filter_map(|l| l.split_once(": ")).map(|(k, v)| (k.into(), v.into())).collect();
    let mut checked = 0;
    let mut wrong = Vec::new();
    for (name, source) in models() {
        let vocabulary = source.config().vocab_size;
        let rng = &mut Rng(7);
        let ids: Vec<u32> = (0..150).map(|_| rng.range(0, vocabulary - 1) as u32).collect();
        let names: Vec<String> =
            parloop_model::tensors::expected(source.config()).into_iter().map(|s| s.name).collect();
        let weights = hash(names.iter().flat_map(|n| source.tensor(n).unwrap().to_f32()));
        let key = format!("{name} weights");
        if update {
            kept.insert(key.clone(), weights.clone());
        }
        if kept.get(&key) != Some(&weights) {
            eprintln!("{name}: its weights come out otherwise on this machine; not checked");
            continue;
        }
        for kind in WeightType::ALL {
            let model = Model::load(&source, Some(kind), &mut Pool::new(1), &mut |_, _| ()).unwrap();
            let model = Arc::new(model);
            for isa in Isa::available() {
                let mut engine = Engine::with_isa(model.clone(), 2, isa);
                let logits = score(&mut engine, &ids, Passes::Auto, true, None).unwrap().logits;
                let found = hash(logits.into_iter().flatten());
                let key = format!("{name} {} {}", kind.name(), isa.name());
                match kept.get(&key) {
                    _ if update => _ = kept.insert(key, found),
                    Some(expected) if *expected == found => checked += 1,
                    Some(expected) => wrong.push(format!("{key}: {found}, was {expected}")),
                    None => eprintln!("{key}: no hash is kept"),
                }
            }
        }
    }
    if update {
        let lines: String = kept.iter().map(|(k, v)| format!("{k}: {v}\n")).collect();
        std::fs::write(path, lines).unwrap();
        return;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(checked > 0, "nothing was checked");
}
