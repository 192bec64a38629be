//! What makes another model: whatever changes the numbers it computes, and nothing else.

use parloop_engine::{Engine, Model, Prefill, packed};
use parloop_kernels::{Pool, WeightType};
use parloop_model::checkpoint::{CheckpointWriter, TensorCopy};
use parloop_model::{Checkpoint, ModelConfig, Recipe, tensors};
use parloop_testing::{Rng, checkpoint, config_with};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;

/// A folder with a model that has rows of whole blocks.
fn write(path: &Path) {
    let rng = &mut Rng(9);
    let mut config: ModelConfig = config_with(rng, Recipe::plt(2));
    (config.hidden_size, config.intermediate_size, config.head_dim) = (32, 64, 16);
    (config.num_attention_heads, config.num_key_value_heads) = (4, 2);
    let source = checkpoint(&config, rng);
    let copy = |spec: tensors::Spec| {
        let tensor = source.tensor(&spec.name).unwrap();
        TensorCopy { name: spec.name, dtype: tensor.dtype, tensor }
    };
    let tensors: Vec<_> = tensors::expected(&config).into_iter().map(copy).collect();
    let writer = CheckpointWriter::create(path).unwrap();
    writer.model(&config, None).unwrap();
    writer.weights(&tensors, None).unwrap();
    writer.finish().unwrap();
}

fn change(model: &Path, key: &str, value: Value) {
    let path = model.join("config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(path, config.to_string()).unwrap();
}

fn engine(model: &Path) -> Engine {
    let checkpoint = Checkpoint::open(model).unwrap();
    let model = Model::load(&checkpoint, Some(WeightType::Q8), &mut Pool::new(1), &mut |_, _| ()).unwrap();
    Engine::new(Arc::new(model), Some(1)).unwrap()
}

#[test]
fn a_cosmetic_change_is_the_same_model_and_another_number_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let (model, state) = (folder.path().join("model"), folder.path().join("a.state"));
    write(&model);
    packed::write(&Checkpoint::open(&model).unwrap(), Some(WeightType::Q8), &mut Pool::new(1), &mut |_, _| ()).unwrap();
    let mut first = engine(&model);
    let mut sequence = first.sequence();
    let expected = first.prefill(&mut sequence, &[1, 2, 3, 4], &Prefill::default()).unwrap().to_vec();
    first.save_state(&sequence, &state).unwrap();
    let cosmetic = [
        ("transformers_version", json!("9.9")),
        ("torch_dtype", json!("bfloat16")),
        ("architectures", json!(["Another"])),
        ("use_cache", json!(false)),
        ("eos_token_id", json!([1, 2])),
        ("max_position_embeddings", json!(8192)),
        // Said or not, this is what the model has.
        ("rope_scaling", json!(null)),
        ("attention_bias", json!(false)),
    ];
    for (key, value) in cosmetic {
        change(&model, key, value);
        let mut engine = engine(&model);
        let mut again = engine.load_state(&state).unwrap_or_else(|e| panic!("{key}: {e}"));
        assert_eq!(engine.logits(&mut again).unwrap(), expected, "{key}");
    }
    let original = std::fs::read_to_string(model.join("config.json")).unwrap();
    for (key, value) in [
        ("rope_theta", json!(20000.0)),
        ("rms_norm_eps", json!(1e-6)),
        ("rope_scaling", json!({"rope_type": "linear", "factor": 2.0})),
    ] {
        change(&model, key, value);
        let message = engine(&model).load_state(&state).unwrap_err().to_string();
        assert!(message.contains("another model"), "{key}: {message}");
        std::fs::write(model.join("config.json"), &original).unwrap();
    }
    engine(&model).load_state(&state).unwrap();
}
