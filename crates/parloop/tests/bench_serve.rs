//! `parloop bench serve` beside a server of our own: what it counts is what was asked for.
#![cfg(unix)]

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A server that ends with this.
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

fn serve(arguments: &[&str]) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parloop"));
    command.args(["serve", "--port", "0", "--kv-budget", "50MB", "--threads", "1"]).args(arguments);
    command.stdin(Stdio::null()).stderr(Stdio::piped()).env_remove("PARLOOP_API_KEY");
    let mut process = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.split(' ').find(|word| word.starts_with("http://")).unwrap().trim_end_matches(';').to_owned();
    Server { process, url }
}

fn bench(arguments: &[&str]) -> (bool, Option<Value>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_parloop"));
    command.args(["bench", "serve", "--json"]).args(arguments).env_remove("PARLOOP_API_KEY");
    let output = command.output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    let last = out.lines().last().map(|line| serde_json::from_str(line).unwrap());
    (output.status.success(), last, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn it_counts_what_it_asked_for() {
    let server = serve(&["--alias", "one"]);
    let arguments = ["--url", &server.url, "--streams", "1,3", "--requests", "6", "-n", "9", "--prompt-tokens", "40"];
    let (ok, report, text) = bench(&arguments);
    assert!(ok, "{text}");
    let report = report.unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for (row, streams) in rows.iter().zip([1, 3]) {
        assert_eq!((&row["model"], &row["counted_by"]), (&"one".into(), &"usage".into()));
        assert_eq!(
            (row["streams"].as_u64(), row["requests"].as_u64(), row["failed"].as_u64()),
            (Some(streams), Some(6), Some(0))
        );
        assert_eq!(row["written_tokens"], 6 * 9);
        let prompt = row["prompt_tokens"].as_u64().unwrap() as f64 / 6.0;
        assert!((prompt / 40.0 - 1.0).abs() < 0.3, "prompts of {prompt} tokens, 40 were asked for");
        assert!(row["first_ms"]["median"].as_f64().unwrap() > 0.0 && row["tokens_per_second"].as_f64().unwrap() > 0.0);
    }
    assert!(text.contains("tokens/s") && text.contains("streams"), "{text}");
}

#[test]
fn servers_are_compared_with_the_same_requests() {
    let (one, two) = (serve(&[]), serve(&[]));
    let arguments = [
        "--url",
        &one.url,
        "--url",
        &two.url,
        "--streams",
        "2",
        "--rounds",
        "2",
        "-n",
        "4",
        "--vary",
        "0.5",
        "--prompt-tokens",
        "300",
        "--shared-prefix",
        "200",
        "--rate",
        "50",
    ];
    let (ok, report, text) = bench(&arguments);
    assert!(ok, "{text}");
    let report = report.unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    assert!(rows[0]["ratio"].is_null() && rows[1]["ratio"].as_f64().unwrap() > 0.0);
    for row in rows {
        assert_eq!(row["requests"], 2 * 4);
        let written = row["written_tokens"].as_u64().unwrap();
        assert!((16..=32).contains(&written), "{written} tokens, from 2 to 4 for each of 8");
    }
    for name in ["prompt_tokens", "written_tokens"] {
        assert_eq!(rows[0][name], rows[1][name], "all servers are asked for the same");
    }
    assert!(text.contains("vs first"), "{text}");
}

#[test]
fn what_cannot_be_asked_is_one_sentence() {
    let server = serve(&["--api-key", "secret", "--max-open", "1"]);
    let url = ["--url", &server.url];
    for (more, word) in [
        (&["--url", "nowhere"][..], "no address"),
        (&["--url", "http://127.0.0.1:1"], "is a server running there"),
        (&url, "key is missing or wrong"),
        (&[url[0], url[1], "--api-key", "secret", "--model", "other"], "other"),
        (&[url[0], url[1], "--api-key", "secret", "--shared-prefix", "200"], "--shared-prefix 200"),
        (&[url[0], url[1], "--api-key", "secret", "--chat"], "chat template"),
        // One request at a time is open: of three, some are refused, which is counted and said.
        (&[url[0], url[1], "--api-key", "secret", "--streams", "3", "--requests", "3", "-n", "40"], "1 may be"),
    ] {
        let (ok, _, text) = bench(more);
        assert!(!ok && text.contains(word), "{more:?}: {text}");
        assert_eq!(text.lines().filter(|l| l.starts_with("error: ")).count(), 1, "{text}");
    }
}
