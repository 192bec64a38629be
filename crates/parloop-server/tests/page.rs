//! The page, its files, and what it shows of the passes.

use parloop_engine::{Engine, Model};
use parloop_kernels::Pool;
use parloop_model::Checkpoint;
use parloop_server::{Options, Server};
use serde_json::Value;
use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

/// Asks a server of the built-in model, one request after the other, and stops it.
fn asked(options: Options, requests: &[String]) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../parloop/model");
    let model = Model::load(&Checkpoint::open(&folder).unwrap(), None, &mut Pool::new(1), &mut |_, _| ()).unwrap();
    let engine = Engine::new(Arc::new(model), Some(1)).unwrap();
    let server = Server::new(engine, None, Default::default(), Options { port: 0, ..options }).unwrap();
    let address = server.address().unwrap();
    let (stop, told) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::spawn(move || server.run(async { _ = told.await }).unwrap());
    let ask = |request: &String| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answers = requests.iter().map(ask).collect();
    stop.send(()).unwrap();
    thread.join().unwrap();
    answers
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

fn write(tokens: usize) -> String {
    let body = format!(r#"{{"prompt": "ROMEO:", "max_tokens": {tokens}, "temperature": 0, "ignore_eos": true}}"#);
    format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn the_page_needs_no_key_and_asks_nobody_else() {
    let key = Options { key: Some("secret".into()), ..Options::default() };
    let answers = asked(key, &[get("/"), get("/page.css"), get("/page.js"), get("/rows")]);
    for (answer, kind) in answers.iter().zip(["text/html", "text/css", "text/javascript"]) {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200") && head.contains(&format!("content-type: {kind}; charset=utf-8")),
            "{head}"
        );
        assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
        // The namespace of SVG is a name, not an address that anybody asks.
        let body = body.replace("http://www.w3.org/2000/svg", "");
        for outside in ["http:", "https:", "//cdn", "@import", "url("] {
            assert!(!body.contains(outside), "{kind} has {outside}");
        }
        assert!(
            kind != "text/html" || !body.contains("style="),
            "the policy lets no style through that is in the page"
        );
    }
    assert!(answers[3].starts_with("HTTP/1.1 401"), "{}", answers[3]);
}

#[test]
fn rows_are_those_of_the_passes() {
    let answers = asked(Options::default(), &[write(12), get("/rows"), get("/rows?after=10"), get("/rows?after=x")]);
    let json = |answer: &str| serde_json::from_str::<Value>(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    let (all, later) = (json(&answers[1]), json(&answers[2]));
    assert_eq!(all["loops"], 2);
    let passes = all["passes"].as_array().unwrap();
    let numbers: Vec<u64> = passes.iter().map(|p| p["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (1..=passes.len() as u64).collect::<Vec<_>>());
    assert_eq!(later["passes"].as_array().unwrap()[..], passes[10..]);
    // Every loop of every position is computed once, and those of a written token share a pass.
    let mut seen = HashSet::new();
    for pass in passes {
        for span in pass["spans"].as_array().unwrap() {
            let [request, r, first, rows] = [0, 1, 2, 3].map(|i| span[i].as_u64().unwrap());
            assert!(request == 0 && r < 2 && rows > 0);
            assert!((first..first + rows).all(|position| seen.insert((r, position))), "{span} is there twice");
        }
    }
    let written: Vec<&Value> = passes.iter().rev().take(11).collect();
    for (i, pass) in written.iter().enumerate() {
        let spans = pass["spans"].as_array().unwrap();
        assert_eq!((spans.len(), &spans[0][2], &spans[0][3]), (2, &spans[1][2], &1.into()), "{pass}");
        assert_eq!(spans[0][2].as_u64().unwrap() + i as u64, written[0]["spans"][0][2].as_u64().unwrap());
    }
    assert!(answers[3].starts_with("HTTP/1.1 400") && answers[3].contains("after"), "{}", answers[3]);
}
