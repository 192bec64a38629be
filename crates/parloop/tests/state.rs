//! What is kept in files from one run to the next, as a person uses it.

use assert_cmd::Command;
use std::path::Path;

const PROMPT: &str = "ROMEO:\nBut soft, what light through yonder window breaks? It is the east, and";

fn run(arguments: &[&str]) -> (String, String) {
    let greedy = ["run", "--temp", "0", "--no-echo"];
    let output = Command::cargo_bin("parloop").unwrap().args(greedy).args(arguments).assert().success();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.get_output().stdout), text(&output.get_output().stderr))
}

fn refused(arguments: &[&str], word: &str) {
    let output = Command::cargo_bin("parloop").unwrap().arg("run").args(arguments).assert().failure();
    let message = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    assert!(message.contains(word) && !message.contains("panicked"), "{arguments:?}: {message}");
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_text_is_saved_and_goes_on_as_if_never_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (whole, _) = run(&["-p", PROMPT, "-n", "40"]);
    let (first, _) = run(&["-p", PROMPT, "-n", "15", "--save-state", name(&state)]);
    let (second, _) = run(&["-p", "", "-n", "25", "--load-state", name(&state)]);
    assert_eq!(first.trim_end_matches('\n').to_owned() + &second, whole);
    // With a prompt, it follows.
    let (followed, _) = run(&["-p", " JULIET", "-n", "5", "--load-state", name(&state)]);
    assert_ne!(followed, second);
    refused(&["-p", "a", "--load-state", name(&state), "--weights", "q8"], "--weights bf16");
    refused(&["-p", "a", "--load-state", name(&state), "--kv", "bf16"], "--kv f32");
    refused(&["-p", "a", "--load-state", name(&folder.path().join("none"))], "none");
    refused(&["-p", &"word ".repeat(490), "--load-state", name(&state)], "context");
    let bytes = std::fs::read(&state).unwrap();
    std::fs::write(&state, &bytes[..bytes.len() - 1]).unwrap();
    refused(&["-p", "a", "--load-state", name(&state)], "bytes long, expected");
}

#[test]
fn a_prompt_cache_changes_nothing_but_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let cached = |prompt: &str| run(&["-p", prompt, "-n", "12", "--prompt-cache", name(&state)]);
    let plain = |prompt: &str| run(&["-p", prompt, "-n", "12"]).0;
    let (text, figures) = cached(PROMPT);
    assert!(text == plain(PROMPT) && !figures.contains("cached"), "{figures}");
    let written = std::fs::read(&state).unwrap();
    let (text, figures) = cached(PROMPT);
    assert!(text == plain(PROMPT) && figures.contains("cached"), "{figures}");
    // A longer prompt, and one that leaves it in the middle, take what they have in common.
    let longer = format!("{PROMPT} Juliet is the sun.");
    let (text, figures) = cached(&longer);
    assert!(text == plain(&longer) && figures.contains("cached"), "{figures}");
    assert_ne!(std::fs::read(&state).unwrap(), written);
    let other = PROMPT.replace("the east", "the moon");
    assert_eq!(cached(&other).0, plain(&other));
    let unlike = "KING HENRY: once more";
    assert_eq!(cached(unlike).0, plain(unlike));

    refused(&["-p", "a", "--prompt-cache", name(&state), "--load-state", name(&state)], "cannot be used with");
    refused(&["-p", "a", "--prompt-cache", name(&state), "--cache-bytes", "3"], "3 bytes are allowed");
    refused(
        &["-p", PROMPT, "--prompt-cache", name(&state), "--cache-bytes", "20kB"],
        "20.0 kB are allowed by --kv-budget",
    );
    refused(&["-p", "a", "--prompt-cache", name(&state), "--cache-bytes", "3 sheep"], "number of bytes");
    let precious = folder.path().join("thesis.tex");
    std::fs::write(&precious, "x").unwrap();
    refused(&["-p", "a", "--prompt-cache", name(&precious)], "not a saved state");
    refused(&["-p", "a", "--save-state", name(&precious)], "not replaced");
    assert_eq!(std::fs::read(&precious).unwrap(), b"x");
}

#[test]
fn a_run_that_needs_more_memory_than_allowed_is_refused_before_it_begins() {
    refused(&["-p", "a", "-n", "100", "--kv-budget", "1000"], "1000 bytes are allowed");
    refused(&["-p", "a", "--kv-budget", "-1"], "number of bytes");
    let (text, _) = run(&["-p", "a", "-n", "4", "--kv-budget", "0.5GB"]);
    assert!(!text.is_empty());
}
