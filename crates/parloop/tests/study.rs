//! Tasks, scores and studies from the command line: little ones, for the pipeline and not for the science.
#![cfg(feature = "train")]

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

fn parloop(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("parloop").unwrap();
    command.args(arguments).env("PARLOOP_THREADS", "1");
    command
}

fn output(arguments: &[&str]) -> String {
    String::from_utf8(parloop(arguments).assert().success().get_output().stdout.clone()).unwrap()
}

fn refused(arguments: &[&str]) -> String {
    String::from_utf8(parloop(arguments).assert().failure().get_output().stderr.clone()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn results() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/results"))
}

/// A study of two arms and one task that takes a second.
const LITTLE: &str = "
name = 'little'
about = 'nothing'
seeds = [1, 2]
tests = 5
[options]
tokenizer = 'bytes'
hidden_size = 16
intermediate_size = 32
layers = 1
heads = 2
kv_heads = 2
head_dim = 8
batch = 4
steps = 12
save_every = 2
eval_every = 6
eval_batches = 1
[[arm]]
name = 'vanilla'
recipe = 'vanilla'
[[arm]]
name = 'deep'
recipe = 'plt2'
times = { layers = 2 }
[[task]]
task = 's3'
length = 6
";

/// Results without what a clock says.
fn rows(folder: &Path) -> Vec<Value> {
    let text = fs::read_to_string(folder.join("results.jsonl")).unwrap();
    let mut rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for row in &mut rows {
        for key in ["seconds", "peak_bytes"] {
            row.as_object_mut().unwrap().remove(key).unwrap();
        }
    }
    rows.sort_by_key(|row| row["run"].as_str().unwrap().to_owned());
    rows
}

#[test]
fn tasks_are_written_trained_on_and_scored() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (train, test, out) = (at("train.jsonl"), at("test.jsonl"), at("out"));
    let task = ["task", "s3", "--length", "3", "--single"];
    output(&[&task[..], &["-n", "600", "--out", text(&train)]].concat());
    output(&[&task[..], &["-n", "40", "--split", "test", "--seed", "2", "--out", text(&test)]].concat());
    assert_eq!(fs::read_to_string(&train).unwrap().lines().count(), 600);
    assert_eq!(output(&[&task[..], &["-n", "3"]].concat()).lines().count(), 3);
    let options = [
        "--tokenizer",
        "bytes",
        "--context",
        "3",
        "--hidden-size",
        "32",
        "--intermediate-size",
        "64",
        "--layers",
        "1",
        "--heads",
        "2",
        "--kv-heads",
        "2",
        "--head-dim",
        "16",
        "--batch",
        "32",
        "--steps",
        "300",
        "--recipe",
        "vanilla",
        "--lr",
        "0.01",
        "--warmup",
        "5",
        "-q",
    ];
    output(&[&["train", "--data", text(&train), "--out", text(&out)], &options[..]].concat());
    let scores: Value = serde_json::from_str(&output(&["eval", text(&out), "--task", text(&test), "--json"])).unwrap();
    let labels = &scores[text(&test)]["labels"];
    assert_eq!((labels["items"].as_u64(), labels["targets"].as_u64()), (Some(40), Some(80)));
    // One product of two elements is what a plain layer learns at once; guessing gives a sixth.
    assert!(labels["accuracy"].as_f64().unwrap() > 0.6, "{labels}");
    assert!(output(&["eval", text(&out), "--task", text(&test)]).contains("40 items"));
    // The built-in model reads other tokens than one that reads bytes.
    assert!(refused(&["eval", "--text", text(&test), "--against", text(&out)]).contains("other tokens of the text"));
    let told: Value =
        serde_json::from_str(&output(&["diagnose", text(&out), "--task", text(&test), "--attention", "--json"]))
            .unwrap();
    assert_eq!(told["loops"].as_array().unwrap().len(), 1);
}

#[test]
fn more_steps_are_harder_for_a_trained_model() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("study.toml"), folder.path().join("out"));
    let learns = LITTLE
        .replace("steps = 12", "steps = 250\nlr = 1e-2\ninit_std = 0.1")
        .replace("hidden_size = 16", "hidden_size = 32")
        .replace("batch = 4", "batch = 32")
        .replace("tests = 5", "tests = 200")
        .replace("seeds = [1, 2]", "seeds = [1]")
        .replace("length = 6", "length = 12");
    fs::write(&file, learns).unwrap();
    parloop(&["study", "arm", text(&file), "--out", text(&out), "--run", "s3-n12.vanilla-s1"]).assert().success();
    let row = fs::read_to_string(out.join("runs/s3-n12.vanilla-s1/result.json")).unwrap();
    let row: Value = serde_json::from_str(&row).unwrap();
    let levels = &row["splits"]["test"]["labels"]["levels"];
    let at = |level: usize| levels[level.to_string()][1].as_f64().unwrap();
    // One factor is its own product, two are a table, more need a state that one layer does not keep.
    assert!(at(1) > 0.95 && at(1) >= at(2) && at(2) > at(4) + 0.1 && at(2) > at(12) + 0.1, "{levels}");
    // What is unfinished is reported too.
    parloop(&["study", "report", text(&out)]).assert().success();
    assert!(fs::read_to_string(out.join("report.md")).unwrap().contains("| vanilla | 1 x 1 |"));
}

#[test]
fn texts_and_choices_are_scored_and_bad_files_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (task, words) = (at("task.jsonl"), at("words.txt"));
    fs::write(&words, "To be, or not to be, that is the question.\n".repeat(20)).unwrap();
    fs::write(
        &task,
        "{\"prompt\":\"ROM\",\"choices\":[\"EO:\",\"zzq\"],\"label\":0}\n{\"prompt\":\"ROMEO:\",\"answer\":\"\\n\",\"level\":2}\n",
    )
    .unwrap();
    let told: Value =
        serde_json::from_str(&output(&["eval", "--task", text(&task), "--text", text(&words), "--json"])).unwrap();
    assert_eq!(told[text(&task)]["choices"]["accuracy"], 1.0);
    assert_eq!(told[text(&task)]["labels"]["exact"], 1.0);
    assert!(told["text"]["bits_per_byte"].as_f64().unwrap() < 4.0);
    fs::write(&task, "{\"prompt\":\"a\",\"answer\":\"b\"}\n{\"prompt\":1}\n").unwrap();
    assert!(refused(&["eval", "--task", text(&task)]).contains("task.jsonl, line 2"));
    assert!(refused(&["eval"]).contains("--task"));
    assert!(refused(&["task", "s4"]).contains("s3"));
    assert!(refused(&["task", "s3", "--split", "deeper"]).contains("train, test, longer"));
}

#[test]
fn a_study_runs_once_and_a_stopped_one_gives_the_same_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let file = at("little.toml");
    fs::write(&file, LITTLE).unwrap();
    let (whole, parts) = (at("whole"), at("parts"));
    parloop(&["study", text(&file), "--out", text(&whole)]).assert().success();
    let expected = rows(&whole);
    assert_eq!(expected.len(), 4);
    let page = fs::read_to_string(whole.join("report.html")).unwrap();
    assert!(page.contains("<svg") && fs::read_to_string(whole.join("report.md")).unwrap().contains("| deep |"));
    assert_eq!((expected[0]["layers"].as_u64(), expected[0]["loops"].as_u64()), (Some(2), Some(2)));

    // Killed in the middle of a run: one arm is done by itself, another is stopped without a chance to save.
    parloop(&["study", "arm", text(&file), "--out", text(&parts), "--run", "0"]).assert().success();
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("parloop"));
    command.args(["study", "arm", text(&file), "--out", text(&parts), "--run", "s3-n6.deep-s1"]);
    let mut child = command.spawn().unwrap();
    let killed = parts.join("runs/s3-n6.deep-s1");
    while child.try_wait().unwrap().is_none() && !killed.join("checkpoint-000002").exists() {
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let once = fs::metadata(parts.join("runs/s3-n6.vanilla-s1/result.json")).unwrap().modified().unwrap();
    parloop(&["study", text(&file), "--out", text(&parts), "--jobs", "2"]).assert().success();
    let same = |mut rows: Vec<Value>| {
        // The commands name different folders only by name.
        rows.iter_mut().for_each(|row| row["command"] = Value::Null);
        rows
    };
    assert_eq!(same(rows(&parts)), same(expected));
    assert_eq!(fs::metadata(parts.join("runs/s3-n6.vanilla-s1/result.json")).unwrap().modified().unwrap(), once);

    // Started again there is nothing to do; with other options it is another study.
    parloop(&["study", text(&file), "--out", text(&parts)]).assert().success();
    assert_eq!(rows(&parts).len(), 4);
    fs::write(&file, LITTLE.replace("steps = 12", "steps = 14")).unwrap();
    let message = refused(&["study", text(&file), "--out", text(&parts)]);
    assert!(message.contains("steps = 12") && message.contains("another folder"), "{message}");
}

#[test]
fn a_run_that_diverges_is_kept_and_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("study.toml"), folder.path().join("out"));
    fs::write(
        &file,
        LITTLE.replace("batch = 4", "batch = 4\nlr = 999.0\nwarmup = 0\nclip = 0.0\nepsilon = 1e-30\nskips = 1"),
    )
    .unwrap();
    parloop(&["study", text(&file), "--out", text(&out)]).assert().success();
    let diverged = rows(&out).iter().filter(|row| row["ending"]["diverged"].is_string()).count();
    assert!(diverged > 0, "{:?}", rows(&out).iter().map(|row| row["ending"].clone()).collect::<Vec<_>>());
    assert!(fs::read_to_string(out.join("report.md")).unwrap().contains("diverged"));
}

#[test]
fn arms_that_cannot_run_are_told_before_any_does() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("study.toml"), folder.path().join("out"));
    for (from, to, words) in [
        ("kv_heads = 2", "kv_heads = 3", "s3-n6.vanilla-s1"),
        ("recipe = 'plt2'", "recipe = 'plt-two'", "arm deep"),
        ("layers = 2 }", "layers = 0 }", "times.layers"),
        ("layers = 2 }", "recipe = 2 }", "times.recipe"),
        ("task = 's3'", "task = 's4'", "s3, a5, s5"),
        ("length = 6", "length = 1", "2 to 4096"),
        ("name = 'deep'", "name = 'vanilla'", "two runs are called"),
        ("name = 'deep'", "name = 'a/b'", "letters, digits"),
        ("seeds = [1, 2]", "seeds = []", "seeds is empty"),
        ("tests = 5", "test = 5", "test"),
        ("steps = 12", "stepps = 12", "stepps"),
        ("tokenizer = 'bytes'", "tokenizer = 'bpe'", "bytes"),
        ("tests = 5", "text = 'a book'", "--data"),
        // What only the whole study has.
        ("tests = 5", "tests = 2000000", "1 to 1000000"),
        ("seeds = [1, 2]", "seeds = [1, 2, 3, 3]", "two runs are called"),
        (
            "intermediate_size = 32\nlayers = 1\nheads = 2\nkv_heads = 2\nhead_dim = 8\nbatch = 4",
            "intermediate_size = 1000000\nlayers = 1\nheads = 2\nkv_heads = 2\nhead_dim = 8\nbatch = 1000000",
            "this run needs",
        ),
    ] {
        assert!(LITTLE.contains(from), "{from}");
        fs::write(&file, LITTLE.replace(from, to)).unwrap();
        for quick in [&[][..], &["--quick"]] {
            let message = refused(&[&["study", text(&file), "--out", text(&out)], quick].concat());
            assert!(message.contains(words) && message.contains("study.toml"), "{to}: {message}");
            assert!(!out.exists());
        }
    }
}

#[test]
fn plans_name_every_run() {
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("my study.toml"), folder.path().join("out"));
    fs::write(&file, LITTLE).unwrap();
    let plan = |system: &str| output(&["study", "plan", text(&file), "--out", text(&out), "--for", system]);
    assert!(plan("slurm").contains("--array=0-3") && plan("slurm").contains("my study.toml' --out"));
    let jobs: toml::Table = plan("hyperqueue").parse().unwrap();
    assert_eq!(jobs["task"].as_array().unwrap().len(), 4);
    let list = plan("list");
    assert_eq!(list.lines().count(), 4);
    // The lines are commands that work.
    let line = list.lines().next().unwrap();
    assert!(std::process::Command::new("sh").args(["-c", line]).status().unwrap().success());
    assert!(out.join("runs/s3-n6.vanilla-s1/result.json").exists());
}

#[test]
fn committed_studies_run_in_little() {
    let folder = tempfile::tempdir().unwrap();
    let words = folder.path().join("words.txt");
    fs::write(&words, "To be, or not to be, that is the question.\n".repeat(200)).unwrap();
    let mut found = 0;
    for entry in fs::read_dir(results()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let out = folder.path().join(path.file_stem().unwrap());
        let mut arguments = vec!["study", text(&path), "--out", text(&out), "--quick"];
        if fs::read_to_string(&path).unwrap().lines().any(|line| line.starts_with("text =")) {
            arguments.extend(["--data", text(&words)]);
        }
        parloop(&arguments).assert().success();
        assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("<svg"));
        found += 1;
    }
    assert!(found >= 3);
}
