//! Prepared data: what is in the shards, how a run reads it, and what is refused.

mod common;

use common::{Place, names, run, small, with};
use parloop_model::chat::ChatSource;
use parloop_model::{TextSettings, Tokenizer};
use parloop_train::data::{Examples, Format, IGNORED, Kind, Manifest, PrepareJob, Prepared, Windows, prepare};
use parloop_train::{Settings, TrainJob};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn job(inputs: &[PathBuf], out: &Path) -> PrepareJob {
    PrepareJob::new(inputs.to_vec(), out)
}

fn made(job: &PrepareJob, tokenizer: &Tokenizer) -> parloop_train::Result<Manifest> {
    prepare(job, tokenizer, &TextSettings::default(), &mut |_, _| {})
}

/// Bytes, with an end mark.
fn tokenizer() -> Tokenizer {
    Tokenizer::train_bpe("x", 257).unwrap()
}

fn end() -> u32 {
    tokenizer().end_of_text().unwrap()
}

#[test]
fn every_document_is_there_with_its_end_in_any_number_of_shards() {
    let place = Place::new();
    let folder = place.path("texts");
    fs::create_dir_all(folder.join("b")).unwrap();
    fs::write(folder.join("b/1.txt"), "\u{FEFF}first é\n").unwrap();
    fs::write(folder.join("2.jsonl"), "{\"text\":\"line one\",\"id\":7}\n\n{\"text\":\"line two\"}\n").unwrap();
    fs::write(folder.join("0.md"), "zero").unwrap();
    fs::write(folder.join(".hidden"), "no").unwrap();
    let expected = ["zero", "line one", "line two", "first é\n"];
    let tokenizer = tokenizer();
    for shard_tokens in [1, 10, 1 << 20] {
        let out = place.path(&format!("out-{shard_tokens}"));
        let mut job = job(std::slice::from_ref(&folder), &out);
        job.shard_tokens = shard_tokens;
        let mut told = Vec::new();
        let manifest =
            prepare(&job, &tokenizer, &TextSettings::default(), &mut |done, all| told.push((done, all))).unwrap();
        assert_eq!(told.last().map(|(done, all)| done == all), Some(true));
        let shards = if shard_tokens == 1 { 4 } else { usize::from(shard_tokens == 10) + 1 };
        assert_eq!((manifest.kind, manifest.documents, manifest.shards.len()), (Kind::Text, 4, shards));
        assert_eq!(manifest.text, expected.iter().map(|text| text.len() as u64).sum::<u64>());
        assert_eq!(manifest.sources.len(), 3);
        let data = Prepared::open(&out).unwrap();
        let mut all = Vec::new();
        for (n, text) in expected.iter().enumerate() {
            let (range, bytes) = data.document(n);
            assert_eq!((range.start, bytes), (all.len(), text.len() as u64));
            all.extend(tokenizer.encode_bare(text).unwrap());
            all.push(end());
            assert_eq!(range.end, all.len());
            assert_eq!(data.ids(range.clone()), all[range]);
        }
        assert_eq!(data.tokens(), all.len());
        assert_eq!(data.ids(0..99), all);
        assert_eq!(data.ids(3..17), all[3..17]);
        assert!(data.ids(all.len()..all.len() + 5).is_empty());
        assert!(data.changed_sources().unwrap().is_empty());
    }
    fs::write(folder.join("0.md"), "zerO").unwrap();
    fs::remove_file(folder.join("2.jsonl")).unwrap();
    let changed = Prepared::open(&place.path("out-1")).unwrap().changed_sources().unwrap();
    assert_eq!(changed.iter().map(|(_, what)| *what).collect::<Vec<_>>(), ["has changed", "is gone"]);
}

#[test]
fn a_long_text_is_one_document_as_if_it_were_read_at_once() {
    let place = Place::new();
    let text = "some words of a line\n".repeat(1_000_000);
    let path = place.path("long.txt");
    fs::write(&path, &text).unwrap();
    let tokenizer = Tokenizer::train_bpe(&text[..10_000], 300).unwrap();
    let manifest = made(&job(&[path], &place.path("out")), &tokenizer).unwrap();
    assert_eq!((manifest.documents, manifest.longest), (1, manifest.tokens));
    let data = Prepared::open(&place.path("out")).unwrap();
    let line = tokenizer.encode_bare("some words of a line\n").unwrap();
    let mut expected: Vec<u32> = line.iter().copied().cycle().take(line.len() * 1_000_000).collect();
    expected.extend(tokenizer.end_of_text());
    assert!(data.ids(0..data.tokens()) == expected);
}

#[test]
fn windows_come_once_an_epoch_in_an_order_of_the_seed() {
    let place = Place::new();
    let path = place.path("t.jsonl");
    // No window is like another.
    let mut next = common::models::numbers(7);
    let mut word = || (0..21).map(|_| char::from(b'a' + ((next() + 1.0) * 12.9) as u8)).collect::<String>();
    let lines: String = (0..40).map(|_| format!("{{\"text\":\"{}\"}}\n", word())).collect();
    fs::write(&path, lines).unwrap();
    made(&job(&[path], &place.path("out")), &tokenizer()).unwrap();
    let open = |seed| Windows::prepared(Prepared::open(&place.path("out")).unwrap(), 0.2, 16, 1, seed).unwrap();
    let windows = open(3);
    let (train, val, bytes) = windows.sizes();
    assert_eq!((train + val, val % 22, bytes), (880, 0, val as u64 / 22 * 21));
    assert!((176..176 + 22).contains(&val));
    let all = Prepared::open(&place.path("out")).unwrap().ids(0..880);
    let count = (train - 16) / 16;
    let mut starts = Vec::new();
    for epoch in 0..2u64 {
        let mut seen = Vec::new();
        for k in 0..count as u64 {
            let batch = windows.train(epoch * count as u64 + k);
            assert_eq!(batch.ids[1..], batch.targets[..15]);
            let start = all.windows(17).position(|w| w[..16] == batch.ids[..] && w[1..] == batch.targets[..]).unwrap();
            assert!(start + 17 <= train);
            seen.push(start);
        }
        starts.push(seen.clone());
        seen.sort_unstable();
        assert!(seen.windows(2).all(|two| two[1] - two[0] == 16), "{seen:?}");
    }
    assert_ne!(starts[0], starts[1]);
    assert_eq!(open(3).train(7), windows.train(7));
    assert_ne!(open(4).train(7), windows.train(7));
}

const TEMPLATE: &str = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

fn chat_settings() -> TextSettings {
    let chat = ChatSource { template: TEMPLATE.into(), tool_use: None, tokens: BTreeMap::new() };
    TextSettings { chat: Some(chat), ..TextSettings::default() }
}

#[test]
fn of_conversations_and_examples_only_answers_are_asked_for() {
    let place = Place::new();
    let path = place.path("chat.jsonl");
    let turn = |role: &str, content: &str| serde_json::json!({ "role": role, "content": content });
    let talk = serde_json::json!({ "messages": [
        turn("system", "be brief"), turn("user", "one?"), turn("assistant", "yes"), turn("user", "two?"),
        turn("assistant", "no"), turn("user", "left out"),
    ]});
    let example = serde_json::json!({ "prompt": "2+2=", "answer": "4" });
    fs::write(&path, format!("{talk}\n{example}\n{example}\n")).unwrap();
    let done = prepare(
        &job(std::slice::from_ref(&path), &place.path("out")),
        &Tokenizer::Bytes,
        &chat_settings(),
        &mut |_, _| {},
    );
    assert_eq!(done.unwrap().kind, Kind::Answers);
    let data = Prepared::open(&place.path("out")).unwrap();
    assert_eq!(data.settings().chat.as_ref().unwrap().template, TEMPLATE);
    let examples = Examples::prepared(data, 0.0, 999, 3, 1).unwrap();
    let batch = examples.train(0);
    let mut found = Vec::new();
    for (ids, targets) in batch.ids.chunks(batch.time).zip(batch.targets.chunks(batch.time)) {
        let text = |ids: &[u32]| String::from_utf8(ids.iter().map(|id| *id as u8).collect()).unwrap();
        let asked: Vec<u32> = targets.iter().copied().filter(|target| *target != IGNORED).collect();
        for (at, target) in targets.iter().enumerate().filter(|(at, t)| **t != IGNORED && *at + 1 < ids.len()) {
            assert!(ids[at + 1] == *target || ids[at + 1] == 0);
        }
        found.push((text(ids).trim_end_matches('\0').to_owned(), text(&asked)));
    }
    found.sort();
    let talk = "<|system|>be brief<end><|user|>one?<end><|assistant|>yes<end><|user|>two?<end><|assistant|>no<end";
    let expected = [("2+2=", "4"), ("2+2=", "4"), (talk, "yes<end>no<end>")];
    assert_eq!(found, expected.map(|(ids, asked)| (ids.to_owned(), asked.to_owned())));
}

#[test]
fn a_run_over_prepared_data_resumes_exactly_and_keeps_its_tokenizer_and_template() {
    let place = Place::new();
    let path = place.path("chat.jsonl");
    let line = |i: usize| {
        let said = |role: &str, content: String| serde_json::json!({ "role": role, "content": content });
        let messages = [said("user", format!("{i}")), said("assistant", "ab".repeat(1 + i % 3))];
        serde_json::json!({ "messages": messages }).to_string() + "\n"
    };
    fs::write(&path, (0..30).map(line).collect::<String>()).unwrap();
    prepare(&job(&[path], &place.path("chats")), &Tokenizer::Bytes, &chat_settings(), &mut |_, _| {}).unwrap();
    made(&job(&[place.text()], &place.path("texts")), &tokenizer()).unwrap();
    for (data, word) in [("chats", "bytes"), ("texts", "bpe")] {
        let options = |steps, save| {
            with(small("plt2", steps), |o| (o.tokenizer, o.context, o.save_every) = (word.into(), 64, save))
        };
        let job = |out: &str, steps, save| TrainJob::new(place.path(data), place.path(out), options(steps, save));
        let whole = run(&job(&format!("{data}-whole"), 6, 0)).unwrap();
        let out = format!("{data}-parts");
        run(&job(&out, 6, 4)).unwrap();
        fs::remove_dir_all(place.path(&out).join("checkpoint-000006")).unwrap();
        let rest = run(&job(&out, 6, 4).resumed()).unwrap();
        for file in ["model.safetensors", "optimizer.safetensors"] {
            assert!(fs::read(whole.checkpoint.join(file)).unwrap() == fs::read(rest.checkpoint.join(file)).unwrap());
        }
        let saved = parloop_model::Checkpoint::open(&rest.checkpoint).unwrap();
        assert_eq!(saved.settings().chat.is_some(), data == "chats");
        assert_eq!(whole.validation.unwrap().bits_per_byte.is_some(), data == "texts");
    }
    // Conversations as they are, through the template of the model that is started from.
    let mut settings = Settings::all_of(&with(small("plt2", 3), |o| o.context = 64));
    for name in ["layers", "vocab_size", "tokenizer"] {
        settings.forget(name);
    }
    settings.add_toml(&format!("init = '{}'", place.path("chats-whole").display())).unwrap();
    let options = settings.options().unwrap();
    let tuned = run(&TrainJob::new(place.path("chat.jsonl"), place.path("tuned"), options.clone())).unwrap();
    assert!(parloop_model::Checkpoint::open(&tuned.checkpoint).unwrap().settings().chat.is_some());
    // Data of another tokenizer is refused.
    let message = run(&TrainJob::new(place.path("texts"), place.path("other"), options)).unwrap_err().to_string();
    assert!(message.contains("another tokenizer") && message.contains("texts"), "{message}");
}

#[test]
fn changed_data_is_refused_in_a_sentence() {
    let place = Place::new();
    made(&job(&[place.text()], &place.path("out")), &tokenizer()).unwrap();
    let shard = place.path("out/shard-00000.bin");
    let (good, manifest) = (fs::read(&shard).unwrap(), fs::read_to_string(place.path("out/manifest.json")).unwrap());
    let refused = |words: &str| {
        let message = Prepared::open(&place.path("out")).unwrap_err().to_string();
        assert!(message.contains(words) && !message.contains('\n'), "{words}: {message}");
    };
    let length = good.len();
    let damaged: [(usize, u8); 5] = [(3, 1), (16, 1), (40, 1), (64, 1), (length - 1, 1)];
    for (at, bit) in damaged {
        let mut bad = good.clone();
        bad[at] ^= bit;
        fs::write(&shard, bad).unwrap();
        refused("shard-00000.bin");
    }
    for cut in [0, 63, 64, length - 8] {
        fs::write(&shard, &good[..cut]).unwrap();
        refused("shard-00000.bin");
    }
    fs::remove_file(&shard).unwrap();
    refused("shard-00000.bin");
    fs::write(&shard, &good).unwrap();
    for (from, to) in
        [("\"format\": 1", "\"format\": 9"), ("\"documents\"", "\"docs\""), ("\"tokenizer\": \"", "\"tokenizer\": \"f")]
    {
        fs::write(place.path("out/manifest.json"), manifest.replace(from, to)).unwrap();
        assert!(Prepared::open(&place.path("out")).is_err(), "{to}");
    }
    fs::write(place.path("out/manifest.json"), &manifest).unwrap();
    Prepared::open(&place.path("out")).unwrap();
    // What was another text in the beginning is another run.
    let train = |steps| with(small("vanilla", steps), |o| o.tokenizer = "bpe".into());
    run(&TrainJob::new(place.path("out"), place.path("run"), train(2))).unwrap();
    fs::remove_dir_all(place.path("out")).unwrap();
    fs::write(place.text(), "another text, again and again. ".repeat(99)).unwrap();
    made(&job(&[place.text()], &place.path("out")), &tokenizer()).unwrap();
    let message =
        run(&TrainJob::new(place.path("out"), place.path("run"), train(4)).resumed()).unwrap_err().to_string();
    assert!(message.contains("not the text"), "{message}");
}

#[test]
fn inputs_that_cannot_be_read_are_named_and_leave_nothing() {
    let place = Place::new();
    let path = place.path("in.jsonl");
    let good = "{\"text\":\"a good line\"}\n";
    for (line, words) in [
        ("{", "line 2: is not JSON"),
        ("7", "line 2: has no keys"),
        ("{\"body\":\"x\"}", "line 2: has the keys body, expected text"),
        ("{\"text\":5}", "line 2: has a text that is no text"),
        ("{\"prompt\":\"a\",\"answer\":\"\"}", "line 2: has an empty answer"),
        ("{\"prompt\":\"a\",\"answer\":\"b\"}", "prepare them one by one"),
        ("{\"messages\":[]}", "line 2: is a conversation: give a tokenizer"),
    ] {
        fs::write(&path, format!("{good}{line}\n")).unwrap();
        let message =
            made(&job(std::slice::from_ref(&path), &place.path("out")), &tokenizer()).unwrap_err().to_string();
        assert!(message.contains(words) && message.contains("in.jsonl"), "{line}: {message}");
    }
    let chat = |line: &str| {
        fs::write(&path, line).unwrap();
        let done = prepare(
            &job(std::slice::from_ref(&path), &place.path("out")),
            &Tokenizer::Bytes,
            &chat_settings(),
            &mut |_, _| {},
        );
        done.unwrap_err().to_string()
    };
    assert!(chat("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}").contains("no message of the assistant"));
    assert!(chat("{\"messages\":[{\"content\":\"a\"}]}").contains("line 1: has messages that are none"));
    fs::write(&path, b"{\"text\":\"\xff\"}\n").unwrap();
    let message =
        |inputs: &[PathBuf], out: &str| made(&job(inputs, &place.path(out)), &tokenizer()).unwrap_err().to_string();
    assert!(message(std::slice::from_ref(&path), "out").contains("line 1: is not UTF-8"));
    fs::write(place.path("bad.txt"), b"good \xff").unwrap();
    assert!(message(&[place.path("bad.txt")], "out").contains("offset 5"));
    fs::write(place.path("empty.txt"), "").unwrap();
    assert!(message(&[place.path("empty.txt")], "out").contains("holds no text"));
    fs::write(place.path("x.parquet"), "PAR1").unwrap();
    assert!(message(&[place.path("x.parquet")], "out").contains("cannot be read as parquet"));
    assert!(message(&[place.path("nothing")], "out").contains("nothing"));
    assert!(message(&[place.text()], "text.txt").contains("exists already"));
    let left: Vec<String> = names(place.folder.path()).into_iter().filter(|n| n.contains("out")).collect();
    assert!(left.is_empty(), "{left:?}");
    // Too long: left out at will, refused by a run whose context is shorter.
    let lines: String = (1..20).map(|n| format!("{{\"prompt\":\"a\",\"answer\":\"{}\"}}\n", "b".repeat(n))).collect();
    fs::write(&path, lines).unwrap();
    let mut job = job(&[path], &place.path("out"));
    job.longest = 10;
    job.format = Some(Format::Lines);
    let manifest = made(&job, &Tokenizer::Bytes).unwrap();
    assert_eq!((manifest.documents, manifest.longest, manifest.left_out), (9, 10, 10));
    let data = || Prepared::open(&place.path("out")).unwrap();
    Examples::prepared(data(), 0.0, 9, 2, 1).unwrap();
    let message = Examples::prepared(data(), 0.0, 8, 2, 1).unwrap_err().to_string();
    assert!(message.contains("10 tokens") && message.contains("`context` (8)"), "{message}");
}
