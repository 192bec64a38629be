//! GGUF files of whole models: written and read back, and broken in every way.

use parloop_model::config::TokenIds;
use parloop_model::dtype::codec;
use parloop_model::gguf::{Array, Container, Entry, Value, Writer, quantize};
use parloop_model::rope::RopeScaling;
use parloop_model::tokenizer::{AddedToken, Conventions, Pieces, SpacePrefix};
use parloop_model::{Checkpoint, DType, GateKind, ModelConfig, Recipe, Tokenizer, tensors};
use parloop_testing::{Golden, Rng, any_config, checkpoint, config_with};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn write(source: &Checkpoint, path: &Path, kind: DType) {
    let mut seen = 0;
    quantize(source, path, kind, 2, &mut |done, _| seen = done).unwrap();
    // Experts are one tensor.
    assert!(seen > 0 && (source.config().moe.is_some() || seen == tensors::expected(source.config()).len()));
}

/// A family's case, the file that is written of it under a name of an architecture, and what is read from that, with the
/// same tensors.
fn there_and_back(name: &str, arch: &str) -> (parloop_testing::FamilyCase, Container, Checkpoint) {
    let case = parloop_testing::FamilyCase::read(name);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(&case.checkpoint, &path, DType::F32);
    let container = Container::read(Arc::new(std::fs::read(&path).unwrap())).unwrap();
    assert_eq!(container.metadata["general.architecture"], Value::String(arch.into()), "{name}");
    let again = Checkpoint::open(&path).unwrap();
    for spec in tensors::expected(again.config()) {
        let (found, expected) = (again.tensor(&spec.name).unwrap(), case.checkpoint.tensor(&spec.name).unwrap());
        assert_eq!(found.to_f32(), expected.to_f32(), "{name}: {}", spec.name);
    }
    (case, container, again)
}

fn read_back(source: &Checkpoint, kind: DType) -> Checkpoint {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write(source, &path, kind);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file stays behind");
    Checkpoint::open(&path).unwrap()
}

/// What is read back: a plain transformer's file does not say how its later loops would be, and YaRN's attention
/// factor is stored as a multiple of the usual one.
fn told(config: &ModelConfig, again: &ModelConfig) -> ModelConfig {
    let mut told = config.clone();
    if config.is_plain() && again.recipe == Recipe::vanilla() {
        told.recipe = Recipe::vanilla();
    }
    if (0..config.num_hidden_layers).all(|n| !config.is_dense(n)) {
        // Nothing has this width.
        told.intermediate_size = again.intermediate_size;
    }
    if let (Some(RopeScaling::Yarn { attention_factor: a, .. }), Some(RopeScaling::Yarn { attention_factor: b, .. })) =
        (&mut told.extras.rope_scaling, &again.extras.rope_scaling)
        && (*a / b - 1.0).abs() < 1e-6
    {
        *a = *b;
    }
    told
}

#[test]
fn any_model_is_read_back_as_it_was_written() {
    let mut rng = Rng(11);
    for _ in 0..80 {
        let mut config = any_config(&mut rng);
        config.eos_token_id = rng.flip().then(|| TokenIds::Many(vec![1, 4, 2, 0]));
        config.bos_token_id = rng.flip().then_some(3);
        if let Some(RopeScaling::Yarn { truncate, .. }) = &mut config.extras.rope_scaling {
            // The other way cannot be expressed and is refused.
            let expressible = std::mem::replace(truncate, true);
            if !expressible {
                let mut other = config.clone();
                if let Some(RopeScaling::Yarn { truncate, .. }) = &mut other.extras.rope_scaling {
                    *truncate = false;
                }
                let path = Path::new("never-written.gguf");
                let error = quantize(&checkpoint(&other, &mut rng), path, DType::F32, 1, &mut |_, _| ()).unwrap_err();
                assert!(error.to_string().contains("truncate") && !path.exists());
            }
        }
        let source = checkpoint(&config, &mut rng);
        let again = read_back(&source, DType::F32);
        assert_eq!(again.config(), &told(&config, again.config()));
        assert!(again.tokenizer().is_none() && again.settings().chat.is_none());
        for spec in tensors::expected(&config) {
            assert_eq!(again.tensor(&spec.name).unwrap().to_f32(), source.tensor(&spec.name).unwrap().to_f32());
        }
        // Odd widths: every type finds one that holds them.
        for kind in DType::ALL {
            read_back(&source, kind);
        }
    }
}

/// Experts are stacked in these files, and read in place under the names that they have one by one.
#[test]
fn families_with_experts_are_written_under_the_names_that_other_engines_know() {
    for (name, arch, family) in [
        ("mixtral", "llama", "mixtral"),
        ("qwen2_moe", "qwen2moe", "qwen2_moe"),
        ("qwen3_moe", "qwen3moe", "qwen3_moe"),
        ("olmoe", "olmoe", "olmoe"),
        // What other engines would compute otherwise stays with us.
        ("qwen2_moe-step", "parloop", "parloop"),
        ("olmoe-grouped", "parloop", "parloop"),
        ("granitemoe", "parloop", "parloop"),
        ("dots1", "parloop", "parloop"),
        ("glm4_moe", "parloop", "parloop"),
    ] {
        let (case, container, again) = there_and_back(name, arch);
        let moe = case.checkpoint.config().moe.as_ref().unwrap();
        let up = &container.tensors["blk.1.ffn_up_exps.weight"];
        assert_eq!(up.shape, [moe.experts, moe.width, 32], "{name}");
        assert_eq!(again.family().model_type, family, "{name}");
        assert_eq!(again.config().computed(), case.checkpoint.config().computed(), "{name}");
    }
}

#[test]
fn plain_families_are_written_under_the_names_that_other_engines_know() {
    for (name, arch) in
        [("llama", "llama"), ("mistral", "llama"), ("qwen2", "qwen2"), ("qwen2-tied", "qwen2"), ("qwen3", "qwen3")]
    {
        let (case, container, again) = there_and_back(name, arch);
        assert!(container.metadata.contains_key(&format!("{arch}.block_count")), "{name}");
        let of_heads = container.tensors.keys().filter(|key| key.ends_with("_norm.weight") && key.contains("attn_"));
        let norms = of_heads.filter(|key| key.contains("attn_q_norm") || key.contains("attn_k_norm")).count();
        assert_eq!(norms, if name == "qwen3" { 4 } else { 0 }, "{name}");
        assert_eq!(container.tensors.contains_key("blk.1.attn_k.bias"), arch == "qwen2", "{name}");
        assert_eq!(again.family().model_type, arch);
        let (found, expected) = (again.config(), case.checkpoint.config());
        assert_eq!((found.computed(), found.eos_ids()), (expected.computed(), expected.eos_ids()), "{name}");
    }
}

/// The parts of a model as `llama-gguf-split` writes them, `sizes` tensors each.
fn split(whole: &Path, folder: &Path, sizes: &[usize]) -> Vec<PathBuf> {
    let container = Container::read(Arc::new(std::fs::read(whole).unwrap())).unwrap();
    let mut tensors: Vec<_> = container.tensors.into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let all = tensors.len();
    let mut paths = Vec::new();
    for (i, size) in sizes.iter().enumerate() {
        let mut metadata: Vec<_> = if i == 0 { container.metadata.clone().into_iter().collect() } else { Vec::new() };
        metadata.push(("split.no".into(), Value::U16(i as u16)));
        metadata.push(("split.count".into(), Value::U16(sizes.len() as u16)));
        metadata.push(("split.tensors.count".into(), Value::I32(all as i32)));
        let part: Vec<_> = tensors.drain(..(*size).min(tensors.len())).collect();
        let entries: Vec<_> =
            part.iter().map(|(name, t)| Entry { name: name.clone(), shape: t.shape.clone(), kind: t.dtype }).collect();
        let path = folder.join(format!("m-{:05}-of-{:05}.gguf", i + 1, sizes.len()));
        let mut writer = Writer::create(&path, &metadata, &entries).unwrap();
        part.iter().for_each(|(_, tensor)| writer.tensor(&tensor.bytes()).unwrap());
        writer.finish().unwrap();
        paths.push(path);
    }
    paths
}

#[test]
fn a_model_in_parts_is_the_model_in_one_file() {
    let mut rng = Rng(21);
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.gguf");
    let source = checkpoint(&config_with(&mut rng, Recipe::plt(2)), &mut rng);
    write(&source, &whole, DType::F32);
    let paths = split(&whole, folder.path(), &[5, 1, 1000]);
    let (one, parts) = (Checkpoint::open(&whole).unwrap(), Checkpoint::open(&paths[0]).unwrap());
    assert_eq!(one.config(), parts.config());
    for spec in tensors::expected(one.config()) {
        assert_eq!(one.tensor(&spec.name).unwrap().bytes(), parts.tensor(&spec.name).unwrap().bytes());
    }
    let refused = |path: &Path| Checkpoint::open(path).unwrap_err().to_string();
    assert!(refused(&paths[1]).contains("is part 2 of 3 of a model; give the first part"));
    let swapped = folder.path().join("swapped");
    std::fs::rename(&paths[2], &swapped).unwrap();
    let message = refused(&paths[0]);
    assert!(message.contains("m-00003-of-00003.gguf: is missing: the model is in 3 parts"), "{message}");
    std::fs::copy(&paths[1], &paths[2]).unwrap();
    assert!(refused(&paths[0]).contains("is part 2 of 3 of a model, expected 3 of 3"));
    let renamed = folder.path().join("first.gguf");
    std::fs::rename(&paths[0], &renamed).unwrap();
    assert!(refused(&renamed).contains("expected a name that ends in -00001-of-00003.gguf"));
    // Tensors that are in no part are missing by number.
    let paths = split(&whole, folder.path(), &[5, 1, 1]);
    assert!(refused(&paths[0]).contains("tensors in all its parts, they hold 7"));
}

#[test]
fn rows_in_blocks_keep_their_bytes_from_file_to_file() {
    let mut rng = Rng(5);
    for recipe in [Recipe::vanilla(), Recipe::plt(2)] {
        let config = ModelConfig {
            hidden_size: 256,
            intermediate_size: 512,
            head_dim: 32,
            num_attention_heads: 8,
            num_key_value_heads: 2,
            num_hidden_layers: 2,
            ..config_with(&mut rng, recipe)
        };
        let source = checkpoint(&config, &mut rng);
        for kind in DType::ALL {
            let once = read_back(&source, kind);
            let twice = read_back(&once, kind);
            for spec in tensors::expected(&config) {
                let (a, b) = (once.tensor(&spec.name).unwrap(), twice.tensor(&spec.name).unwrap());
                assert_eq!((a.dtype, a.bytes()), (b.dtype, b.bytes()), "{} as {}", spec.name, kind.name());
                // Each row is the source's row in blocks, whatever the order of rows in the file.
                let x = source.tensor(&spec.name).unwrap();
                let mut row = vec![0.0; x.width()];
                x.row(x.rows() / 2, &mut row);
                let mut expected = vec![0; a.dtype.row_bytes(x.width()).unwrap()];
                codec::encode(a.dtype, &row, &mut expected);
                assert_eq!(a.row_bytes(x.rows() / 2), expected, "{}", spec.name);
                let whole: Vec<u8> = (0..a.rows()).flat_map(|i| a.row_bytes(i).to_vec()).collect();
                assert_eq!(whole, *a.bytes());
                let (owner, range) = a.shared();
                assert_eq!((*owner).as_ref()[range], *a.bytes());
            }
            let of = |name: &str| once.tensor(name).unwrap().dtype;
            assert_eq!(of(&tensors::layer_name(1, "mlp.down_proj.weight")), kind);
            assert_eq!(of(&tensors::layer_name(0, "input_layernorm.weight")), DType::F32);
            if config.recipe.count > 1 {
                assert_eq!(of(&tensors::layer_name(1, "self_attn.plt_gate.weight")), DType::F32);
            }
            let head = of(if config.tie_word_embeddings { tensors::EMBEDDING } else { tensors::HEAD });
            assert_eq!(head, if kind.is_block() && kind.bits() < 6.5 { DType::Q6K } else { kind });
        }
    }
}

#[test]
fn narrow_matrices_fall_back_to_a_stated_type() {
    let mut rng = Rng(2);
    for (width, kind, expected) in [
        (96, DType::Q4K, DType::Q5_0),
        (96, DType::Q5K, DType::Q5_1),
        (96, DType::Q6K, DType::Q8_0),
        (96, DType::Q4_1, DType::Q4_1),
        (40, DType::Q4K, DType::F16),
        (40, DType::Q8_0, DType::F16),
        (40, DType::BF16, DType::BF16),
    ] {
        let config = ModelConfig { hidden_size: width, ..config_with(&mut rng, Recipe::vanilla()) };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.gguf");
        let written = quantize(&checkpoint(&config, &mut rng), &path, kind, 1, &mut |_, _| ()).unwrap();
        let name = tensors::layer_name(0, "mlp.up_proj.weight");
        assert_eq!(Checkpoint::open(&path).unwrap().tensor(&name).unwrap().dtype, expected);
        let said =
            written.fallbacks.iter().any(|(n, w, k)| n == "blk.0.ffn_up.weight" && *w == width && *k == expected);
        assert_eq!(said, expected != kind);
        assert_eq!(written.bytes, std::fs::metadata(&path).unwrap().len());
        assert_eq!(written.elements, written.types.iter().map(|t| t.2).sum::<u64>());
    }
}

#[test]
fn numbers_that_a_type_cannot_hold_are_refused_by_tensor() {
    let mut rng = Rng(8);
    let config = ModelConfig { hidden_size: 32, ..config_with(&mut rng, Recipe::vanilla()) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    for (value, kinds) in [
        (1e5, [DType::F16, DType::Q4_0, DType::Q8_0].as_slice()),
        (f32::NAN, &DType::ALL),
        (f32::INFINITY, &DType::ALL),
    ] {
        let good = checkpoint(&config, &mut rng);
        let values: Vec<Vec<f32>> = tensors::expected(&config)
            .iter()
            .map(|s| {
                let mut values = good.tensor(&s.name).unwrap().to_f32();
                if s.name.ends_with("q_proj.weight") {
                    values[5] = value;
                }
                values
            })
            .collect();
        let all = tensors::expected(&config).into_iter().zip(&values);
        let bad =
            Checkpoint::from_f32(config.clone(), all.map(|(s, v)| (s.name, s.shape, v.as_slice())), None).unwrap();
        for kind in kinds {
            let error = quantize(&bad, &path, *kind, 2, &mut |_, _| ()).unwrap_err().to_string();
            assert!(error.contains("q_proj.weight") && error.contains(&format!("{value}")), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stays behind");
    }
}

const SAMPLE: &str = "Grüße, 世界! 👩‍🚀 let x = 512;\n\tnext  line don't";

#[test]
fn tokenizers_are_read_back() {
    let text = "the cat sat on the mat\nwith a hat and a bat\n".repeat(20);
    let trained = Tokenizer::train_bpe(&text, 280).unwrap();
    let edit = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json: serde_json::Value = serde_json::from_slice(&trained.files()[0].1).unwrap();
        change(&mut json);
        Tokenizer::from_json(&json.to_string()).unwrap()
    };
    let smol = edit(&|json| {
        let digits = serde_json::json!({ "type": "Digits", "individual_digits": true });
        let level = json["pre_tokenizer"].clone();
        json["pre_tokenizer"] = serde_json::json!({ "type": "Sequence", "pretokenizers": [digits, level] });
    });
    let around = edit(&|json| {
        json["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<|endoftext|>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
            "special_tokens": { "<|endoftext|>": { "id": "<|endoftext|>", "ids": [json["added_tokens"][0]["id"]], "tokens": ["<|endoftext|>"] } },
        });
    });
    let other = edit(&|json| json["normalizer"] = serde_json::json!({ "type": "Lowercase" }));
    let mut rng = Rng(4);
    for (tokenizer, named) in
        [(Tokenizer::Bytes, true), (trained.clone(), true), (smol, true), (around, true), (other, false)]
    {
        for recipe in [Recipe::vanilla(), Recipe::plt(2)] {
            let config =
                ModelConfig { vocab_size: 300, eos_token_id: Some(TokenIds::One(7)), ..config_with(&mut rng, recipe) };
            let source = with_tokenizer(&config, &tokenizer, &mut rng);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("m.gguf");
            write(&source, &path, DType::F16);
            let again = Checkpoint::open(&path).unwrap();
            let found = again.tokenizer().unwrap();
            let ids = tokenizer.encode(SAMPLE).unwrap();
            assert_eq!(found.encode(SAMPLE).unwrap(), ids);
            assert_eq!(found.decode(&ids).unwrap(), tokenizer.decode(&ids).unwrap());
            assert_eq!(found.vocab_size(), tokenizer.vocab_size(), "rows without a token stay unknown");
            assert_eq!(again.config().eos_ids(), [7]);
            let keys = Container::read(Arc::new(std::fs::read(&path).unwrap())).unwrap().metadata;
            assert_eq!(keys.contains_key("tokenizer.ggml.tokens"), named);
            assert_eq!(keys.contains_key("tokenizer.huggingface.json"), !named);
        }
    }
}

/// A random model with a tokenizer.
fn with_tokenizer(config: &ModelConfig, tokenizer: &Tokenizer, rng: &mut Rng) -> Checkpoint {
    let model = checkpoint(config, rng);
    let values: Vec<(String, Vec<usize>, Vec<f32>)> = tensors::expected(config)
        .into_iter()
        .map(|s| (s.name.clone(), s.shape, model.tensor(&s.name).unwrap().to_f32()))
        .collect();
    let all = values.iter().map(|(n, s, v)| (n.clone(), s.clone(), v.as_slice()));
    Checkpoint::from_f32(config.clone(), all, Some(tokenizer.clone())).unwrap()
}

#[test]
fn sentencepiece_tokenizers_are_read_back() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sentencepiece"));
    let mut rng = Rng(9);
    let (mut written, mut refused) = (0, 0);
    for entry in std::fs::read_dir(folder).unwrap().flatten().filter(|e| e.path().extension().unwrap() == "model") {
        let pieces = Pieces::from_bytes(&std::fs::read(entry.path()).unwrap()).unwrap();
        for space_prefix in [SpacePrefix::Model, SpacePrefix::TextStart, SpacePrefix::Never] {
            let added = AddedToken {
                id: pieces.pieces.len() as u32 + 2,
                text: "<|turn|>".into(),
                special: true,
                lstrip: false,
                rstrip: false,
                single_word: false,
            };
            let conventions = Conventions { added: vec![added], add_bos: true, add_eos: false, space_prefix };
            let tokenizer = Tokenizer::from_pieces(pieces.clone(), conventions).unwrap();
            let config =
                ModelConfig { vocab_size: tokenizer.vocab_size() + 5, ..config_with(&mut rng, Recipe::vanilla()) };
            let source = with_tokenizer(&config, &tokenizer, &mut rng);
            let target = tempfile::tempdir().unwrap();
            let path = target.path().join("m.gguf");
            match quantize(&source, &path, DType::F16, 1, &mut |_, _| ()) {
                Err(error) => {
                    assert!(error.to_string().contains("cannot express"), "{error}");
                    refused += 1;
                }
                Ok(_) => {
                    let again = Checkpoint::open(&path).unwrap();
                    let found = again.tokenizer().unwrap();
                    for text in [SAMPLE, "  two  spaces ", "a<|turn|> b<|turn|>c", "", "Hello world, hello"] {
                        let ids = tokenizer.encode(text).unwrap();
                        assert_eq!(found.encode(text).unwrap(), ids, "{text:?} by {:?}", entry.path());
                        assert_eq!(found.decode(&ids).unwrap(), tokenizer.decode(&ids).unwrap());
                    }
                    assert_eq!(found.vocab_size(), tokenizer.vocab_size());
                    written += 1;
                }
            }
        }
    }
    assert!(written >= 9 && refused >= 3, "{written} written, {refused} refused");
}

/// The bytes of a small looped model with a tokenizer.
fn looped() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    write(&Golden::read("plt2").checkpoint, &path, DType::F16);
    std::fs::read(path).unwrap()
}

/// Opens bytes as a checkpoint.
fn open(bytes: &[u8]) -> Result<Checkpoint, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path).map_err(|e| e.to_string())
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let bytes = looped();
    let header = bytes.len().min(9000);
    for length in (0..header).chain((header..bytes.len() - 1).step_by(97)) {
        let error = Container::read(Arc::new(bytes[..length].to_vec()));
        // The padding after the last tensor may be missing.
        assert!(error.is_err() || bytes.len() - length < 32, "cut to {length}");
    }
    for length in [0, 3, 20, 500, bytes.len() / 2] {
        let error = open(&bytes[..length]).unwrap_err();
        assert!(error.contains("m.gguf") && error.len() < 400, "{error}");
    }
}

#[test]
fn flipped_bytes_never_crash_or_allocate_wildly() {
    let bytes = looped();
    let mut rng = Rng(17);
    let header = bytes.len().min(9000);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    for at in 0..header {
        let mut broken = bytes.clone();
        broken[at] ^= 1 << rng.range(0, 7);
        let _ = Container::read(Arc::new(broken.clone()));
        if at % 8 == 0 {
            for _ in 0..rng.range(0, 4) {
                broken[rng.range(0, header - 1)] = [0, 1, 0x7F, 0xFF][rng.range(0, 3)];
            }
            std::fs::write(&path, &broken).unwrap();
            if let Ok(model) = Checkpoint::open(&path) {
                for spec in tensors::expected(model.config()) {
                    assert_eq!(model.tensor(&spec.name).unwrap().to_f32().len(), spec.elements());
                }
            }
        }
    }
}

/// A header by hand: version, numbers of tensors and pairs, and what follows.
fn header(version: u32, tensors: u64, pairs: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(pairs.to_le_bytes());
    bytes.extend(rest);
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// A tensor's description.
fn tensor(name: &str, shape: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let mut bytes = text(name);
    bytes.extend((shape.len() as u32).to_le_bytes());
    shape.iter().for_each(|s| bytes.extend(s.to_le_bytes()));
    bytes.extend(kind.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

#[test]
fn impossible_headers_are_refused_in_one_sentence() {
    let zeros = vec![0u8; 4096];
    let file = |infos: &[Vec<u8>]| header(3, infos.len() as u64, 0, &[infos.concat(), zeros.clone()].concat());
    let pair = |key: &str, kind: u32, value: &[u8]| {
        header(3, 0, 1, &[text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat())
    };
    let number = |n: u32| n.to_le_bytes().to_vec();
    let nested = |depth: usize| {
        [
            [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat().repeat(depth),
            number(0),
            0u64.to_le_bytes().to_vec(),
        ]
        .concat()
    };
    let twice = [text("a"), number(4), number(1), text("a"), number(4), number(1)].concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"GGML".iter().chain(&zeros).copied().collect(), "no GGUF file"),
        (b"FUGG".iter().chain(&zeros).copied().collect(), "no GGUF file"),
        (header(1, 0, 0, &zeros), "version 1"),
        (header(4, 0, 0, &zeros), "version 4"),
        (header(3u32.swap_bytes(), 0, 0, &zeros), "big-endian"),
        (header(3, u64::MAX, 0, &zeros), "tensors"),
        (header(3, 1 << 40, 0, &zeros), "tensors"),
        (header(3, 0, u64::MAX, &zeros), "metadata pairs"),
        (pair("a", 99, &zeros), "unknown kind 99"),
        (pair("a", 7, &[2]), "truth value 2"),
        (pair("a", 8, &u64::MAX.to_le_bytes()), "bytes of text"),
        (pair("a", 8, &[3, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFE, 0xFD]), "UTF-8"),
        (pair("a", 9, &[number(8), u64::MAX.to_le_bytes().to_vec()].concat()), "values in an array"),
        (pair("a", 9, &[number(4), (1u64 << 62).to_le_bytes().to_vec()].concat()), "values in an array"),
        (pair("a", 9, &[number(77), vec![0; 8]].concat()), "unknown kind 77"),
        (pair("a", 9, &nested(100_000)), "nests"),
        (pair("general.alignment", 4, &number(24)), "power of two"),
        (pair("general.alignment", 4, &number(0)), "power of two"),
        (header(3, 0, 2, &twice), "twice"),
        (file(&[tensor("t", &[], 0, 0)]), "0 dimensions"),
        (file(&[tensor("t", &[1; 5], 0, 0)]), "5 dimensions"),
        (file(&[tensor("t", &[4, 0], 0, 0)]), "dimension of 0"),
        (file(&[tensor("t", &[u64::MAX, u64::MAX], 0, 0)]), "tensor t"),
        (file(&[tensor("t", &[1 << 40, 1 << 40], 0, 0)]), "absurd shape"),
        (file(&[tensor("t", &[32], 4, 0)]), "unknown"),
        (file(&[tensor("t", &[256], 20, 0)]), "IQ4_NL"),
        (file(&[tensor("t", &[40], 2, 0)]), "multiple of 32"),
        (file(&[tensor("t", &[4], 0, 7)]), "alignment"),
        (file(&[tensor("t", &[4], 0, 1 << 40)]), "file ends"),
        (file(&[tensor("t", &[4], 0, u64::MAX - 31)]), "file ends"),
        (file(&[tensor("t", &[1 << 20], 0, 0)]), "file ends"),
        (file(&[tensor("a", &[64], 0, 0), tensor("b", &[4], 0, 32)]), "overlaps"),
        (file(&[tensor("a", &[4], 0, 0), tensor("a", &[4], 0, 32)]), "two tensors"),
    ];
    for (bytes, words) in cases {
        let message = match Container::read(Arc::new(bytes)) {
            Ok(_) => panic!("{words}: was accepted"),
            Err(message) => message,
        };
        assert!(message.contains(words) && message.len() < 300, "expected \"{words}\": {message}");
    }
    assert_eq!(Container::read(Arc::new(file(&[tensor("t", &[2, 3], 0, 64)]))).unwrap().tensors["t"].shape, [3, 2]);
    assert!(Container::read(Arc::new(header(2, 0, 0, &[]))).unwrap().tensors.is_empty());
}

/// The looped golden as metadata and tensors, changed, written and opened.
fn changed(change: impl FnOnce(&mut Vec<(String, Value)>)) -> Result<Checkpoint, String> {
    let file = Container::read(Arc::new(looped())).unwrap();
    let mut metadata: Vec<(String, Value)> = file.metadata.into_iter().collect();
    change(&mut metadata);
    let mut tensors: Vec<_> = file.tensors.into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let entry = |(name, t): &(String, parloop_model::Tensor)| Entry {
        name: name.clone(),
        shape: t.shape.clone(),
        kind: t.dtype,
    };
    let entries: Vec<Entry> = tensors.iter().map(entry).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let mut writer = Writer::create(&path, &metadata, &entries).unwrap();
    tensors.iter().for_each(|(_, t)| writer.tensor(&t.bytes()).unwrap());
    writer.finish().unwrap();
    Checkpoint::open(&path).map_err(|e| e.to_string())
}

#[test]
fn a_recipe_that_is_not_whole_is_refused() {
    let golden = Golden::read("plt2").checkpoint;
    assert_eq!(changed(|_| ()).unwrap().config().recipe, golden.config().recipe);
    for key in [
        "num_loops",
        "loop.shift",
        "loop.add_embedding",
        "loop.embedding_scale",
        "loop.hidden_scale",
        "loop.norm",
        "loop.kv",
        "loop.local",
        "loop.local.left",
        "loop.local.gate",
    ] {
        let key = format!("parloop.{key}");
        let error = changed(|m| m.retain(|(k, _)| *k != key)).unwrap_err();
        assert!(error.contains(&key), "{key}: {error}");
        let error = changed(|m| m.iter_mut().filter(|(k, _)| *k == key).for_each(|p| p.1 = Value::U8(99))).err();
        // Numbers take numbers of any kind; the rest is refused.
        let number = ["num_loops", "scale", "left"].iter().any(|k| key.contains(k));
        assert!(error.map_or(number, |e| e.contains("99") || e.contains(&key)), "{key}");
    }
    let set = |key: &'static str, value: Value| {
        changed(move |m| {
            m.retain(|(k, _)| k != key);
            m.push((key.into(), value));
        })
    };
    for (key, value, words) in [
        ("parloop.loop.local", Value::Bool(false), "loop.local.left"),
        ("parloop.loop.add_embedding", Value::Bool(false), "embedding_scale"),
        ("parloop.loop.local.gate", Value::String("query".into()), "plt_gate"),
        ("parloop.loop.swing", Value::U32(1), "loop.swing"),
        ("parloop.logit_swing", Value::F32(2.0), "will not ignore"),
        ("parloop.logit_scale", Value::F32(2.0), "parloop.embedding_scale"),
        ("parloop.expert_count", Value::U32(8), "parloop.expert_feed_forward_length"),
        ("parloop.attention.head_count", Value::U32(0), "num_attention_heads"),
        ("parloop.attention.value_length", Value::U32(5), "value_length"),
        ("general.architecture", Value::String("llama".into()), "llama"),
        ("general.architecture", Value::String("mamba".into()), "mamba"),
        ("general.architecture", Value::U32(1), "general.architecture"),
        ("split.count", Value::U16(3), "3 parts"),
        ("tokenizer.ggml.model", Value::String("rwkv".into()), "rwkv"),
        ("tokenizer.ggml.model", Value::String("gpt2".into()), "tokenizer.ggml"),
        ("tokenizer.huggingface.json", Value::String("{}".into()), "tokenizer"),
    ] {
        let error = set(key, value.clone()).expect_err(key);
        let named = error.contains("m.gguf") || error.starts_with("tensor ");
        assert!(error.contains(words) && named, "{key} = {value:?}: {error}");
    }
    let template = set("tokenizer.chat_template", Value::String("{{ x }}".into())).unwrap();
    assert_eq!(template.settings().chat.as_ref().unwrap().template, "{{ x }}");
    assert_eq!(template.config().recipe.local.unwrap().gate, GateKind::Hidden);
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        ".{0,20}".prop_map(Value::String),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
        prop::collection::vec(".{0,8}", 0..9).prop_map(|v| Value::Array(Array::strings(v.iter().map(String::as_str)))),
        prop::collection::vec(any::<i32>(), 0..9).prop_map(|v| Value::Array(Array::i32s(v))),
        prop::collection::vec(any::<f32>(), 0..9).prop_map(|v| Value::Array(Array::f32s(v))),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(|v| Value::Array(Array::u8s(v))),
    ]
}

proptest! {
    #![proptest_config(parloop_testing::cases(256))]

    #[test]
    fn metadata_and_tensors_are_read_back_as_written(
        metadata in prop::collection::hash_map("[a-z.]{1,12}", values(), 0..12),
        shapes in prop::collection::vec((0..DType::ALL.len(), 1..4usize, 1..4usize), 0..9),
        seed in any::<u64>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        let metadata: Vec<(String, Value)> = metadata.into_iter().filter(|(k, _)| k != "general.alignment").collect();
        let entries: Vec<Entry> = shapes.iter().enumerate().map(|(i, (kind, rows, blocks))| {
            let kind = DType::ALL[*kind];
            Entry { name: format!("tensor.{i}"), shape: vec![*rows, blocks * kind.block().0], kind }
        }).collect();
        let mut rng = Rng(seed);
        let data: Vec<Vec<u8>> =
            entries.iter().map(|e| (0..e.bytes().unwrap()).map(|_| rng.bits() as u8).collect()).collect();
        let mut writer = Writer::create(&path, &metadata, &entries).unwrap();
        data.iter().for_each(|d| writer.tensor(d).unwrap());
        prop_assert_eq!(writer.finish().unwrap(), std::fs::metadata(&path).unwrap().len());
        let file = Container::read(Arc::new(std::fs::read(&path).unwrap())).unwrap();
        prop_assert_eq!(file.metadata.len(), metadata.len());
        for (key, value) in &metadata {
            // Bits rather than numbers: no number is lost that equals nothing.
            prop_assert_eq!(format!("{:?}", file.metadata[key]), format!("{value:?}"));
        }
        prop_assert_eq!(file.tensors.len(), entries.len());
        for (entry, data) in entries.iter().zip(&data) {
            let found = &file.tensors[&entry.name];
            prop_assert_eq!((found.dtype, &found.shape), (entry.kind, &entry.shape));
            prop_assert_eq!(found.bytes(), data.as_slice());
            prop_assert_eq!(found.to_f32().len(), entry.shape.iter().product::<usize>());
        }
    }
}

#[test]
fn a_writer_left_alone_leaves_the_older_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    std::fs::write(&path, "older").unwrap();
    let entry = Entry { name: "t".into(), shape: vec![2], kind: DType::F32 };
    let mut writer = Writer::create(&path, &[], std::slice::from_ref(&entry)).unwrap();
    assert!(writer.tensor(&[0; 7]).is_err());
    drop(writer);
    assert!(Writer::create(&path, &[], std::slice::from_ref(&entry)).unwrap().finish().is_err());
    let narrow = Entry { kind: DType::Q8_0, ..entry };
    assert!(Writer::create(&path, &[], &[narrow]).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"older");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
