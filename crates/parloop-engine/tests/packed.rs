//! Packed weights in a file: used in place they compute what weights packed while loading compute, and a file that is cut,
//! altered or of another model is refused.

use parloop_engine::{Engine, Model, Prefill, packed};
use parloop_kernels::{Pool, WeightType};
use parloop_model::checkpoint::{CheckpointWriter, TensorCopy};
use parloop_model::{Checkpoint, DType, Recipe, gguf, tensors};
use parloop_testing::{Rng, checkpoint, config_with};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use twox_hash::xxhash3_128::Hasher;

/// A folder with a model that has rows of whole blocks.
fn model() -> (tempfile::TempDir, PathBuf) {
    let rng = &mut Rng(4);
    let mut config = config_with(rng, Recipe::plt(2));
    (config.hidden_size, config.intermediate_size) = (32, 96);
    (config.head_dim, config.num_attention_heads, config.num_key_value_heads) = (16, 4, 2);
    let source = checkpoint(&config, rng);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let tensors: Vec<_> = tensors::expected(&config)
        .into_iter()
        .map(|spec| {
            let tensor = source.tensor(&spec.name).unwrap();
            TensorCopy { name: spec.name, dtype: tensor.dtype, tensor }
        })
        .collect();
    let writer = CheckpointWriter::create(&path).unwrap();
    writer.model(&config, None).unwrap();
    writer.weights(&tensors, None).unwrap();
    writer.finish().unwrap();
    (folder, path)
}

fn load(path: &Path, kind: Option<WeightType>) -> parloop_engine::Result<Model> {
    Model::load(&Checkpoint::open(path)?, kind, &mut Pool::new(2), &mut |_, _| ())
}

fn logits(model: Model) -> Vec<u32> {
    let mut engine = Engine::new(Arc::new(model), Some(2)).unwrap();
    let mut sequence = engine.sequence();
    let logits = engine.prefill(&mut sequence, &[1, 0, 2, 2, 1], &Prefill::default()).unwrap();
    logits.iter().map(|l| l.to_bits()).collect()
}

fn pack(path: &Path, kind: Option<WeightType>) -> parloop_engine::Result<packed::Written> {
    packed::write(&Checkpoint::open(path).unwrap(), kind, &mut Pool::new(2), &mut |_, _| ())
}

#[test]
fn packed_weights_compute_the_same_bits() {
    let (_folder, model) = model();
    for kind in [WeightType::Q8, WeightType::Q4Min, WeightType::Q4, WeightType::Bf16] {
        let expected = logits(load(&model, Some(kind)).unwrap());
        let written = pack(&model, Some(kind)).unwrap();
        assert_eq!(written.path, model.join(format!("packed-{}.parloop", kind.name())));
        assert_eq!(written.bytes, std::fs::metadata(&written.path).unwrap().len());
        assert_eq!(logits(load(&model, Some(kind)).unwrap()), expected, "{}", kind.name());
        // Taken from the file: without it being read, an altered one would not be refused.
        let mut bytes = std::fs::read(&written.path).unwrap();
        bytes[4096] ^= 1;
        std::fs::write(&written.path, &bytes).unwrap();
        assert!(load(&model, Some(kind)).err().unwrap().to_string().contains("checksum"));
        // Packing again replaces it.
        pack(&model, Some(kind)).unwrap();
        assert_eq!(logits(load(&model, Some(kind)).unwrap()), expected);
    }
    assert_eq!(std::fs::read_dir(&model).unwrap().count(), 6, "nothing else is left behind");
}

#[test]
fn a_gguf_file_is_packed_in_its_own_types() {
    let (folder, model) = model();
    let file = folder.path().join("model.gguf");
    gguf::quantize(&Checkpoint::open(&model).unwrap(), &file, DType::Q4_0, 2, &mut |_, _| ()).unwrap();
    let expected = logits(load(&file, None).unwrap());
    let written = pack(&file, None).unwrap();
    assert_eq!(written.path, folder.path().join("model.gguf.packed.parloop"));
    assert_eq!(logits(load(&file, None).unwrap()), expected);
}

#[test]
fn other_weights_and_damaged_files_are_refused() {
    let (_folder, model) = model();
    let path = pack(&model, Some(WeightType::Q4)).unwrap().path;
    let whole = std::fs::read(&path).unwrap();
    let refused = |what: &str| {
        let message = load(&model, Some(WeightType::Q4)).err().unwrap_or_else(|| panic!("{what} is not refused"));
        assert!(message.to_string().contains("packed-q4.parloop"), "{what}: {message}");
        message.to_string()
    };
    for length in [0, 1, 7, 8, 40, 4096, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        refused(&format!("a file cut to {length} bytes"));
    }
    let start = whole.len() - 32 - index_length(&whole);
    for place in (start..whole.len()).step_by(11).chain([0, 4096, start - 1]) {
        let mut bytes = whole.clone();
        bytes[place] ^= 0x10;
        // Zeros between matrices carry nothing.
        if place < start && bytes[place] == 0x10 && place != 0 {
            continue;
        }
        std::fs::write(&path, &bytes).unwrap();
        refused(&format!("a change at {place} of {}", whole.len()));
    }
    // Indexes that fit their checksum and lie all the same.
    let text = String::from_utf8(whole[start..start + index_length(&whole)].to_vec()).unwrap();
    let index: serde_json::Value = serde_json::from_str(&text).unwrap();
    for (key, value) in [
        ("offset", serde_json::json!(u64::MAX)),
        ("offset", serde_json::json!(whole.len())),
        ("offset", serde_json::json!(-1)),
        ("bytes", serde_json::json!(u64::MAX)),
        ("bytes", serde_json::json!(0)),
        ("outputs", serde_json::json!(1u64 << 60)),
        ("inputs", serde_json::json!(0)),
        ("type", serde_json::json!("q8")),
        ("type", serde_json::json!("f64")),
        ("checksums", serde_json::json!([])),
        ("checksums", serde_json::json!(["0"])),
        ("more", serde_json::json!(1)),
    ] {
        let mut index = index.clone();
        index["matrices"][0][key] = value.clone();
        std::fs::write(&path, signed(&whole[..start], &index.to_string())).unwrap();
        refused(&format!("{key} {value}"));
    }
    std::fs::write(&path, &whole).unwrap();
    load(&model, Some(WeightType::Q4)).unwrap();
    // Another training step.
    let weights = model.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].iter_mut().step_by(4).for_each(|b| *b ^= 1);
    std::fs::write(&weights, bytes).unwrap();
    assert!(refused("another model").contains("other weights"));
}

#[test]
fn what_cannot_be_packed_is_said() {
    let (_folder, model) = model();
    // f32 weights are used where they lie.
    assert!(pack(&model, None).unwrap_err().to_string().contains("nothing to pack"));
    let path = model.join("packed-q4.parloop");
    std::fs::write(&path, "my notes").unwrap();
    assert!(pack(&model, Some(WeightType::Q4)).unwrap_err().to_string().contains("move it away"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "my notes");
}

fn index_length(file: &[u8]) -> usize {
    u64::from_le_bytes(file[file.len() - 16..file.len() - 8].try_into().unwrap()) as usize
}

fn signed(matrices: &[u8], index: &str) -> Vec<u8> {
    let sum = Hasher::oneshot(index.as_bytes()).to_le_bytes();
    [matrices, index.as_bytes(), &sum, &(index.len() as u64).to_le_bytes(), b"plppack1"].concat()
}
