//! Reading and writing checkpoint folders, whole and broken.

use parloop_model::checkpoint::{CheckpointWriter, TensorData};
use parloop_model::{Checkpoint, DType, Tokenizer, tensors};
use parloop_testing::{GOLDENS, Golden, Rng, any_config, checkpoint};
use std::path::Path;

fn write(folder: &Path, source: &Checkpoint, dtype: DType, shard: Option<u64>) {
    let data: Vec<TensorData<'_>> = tensors::expected(source.config())
        .into_iter()
        .map(|s| TensorData {
            values: source.tensor(&s.name).unwrap().to_f32().into(),
            name: s.name,
            shape: s.shape,
            dtype,
        })
        .collect();
    let writer = CheckpointWriter::create(folder).unwrap();
    writer.model(source.config(), source.tokenizer()).unwrap();
    writer.weights(&data, shard).unwrap();
    writer.finish().unwrap();
}

#[test]
fn written_checkpoints_read_back_in_every_type_single_and_sharded() {
    let mut rng = Rng(7);
    for case in 0..12 {
        let config = any_config(&mut rng);
        let source = checkpoint(&config, &mut rng);
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("deep/er/model");
        let dtype = [DType::F32, DType::F16, DType::BF16][case % 3];
        write(&target, &source, dtype, (case % 2 == 0).then_some(5000));
        write(&target, &source, dtype, (case % 2 == 1).then_some(3000)); // replaces the first
        let again = Checkpoint::open(&target).unwrap();
        assert_eq!(again.config(), source.config());
        for spec in tensors::expected(&config) {
            let found = again.tensor(&spec.name).unwrap();
            assert_eq!(found.dtype, dtype);
            let round = |v: f32| match dtype {
                DType::F32 => v,
                DType::F16 => half::f16::from_f32(v).to_f32(),
                _ => half::bf16::from_f32(v).to_f32(),
            };
            let expected: Vec<f32> = source.tensor(&spec.name).unwrap().to_f32().into_iter().map(round).collect();
            assert_eq!(found.to_f32(), expected, "{}", spec.name);
        }
        let left: Vec<_> = std::fs::read_dir(target.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1, "no temporary folder stays behind");
    }
}

#[test]
fn an_unfinished_write_leaves_the_older_checkpoint_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("model");
    let golden = Golden::read("plt2");
    write(&target, &golden.checkpoint, DType::F32, None);
    let writer = CheckpointWriter::create(&target).unwrap();
    writer.model(golden.checkpoint.config(), None).unwrap();
    drop(writer);
    Checkpoint::open(&target).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn the_newest_checkpoint_of_a_training_folder_stands_for_it() {
    let folder = tempfile::tempdir().unwrap();
    for (step, name) in [(20, "vanilla"), (100, "plt2"), (9, "plt3")] {
        write(&folder.path().join(format!("checkpoint-{step}")), &Golden::read(name).checkpoint, DType::F32, None);
    }
    assert!(Checkpoint::open(folder.path()).unwrap().path().unwrap().ends_with("checkpoint-100"));
}

/// A copy of a golden in which one file was changed; returns the message with which it is refused.
fn refused(change: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(Golden::read("plt2").folder.join(name), folder.path().join(name)).unwrap();
    }
    change(folder.path());
    Checkpoint::open(folder.path()).expect_err("a broken checkpoint was accepted").to_string()
}

#[test]
fn broken_checkpoints_are_refused_with_the_name_of_what_is_broken() {
    let weights = |f: &Path| f.join("model.safetensors");
    let edit = |f: &Path, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(weights(f)).unwrap();
        change(&mut bytes);
        std::fs::write(weights(f), bytes).unwrap();
    };
    let config = |f: &Path, from: &str, to: &str| {
        let path = f.join("config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        std::fs::write(path, text.replace(from, to)).unwrap();
    };
    assert!(refused(|f| std::fs::remove_file(weights(f)).unwrap()).contains("model.safetensors"));
    assert!(refused(|f| std::fs::remove_file(f.join("config.json")).unwrap()).contains("config.json"));
    for length in [0, 7, 100, 5000, 79991] {
        assert!(refused(|f| edit(f, &|b| b.truncate(length))).contains("model.safetensors"), "cut to {length}");
    }
    assert!(refused(|f| edit(f, &|b| b.push(0))).contains("model.safetensors"));
    assert!(refused(|f| edit(f, &|b| b[..8].copy_from_slice(&u64::MAX.to_le_bytes()))).contains("model.safetensors"));
    assert!(refused(|f| config(f, "\"intermediate_size\": 40", "\"intermediate_size\": 41")).contains("mlp."));
    assert!(refused(|f| config(f, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 4")).contains("layers.3"));
    assert!(refused(|f| config(f, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2")).contains("layers.2"));
    assert!(refused(|f| config(f, "\"gate\": \"hidden\"", "\"gate\": \"query\"")).contains("plt_gate"));
    assert!(refused(|f| config(f, "\"norm\": true", "\"norms\": true")).contains("norms"));
    assert!(refused(|f| std::fs::write(f.join("tokenizer.json"), "{}").unwrap()).contains("tokenizer.json"));
    let class = format!("{{\"tokenizer_class\": \"{}\"}}", parloop_model::tokenizer::BYTE_CLASS);
    assert!(refused(|f| std::fs::write(f.join("tokenizer_config.json"), &class).unwrap()).contains("256"));
    let index = |map: &str| format!("{{\"weight_map\": {map}}}");
    for (map, word) in [
        (r#"{"a": "../../etc/passwd"}"#, "plain file name"),
        (r#"{"a": "/etc/passwd"}"#, "plain file name"),
        (r#"{"a": "nowhere.safetensors"}"#, "nowhere.safetensors: is missing"),
        (r#"{"a": "model.safetensors", "a": "other.safetensors"}"#, "tensor a: is listed twice"),
        (r#"{"a": 3}"#, "expected a string"),
        (r#"{"a": "model.safetensors"}"#, "tensor a"),
        (r#"{"lm_head.weight": "model.safetensors"}"#, "does not list"),
        ("7", "weight_map"),
    ] {
        let message = refused(|f| std::fs::write(f.join("model.safetensors.index.json"), index(map)).unwrap());
        assert!(message.contains(word), "{message}");
    }
}

/// A sharded golden in which something was changed; returns the message with which it is refused.
fn refused_shards(change: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("m");
    write(&target, &Golden::read("plt2").checkpoint, DType::F32, Some(30_000));
    Checkpoint::open(&target).unwrap();
    change(&target);
    let message = Checkpoint::open(&target).unwrap_err().to_string();
    assert!(!message.is_empty() && !message.contains('\n'));
    message
}

#[test]
fn broken_shards_are_refused_by_name() {
    let first = |f: &Path| {
        std::fs::read_dir(f)
            .unwrap()
            .flatten()
            .map(|e| e.path())
            .find(|p| p.file_name().unwrap().to_str().unwrap().starts_with("model-00001-of-"))
    };
    let index = |f: &Path| f.join("model.safetensors.index.json");
    let message = refused_shards(|f| std::fs::remove_file(first(f).unwrap()).unwrap());
    assert!(message.contains("model-00001-of-") && message.contains("is missing"), "{message}");
    // A shard of another part of the model under this one's name.
    let message = refused_shards(|f| {
        let path = first(f).unwrap();
        let second = path.to_str().unwrap().replace("model-00001-of-", "model-00002-of-");
        std::fs::copy(second, path).unwrap();
    });
    assert!(message.contains("stands in two files"), "{message}");
    // The index names a tensor that its shard lacks, or puts one in the wrong shard.
    let edit = |f: &Path, change: &dyn Fn(&mut serde_json::Map<String, serde_json::Value>)| {
        let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(index(f)).unwrap()).unwrap();
        change(value["weight_map"].as_object_mut().unwrap());
        std::fs::write(index(f), value.to_string()).unwrap();
    };
    let message = refused_shards(|f| {
        edit(f, &|map| {
            let shard = map["lm_head.weight"].clone();
            map.insert("model.extra.weight".into(), shard);
        });
    });
    assert!(message.contains("tensor model.extra.weight: is not in model-"), "{message}");
    let message = refused_shards(|f| {
        edit(f, &|map| {
            let shard = map["model.embed_tokens.weight"].clone();
            map.insert("lm_head.weight".into(), shard);
        });
    });
    assert!(message.contains("tensor lm_head.weight: is not in model-00001-of-"), "{message}");
    let message = refused_shards(|f| edit(f, &|map| drop(map.remove("lm_head.weight"))));
    assert!(message.contains("tensor lm_head.weight: lies in model-"), "{message}");
}

#[test]
fn every_golden_and_its_tokenizer_kind_opens() {
    for name in GOLDENS {
        assert!(Golden::read(name).checkpoint.tokenizer().is_none(), "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    let mut rng = Rng(3);
    let mut config = any_config(&mut rng);
    config.vocab_size = 300;
    let source = checkpoint(&config, &mut rng);
    write(&folder.path().join("m"), &source, DType::F32, None);
    for (file, text) in Tokenizer::Bytes.files() {
        std::fs::write(folder.path().join("m").join(file), text).unwrap();
    }
    assert!(matches!(Checkpoint::open(&folder.path().join("m")).unwrap().tokenizer(), Some(Tokenizer::Bytes)));
}

#[test]
fn tokenizer_json_comes_before_tokenizer_model_and_neither_may_outgrow_the_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut rng = Rng(4);
    let mut config = any_config(&mut rng);
    let pieces = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sentencepiece/bpe-spaces.model")).unwrap();
    std::fs::write(folder.join("tokenizer.model"), &pieces).unwrap();
    let ids = parloop_model::tokenizer::Pieces::from_bytes(&pieces).unwrap().pieces.len();

    config.vocab_size = ids - 1;
    let message = Tokenizer::read(folder, &config).unwrap_err().to_string();
    assert!(message.contains("tokenizer.model") && message.contains("vocab_size"), "{message}");
    config.vocab_size = ids + 100;
    let found = Tokenizer::read(folder, &config).unwrap().unwrap();
    assert_eq!(found.encode("a").unwrap()[0], 1, "a text begins with the token that begins texts");
    std::fs::write(folder.join("tokenizer_config.json"), r#"{"add_bos_token": false}"#).unwrap();
    let found = Tokenizer::read(folder, &config).unwrap().unwrap();
    assert_ne!(found.encode("a").unwrap()[0], 1);

    // What is written reads back the same.
    let again = folder.join("again");
    std::fs::create_dir(&again).unwrap();
    for (file, bytes) in found.files() {
        std::fs::write(again.join(file), bytes).unwrap();
    }
    let again = Tokenizer::read(&again, &config).unwrap().unwrap();
    let text = "To be,  or not\u{3000}to be? 世 <sep>";
    assert_eq!(again.encode(text).unwrap(), found.encode(text).unwrap());

    std::fs::write(folder.join("tokenizer_config.json"), r#"{"add_bos_token": 1}"#).unwrap();
    assert!(Tokenizer::read(folder, &config).unwrap_err().to_string().contains("tokenizer_config.json"));
    let json = Tokenizer::train_bpe("to be or not to be", 260).unwrap().files().remove(0);
    std::fs::write(folder.join(json.0), json.1).unwrap();
    assert!(matches!(Tokenizer::read(folder, &config).unwrap(), Some(Tokenizer::HuggingFace(_))));
}
