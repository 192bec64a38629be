//! `parloop serve` as a process: it says where it listens, answers, and ends when it is told to.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parloop"));
    command.arg("serve").args(arguments).stdin(Stdio::null()).stderr(Stdio::piped()).env_remove("PARLOOP_API_KEY");
    command.spawn().unwrap()
}

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn it_answers_and_ends_when_it_is_told_to() {
    let mut server = start(&["--port", "0", "--kv-budget", "50MB", "--threads", "1"]);
    let mut line = String::new();
    BufReader::new(server.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    let health = ask(&address, "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
    let body = r#"{"prompt": "ROMEO:", "max_tokens": 5, "temperature": 0}"#;
    let answer = ask(
        &address,
        &format!(
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    );
    assert!(answer.contains("\"completion_tokens\":5"), "{answer}");
    let told = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap();
    assert!(told.success());
    assert!(server.wait().unwrap().success());
}

#[test]
fn what_cannot_be_served_is_one_sentence() {
    for (option, wrong) in [("--rows", "0"), ("--parallel", "0"), ("--max-open", "-1"), ("--port", "99999")] {
        let text = String::from_utf8(start(&[option, wrong]).wait_with_output().unwrap().stderr).unwrap();
        assert!(text.contains(option) && text.contains("expected a whole number"), "{text}");
    }
    for (arguments, word) in [
        (&["--host", "0.0.0.0", "--port", "0"][..], "--api-key"),
        (&["--port", "0", "--api-key", ""], "--api-key"),
        (&["--port", "0", "--alias", ""], "--alias"),
        (&["--port", "0", "--kv-budget", "10"], "--kv-budget"),
        (&["--port", "0", "--host", "256.0.0.1", "--no-key"], "cannot listen"),
        (&["/no/such/model"], "/no/such/model"),
    ] {
        let output = start(arguments).wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(word), "{arguments:?}: {text}");
        assert_eq!(text.trim().lines().count(), 1, "{text}");
    }
}
