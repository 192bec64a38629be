//! `parloop plot`: curves of logs, in the terminal and as a picture.
#![cfg(feature = "train")]

use assert_cmd::Command;
use std::fs;
use std::path::Path;

fn log(folder: &Path, name: &str, from: f64) -> String {
    let run = folder.join(name);
    fs::create_dir_all(&run).unwrap();
    let row = |i: u32| {
        let loss = from / f64::from(i);
        let validation = if i.is_multiple_of(5) { format!(", \"val_loss\": {loss}") } else { String::new() };
        format!(
            "{{\"step\": {i}, \"loss\": {loss}, \"lr\": 0.1, \"grad_norm\": 1, \"tokens\": {}, \
             \"tokens_per_second\": 9{validation}}}\n",
            100 * i
        )
    };
    fs::write(run.join("train.jsonl"), (1..=20).map(row).collect::<String>()).unwrap();
    run.display().to_string()
}

fn plot(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::cargo_bin("parloop").unwrap().arg("plot").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn two_runs_are_drawn_in_the_terminal_and_in_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (log(folder.path(), "one", 4.0), log(folder.path(), "two", 8.0));
    let (fine, text, _) = plot(&[&a, &b]);
    assert!(fine && text.contains("* one, last 0.200") && text.contains("o two, last 0.400"), "{text}");
    let out = folder.path().join("curves.svg");
    let (fine, text, told) =
        plot(&[&a, &b, "--show", "validation", "--along", "tokens", "--out", out.to_str().unwrap()]);
    assert!(fine && text.is_empty() && told.contains("curves.svg"), "{told}");
    let picture = fs::read_to_string(&out).unwrap();
    assert!(picture.starts_with("<svg xmlns") && picture.ends_with("</svg>"), "{picture}");
    assert_eq!(picture.matches("<polyline").count(), 2, "{picture}");
    // Four validations each.
    assert_eq!(picture.matches("<circle").count(), 8, "{picture}");
    assert!(picture.contains(">one<") && picture.contains("training tokens"), "{picture}");
}

#[test]
fn what_cannot_be_drawn_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let run = log(folder.path(), "run", 4.0);
    let lines = fs::read_to_string(Path::new(&run).join("train.jsonl")).unwrap();
    // A line that is being written is no error, one in the middle is.
    let cut = folder.path().join("cut.jsonl");
    fs::write(&cut, &lines[..lines.len() - 9]).unwrap();
    assert!(plot(&[cut.to_str().unwrap()]).0);
    fs::write(&cut, format!("{{\n{lines}")).unwrap();
    for (arguments, word) in [
        (vec![cut.to_str().unwrap()], "line 1"),
        (vec!["nowhere"], "nowhere"),
        (vec![run.as_str(), "--from", "21"], "step 21"),
        (vec![run.as_str(), "--show", "bits"], "bits per byte"),
        (vec![run.as_str(), "--out", cut.join("a.svg").to_str().unwrap()], "cut.jsonl/a.svg"),
    ] {
        let (fine, _, told) = plot(&arguments);
        assert!(!fine && told.contains(word) && told.trim().lines().count() == 1, "{arguments:?}: {told}");
    }
}
