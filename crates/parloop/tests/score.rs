//! `parloop score` from the command line: the goldens, and everything that can be wrong with a request.

use assert_cmd::Command;
use parloop_testing::{GOLDENS, Golden, assert_close};
use serde_json::Value;
use std::path::Path;

fn parloop() -> Command {
    Command::cargo_bin("parloop").unwrap()
}

fn ids(golden: &Golden) -> String {
    golden.ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn every_golden_is_reproduced_by_every_way_to_pass() {
    for name in GOLDENS {
        let golden = Golden::read(name);
        for passes in [None, Some("one"), Some("sequential"), Some("chunked:1"), Some("chunked:7"), Some("reference")] {
            let mut command = parloop();
            command.arg("score").arg(&golden.folder).args(["--ids", &ids(&golden), "--logits"]);
            passes.map(|p| command.args(["--passes", p]));
            if passes == Some("one") && !golden.checkpoint.config().recipe.one_pass() {
                let output = command.assert().failure().get_output().clone();
                assert!(String::from_utf8_lossy(&output.stderr).contains("shift = false"));
                assert!(output.stdout.is_empty());
                continue;
            }
            let output = command.assert().success().get_output().stdout.clone();
            let json: Value = serde_json::from_slice(&output).unwrap();
            let floats =
                |v: &Value| v.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect::<Vec<_>>();
            let logits: Vec<f32> = json["logits"].as_array().unwrap().iter().flat_map(floats).collect();
            assert_close(&format!("{name} {passes:?}"), &logits, &golden.logits, 1e-4);
            assert!((json["loss"].as_f64().unwrap() - f64::from(golden.loss)).abs() < 1e-5);
            assert_eq!(json["tokens"].as_array().unwrap().len(), golden.ids.len());
            assert_eq!(floats(&json["logprobs"]).len(), golden.ids.len() - 1);
        }
    }
}

/// Runs a command that must fail with one line on standard error that holds `word`.
fn refused(arguments: &[&str], word: &str) {
    let output = parloop().args(arguments).assert().failure().get_output().clone();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains(word), "{arguments:?}: {message}");
    assert!(!message.contains("panicked"), "{message}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed a result and failed");
}

#[test]
fn bad_requests_are_refused_with_a_sentence() {
    let golden = Golden::read("plt2").folder;
    let golden = golden.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("latin1.txt");
    std::fs::write(&file, b"caf\xe9").unwrap();
    let file = file.to_str().unwrap();
    let long = vec!["1"; 513].join(",");
    refused(&["score", "nowhere", "--ids", "1"], "nowhere");
    refused(&["score", "Cargo.toml", "--ids", "1"], "Cargo.toml");
    refused(&["score", folder.path().to_str().unwrap(), "--ids", "1"], "config.json");
    refused(&["score", golden, "--ids", "61"], "61");
    refused(&["score", golden, "--ids", &long, "--logits"], "513");
    refused(&["score", golden, "--ids", &long, "--stride", "513"], "513");
    refused(&["score", golden, "--ids", "-1"], "-1");
    refused(&["score", golden, "--ids", ""], "token ids");
    refused(&["score", golden, "--text", "a"], "tokenizer");
    refused(&["score", golden, "--ids", "1", "--passes", "chunked:0"], "chunked");
    refused(&["score", golden, "--ids", "1", "--threads", "0"], "threads");
    refused(&["score", "--file", file], "byte 3");
    refused(&["score", "--file", "nowhere.txt"], "nowhere.txt");
    refused(&["score", "--text", ""], "at least one");
    refused(&["score"], "--ids");
}

#[test]
fn a_model_with_broken_weights_is_named_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Golden::read("plt2").folder;
    let copy = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(golden.join(name)).unwrap();
        change(&mut bytes);
        std::fs::write(Path::new(folder.path()).join(name), bytes).unwrap();
    };
    copy("config.json", &|_| {});
    copy("model.safetensors", &|bytes| {
        let end = bytes.len();
        bytes[end - 400..].fill(0xFF);
    });
    refused(&["score", folder.path().to_str().unwrap(), "--ids", "1,2"], "NaN, expected a finite number");
    refused(&["score", folder.path().to_str().unwrap(), "--ids", "1,2", "--weights", "f32"], "NaN, expected");
    // The slow reference takes what it gets, and says so.
    refused(&["score", folder.path().to_str().unwrap(), "--ids", "1,2", "--passes", "reference"], "not numbers");
}

#[test]
fn an_instruction_set_that_is_not_there_is_refused() {
    let golden = Golden::read("plt2").folder;
    let mut command = parloop();
    command.env("PARLOOP_ISA", "abacus").arg("score").arg(golden).args(["--ids", "1"]);
    assert!(String::from_utf8_lossy(&command.assert().failure().get_output().stderr).contains("portable"));
}

#[test]
fn a_single_token_has_no_loss() {
    let golden = Golden::read("plt2").folder;
    let output = parloop().arg("score").arg(golden).args(["--ids", "5"]).assert().success().get_output().clone();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(json["loss"].is_null() && json["logprobs"].as_array().unwrap().is_empty() && json.get("logits").is_none());
}
