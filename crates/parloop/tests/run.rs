//! `parloop run`: where the prompt comes from, where the text ends, and what is printed.

use assert_cmd::Command;
use serde_json::Value;

fn parloop(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("parloop").unwrap();
    command.args(arguments);
    command
}

fn written(arguments: &[&str]) -> String {
    String::from_utf8(parloop(arguments).assert().success().get_output().stdout.clone()).unwrap()
}

fn refused(arguments: &[&str], word: &str) {
    let output = parloop(arguments).write_stdin("").assert().failure().get_output().clone();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains(word) && !message.contains("panicked"), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed and failed");
}

const OPTIONS: [&str; 6] = ["run", "-n", "40", "--seed", "5", "--quiet"];

fn run(more: &[&str]) -> String {
    written(&[&OPTIONS[..], more].concat())
}

#[test]
fn json_stands_alone_and_says_what_the_text_is() {
    let text = run(&["-p", "ROMEO:"]);
    let json: Value = serde_json::from_str(&run(&["-p", "ROMEO:", "--json"])).unwrap();
    assert_eq!(format!("ROMEO:{}\n", json["text"].as_str().unwrap()), text);
    assert_eq!((json["ids"].as_array().unwrap().len(), &json["finish"]), (40, &Value::from("length")));
}

#[test]
fn a_prompt_may_be_a_file_or_empty() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "ROMEO:").unwrap();
    assert_eq!(run(&["-f", file.to_str().unwrap()]), run(&["-p", "ROMEO:"]));
    let piped = parloop(&[&OPTIONS[..], &["-f", "-"]].concat()).write_stdin("ROMEO:").output().unwrap();
    assert_eq!(String::from_utf8(piped.stdout).unwrap(), run(&["-p", "ROMEO:"]));
    assert!(run(&["-p", ""]).len() > 40, "an empty prompt begins a text");
    refused(&["run", "-f", "nowhere.txt"], "nowhere.txt");
    refused(&["run", "-f", "a", "-p", "b"], "cannot be used with");
}

#[test]
fn a_text_ends_before_a_stop_string() {
    let whole = run(&["-p", "ROMEO:"]);
    let stop = whole.chars().skip(25).take(7).collect::<String>();
    let cut = whole.find(&stop).unwrap();
    let json: Value = serde_json::from_str(&run(&["-p", "ROMEO:", "--stop", &stop, "--stop", "@@", "--json"])).unwrap();
    assert_eq!(json["finish"], "stop");
    assert_eq!(format!("ROMEO:{}", json["text"].as_str().unwrap()), whole[..cut]);
    assert_eq!(run(&["-p", "ROMEO:", "--stop", &stop]), format!("{}\n", &whole[..cut]));
    refused(&["run", "-p", "a", "--stop", ""], "stop");
}

#[test]
fn minus_one_goes_on_until_the_context_is_full() {
    let text = written(&["run", "-p", "ROMEO:", "-n", "-1", "--ignore-eos", "--json"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["finish"], "context");
    // The last token is written and has no place any more.
    assert_eq!(json["ids"].as_array().unwrap().len() as u64 + json["prompt_tokens"].as_u64().unwrap(), 513);
}

#[test]
fn prompts_in_a_batch_give_the_texts_that_they_give_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.jsonl");
    let prompts = ["ROMEO:", "", "What is the matter, my good lord?", "KING HENRY:\nOnce more", "O"];
    let mut lines = String::from("\n");
    for (i, prompt) in prompts.iter().enumerate() {
        let line = if i % 2 == 0 { Value::from(*prompt) } else { serde_json::json!({ "prompt": prompt, "id": i }) };
        lines += &format!("{line}\n");
    }
    std::fs::write(&file, lines).unwrap();
    let name = file.to_str().unwrap();
    let alone: Vec<Value> =
        prompts.iter().map(|p| serde_json::from_str(&run(&["-p", p, "--stop", "the", "--json"])).unwrap()).collect();
    for batch in ["1", "2", "4", "9"] {
        let answers = run(&["--prompts", name, "--batch", batch, "--stop", "the"]);
        let answers: Vec<Value> = answers.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(answers.len(), prompts.len());
        for (i, (answer, alone)) in answers.iter().zip(&alone).enumerate() {
            for field in ["prompt", "text", "ids", "finish"] {
                assert_eq!(answer[field], alone[field], "prompt {i} in batches of {batch}: {field}");
            }
            assert_eq!(answer.get("id"), (i % 2 == 1).then(|| Value::from(i)).as_ref());
        }
    }
    for (line, word) in
        [("{\"text\": 1}", "no text \"prompt\""), ("7", "another kind"), ("\"open", "is not JSON"), ("", "no prompts")]
    {
        std::fs::write(&file, format!("{}{line}\n", if line.is_empty() { "" } else { "\"ok\"\n" })).unwrap();
        refused(&["run", "--prompts", name], word);
        if !line.is_empty() {
            refused(&["run", "--prompts", name], "prompts.jsonl line 2");
        }
        // The parser's own count of lines is not the file's.
        let output = parloop(&["run", "--prompts", name]).output().unwrap();
        assert!(!String::from_utf8(output.stderr).unwrap().contains("line 1"), "{line}");
    }
    refused(&["run", "--batch", "2", "-p", "a"], "--prompts");
}

#[test]
fn a_prompt_that_cannot_be_continued_keeps_no_other_from_it_and_the_exit_code_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.jsonl");
    let long = serde_json::json!({ "prompt": "word ".repeat(2000), "id": "long" });
    std::fs::write(&file, format!("\"ROMEO:\"\n{long}\n\"JULIET:\"\n{long}\n")).unwrap();
    for batch in ["1", "3"] {
        let mut command = parloop(&OPTIONS);
        let output = command.args(["--prompts", file.to_str().unwrap(), "--batch", batch]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let answers: Vec<Value> =
            String::from_utf8(output.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(answers.len(), 4);
        for (i, prompt) in [(0, "ROMEO:"), (2, "JULIET:")] {
            assert_eq!(
                answers[i]["ids"],
                serde_json::from_str::<Value>(&run(&["-p", prompt, "--json"])).unwrap()["ids"]
            );
        }
        assert_eq!(answers[1]["id"], "long");
        assert!(answers[1]["error"].as_str().unwrap().contains("context") && answers[1].get("text").is_none());
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines.len() == 3 && lines[0].contains("prompts.jsonl line 2: "), "{said}");
        assert_eq!(lines[2], "error: 2 of 4 prompts could not be continued, see above");
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_the_state_and_tells_the_figures() {
    use std::io::Read;
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    // So slow that it cannot end before it is asked to.
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("parloop"))
        .args([
            "run",
            "-p",
            "ROMEO:",
            "-n",
            "500",
            "--ignore-eos",
            "--threads",
            "1",
            "--passes",
            "sequential",
            "--save-state",
        ])
        .arg(&state)
        .env("PARLOOP_ISA", "portable")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // The prompt, and something of the text.
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 12]).unwrap();
    let kill = format!("kill -INT {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    let mut text = Vec::new();
    out.read_to_end(&mut text).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted"), "{said}");
    let mut again = parloop(&["run", "-p", "", "-n", "3", "--load-state", state.to_str().unwrap()]);
    assert!(again.env("PARLOOP_ISA", "portable").assert().success().get_output().stdout.len() > 1);
}
