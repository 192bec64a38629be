//! Fetched models, as a person uses them: found by name, listed, removed.

use assert_cmd::Command;
use parloop_testing::Golden;
use std::path::Path;

fn parloop(cache: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("parloop").unwrap();
    command.env("HF_HUB_CACHE", cache).env_remove("HF_ENDPOINT").args(arguments);
    command
}

fn written(cache: &Path, arguments: &[&str]) -> String {
    String::from_utf8(parloop(cache, arguments).assert().success().get_output().stdout.clone()).unwrap()
}

fn refused(cache: &Path, arguments: &[&str], words: &[&str]) {
    let output = parloop(cache, arguments).assert().failure().get_output().clone();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(words.iter().all(|w| message.contains(w)) && !message.contains("panicked"), "{arguments:?}: {message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{message}");
}

/// A snapshot as other programs make it.
fn hold(cache: &Path, name: &str, commit: &str, files: &[(&str, &Path)]) {
    let folder = cache.join(format!("models--{}", name.replace('/', "--")));
    let snapshot = folder.join("snapshots").join(commit);
    std::fs::create_dir_all(&snapshot).unwrap();
    for (name, from) in files {
        std::fs::copy(from, snapshot.join(name)).unwrap();
    }
}

#[test]
fn a_model_that_was_fetched_is_found_by_its_name_listed_and_removed() {
    let temporary = tempfile::tempdir().unwrap();
    let cache = temporary.path().join("hub");
    let golden = Golden::read("plt2").folder;
    assert_eq!(written(&cache, &["list"]), "");
    refused(&cache, &["run", "owner/plt2", "-p", "a"], &["owner/plt2", "hub", "parloop pull owner/plt2"]);
    refused(&cache, &["rm", "owner/plt2"], &["owner/plt2", "parloop list"]);

    let (config, weights) = (golden.join("config.json"), golden.join("model.safetensors"));
    hold(&cache, "owner/plt2", "aaaa", &[("config.json", &config), ("model.safetensors", &weights)]);
    let score = |model: &str| written(&cache, &["score", model, "--ids", "1,2,3"]);
    assert_eq!(score("owner/plt2"), score(golden.to_str().unwrap()));
    assert!(written(&cache, &["list"]).starts_with("owner/plt2 "));
    let listed: serde_json::Value = serde_json::from_str(&written(&cache, &["list", "--json"])).unwrap();
    assert_eq!(listed["models"][0]["name"], "owner/plt2");

    // The version that main stood at comes before a newer one; one that leads elsewhere is no version.
    hold(&cache, "owner/plt2", "bbbb", &[("README.md", &golden.join("config.json"))]);
    let references = cache.join("models--owner--plt2/refs");
    std::fs::create_dir_all(&references).unwrap();
    std::fs::write(references.join("main"), "aaaa").unwrap();
    assert_eq!(score("owner/plt2"), score(golden.to_str().unwrap()));
    std::fs::write(references.join("main"), "../../..").unwrap();
    refused(&cache, &["score", "owner/plt2", "--ids", "1"], &["bbbb", "neither a config.json nor a GGUF file"]);

    parloop(&cache, &["rm", "owner/plt2"]).assert().success();
    assert!(!cache.join("models--owner--plt2").exists());
    refused(&cache, &["inspect", "owner/plt2"], &["parloop pull"]);
}

#[test]
fn a_gguf_file_among_the_fetched_models_opens_by_the_models_name() {
    let temporary = tempfile::tempdir().unwrap();
    let (cache, file) = (temporary.path().join("hub"), temporary.path().join("plt2.gguf"));
    let golden = Golden::read("plt2").folder;
    let golden = golden.to_str().unwrap();
    written(&cache, &["quantize", golden, "--out", file.to_str().unwrap(), "--type", "f32"]);
    hold(&cache, "owner/gguf", "aaaa", &[("plt2-f32.gguf", &file)]);
    assert_eq!(
        written(&cache, &["score", "owner/gguf", "--ids", "1,2"]),
        written(&cache, &["score", golden, "--ids", "1,2"])
    );
    hold(&cache, "owner/gguf", "aaaa", &[("another.gguf", &file)]);
    refused(&cache, &["score", "owner/gguf", "--ids", "1,2"], &["2 GGUF files", "another.gguf"]);
}

#[test]
fn a_cache_that_is_no_folder_is_said_to_be_so() {
    let temporary = tempfile::tempdir().unwrap();
    let file = temporary.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for arguments in [&["list"][..], &["rm", "owner/plt2"], &["run", "owner/plt2", "-p", "a"]] {
        refused(&file, arguments, &["file is not a folder", "HF_HUB_CACHE"]);
    }
    refused(&file.join("below"), &["list"], &["cannot look into", "below", "HF_HUB_CACHE"]);
}

/// Whoever may do everything is refused nothing, so that another user has to try.
#[cfg(unix)]
#[test]
fn a_cache_that_may_not_be_looked_into_is_not_taken_for_an_empty_one() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let temporary = tempfile::tempdir().unwrap();
    let allow = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let golden = Golden::read("plt2").folder;
    let cache = temporary.path().join("hub");
    let (config, weights) = (golden.join("config.json"), golden.join("model.safetensors"));
    hold(&cache, "owner/plt2", "aaaa", &[("config.json", &config), ("model.safetensors", &weights)]);
    let model = cache.join("models--owner--plt2");
    let (program, original) = (temporary.path().join("parloop"), assert_cmd::cargo::cargo_bin("parloop"));
    if std::fs::hard_link(&original, &program).is_err() {
        std::fs::copy(&original, &program).unwrap();
    }
    allow(temporary.path(), 0o755);
    for locked in [&cache, &model] {
        allow(locked, 0o000);
        let all_powerful = std::fs::read_dir(locked).is_ok();
        let commands = [&["list"][..], &["rm", "owner/plt2"], &["run", "owner/plt2", "-p", "a"]];
        for arguments in commands {
            let mut command = std::process::Command::new(&program);
            command.env("HF_HUB_CACHE", &cache).current_dir(temporary.path()).args(arguments);
            if all_powerful {
                command.uid(65_534);
            }
            let output = command.output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
            assert!(said.contains("Permission denied") && !said.contains("parloop pull"), "{arguments:?}: {said}");
            assert!(said.contains(locked.to_str().unwrap()) && said.trim_end().lines().count() == 1, "{said}");
        }
        allow(locked, 0o755);
    }
    assert!(written(&cache, &["list"]).contains("owner/plt2"));
}
