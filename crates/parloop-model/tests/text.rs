//! What a model says about text is the same in every form of it, and read from wherever a folder says it.

use parloop_model::checkpoint::{CheckpointWriter, TensorCopy};
use parloop_model::config::TokenIds;
use parloop_model::tokenizer::sentencepiece::PieceKind;
use parloop_model::tokenizer::{AddedToken, Conventions, Pieces, SpacePrefix};
use parloop_model::{
    ChatSource, ChatTemplate, Checkpoint, Conversation, DType, GenerationDefaults, Message, ModelConfig, Recipe,
    TextSettings, Tokenizer, gguf, tensors,
};
use parloop_testing::{Rng, cases, config_with};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

const SAMPLES: [&str; 6] = [
    "Grüße, 世界! 👩‍🚀 let x = 512;\n\tnext  line don't",
    "  two  spaces ",
    "<|turn|>user\nHello<|turn|> <s></s>",
    "",
    "the cat sat on the mat 12345",
    "a\u{0}b\r\n",
];

/// A random checkpoint of a few numbers with this text side.
fn model(config: &ModelConfig, tokenizer: Option<Tokenizer>, settings: TextSettings) -> Checkpoint {
    let mut rng = Rng(1);
    let values: Vec<(String, Vec<usize>, Vec<f32>)> = tensors::expected(config)
        .into_iter()
        .map(|spec| {
            let values = (0..spec.elements()).map(|_| rng.range(0, 100) as f32 / 100.0).collect();
            (spec.name, spec.shape, values)
        })
        .collect();
    let all = values.iter().map(|(name, shape, values)| (name.clone(), shape.clone(), values.as_slice()));
    Checkpoint::from_f32(config.clone(), all, tokenizer).unwrap().with_settings(settings)
}

/// Writes a checkpoint as a folder.
fn to_folder(from: &Checkpoint, folder: &Path) {
    let writer = CheckpointWriter::create(folder).unwrap();
    let config = from.family().to_json(from.config(), from.notes()).unwrap();
    writer.file("config.json", config.as_bytes()).unwrap();
    from.text_files().iter().for_each(|(name, bytes)| writer.file(name, bytes).unwrap());
    let tensors: Vec<TensorCopy<'_>> = tensors::expected(from.config())
        .into_iter()
        .map(|spec| {
            let tensor = from.tensor(&spec.name).unwrap();
            TensorCopy { name: spec.name, dtype: DType::F32, tensor }
        })
        .collect();
    writer.weights(&tensors, None).unwrap();
    writer.finish().unwrap();
}

/// Ids with and without what begins a text, and the text that they decode to.
type Encoded = (Vec<u32>, Vec<u32>, String);

/// Everything about text that someone can notice.
#[derive(Debug, PartialEq)]
struct Noticed {
    ids: Vec<Option<Encoded>>,
    vocabulary: Option<usize>,
    special: Vec<u32>,
    ends: Vec<u32>,
    chats: Vec<Option<String>>,
    tokens: BTreeMap<String, String>,
    generation: GenerationDefaults,
}

fn noticed(checkpoint: &Checkpoint) -> Noticed {
    let tokenizer = checkpoint.tokenizer();
    let ids = |text: &&str| {
        let tokenizer = tokenizer?;
        let ids = tokenizer.encode(text).unwrap();
        let back = tokenizer.decode(&ids).unwrap();
        Some((ids, tokenizer.encode_bare(text).unwrap(), back))
    };
    let settings = checkpoint.settings();
    let chat = |tools: bool| {
        let messages = vec![Message::new("system", "Be brief."), Message::new("user", "Hello")];
        let tools = tools.then(|| vec![json!({ "name": "search" })]);
        let conversation = Conversation { messages, tools, add_generation_prompt: true, ..Conversation::default() };
        Some(ChatTemplate::new(settings.chat.as_ref()?).unwrap().render(&conversation).unwrap())
    };
    Noticed {
        ids: SAMPLES.iter().map(ids).collect(),
        vocabulary: tokenizer.map(Tokenizer::vocab_size),
        special: (0..checkpoint.config().vocab_size as u32)
            .filter(|id| tokenizer.is_some_and(|t| t.is_special(*id)))
            .collect(),
        ends: checkpoint.stops().ids().to_vec(),
        chats: vec![chat(false), chat(true)],
        tokens: settings.tokens.clone(),
        generation: GenerationDefaults { eos_token_id: None, ..settings.generation.clone() },
    }
}

/// A tokenizer of some kind.
fn tokenizer(rng: &mut Rng) -> Tokenizer {
    let added = |id: usize, text: &str, special: bool, rstrip: bool| {
        json!({ "id": id, "content": text, "special": special, "single_word": false, "lstrip": false,
                "rstrip": rstrip, "normalized": false })
    };
    match rng.range(0, 5) {
        0 => Tokenizer::Bytes,
        1 | 2 => {
            let trained = Tokenizer::train_bpe(&"the cat sat on the mat, the hat\n".repeat(9), 280).unwrap();
            let mut json: Value = serde_json::from_slice(&trained.files()[0].1).unwrap();
            let n = trained.vocab_size();
            let list = json["added_tokens"].as_array_mut().unwrap();
            list.push(added(n, "<s>", true, false));
            list.push(added(n + 1, "<|turn|>", rng.flip(), rng.range(0, 3) == 0));
            if rng.flip() {
                json["post_processor"] = json!({
                    "type": "TemplateProcessing",
                    "single": [{ "SpecialToken": { "id": "<s>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
                    "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
                    "special_tokens": { "<s>": { "id": "<s>", "ids": [n], "tokens": ["<s>"] } },
                });
            }
            match rng.range(0, 3) {
                0 => json["normalizer"] = json!({ "type": "NFC" }),
                1 => json["pre_tokenizer"]["add_prefix_space"] = true.into(),
                2 => {
                    json["truncation"] =
                        json!({ "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0 })
                }
                _ => {}
            }
            Tokenizer::from_json(&json.to_string()).unwrap()
        }
        3 => {
            // Bytes where no word fits, as in Llama 2.
            let mut vocab: serde_json::Map<String, Value> =
                ["<unk>", "<s>", "</s>"].into_iter().zip(0..).map(|(t, i)| (t.to_owned(), i.into())).collect();
            vocab.extend((0..256).map(|b| (format!("<0x{b:02X}>"), (b + 3).into())));
            vocab.extend(
                ["\u{2581}", "a", "t", "\u{2581}t", "at"].into_iter().zip(259..).map(|(t, i)| (t.to_owned(), i.into())),
            );
            let json = json!({
                "version": "1.0", "truncation": null, "padding": { "strategy": { "Fixed": 9 }, "direction": "Right",
                "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>" },
                "added_tokens": [added(0, "<unk>", true, false), added(1, "<s>", true, false), added(2, "</s>", true, false),
                    added(264, "<|turn|>", true, false)],
                "normalizer": { "type": "Sequence", "normalizers": [{ "type": "Prepend", "prepend": "\u{2581}" },
                    { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" }] },
                "pre_tokenizer": null, "post_processor": null,
                "decoder": { "type": "Sequence", "decoders": [
                    { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " }, { "type": "ByteFallback" },
                    { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 }] },
                "model": { "type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                    "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                    "vocab": vocab, "merges": ["\u{2581} t", "a t"] },
            });
            Tokenizer::from_json(&json.to_string()).unwrap()
        }
        _ => {
            let names = ["bpe-bytes", "bpe-spaces", "bpe-unused", "unigram-bytes", "unigram-nfkc", "unigram-suffix"];
            let name = names[rng.range(0, 5)];
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/sentencepiece/{name}.model"));
            let pieces = Pieces::from_bytes(&std::fs::read(path).unwrap()).unwrap();
            let turn = AddedToken {
                id: (pieces.pieces.len() + rng.range(0, 2)) as u32,
                text: "<|turn|>".into(),
                special: rng.flip(),
                lstrip: false,
                rstrip: rng.range(0, 3) == 0,
                single_word: false,
            };
            let control = pieces.pieces.iter().zip(0..).filter(|(piece, _)| piece.kind == PieceKind::Control);
            let control = control.map(|(piece, id)| AddedToken {
                id,
                text: piece.text.clone(),
                special: true,
                rstrip: false,
                ..turn.clone()
            });
            let prefixes = [SpacePrefix::Model, SpacePrefix::EveryFragment, SpacePrefix::TextStart, SpacePrefix::Never];
            let conventions = Conventions {
                added: control.chain([turn.clone()]).collect(),
                add_bos: rng.flip(),
                add_eos: rng.range(0, 3) == 0,
                space_prefix: prefixes[rng.range(0, 3)],
            };
            Tokenizer::from_pieces(pieces, conventions).unwrap()
        }
    }
}

fn settings(rng: &mut Rng, vocab_size: usize) -> TextSettings {
    let mut tokens = BTreeMap::new();
    for name in ["bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "image_token"] {
        if rng.flip() {
            let texts = ["<s>", "</s>", "<|turn|>", "<|endoftext|>", "[NOWHERE]"];
            tokens.insert(name.to_owned(), texts[rng.range(0, 4)].to_owned());
        }
    }
    let templates = [
        "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}{% endfor %}{{ eos_token }}",
        "{% for m in messages %}\r\n{{ '%s: %s' % (m.role, m.content) }}{{ image_token }}\r\n{% endfor %}<|im_end|>",
        "ü{{ messages[0].content }}",
    ];
    let chat = rng.flip().then(|| ChatSource {
        template: templates[rng.range(0, 2)].into(),
        tool_use: rng.flip().then(|| templates[rng.range(0, 2)].into()),
        tokens: tokens.clone(),
    });
    let number = |rng: &mut Rng| rng.flip().then(|| rng.range(1, 999) as f32 / 1000.0);
    let generation = GenerationDefaults {
        do_sample: rng.flip().then(|| rng.flip()),
        temperature: number(rng),
        top_k: rng.flip().then(|| rng.range(0, 100)),
        top_p: number(rng),
        min_p: number(rng),
        repetition_penalty: number(rng),
        max_new_tokens: rng.flip().then(|| rng.range(1, 5000)),
        eos_token_id: rng.flip().then(|| TokenIds::Many(vec![rng.range(0, vocab_size - 1) as u32, 3])),
    };
    TextSettings { tokens, chat, generation, ..TextSettings::default() }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn converting_any_way_round_changes_nothing_about_text(seed: u64) {
        let rng = &mut Rng(seed);
        let tokenizer = (rng.range(0, 9) > 0).then(|| tokenizer(rng));
        let known = tokenizer.as_ref().map_or(260, Tokenizer::vocab_size);
        let recipe = if rng.flip() { Recipe::vanilla() } else { Recipe::plt(2) };
        let mut config = config_with(rng, recipe);
        config.vocab_size = known + rng.range(0, 9);
        config.eos_token_id = rng.flip().then_some(TokenIds::One(2));
        config.bos_token_id = rng.flip().then_some(1);
        let mut settings = settings(rng, config.vocab_size);
        if tokenizer.is_none() {
            // Names of tokens belong to a tokenizer.
            settings.tokens.clear();
            settings.chat.iter_mut().for_each(|chat| { chat.tokens.clear(); chat.tool_use = None; });
        }
        let mut at = model(&config, tokenizer, settings);
        let first = noticed(&at);
        let folder = tempfile::tempdir().unwrap();
        for step in 0..3 {
            let path = folder.path().join(format!("{step}"));
            if rng.flip() {
                to_folder(&at, &path);
            } else if let Err(e) = gguf::quantize(&at, &path, DType::F32, 1, &mut |_, _| ()) {
                // Not everything goes into that form, and then it says what does not.
                prop_assert!(e.to_string().contains("cannot express"), "{}", e);
                continue;
            }
            at = Checkpoint::open(&path).unwrap();
            prop_assert_eq!(&noticed(&at), &first, "step {}, {}", step, path.is_file());
        }
    }
}

/// A folder with a byte-level tokenizer.json and these files beside it.
fn folder(vocab_size: usize, files: &[(&str, Value)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("m");
    let config = ModelConfig { vocab_size, eos_token_id: None, ..config_with(&mut Rng(3), Recipe::vanilla()) };
    to_folder(&model(&config, None, TextSettings::default()), &target);
    for (name, content) in files {
        let text = content.as_str().map_or_else(|| content.to_string(), str::to_owned);
        std::fs::write(target.join(name), text).unwrap();
    }
    folder
}

/// Bytes are ids 0 to 255, "ab" is 256, "<|im_end|>" 257 (of the vocabulary only), "<eos>" 258.
fn byte_level() -> Value {
    let trained = Tokenizer::train_bpe("x", 257).unwrap();
    let mut json: Value = serde_json::from_slice(&trained.files()[0].1).unwrap();
    let vocab = json["model"]["vocab"].as_object_mut().unwrap();
    let order: Vec<String> = vocab.keys().cloned().collect();
    vocab.clear();
    vocab.extend(order.into_iter().filter(|t| t.chars().count() == 1).zip(0..).map(|(t, i)| (t, i.into())));
    assert_eq!(vocab.len(), 256);
    vocab.extend(["ab", "<|im_end|>", "<eos>"].into_iter().zip(256..).map(|(t, i)| (t.to_owned(), i.into())));
    json["model"]["merges"] = json!(["a b"]);
    json["added_tokens"] = json!([{ "id": 258, "content": "<eos>", "special": true, "single_word": false,
                                    "lstrip": false, "rstrip": false, "normalized": false }]);
    json
}

#[test]
fn tokens_named_anywhere_are_one_id_each() {
    let special = "<|im_end|>";
    for files in [
        vec![("tokenizer_config.json", json!({ "eos_token": special }))],
        vec![("tokenizer_config.json", json!({ "eos_token": { "content": special, "lstrip": false } }))],
        vec![("tokenizer_config.json", json!({ "additional_special_tokens": [special] }))],
        vec![("tokenizer_config.json", json!({ "extra_special_tokens": { "turn_token": special } }))],
        vec![("special_tokens_map.json", json!({ "eos_token": special }))],
        vec![("special_tokens_map.json", json!({ "additional_special_tokens": [{ "content": special }] }))],
        vec![(
            "tokenizer_config.json",
            json!({ "added_tokens_decoder": { "257": { "content": special, "special": true } } }),
        )],
    ] {
        let folder = folder(300, &[&files[..], &[("tokenizer.json", byte_level())]].concat());
        let checkpoint = Checkpoint::open(&folder.path().join("m")).unwrap();
        let tokenizer = checkpoint.tokenizer().unwrap();
        let ids = tokenizer.encode("ab<|im_end|>ab").unwrap();
        assert_eq!(ids, [256, 257, 256], "{files:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), "abab", "{files:?}");
        assert_eq!(tokenizer.vocab_size(), 259);
    }
    let more = json!({ "added_tokens_decoder": { "259": { "content": "FOO", "special": false }, "260": { "content": "BAR", "special": true } } });
    for files in [[("tokenizer_config.json", more)], [("added_tokens.json", json!({ "FOO": 259, "BAR": 260 }))]] {
        let folder = folder(300, &[&files[..], &[("tokenizer.json", byte_level())]].concat());
        let checkpoint = Checkpoint::open(&folder.path().join("m")).unwrap();
        assert_eq!(checkpoint.tokenizer().unwrap().encode("abFOOBAR").unwrap(), [256, 259, 260]);
    }
    // A gap would move the ids: said, not silently done.
    let gap = json!({ "added_tokens_decoder": { "270": { "content": "FOO" } } });
    let folder = folder(300, &[("tokenizer.json", byte_level()), ("tokenizer_config.json", gap)]);
    let message = Checkpoint::open(&folder.path().join("m")).unwrap_err().to_string();
    assert!(message.contains("FOO") && message.contains("270") && message.contains("259"), "{message}");
    for (name, content) in [("added_tokens.json", json!({ "FOO": -1 })), ("special_tokens_map.json", json!([]))] {
        let folder = self::folder(300, &[("tokenizer.json", byte_level()), (name, content)]);
        let message = Checkpoint::open(&folder.path().join("m")).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn what_a_training_run_left_in_a_tokenizer_changes_no_text() {
    let mut json = byte_level();
    json["truncation"] = json!({ "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 });
    json["padding"] = json!({ "strategy": { "Fixed": 40 }, "direction": "Left", "pad_to_multiple_of": null, "pad_id": 0,
                              "pad_type_id": 0, "pad_token": "!" });
    let tokenizer = Tokenizer::from_json(&json.to_string()).unwrap();
    assert_eq!(tokenizer.encode("abcabc").unwrap().len(), 4);
    assert_eq!(tokenizer.encode(&"xyz".repeat(50)).unwrap().len(), 150);
    let (_, written) = &tokenizer.files()[0];
    let written: Value = serde_json::from_slice(written).unwrap();
    assert!(written["truncation"].is_null() && written["padding"].is_null());
}

#[test]
fn added_tokens_without_an_embedding_are_never_used() {
    let mut json = byte_level();
    json["added_tokens"].as_array_mut().unwrap().push(json!({ "id": 259, "content": "[PAD]", "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false }));
    let declared = json!({ "pad_token": "[PAD]", "mask_token": "[MASK]", "added_tokens_decoder": { "260": { "content": "[NEW]" } } });
    let files = [("tokenizer.json", json.clone()), ("tokenizer_config.json", declared)];
    let open = |size: usize| {
        let folder = folder(size, &files);
        Checkpoint::open(&folder.path().join("m"))
    };
    let ids = |size: usize| open(size).unwrap().tokenizer().unwrap().encode("ab[PAD]").unwrap();
    assert_eq!(ids(300), [256, 259]);
    assert_eq!(open(300).unwrap().tokenizer().unwrap().vocab_size(), 261);
    // Without a row for it, it is text like any other.
    let spelled = ids(259);
    assert_eq!(spelled.len(), 6);
    assert!(spelled.iter().all(|id| *id < 259));
    assert_eq!(open(259).unwrap().tokenizer().unwrap().vocab_size(), 259);
    // A vocabulary that is larger belongs to another model.
    let message = open(250).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json") && message.contains("250"), "{message}");
    // In the form of GGUF too.
    let wide = open(300).unwrap();
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("m.gguf");
    gguf::quantize(&wide, &path, DType::F32, 1, &mut |_, _| ()).unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().tokenizer().unwrap().encode("ab[PAD]").unwrap(), [256, 259]);
}

#[test]
fn what_people_say_ends_no_turn() {
    let template =
        "{{ bos_token }}{% for m in messages %}<|im_end|>{{ m.role }}: {{ m.content | trim }}{% endfor %}<|im_end|>";
    let config = json!({ "eos_token": "<|im_end|>", "chat_template": template, "bos_token": "<eos>" });
    let folder = folder(300, &[("tokenizer.json", byte_level()), ("tokenizer_config.json", config)]);
    let checkpoint = Checkpoint::open(&folder.path().join("m")).unwrap();
    let (tokenizer, template) = (checkpoint.tokenizer().unwrap(), checkpoint.chat_template().unwrap().unwrap());
    let said = |role: &str, text: &str| {
        let messages = vec![Message::new(role, text)];
        let conversation = Conversation { messages, ..Conversation::default() };
        let rendered = template.render_literal(&conversation, tokenizer).unwrap();
        assert_eq!(rendered.text, template.render(&conversation).unwrap());
        rendered.ids(0, tokenizer).unwrap()
    };
    let count = |ids: &[u32], id: u32| ids.iter().filter(|i| **i == id).count();
    for text in ["x", " <|im_end|> ", "ab<|im_end|><eos>ab", "<|im_<|im_end|>end|>", "<eos>", "\u{FDD0}<eos>"] {
        let ids = said("user", text);
        assert_eq!((count(&ids, 257), count(&ids, 258)), (2, 1), "{text}");
        // And nothing of it is lost or added.
        let special = |id: u32| if id == 257 { "<|im_end|>".to_owned() } else { "<eos>".into() };
        let read: String = ids
            .iter()
            .flat_map(|id| if tokenizer.is_special(*id) { vec![special(*id)] } else { vec![format!("\u{1}{id}\u{1}")] })
            .collect();
        let spelled: Vec<u32> = read.split('\u{1}').filter_map(|part| part.parse().ok()).collect();
        assert_eq!(tokenizer.decode(&spelled).unwrap(), format!("user: {}", text.trim()));
    }
    // What the model itself said stays what it was.
    assert_eq!(count(&said("assistant", "a<|im_end|>b"), 257), 3);
    // A piece of the text, as when only what is new goes through the model.
    let conversation = Conversation { messages: vec![Message::new("user", "<eos>ab")], ..Conversation::default() };
    let rendered = template.render_literal(&conversation, tokenizer).unwrap();
    let from = rendered.text.find("<eos>ab").unwrap();
    assert_eq!(
        rendered.ids(from, tokenizer).unwrap(),
        [&tokenizer.encode("<").unwrap()[..], &tokenizer.encode("eos>ab").unwrap(), &[257]].concat()
    );
}

#[test]
fn a_sentencepiece_folder_says_its_special_tokens_in_several_files() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sentencepiece/bpe-bytes.model");
    let bytes = std::fs::read(path).unwrap();
    let pieces = Pieces::from_bytes(&bytes).unwrap();
    let n = pieces.pieces.len();
    let folder = folder(
        n + 2,
        &[
            ("added_tokens.json", json!({ "<|turn|>": n })),
            ("special_tokens_map.json", json!({ "eos_token": "</s>", "additional_special_tokens": ["<|nowhere|>"] })),
            (
                "tokenizer_config.json",
                json!({ "add_bos_token": false, "added_tokens_decoder": {
            (n + 1).to_string(): { "content": "<|new|>", "special": true },
            (n + 2).to_string(): { "content": "<|beyond|>", "special": true } } }),
            ),
        ],
    );
    let target = folder.path().join("m");
    std::fs::write(target.join("tokenizer.model"), bytes).unwrap();
    let checkpoint = Checkpoint::open(&target).unwrap();
    let tokenizer = checkpoint.tokenizer().unwrap();
    let id = |text: &str| tokenizer.id(text);
    assert_eq!((id("<|turn|>"), id("<|new|>"), id("<|beyond|>")), (Some(n as u32), Some(n as u32 + 1), None));
    assert_eq!(tokenizer.encode("</s><|turn|><|new|>").unwrap().iter().filter(|id| **id >= n as u32).count(), 2);
    assert!(tokenizer.encode("</s>").unwrap().contains(&id("</s>").unwrap()));
    assert!(checkpoint.stops().contains(id("</s>").unwrap()));
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_file() {
    let marked = |value: Value| Value::String(format!("\u{FEFF}{value}"));
    let folder = folder(
        300,
        &[
            ("tokenizer.json", marked(byte_level())),
            ("tokenizer_config.json", marked(json!({ "eos_token": "<|im_end|>" }))),
            ("generation_config.json", marked(json!({ "top_k": 5 }))),
            ("chat_template.jinja", Value::String("\u{FEFF}{{ messages[0].content }}".into())),
        ],
    );
    let checkpoint = Checkpoint::open(&folder.path().join("m")).unwrap();
    assert_eq!(checkpoint.settings().generation.top_k, Some(5));
    let conversation = Conversation { messages: vec![Message::new("user", "x")], ..Conversation::default() };
    assert_eq!(checkpoint.chat_template().unwrap().unwrap().render(&conversation).unwrap(), "x");
}
