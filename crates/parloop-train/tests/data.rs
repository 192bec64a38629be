//! Texts, token files and windows.

mod common;

use common::{Place, job, names, run, small};
use parloop_model::Tokenizer;
use parloop_train::TrainOptions;
use parloop_train::data::{Source, TokenFile, Windows};
use std::fs;

#[test]
fn a_folder_is_read_in_order_and_its_end_validates() {
    let place = Place::new();
    let folder = place.path("texts");
    fs::create_dir_all(folder.join("b")).unwrap();
    for (name, text) in [("c.txt", "333"), ("a.txt", "11é"), ("b/z.txt", "2222"), (".hidden", "no")] {
        fs::write(folder.join(name), text).unwrap();
    }
    let source = Source::open(&folder).unwrap();
    assert_eq!(source.bytes(), 11);
    let tokens = TokenFile::prepare(&source, &Tokenizer::Bytes, 0.3, &place.path("tokens")).unwrap();
    let all: Vec<u8> = tokens.ids(0..99).iter().map(|id| *id as u8).collect();
    assert_eq!(String::from_utf8(all).unwrap(), "11é2222333");
    assert_eq!((tokens.train(), tokens.val(), tokens.val_bytes()), (7, 4, 4));
    // A cut inside a character moves behind it.
    let tokens = TokenFile::prepare(&source, &Tokenizer::Bytes, 8.0 / 11.0, &place.path("tokens")).unwrap();
    assert_eq!(tokens.train(), 4);
    assert!(tokens.ids(50..60).is_empty());
}

#[test]
fn documents_end_with_the_end_mark() {
    let place = Place::new();
    let tokenizer = Tokenizer::train_bpe(&fs::read_to_string(place.text()).unwrap(), 280).unwrap();
    let folder = place.path("texts");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("1"), "loop token\n").unwrap();
    fs::write(folder.join("2"), "gate window\n").unwrap();
    let source = Source::open(&folder).unwrap();
    let tokens = TokenFile::prepare(&source, &tokenizer, 0.0, &place.path("tokens")).unwrap();
    let (ids, end) = (tokens.ids(0..tokens.train()), tokenizer.end_of_text().unwrap());
    assert_eq!(ids.iter().filter(|id| **id == end).count(), 2);
    assert_eq!(ids.last(), Some(&end));
    assert_eq!(tokenizer.decode(&ids).unwrap(), "loop token\ngate window\n");
}

/// A tokenizer of bytes that puts 256 before a text and, if asked to, 257 after it.
fn around(before: bool, after: bool) -> Tokenizer {
    let trained = Tokenizer::train_bpe("x", 257).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&trained.files()[0].1).unwrap();
    let added = |id: u32, text: &str| {
        serde_json::json!({ "id": id, "content": text, "special": true, "single_word": false, "lstrip": false,
                            "rstrip": false, "normalized": false })
    };
    json["added_tokens"] = serde_json::json!([added(256, "<s>"), added(257, "</s>")]);
    let token = |text: &str| serde_json::json!({ "SpecialToken": { "id": text, "type_id": 0 } });
    let mut single = vec![serde_json::json!({ "Sequence": { "id": "A", "type_id": 0 } })];
    if before {
        single.insert(0, token("<s>"));
    }
    if after {
        single.push(token("</s>"));
    }
    json["post_processor"] = serde_json::json!({
        "type": "TemplateProcessing", "single": single,
        "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 1 } }],
        "special_tokens": { "<s>": { "id": "<s>", "ids": [256], "tokens": ["<s>"] },
                            "</s>": { "id": "</s>", "ids": [257], "tokens": ["</s>"] } },
    });
    json["truncation"] =
        serde_json::json!({ "direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0 });
    Tokenizer::from_json(&json.to_string()).unwrap()
}

#[test]
fn a_document_begins_once_and_ends_once() {
    let place = Place::new();
    let folder = place.path("texts");
    fs::create_dir(&folder).unwrap();
    // Longer than what is tokenised at a time; a byte-order mark is no part of the text.
    let long = "a line of text\n".repeat(40_000);
    fs::write(folder.join("1"), format!("\u{FEFF}{long}")).unwrap();
    fs::write(folder.join("2"), "short\n").unwrap();
    fs::write(folder.join("3"), "").unwrap();
    let source = Source::open(&folder).unwrap();
    for (before, after) in [(true, true), (true, false), (false, false)] {
        for fraction in [0.0, 0.3, 1e-5] {
            let tokenizer = around(before, after);
            let tokens = TokenFile::prepare(&source, &tokenizer, fraction, &place.path("tokens")).unwrap();
            let ids = tokens.ids(0..tokens.train() + tokens.val());
            let bare = |text: &str| tokenizer.encode_bare(text).unwrap();
            let (bos, eos) = (vec![256; usize::from(before)], vec![257; usize::from(after)]);
            let one = |text: &str| [&bos[..], &bare(text), &eos].concat();
            assert_eq!(ids, [one(&long), one("short\n")].concat(), "{before} {after} {fraction}");
        }
    }
}

#[test]
fn a_run_is_not_written_into_its_own_text() {
    let place = Place::new();
    let folder = place.path("texts");
    fs::create_dir_all(folder.join("b")).unwrap();
    fs::write(folder.join("a"), "text").unwrap();
    let source = Source::open(&folder).unwrap();
    for inside in ["", "out", "b/c/out", "b/../out", "./b"] {
        let message = source.refuse_inside(&folder.join(inside)).unwrap_err().to_string();
        assert!(message.contains("folder outside") && message.contains("texts"), "{message}");
    }
    for outside in ["texts-2", "texts/../out", "out"] {
        source.refuse_inside(&place.path(outside)).unwrap();
    }
    Source::open(&folder.join("a")).unwrap().refuse_inside(&folder.join("out")).unwrap();
    let link = place.path("link");
    std::os::unix::fs::symlink(folder.join("b"), &link).unwrap();
    assert!(source.refuse_inside(&link.join("out")).is_err());
}

#[test]
fn a_token_file_is_used_again_only_for_the_same_source() {
    let place = Place::new();
    let path = place.path("tokens");
    let prepare = |fraction| {
        let source = Source::open(&place.text()).unwrap();
        TokenFile::prepare(&source, &Tokenizer::Bytes, fraction, &path).unwrap()
    };
    let first = prepare(0.1);
    let written = fs::metadata(&path).unwrap().modified().unwrap();
    assert_eq!(prepare(0.1).content(), first.content());
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written);
    assert_ne!(prepare(0.2).val(), first.val());
    // A file that is cut, or whose header is changed, is made again.
    for damage in [|b: &mut Vec<u8>| b.truncate(100), |b: &mut Vec<u8>| b[24] ^= 1, |b: &mut Vec<u8>| b.clear()] {
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, bytes).unwrap();
        assert_eq!(prepare(0.1).content(), first.content());
    }
    fs::write(place.text(), "another text").unwrap();
    assert_eq!(prepare(0.0).train(), 12);
    assert_eq!(names(place.folder.path()), ["text.txt", "tokens"]);
}

#[test]
fn windows_are_drawn_by_index_and_stay_inside() {
    let place = Place::new();
    let source = Source::open(&place.text()).unwrap();
    let tokens = TokenFile::prepare(&source, &Tokenizer::Bytes, 0.1, &place.path("tokens")).unwrap();
    let (train, val) = (tokens.train(), tokens.val());
    let all = tokens.ids(0..train + val);
    let windows = Windows::new(tokens, source.path(), 64, 4, 9).unwrap();
    assert_eq!(windows.train(3), windows.train(3));
    assert_ne!(windows.train(3), windows.train(4));
    for index in 0..50 {
        let batch = windows.train(index);
        for (ids, targets) in batch.ids.chunks(64).zip(batch.targets.chunks(64)) {
            assert_eq!(ids[1..], targets[..63]);
        }
    }
    let batches = windows.validation(1000);
    let seen: usize = batches.iter().map(|b| b.batch * b.time).sum();
    assert_eq!(seen, (val - 1) / 64 * 64, "every whole window once");
    assert_eq!(batches[0].ids[..64], all[train..train + 64]);
    assert_eq!(windows.validation(2).len(), 2);

    // The last window that fits is one that may be drawn.
    let exact = place.path("exact.txt");
    fs::write(&exact, "x".repeat(65)).unwrap();
    let source = Source::open(&exact).unwrap();
    let tokens = TokenFile::prepare(&source, &Tokenizer::Bytes, 0.0, &place.path("exact")).unwrap();
    let windows = Windows::new(tokens, &exact, 64, 2, 1).unwrap();
    assert_eq!(windows.train(0).targets.len(), 128);
    assert!(windows.validation(3).is_empty());
}

#[test]
fn texts_that_cannot_be_used_are_refused_in_a_sentence() {
    let place = Place::new();
    let fails = |change: &dyn Fn(&mut TrainOptions)| {
        let mut options = small("vanilla", 1);
        change(&mut options);
        let message = run(&job(&place, "out", options)).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    };
    fs::write(place.text(), b"good until here: \xff\xfe").unwrap();
    let message = fails(&|_| {});
    assert!(message.contains("text.txt") && message.contains("offset 17"), "{message}");
    fs::write(place.text(), "x".repeat(40)).unwrap();
    let message = fails(&|o| o.val_fraction = 0.0);
    assert!(message.contains("text.txt") && message.contains("40") && message.contains("49"), "{message}");
    fs::write(place.text(), "").unwrap();
    assert!(fails(&|_| {}).contains("holds no text"));
    fs::remove_file(place.text()).unwrap();
    assert!(fails(&|_| {}).contains("text.txt"));
    fs::write(place.text(), "some text, again and again. ".repeat(50)).unwrap();
    assert!(fails(&|o| o.tokenizer = "no-such-file.json".into()).starts_with("tokenizer"));
    let message = fails(&|o| (o.tokenizer, o.vocab_size) = ("bpe".into(), 200));
    assert!(message.starts_with("vocab_size"), "{message}");
    let message = fails(&|o| o.hidden_size = 1 << 20);
    assert!(message.contains("GB are available"), "{message}");
    assert!(fails(&|o| o.device = parloop_train::DeviceChoice::Cuda).contains("cuda"));
    // Nothing was left behind.
    assert!(!place.path("out").join("tokens.bin").exists() || names(&place.path("out")).len() == 1);
}

#[test]
fn a_short_text_gives_a_smaller_vocabulary() {
    let place = Place::new();
    fs::write(place.text(), "some text, again and again. ".repeat(50)).unwrap();
    let mut options = small("vanilla", 1);
    (options.tokenizer, options.vocab_size) = ("bpe".into(), 5000);
    let summary = run(&job(&place, "out", options)).unwrap();
    let config = parloop_model::family::read(&summary.checkpoint, &[]).unwrap().config;
    assert!((257..400).contains(&config.vocab_size), "{}", config.vocab_size);
}

#[test]
fn two_runs_do_not_write_into_one_folder() {
    let place = Place::new();
    fs::write(place.text(), "some text, again and again. ".repeat(50)).unwrap();
    fs::create_dir_all(place.path("out")).unwrap();
    let held = fs::File::create(place.path("out").join("train.lock")).unwrap();
    held.lock().unwrap();
    let message = run(&job(&place, "out", small("vanilla", 1))).unwrap_err().to_string();
    assert!(message.contains("another run"), "{message}");
}

/// Lines of examples: what is asked is the id before, doubled.
fn examples(count: u32) -> String {
    (0..count)
        .map(|i| {
            let ids: Vec<u32> = (0..3 + i % 3).map(|t| (i * 7 + t * 5) % 50).collect();
            let targets: Vec<Option<u32>> =
                ids.iter().enumerate().map(|(t, _)| (t > 0).then(|| 2 * ids[t.saturating_sub(1)])).collect();
            serde_json::json!({ "ids": ids, "targets": targets }).to_string() + "\n"
        })
        .collect()
}

fn read_examples(path: &std::path::Path, seed: u64) -> parloop_train::Result<parloop_train::data::Examples> {
    parloop_train::data::Examples::read(path, (&Tokenizer::Bytes, None), 0.1, 8, 4, seed)
}

#[test]
fn every_example_comes_once_an_epoch_and_validation_never() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("examples.jsonl");
    std::fs::write(&path, examples(40)).unwrap();
    let data = read_examples(&path, 3).unwrap();
    let row = |batch: &parloop_train::data::Batch, i: usize| batch.ids[i * batch.time..(i + 1) * batch.time].to_vec();
    let epoch = |first: u64| {
        let batches = (first..first + 9).map(|index| data.train(index));
        let rows = batches.flat_map(|batch| (0..4).map(|i| (row(&batch, i)[0], row(&batch, i)[1])).collect::<Vec<_>>());
        rows.collect::<Vec<_>>()
    };
    let (one, two) = (epoch(0), epoch(9));
    assert_ne!(one, two);
    let sorted = |mut rows: Vec<(u32, u32)>| {
        rows.sort_unstable();
        rows
    };
    assert_eq!(sorted(one.clone()), sorted(two));
    let all = sorted((0..36).map(|i| (i * 7 % 50, (i * 7 + 5) % 50)).collect());
    assert_eq!(sorted(one), all);
    assert_eq!(data.train(5), read_examples(&path, 3).unwrap().train(5));
    assert_ne!(data.train(5), read_examples(&path, 4).unwrap().train(5));
    let held: usize = data.validation(9).iter().map(|batch| batch.batch).sum();
    assert_eq!(held, 4);
    // What fills up a batch asks nothing.
    for batch in (0..9).map(|index| data.train(index)) {
        assert!((0..4).all(|i| batch.targets[i * batch.time] == parloop_train::data::IGNORED));
        assert_eq!(batch.asked(), batch.targets.iter().filter(|t| **t != parloop_train::data::IGNORED).count());
    }
}

#[test]
fn examples_that_cannot_be_trained_on_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("examples.jsonl");
    for (line, words) in [
        (r#"{"prompt":"a","choices":["b","c"],"label":0}"#, "item 2: has choices"),
        (r#"{"ids":[1,2,3,4,5,6,7,8,9],"targets":[1,2,3,4,5,6,7,8,9]}"#, "item 2: has 9 tokens"),
        (r#"{"ids":[300],"targets":[1]}"#, "item 2: has id 300"),
        (r#"{"ids":[1],"targets":[300]}"#, "item 2: has id 300"),
        ("{", "line 2"),
    ] {
        std::fs::write(&path, format!("{{\"prompt\":\"2+2=\",\"answer\":\"4\"}}\n{line}\n")).unwrap();
        let message = read_examples(&path, 1).unwrap_err().to_string();
        assert!(message.contains(words) && message.contains("examples.jsonl"), "{message}");
    }
    std::fs::write(&path, "{\"prompt\":\"2+2=\",\"answer\":\"4\"}\n").unwrap();
    assert!(read_examples(&path, 1).unwrap_err().to_string().contains("no example to train on"));
}
