//! Formats that come from outside: for each a function that takes any bytes, and valid samples to change.
//!
//! The functions are shared by `tests/untrusted.rs`, which runs them on seeded mutations, and by the targets of
//! cargo-fuzz in `fuzz/`. They ignore errors; what they must not do is panic, run on, or allocate without bound.

use crate::Rng;
use parloop_model::tokenizer::{Conventions, Pieces};
use parloop_model::{
    ChatSource, ChatTemplate, Checkpoint, Conversation, DType, Message, Recipe, Tokenizer, family, gguf, tensors,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One format.
pub struct Format {
    /// Its name, also that of the fuzz target.
    pub name: &'static str,
    /// Reads any bytes as this format.
    pub one: fn(&[u8]),
    /// Valid files, relative to the repository.
    samples: &'static [&'static str],
}

/// Every format.
pub const FORMATS: [Format; 7] = [
    Format {
        name: "safetensors",
        one: safetensors,
        samples: &["tests/families/llama/model.safetensors", "tests/goldens/plt2/model.safetensors"],
    },
    Format { name: "index", one: index, samples: &[] },
    Format { name: "gguf", one: gguf_file, samples: &[] },
    Format {
        name: "config",
        one: config,
        samples: &[
            "tests/families/llama-yarn/config.json",
            "tests/families/iquestpltcoder/config.json",
            "tests/families/iquestloopcoder/config.json",
            "tests/families/ouro-exit/config.json",
            "tests/families/nanbeige/config.json",
            "tests/goldens/plt2/config.json",
        ],
    },
    Format {
        name: "pieces",
        one: pieces,
        samples: &[
            "crates/parloop-model/tests/sentencepiece/bpe-bytes.model",
            "crates/parloop-model/tests/sentencepiece/unigram-nfkc.model",
        ],
    },
    Format { name: "tokenizer_json", one: tokenizer_json, samples: &[] },
    Format {
        name: "chat_template",
        one: chat_template,
        samples: &[
            "crates/parloop-model/tests/chat/llama3.jinja",
            "crates/parloop-model/tests/chat/qwen3.jinja",
            "crates/parloop-model/tests/chat/features.jinja",
        ],
    },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Format {
    /// Valid inputs.
    pub fn samples(&self) -> Vec<Vec<u8>> {
        match self.name {
            "index" => {
                vec![br#"{"metadata": {}, "weight_map": {"a": "a.safetensors", "b": "a.safetensors"}}"#.to_vec()]
            }
            "gguf" => vec![small_gguf()],
            "tokenizer_json" => {
                let trained = Tokenizer::train_bpe("the cat sat on the mat, the cat", 270).unwrap();
                trained.files().into_iter().map(|(_, bytes)| bytes).collect()
            }
            _ => self.samples.iter().map(|name| std::fs::read(root().join(name)).unwrap()).collect(),
        }
    }

    /// A sample with some changes, or nothing but random bytes.
    pub fn mutated(&self, samples: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
        if rng.range(0, 19) == 0 {
            return (0..rng.range(0, 200)).map(|_| rng.bits() as u8).collect();
        }
        let mut data = samples[rng.range(0, samples.len() - 1)].clone();
        for _ in 0..rng.range(1, 4) {
            // Most of what can go wrong stands at the beginning.
            let size = if rng.flip() { data.len() } else { data.len().min(2000) };
            if size == 0 {
                break;
            }
            let at = rng.range(0, size - 1);
            match rng.range(0, 5) {
                0 => data[at] = rng.bits() as u8,
                1 => data[at] ^= 1 << rng.range(0, 7),
                2 => data.truncate(at),
                3 => {
                    let end = (at + rng.range(1, 40)).min(data.len());
                    let piece = data[at..end].to_vec();
                    let to = rng.range(0, size - 1);
                    data.splice(to..to, piece);
                }
                4 => {
                    let end = (at + rng.range(1, 40)).min(data.len());
                    data.drain(at..end);
                }
                _ => {
                    const EXTREME: [&[u8]; 6] =
                        [&[0xFF; 8], &[0; 8], &[0xFF; 4], b"18446744073709551615", b"-1", b"1e999"];
                    let value = EXTREME[rng.range(0, 5)];
                    let end = (at + value.len()).min(data.len());
                    data.splice(at..end, value.iter().copied());
                }
            }
        }
        data
    }
}

/// A small model with a tokenizer as a GGUF file.
fn small_gguf() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let tokenizer = Tokenizer::train_bpe("the cat sat on the mat, the cat", 270).unwrap();
    let mut rng = Rng(5);
    let mut config = crate::config_with(&mut rng, Recipe::plt(2));
    config.vocab_size = 280;
    let values = crate::checkpoint(&config, &mut rng);
    let specs = tensors::expected(&config);
    let data: Vec<_> = specs.iter().map(|s| values.tensor(&s.name).unwrap().to_f32()).collect();
    let tensors = specs.into_iter().zip(&data).map(|(s, d)| (s.name, s.shape, d.as_slice()));
    let checkpoint = Checkpoint::from_f32(config, tensors, Some(tokenizer)).unwrap();
    gguf::quantize(&checkpoint, &path, DType::F16, 1, &mut |_, _| ()).unwrap();
    Checkpoint::open(&path).unwrap();
    std::fs::read(&path).unwrap()
}

/// The weights of a checkpoint.
pub fn safetensors(data: &[u8]) {
    let config = include_str!("../../../tests/families/llama/config.json");
    let _ = Checkpoint::from_parts(config, Arc::new(data.to_vec()), None);
}

/// The index of a checkpoint in shards.
pub fn index(data: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(root().join("tests/families/llama/config.json"), folder.path().join("config.json")).unwrap();
    std::fs::write(folder.path().join("model.safetensors.index.json"), data).unwrap();
    let _ = Checkpoint::open(folder.path());
}

/// A GGUF file.
pub fn gguf_file(data: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, data).unwrap();
    let _ = Checkpoint::open(&path);
}

/// A `config.json` of any family.
pub fn config(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = family::parse(text);
    }
}

/// A SentencePiece `tokenizer.model`.
pub fn pieces(data: &[u8]) {
    let tokenizer = Pieces::from_bytes(data).and_then(|p| Tokenizer::from_pieces(p, Conventions::default()));
    tokenizer.iter().for_each(use_tokenizer);
}

/// A `tokenizer.json`, which is then used.
pub fn tokenizer_json(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        Tokenizer::from_json(text).iter().for_each(use_tokenizer);
    }
}

fn use_tokenizer(tokenizer: &Tokenizer) {
    if let Ok(ids) = tokenizer.encode("The cat  sat.\n日本 é 🙂<s>") {
        let _ = tokenizer.decode(&ids);
    }
    let _ = tokenizer.decode(&[0, 1, 300, u32::MAX]);
}

/// A chat template, which is then used.
pub fn chat_template(data: &[u8]) {
    let source = ChatSource { template: String::from_utf8_lossy(data).into_owned(), ..ChatSource::default() };
    let messages = vec![Message::new("system", "Be brief."), Message::new("user", "Hello")];
    let conversation = Conversation { messages, add_generation_prompt: true, ..Conversation::default() };
    let _ = ChatTemplate::new(&source).and_then(|template| template.render(&conversation));
}
