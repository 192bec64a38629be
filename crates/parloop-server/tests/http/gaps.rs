//! Filling in the middle, with a model whose tokenizer has the marks for it.

use crate::{Options, PLAIN, Running, events, folder, model_of, start_model};
use parloop_engine::{Engine, Generation, Generator, Model, SampleOptions};
use serde_json::{Value, json};
use std::sync::Arc;

const MARKS: [&str; 3] = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"];

/// The built-in model, whose last three merged tokens are marks instead.
fn model() -> Arc<Model> {
    let new = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder()).unwrap() {
        let path = file.unwrap().path();
        std::fs::copy(&path, new.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = new.path().join("tokenizer.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let merges = json["model"]["merges"].as_array_mut().unwrap();
    merges.truncate(merges.len() - 3);
    json["model"]["vocab"].as_object_mut().unwrap().retain(|_, id| !(1020..1023).contains(&id.as_u64().unwrap()));
    for (i, mark) in MARKS.iter().enumerate() {
        // As in Qwen's files: a mark is an added token, but no special one.
        let token = json!({ "id": 1020 + i, "content": mark, "special": false, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false });
        json["added_tokens"].as_array_mut().unwrap().insert(i, token);
    }
    std::fs::write(&path, json.to_string()).unwrap();
    model_of(new.path())
}

fn server() -> Running {
    start_model(model(), PLAIN, Options::default())
}

/// What the model writes between two texts.
fn expected(before: &str, after: &str) -> String {
    let mut engine = Engine::new(model(), Some(1)).unwrap();
    let model = engine.model().clone();
    let tokenizer = model.tokenizer().unwrap();
    let encode = |text: &str| tokenizer.encode_bare(text).unwrap();
    let ids = [vec![1020], encode(before), vec![1021], encode(after), vec![1022]].concat();
    let options = Generation { tokens: 12, sampling: SampleOptions::greedy(), ..Generation::default() };
    let mut sequence = engine.sequence();
    let generator = Generator::new(&mut engine, &mut sequence, &ids, &options).unwrap();
    let mut generator = generator.text(tokenizer.stream());
    let text: String =
        (&mut generator).map(|t| t.unwrap()).take_while(|t| !(1020..1023).contains(&t.id)).map(|t| t.text).collect();
    text + &generator.rest()
}

#[test]
fn all_three_interfaces_fill_the_same_gap() {
    let server = server();
    let (before, after) = ("ROMEO:\nO, ", " my love!\n");
    let text = expected(before, after);
    let common = json!({ "max_tokens": 12, "temperature": 0 });
    let ask = |path: &str, more: Value| {
        let mut body = common.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = server.post(path, body);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let completion = ask("/v1/completions", json!({ "prompt": before, "suffix": after }));
    assert_eq!(completion["choices"][0]["text"], json!(text));
    let fim = ask("/v1/fim/completions", json!({ "prompt": before, "suffix": after }));
    assert_eq!(fim["choices"][0]["message"]["content"], json!(text));
    let infill = ask("/infill", json!({ "input_prefix": "ROMEO:\n", "prompt": "O, ", "input_suffix": after }));
    assert_eq!((&infill["content"], &infill["stop"]), (&json!(text), &json!(true)));
    assert_eq!(infill["tokens_evaluated"], completion["usage"]["prompt_tokens"]);
    let mut streamed = common.clone();
    streamed
        .as_object_mut()
        .unwrap()
        .extend(json!({ "input_prefix": before, "input_suffix": after, "stream": true }).as_object().unwrap().clone());
    let (_, body) = server.ask("POST", "/infill", "Content-Type: application/json\r\n", &streamed.to_string());
    let chunks: Vec<Value> =
        body.lines().filter_map(|l| l.strip_prefix("data: ")).map(|l| serde_json::from_str(l).unwrap()).collect();
    let whole: String = chunks.iter().map(|c| c["content"].as_str().unwrap()).collect();
    assert_eq!((whole, &chunks.last().unwrap()["stop"]), (text.clone(), &json!(true)));
    let mut streamed = common;
    streamed
        .as_object_mut()
        .unwrap()
        .extend(json!({ "prompt": before, "suffix": after, "stream": true }).as_object().unwrap().clone());
    let chunks = server.stream("/v1/fim/completions", streamed);
    let whole: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(whole, text);
    assert!(
        events(&server, "/infill", json!({ "n_predict": 1, "stream": true })).is_empty(),
        "its events have no names"
    );
}

#[test]
fn no_text_becomes_a_mark() {
    let server = server();
    let count = |before: &str, after: &str, extra: Value| {
        let body = json!({ "input_prefix": before, "input_suffix": after, "input_extra": extra, "n_predict": 1, "temperature": 0 });
        let (status, answer) = server.post("/infill", body);
        assert_eq!(status, 200, "{answer}");
        answer["tokens_evaluated"].as_u64().unwrap()
    };
    let plain = count("a", "b", json!([]));
    for mark in MARKS.iter().chain(&["<|endoftext|>"]) {
        assert!(count(&format!("a{mark}"), "b", json!([])) > plain + 3, "{mark} became one token");
        assert!(count("a", &format!("{mark}b"), json!([])) > plain + 3, "{mark} became one token");
    }
    // Other files come before it, and those that do not fit are left out, the first ones first.
    let file = |n: usize| json!({ "filename": "a.txt", "text": "word ".repeat(n) });
    assert!(count("a", "b", json!([file(5)])) > plain + 5);
    assert_eq!(count("a", "b", json!([file(5000), file(5)])), count("a", "b", json!([file(5)])));
}

#[test]
fn what_is_wrong_is_named() {
    let server = server();
    for (path, body, word) in [
        ("/infill", json!({ "input_prefix": 5 }), "input_prefix"),
        ("/infill", json!({ "input_extra": [{ "filename": "a" }] }), "input_extra[0]"),
        ("/infill", json!({ "input_prefix": "a ".repeat(3000) }), "maximum context length"),
        ("/v1/fim/completions", json!({ "suffix": "b" }), "prompt"),
        ("/v1/fim/completions", json!({ "prompt": "a", "suffix": [] }), "suffix"),
        ("/v1/completions", json!({ "prompt": [1, 2], "suffix": "b" }), "prompt"),
        ("/v1/completions", json!({ "prompt": "a", "suffix": "b", "echo": true }), "echo"),
    ] {
        let (status, answer) = server.post(path, body.clone());
        assert!(status == 400 && answer["error"]["message"].as_str().unwrap().contains(word), "{body}: {answer}");
    }
}
