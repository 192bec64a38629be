//! Any types of tensors in one model, through any converters, into any reader: computed, or refused in a sentence that
//! names what is wrong. Never a panic. `PROPTEST_CASES=10000` tries more of them.

use parloop_engine::{Engine, Model, Passes, score};
use parloop_kernels::{Isa, KvType, Pool, WeightType};
use parloop_model::checkpoint::{CheckpointWriter, TensorCopy};
use parloop_model::gguf::{self, Container, Entry, Writer};
use parloop_model::reference::Reference;
use parloop_model::{Checkpoint, DType, ModelConfig, Recipe, tensors};
use parloop_testing::{Rng, any_config, cases, checkpoint, config_with, whole_blocks};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;

const PLAIN: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// A folder whose tensors have a type each.
fn to_folder(from: &Checkpoint, path: &Path, rng: &mut Rng) -> parloop_model::Result<()> {
    let one = rng.flip().then(|| PLAIN[rng.range(0, 2)]);
    let writer = CheckpointWriter::create(path)?;
    writer.model(from.config(), None)?;
    let copies: Vec<TensorCopy<'_>> = tensors::expected(from.config())
        .into_iter()
        .map(|spec| {
            let tensor = from.tensor(&spec.name)?;
            Ok(TensorCopy { name: spec.name, dtype: one.unwrap_or(PLAIN[rng.range(0, 2)]), tensor })
        })
        .collect::<parloop_model::Result<_>>()?;
    writer.weights(&copies, (rng.range(0, 3) == 0).then_some(2000))?;
    writer.finish()
}

/// A GGUF file whose tensors are taken from files of different types.
fn to_gguf(from: &Checkpoint, path: &Path, rng: &mut Rng) -> parloop_model::Result<()> {
    let kinds: Vec<DType> = (0..rng.range(1, 4)).map(|_| DType::ALL[rng.range(0, DType::ALL.len() - 1)]).collect();
    let mut files = Vec::new();
    for kind in kinds {
        gguf::quantize(from, path, kind, 1, &mut |_, _| ())?;
        files.push(Container::read(Arc::new(std::fs::read(path).unwrap())).unwrap());
    }
    let mut names: Vec<&String> = files[0].tensors.keys().collect();
    names.sort();
    let taken: Vec<_> = names.iter().map(|name| &files[rng.range(0, files.len() - 1)].tensors[*name]).collect();
    let entries: Vec<Entry> = names
        .iter()
        .zip(&taken)
        .map(|(name, tensor)| Entry { name: (*name).clone(), shape: tensor.shape.clone(), kind: tensor.dtype })
        .collect();
    let metadata: Vec<_> = files[0].metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut writer = Writer::create(path, &metadata, &entries)?;
    taken.iter().try_for_each(|tensor| writer.tensor(&tensor.bytes()))?;
    writer.finish().map(|_| ())
}

/// A message that a person can do something with.
fn is_a_sentence(message: &str) -> bool {
    (20..600).contains(&message.len()) && !message.contains('\n')
}

proptest! {
    #![proptest_config(cases(300))]

    #[test]
    fn any_types_in_any_form_are_computed_or_refused(seed: u64) {
        let rng = &mut Rng(seed);
        // Plain models have more forms, looped ones more tensors; whole blocks have more types.
        let mut config: ModelConfig = if rng.flip() { any_config(rng) } else { config_with(rng, Recipe::vanilla()) };
        match rng.range(0, 2) {
            0 => {
                (config.hidden_size, config.intermediate_size) = (32 * rng.range(1, 2), 32 * rng.range(1, 2));
                whole_blocks(&mut config);
            }
            1 => {
                (config.hidden_size, config.intermediate_size, config.num_hidden_layers) = (256, 256, 1);
                config.moe.iter_mut().for_each(|moe| moe.dense_layers.clear());
            }
            _ => {}
        }
        let mut at = checkpoint(&config, rng);
        let folder = tempfile::tempdir().unwrap();
        for step in 0..rng.range(1, 3) {
            let path = folder.path().join(format!("{step}"));
            let written = if rng.flip() { to_folder(&at, &path, rng) } else { to_gguf(&at, &path, rng) };
            if let Err(e) = written {
                prop_assert!(is_a_sentence(&e.to_string()), "{}", e);
                continue;
            }
            match Checkpoint::open(&path) {
                Ok(read) => at = read,
                Err(e) => {
                    prop_assert!(is_a_sentence(&e.to_string()), "{}", e);
                    break;
                }
            }
        }
        let kind = (rng.range(0, 3) > 0).then(|| WeightType::ALL[rng.range(0, WeightType::ALL.len() - 1)]);
        let model = match Model::load(&at, kind, &mut Pool::new(1), &mut |_, _| ()) {
            Ok(model) => Arc::new(model),
            Err(e) => {
                prop_assert!(is_a_sentence(&e.to_string()), "{}", e);
                return Ok(());
            }
        };
        let isas: Vec<Isa> = Isa::available();
        let mut engine = Engine::with_isa(model, rng.range(1, 2), isas[rng.range(0, isas.len() - 1)]);
        engine.set_kv_type([KvType::F32, KvType::Bf16, KvType::Q8][rng.range(0, 2)]);
        let ids: Vec<u32> = (0..rng.range(1, 9)).map(|_| rng.range(0, config.vocab_size - 1) as u32).collect();
        match score(&mut engine, &ids, Passes::Auto, true, None) {
            Ok(found) => {
                prop_assert!(found.logits.iter().flatten().all(|l| l.is_finite()));
                // The scalar reference reads the same tensors; it too must take any of them.
                let reference = Reference::new(&at);
                prop_assert!(reference.is_ok(), "{}", reference.err().unwrap());
            }
            Err(e) => prop_assert!(is_a_sentence(&e.to_string()), "{}", e),
        }
    }
}
