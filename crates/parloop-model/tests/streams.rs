//! Ids to text: all at once, one after the other, and going on from a prompt, for every kind of tokenizer.

use parloop_model::tokenizer::{Conventions, Pieces};
use parloop_model::{Tokenizer, tokenizer::AddedToken};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

/// A kind of tokenizer, and the library's own form of it, if it has one.
struct Kind {
    name: String,
    tokenizer: Tokenizer,
    library: Option<tokenizers::Tokenizer>,
    /// Ids of the 256 byte tokens, if the decoder knows them.
    bytes: Option<Vec<u32>>,
}

fn added(id: usize, text: &str, special: bool) -> Value {
    json!({ "id": id, "content": text, "special": special, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false })
}

/// A tokenizer with tokens of every look, and a decoder.
fn with_decoder(name: &str, decoder: Value) -> Kind {
    let mut texts: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
    let further = [
        "<unk>",
        "a",
        "the",
        "\u{2581}",
        "\u{2581}the",
        "\u{2581}\u{2581}x",
        "##b",
        "##",
        "c</w>",
        "</w>",
        "\u{4e2d}",
        "\u{e9}",
        " ",
        "  d",
        "e ",
        "\u{120}the",
        "\u{c3}",
        "\u{a9}",
        "\u{e4}\u{b8}",
        "\u{143}",
        "\u{fffd}",
        "|",
        ".",
        "'",
        " n't",
        "<0xZZ>",
        "\n",
    ];
    texts.extend(further.map(str::to_owned));
    let vocab: serde_json::Map<String, Value> = texts.iter().zip(0..).map(|(t, i)| (t.clone(), i.into())).collect();
    let n = texts.len();
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": decoder,
        "added_tokens": [added(n, "<s>", true), added(n + 1, "<|turn|>", true), added(n + 2, "user \u{4e2d}", false)],
        "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "<unk>" },
    });
    Kind {
        name: name.into(),
        tokenizer: Tokenizer::from_json(&json.to_string()).unwrap(),
        library: Some(json.to_string().parse().unwrap()),
        bytes: decoder.to_string().contains("ByteFallback").then(|| (0..256).collect()),
    }
}

static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let replace = |a: &str, b: &str| json!({ "type": "Replace", "pattern": { "String": a }, "content": b });
    let strip = |start: usize, stop: usize| json!({ "type": "Strip", "content": " ", "start": start, "stop": stop });
    let (bytes, fuse) = (json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" }));
    let of = |decoders: &[&Value]| json!({ "type": "Sequence", "decoders": decoders });
    let level = json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
    let space = replace("\u{2581}", " ");
    let meta = |scheme: &str| json!({ "type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true });
    let mut kinds = vec![
        with_decoder("none", Value::Null),
        with_decoder("bytes of GPT-2", level.clone()),
        with_decoder("Llama 2", of(&[&space, &bytes, &fuse, &strip(1, 0)])),
        with_decoder("Gemma", of(&[&space, &bytes, &fuse])),
        with_decoder("bytes alone", bytes.clone()),
        with_decoder("more spaces", of(&[&space, &bytes, &fuse, &strip(3, 0)])),
        with_decoder("Metaspace", meta("always")),
        with_decoder("Metaspace in between", meta("never")),
        with_decoder("BERT", json!({ "type": "WordPiece", "prefix": "##", "cleanup": true })),
        with_decoder("words with ends", json!({ "type": "BPEDecoder", "suffix": "</w>" })),
        with_decoder(
            "sounds",
            json!({ "type": "CTC", "pad_token": "|", "word_delimiter_token": ".", "cleanup": true }),
        ),
        with_decoder("a pattern across tokens", of(&[&fuse, &replace("ab", "x")])),
        with_decoder("stripped each", of(&[&strip(1, 0), &space])),
    ];
    let other = |name: &str, tokenizer: Tokenizer, bytes| Kind { name: name.into(), tokenizer, library: None, bytes };
    kinds.push(other("bytes", Tokenizer::Bytes, Some((0..256).collect())));
    kinds.push(other("trained", Tokenizer::train_bpe(&"the cat, the hat\n".repeat(9), 270).unwrap(), None));
    for name in ["bpe-bytes", "unigram-nfkc"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/sentencepiece/{name}.model"));
        let pieces = Pieces::from_bytes(&std::fs::read(path).unwrap()).unwrap();
        let byte = |b: usize| pieces.pieces.iter().position(|p| p.text == format!("<0x{b:02X}>")).map(|i| i as u32);
        let bytes = (0..256).map(byte).collect();
        let turn = AddedToken {
            id: pieces.pieces.len() as u32 + 2,
            text: "<|turn|>".into(),
            special: true,
            lstrip: false,
            rstrip: false,
            single_word: false,
        };
        let conventions = Conventions { added: vec![turn], add_bos: true, ..Conventions::default() };
        kinds.push(other(name, Tokenizer::from_pieces(pieces, conventions).unwrap(), bytes));
    }
    kinds
});

/// Ids as models write them: any, and characters spelled in bytes.
fn ids() -> impl Strategy<Value = Vec<Result<u32, char>>> {
    prop::collection::vec(prop_oneof![3 => any::<u32>().prop_map(Ok), 1 => any::<char>().prop_map(Err)], 0..24)
}

impl Kind {
    fn ids(&self, drawn: &[Result<u32, char>]) -> Vec<u32> {
        let mut ids = Vec::new();
        for one in drawn {
            match (one, &self.bytes) {
                (Ok(n), _) => ids.push(n % self.tokenizer.vocab_size() as u32),
                (Err(c), Some(bytes)) => {
                    ids.extend(c.to_string().bytes().map(|b| bytes[usize::from(b)]));
                }
                (Err(_), None) => {}
            }
        }
        ids
    }

    /// Whether byte tokens in a row are whole characters, as far as special tokens do not part them.
    fn whole_characters(&self, ids: &[u32]) -> bool {
        let Some(bytes) = &self.bytes else { return true };
        let of: BTreeMap<u32, u8> = bytes.iter().copied().zip(0..=255).collect();
        let (mut run, mut whole) = (Vec::new(), true);
        for id in ids.iter().filter(|id| !self.tokenizer.is_special(**id)) {
            match of.get(id) {
                Some(byte) => run.push(*byte),
                None => whole &= String::from_utf8(std::mem::take(&mut run)).is_ok(),
            }
        }
        whole && String::from_utf8(run).is_ok()
    }
}

fn streamed(mut stream: parloop_model::tokenizer::TextStream<'_>, ids: &[u32]) -> String {
    let text: String = ids.iter().map(|id| stream.push(*id).unwrap()).collect();
    text + &stream.finish().unwrap()
}

proptest! {
    #![proptest_config(parloop_testing::cases(400))]

    #[test]
    fn a_stream_shows_what_decoding_the_whole_gives(drawn in ids(), cut in any::<prop::sample::Index>()) {
        for kind in KINDS.iter() {
            let (ids, name) = (kind.ids(&drawn), &kind.name);
            let whole = kind.tokenizer.decode(&ids).unwrap();
            prop_assert_eq!(&streamed(kind.tokenizer.stream(), &ids), &whole, "{}", name);
            if let Some(library) = kind.library.as_ref().filter(|_| kind.whole_characters(&ids)) {
                prop_assert_eq!(&whole, &library.decode(&ids, true).unwrap(), "{} against the library", name);
            }
            // A prompt ends anywhere. What it shows, and what follows, are the whole; a character that the prompt
            // leaves unfinished is shown when it is whole.
            let (prompt, rest) = ids.split_at(cut.index(ids.len() + 1));
            let shown = kind.tokenizer.decode(prompt).unwrap();
            let further = streamed(kind.tokenizer.stream_after(prompt).unwrap(), rest);
            let mut settled = (0..4).scan(shown.as_str(), |text, n| {
                *text = if n == 0 { text } else { text.strip_suffix('\u{FFFD}')? };
                Some(format!("{text}{further}"))
            });
            let is_whole = settled.any(|text| text == whole);
            let changes = ["sounds", "a pattern across tokens"].contains(&name.as_str());
            prop_assert!(is_whole || changes, "{}: {:?} then {:?}, expected {:?}", name, shown, further, whole);
        }
    }
}

#[test]
fn characters_in_bytes_come_one_by_one() {
    let kind = KINDS.iter().find(|kind| kind.name == "Llama 2").unwrap();
    let mut stream = kind.tokenizer.stream();
    let shown: Vec<String> = "中文é".bytes().map(|b| stream.push(u32::from(b)).unwrap()).collect();
    assert_eq!(shown, ["", "", "中", "", "", "文", "", "é"]);
    // A prompt that ends within a character, and within a run of them.
    let ids: Vec<u32> = "中文é".bytes().map(u32::from).collect();
    for (cut, rest) in [(1, "中文é"), (3, "文é"), (5, "文é"), (7, "é"), (8, "")] {
        assert_eq!(streamed(kind.tokenizer.stream_after(&ids[..cut]).unwrap(), &ids[cut..]), rest, "after {cut}");
    }
}

#[test]
fn the_ends_of_a_text_are_stripped_when_they_are_known() {
    let strip = json!({ "type": "Sequence", "decoders": [{ "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 2 }] });
    let kind = with_decoder("stripped", strip);
    let id = |text: &str| kind.tokenizer.id(text).unwrap();
    let (space, d, e) = (id(" "), id("  d"), id("e "));
    for (ids, text) in [
        (vec![space, d, e], "  de"),
        (vec![e, space, space], "e "),
        (vec![space], ""),
        (vec![e, space, e, space], "e  e"),
        (vec![], ""),
    ] {
        assert_eq!(kind.tokenizer.decode(&ids).unwrap(), text, "{ids:?}");
    }
}
