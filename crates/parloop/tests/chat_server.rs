//! `parloop chat --url`: a conversation with a server, kept and gone on with.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

struct Server {
    process: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn serve(folder: &Path) -> Server {
    let template = folder.join("template.jinja");
    let text = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    std::fs::write(&template, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_parloop"));
    command.args(["serve", "--port", "0", "--kv-budget", "50MB", "--threads", "1", "--template"]).arg(&template);
    command.arg("--slot-save-path").arg(folder);
    command.stdin(Stdio::null()).stderr(Stdio::piped()).env_remove("PARLOOP_API_KEY");
    let mut process = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.split(' ').find(|word| word.starts_with("http://")).unwrap().trim_end_matches(';').to_owned();
    Server { process, url }
}

/// Standard output and standard error after some lines, none of which goes wrong.
fn talk(url: &str, more: &[&str], lines: &str) -> (String, String) {
    let (success, out, said) = talk_of_anything(url, more, lines);
    assert!(success, "{said}");
    (out, said)
}

/// Whether all lines went well, standard output and standard error.
fn talk_of_anything(url: &str, more: &[&str], lines: &str) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parloop"));
    command.args(["chat", "--url", url, "--temp", "0", "-n", "20"]).args(more).env_remove("PARLOOP_API_KEY");
    let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = process.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_conversation_is_kept_with_what_the_server_computed_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("talk.json");
    let kept = kept.to_str().unwrap();
    let server = serve(folder.path());
    let first = "Good morrow, cousin, and the best of days to you and all your house.";
    let (out, said) = talk(&server.url, &[], &format!("{first}\n/save {kept}\nAnd now?\n/stats\n"));
    let answers: Vec<&str> = out.lines().collect();
    assert!(!answers.is_empty() && said.contains("tokens/s"), "{out} {said}");
    assert!(said.contains("the server keeps the state of") && said.contains("turns: 2"), "{said}");
    // Another server goes on with the same, and has what the first one computed.
    let other = serve(folder.path());
    let (again, said) = talk(&other.url, &[], &format!("/load {kept}\nAnd now?\n"));
    assert!(said.contains("3 messages") || said.contains("2 messages"), "{said}");
    assert!(said.contains("the server has the state of"), "{said}");
    assert!(out.ends_with(&again), "{out:?} does not end with {again:?}");
    let cached = said.split("prompt of ").nth(1).unwrap().split(", ").nth(1).unwrap().split(' ').next().unwrap();
    assert!(cached.parse::<u32>().unwrap() > 20, "{said}");
    // As JSON; another seed; a value that is none; no server.
    let lines = format!("{first}\n/retry\n/set temp cold\n/set top-k 3\n");
    let (success, json, said) = talk_of_anything(&server.url, &["--json"], &lines);
    assert!(!success, "{said}");
    let lines: Vec<serde_json::Value> = json.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["content"]), (2, &lines[1]["content"]));
    assert_eq!(lines[0]["usage"]["completion_tokens"], 20);
    assert!(said.contains("/set temp cold") && said.contains("top-k 3"), "{said}");
}

#[test]
fn a_full_context_leaves_out_the_oldest_turns_and_a_lost_server_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let server = serve(folder.path());
    let long = "Speak, speak, for I would hear thee speak of all that thou hast seen. ".repeat(8);
    let (_, said) = talk(&server.url, &["-q"], &format!("{long}\n{long}\n{long}\n"));
    assert!(said.contains("left out") && !said.contains("error"), "{said}");
    let url = server.url.clone();
    drop(server);
    let mut command = Command::new(env!("CARGO_BIN_EXE_parloop"));
    let output = command.args(["chat", "--url", &url]).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("is a server running there"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}
