//! Tensors of one model in different types: every pairing computes, and as the reference does.

use parloop_engine::{Engine, Model, Passes, score};
use parloop_kernels::Isa;
use parloop_model::gguf::{Container, Entry, Value, Writer, quantize};
use parloop_model::reference::Reference;
use parloop_model::{Checkpoint, DType, KvMode, Recipe, dtype::codec};
use parloop_testing::{Rng, checkpoint, config};
use std::path::Path;
use std::sync::Arc;

/// A copy of a model as a GGUF file in which each tensor has a random type that its rows can be stored in.
fn mixed(source: &Checkpoint, folder: &Path, rng: &mut Rng) -> Checkpoint {
    let plain = folder.join("plain.gguf");
    quantize(source, &plain, DType::F32, 1, &mut |_, _| ()).unwrap();
    let container = Container::read(Arc::new(std::fs::read(&plain).unwrap())).unwrap();
    let mut tensors: Vec<_> = container.tensors.into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let entries: Vec<Entry> = tensors
        .iter()
        .map(|(name, tensor)| {
            let fits: Vec<DType> = DType::ALL.into_iter().filter(|k| k.row_bytes(tensor.width()).is_some()).collect();
            Entry { name: name.clone(), shape: tensor.shape.clone(), kind: fits[rng.range(0, fits.len() - 1)] }
        })
        .collect();
    let metadata: Vec<(String, Value)> = container.metadata.into_iter().collect();
    let path = folder.join("mixed.gguf");
    let mut writer = Writer::create(&path, &metadata, &entries).unwrap();
    for ((_, tensor), entry) in tensors.iter().zip(&entries) {
        let mut bytes = vec![0; entry.bytes().unwrap()];
        codec::encode(entry.kind, &tensor.to_f32(), &mut bytes);
        writer.tensor(&bytes).unwrap();
    }
    writer.finish().unwrap();
    Checkpoint::open(&path).unwrap()
}

#[test]
fn every_pairing_of_types_computes_what_the_reference_does() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..40 {
        let rng = &mut Rng(seed);
        let mut config = config(rng);
        (config.hidden_size, config.intermediate_size) = (256, [256, 512][rng.range(0, 1)]);
        (config.head_dim, config.num_attention_heads, config.num_key_value_heads) = (64, 4, 2);
        config.num_hidden_layers = 2;
        config.extras.rope_scaling = None;
        // Deep loops would turn the rounding of inputs into another text.
        config.recipe = match rng.range(0, 2) {
            0 => Recipe::vanilla(),
            1 => Recipe::plt(2),
            _ => Recipe { kv: KvMode::PerLoop, ..Recipe::vanilla_loop(2) },
        };
        let source = checkpoint(&config, rng);
        let model = mixed(&source, folder.path(), rng);
        let ids: Vec<u32> = (0..40).map(|_| rng.range(0, config.vocab_size - 1) as u32).collect();
        let expected = Reference::new(&model).unwrap().forward(&ids).unwrap().logits.concat();
        let size: f32 = expected.iter().map(|v| v * v).sum();
        let model = Arc::new(Model::new(&model).unwrap());
        for isa in Isa::available() {
            let mut engine = Engine::with_isa(model.clone(), 2, isa);
            let mut logits = |passes| score(&mut engine, &ids, passes, true, None).unwrap().logits.concat();
            let whole = logits(Passes::Auto);
            let error: f32 = whole.iter().zip(&expected).map(|(a, b)| (a - b).powi(2)).sum();
            // Inputs are rounded to 8 bits or bf16 on the way; another matrix would give an error of about 1.4.
            assert!((error / size).sqrt() < 0.15, "seed {seed}, {}: {}", isa.name(), (error / size).sqrt());
            // One by one no two rows share what is prepared for them.
            assert!(logits(Passes::Chunked(1)) == whole, "seed {seed}, {}: bits differ in chunks", isa.name());
        }
    }
}
