//! Clients that leave, dawdle and send what is none, and more of them than memory holds: nobody else notices, and in the
//! end nothing is in use.
//!
//! `PARLOOP_FAULTS=10` has ten times as many of them.

#[path = "faults/client.rs"]
mod client;

use client::{Running, head, model, start, start_with};
use parloop_engine::Limits;
use parloop_kernels::{KvType, WeightType};
use parloop_server::Options;
use parloop_testing::Rng;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// So many, or `PARLOOP_FAULTS` times as many.
fn many(count: usize) -> usize {
    let times = std::env::var("PARLOOP_FAULTS").ok().map_or(1, |text| text.parse::<usize>().unwrap());
    count * times
}

const PROMPTS: [&str; 4] = ["ROMEO:", "JULIET:\n", "First Citizen:\nBefore we proceed", "O"];

/// A request like those of others; never the same twice.
fn request(rng: &mut Rng) -> (&'static str, Value) {
    let prompt = PROMPTS[rng.range(0, 3)].repeat(rng.range(1, 8));
    let mut body = json!({
        "max_tokens": rng.range(1, 60),
        "temperature": rng.range(0, 1),
        "seed": rng.bits() >> 1,
        "n": rng.range(1, 2),
        "stream": rng.flip(),
    });
    if rng.flip() {
        body["messages"] = json!([{ "role": "user", "content": prompt }]);
        return ("/v1/chat/completions", body);
    }
    body["prompt"] = json!(prompt);
    if rng.flip() {
        body["logprobs"] = json!(rng.range(0, 3));
        body["echo"] = json!(body["stream"] == false && rng.flip());
    }
    ("/v1/completions", body)
}

/// Requests whose answers must not change: greedy, sampled, and scored.
fn witnesses() -> Vec<Value> {
    vec![
        json!({ "prompt": "ROMEO:", "max_tokens": 40, "temperature": 0, "logprobs": 3 }),
        json!({ "prompt": "JULIET:\nO", "max_tokens": 40, "temperature": 0.9, "seed": 5, "logprobs": 1, "stream": true }),
        json!({ "prompt": "To be, or not to be", "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": true }),
    ]
}

fn answers(server: &Running) -> Vec<Value> {
    witnesses().iter().map(|body| server.answer("/v1/completions", body)).collect()
}

/// A client that leaves at some point: while it sends, before anything comes, or in the middle of the answer.
fn leaves(server: &Running, rng: &mut Rng) {
    let (path, body) = request(rng);
    let body = body.to_string();
    let whole = head(path, body.len()) + &body;
    let mut stream = server.connect();
    let part = if rng.range(0, 3) == 0 { rng.range(0, whole.len()) } else { whole.len() };
    stream.write_all(&whole.as_bytes()[..part]).unwrap();
    if part == whole.len() && rng.range(0, 3) > 0 {
        // What is read may be anything up to the end of the answer; a server that says no is as good.
        let mut some = vec![0; rng.range(1, 6000)];
        let _ = stream.read_exact(&mut some);
    }
}

#[test]
fn clients_that_leave_take_nothing_with_them() {
    let (clients, threads) = (many(120), 24);
    let server = start(Options { most: 64, ..Options::default() });
    let expected = answers(&server);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= clients {
                        return;
                    }
                    leaves(&server, &mut Rng(i as u64));
                }
            });
        }
        for _ in 0..3 {
            assert_eq!(answers(&server), expected);
        }
    });
    server.settles();
    // Each place is free again: so many at once would otherwise be refused.
    let body = json!({ "prompt": "ROMEO:", "n": 64, "max_tokens": 2, "temperature": 0 });
    let (mut status, mut answer) = server.post("/v1/completions", &body);
    // What a client sent before it left may be read only now, and takes its place for a moment.
    while status == 429 {
        server.settles();
        (status, answer) = server.post("/v1/completions", &body);
    }
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answers(&server), expected);
    assert_eq!(server.metric("requests_failed_total"), 0);
    server.settles();
}

#[test]
fn requests_that_never_end_hold_nothing_up() {
    let mut server = start(Options { patience: Duration::from_millis(300), ..Options::default() });
    let mut held = Vec::new();
    for i in 0..many(40) {
        let mut stream = server.connect();
        let part: &[u8] = match i % 4 {
            0 => b"",
            1 => b"POST /v1/comple",
            2 => b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Le",
            _ => b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{\"pr",
        };
        stream.write_all(part).unwrap();
        held.push((i % 4, stream));
    }
    assert_eq!(server.answer("/v1/completions", &witnesses()[0])[0]["finish_reason"], "length");
    // Whoever is silent for too long is told so, where that can be said, and closed.
    for (kind, stream) in &mut held {
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        assert!(*kind != 3 || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    // Those who only wait at the end do not keep it from stopping.
    let idle: Vec<_> = (0..5).map(|_| server.connect()).collect();
    server.tell();
    server.wait();
    drop(idle);
}

#[test]
fn who_takes_nothing_of_an_answer_is_given_up() {
    let server = start(Options { patience: Duration::from_millis(300), most: 64, ..Options::default() });
    // Far more than what the system holds between two ends.
    let body =
        json!({ "prompt": "ROMEO:", "n": 64, "max_tokens": 500, "logprobs": 20, "ignore_eos": true, "stream": true });
    let body = body.to_string();
    let mut stream = server.connect();
    stream.write_all((head("/v1/completions", body.len()) + &body).as_bytes()).unwrap();
    while server.metric("requests_cancelled_total") == 0 && server.metric("tokens_written_total") < 64 * 500 {
        std::thread::sleep(Duration::from_millis(20));
    }
    server.settles();
    assert!(server.metric("requests_cancelled_total") > 0, "everything was computed for nobody");
    drop(stream);
}

#[test]
fn a_body_without_end_is_refused() {
    let server = start(Options { body: 100_000, ..Options::default() });
    // Announced: refused before it is sent.
    let (status, answer) = server.send(&head("/v1/completions", 100 << 20), b"{");
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!((status, answer["error"]["type"].as_str()), (413, Some("invalid_request_error")));
    // Not announced: refused when it is too long.
    let chunked = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                   Transfer-Encoding: chunked\r\n\r\n";
    let piece = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
    let mut stream = server.connect();
    stream.write_all(chunked.as_bytes()).unwrap();
    let sent = (0..1600).take_while(|_| stream.write_all(&piece).is_ok()).count();
    assert!(sent < 1600, "100 MB were taken");
    assert_eq!(server.answer("/v1/completions", &witnesses()[0])[0]["finish_reason"], "length");
    server.settles();
}

#[test]
fn what_is_no_request_is_refused_in_the_shape_of_errors() {
    let server = start(Options::default());
    let rng = &mut Rng(7);
    let samples: Vec<(&str, Vec<u8>)> = [
        (
            "/v1/completions",
            json!({ "prompt": ["a", "b"], "max_tokens": 3, "logprobs": 2, "stop": ["x"], "echo": true }),
        ),
        ("/v1/chat/completions", json!({ "messages": [{ "role": "user", "content": "a" }], "max_tokens": 3, "n": 2 })),
        ("/tokenize", json!({ "content": "ROMEO: été" })),
        ("/detokenize", json!({ "tokens": [1, 2, 3] })),
        ("/apply-template", json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "a" }] }] })),
    ]
    .into_iter()
    .map(|(path, body)| (path, body.to_string().into_bytes()))
    .collect();
    let (mut refused, mut taken) = (0, 0);
    for _ in 0..many(400) {
        let (path, mut body) = samples[rng.range(0, samples.len() - 1)].clone();
        for _ in 0..rng.range(1, 4) {
            let at = rng.range(0, body.len().saturating_sub(1));
            match rng.range(0, 5) {
                // A byte that may be no UTF-8, one that JSON knows, a part that is missing, one that is there twice.
                0 => body[at] = rng.bits() as u8,
                1 => body[at] = b"{}[]\",:0123456789-eE.tfn\\\0"[rng.range(0, 25)],
                2 => drop(body.drain(at..(at + rng.range(0, 9)).min(body.len()))),
                3 => body.extend_from_within(at..),
                4 => drop(body.splice(at..at, b"[[[[[[[[[[[[[[[[".repeat(rng.range(1, 200)))),
                _ => drop(body.splice(at..at, b"1e999999999999".iter().copied())),
            }
            if body.is_empty() {
                body.push(b'{');
            }
        }
        let (status, answer) = server.send(&head(path, body.len()), &body);
        let text = String::from_utf8_lossy(&body).into_owned();
        if status == 200 {
            taken += 1;
            continue;
        }
        refused += 1;
        assert!((400..500).contains(&status), "{status} for {path} {text}");
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_else(|e| panic!("{e} for {text}"));
        assert!(answer["error"]["message"].as_str().is_some_and(|m| !m.is_empty() && m.len() < 1000), "{answer}");
    }
    assert!(refused > taken && taken > 0, "{refused} refused, {taken} taken");
    // What is no HTTP at all.
    for text in
        ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
    {
        let mut stream = server.connect();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4") || answer.starts_with(b"HTTP/1.0 4"), "{text}");
    }
    let (status, _) = server
        .send(&format!("GET /{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "a".repeat(9000)), b"");
    assert!((400..500).contains(&status), "{status}");
    server.settles();
}

#[test]
fn many_requests_share_memory_for_a_few() {
    // About three texts of 200 tokens at a time, for many times as many.
    let one = parloop_engine::Sequence::bytes_at(model(None, None).config(), KvType::F32, 200);
    for cache in [0, one] {
        let limits = Limits { cache, ..Limits::default() };
        let options = Options { most: 512, limits, ..Options::default() };
        let server = start_with(model(None, None), KvType::F32, 3 * one, options);
        let bodies: Vec<Value> = (0..5)
            .map(|i| json!({ "prompt": PROMPTS[i % 4].repeat(1 + i * 3), "max_tokens": 30 + 10 * i, "temperature": i % 2, "seed": i, "logprobs": 1 }))
            .collect();
        let expected: Vec<Value> = bodies.iter().map(|body| server.answer("/v1/completions", body)).collect();
        std::thread::scope(|scope| {
            for i in 0..many(50).min(500) {
                let (server, body, expected) = (&server, &bodies[i % 5], &expected[i % 5]);
                scope.spawn(move || assert_eq!(&server.answer("/v1/completions", body), expected));
            }
        });
        assert!(server.metric("requests_put_back_total") > 0, "memory was never short");
        assert_eq!(server.metric("requests_failed_total"), 0);
        if cache == 0 {
            server.settles();
        }
        assert!(server.metric("kv_bytes") <= cache as u64);
        // One that never fits is refused, and takes nobody with it.
        let (status, answer) = server.post("/v1/completions", &json!({ "prompt": vec![5; 500], "max_tokens": 1 }));
        assert!(status == 200 || status == 503, "{answer}");
    }
}

#[test]
fn a_stop_under_load_lets_everybody_finish() {
    let mut server = start(Options::default());
    let bodies: Vec<Value> =
        (0..12).map(|i| json!({ "prompt": PROMPTS[i % 4], "max_tokens": 200, "temperature": 0, "ignore_eos": true, "stream": i % 2 == 0 })).collect();
    let expected: Vec<Value> = bodies.iter().map(|body| server.answer("/v1/completions", body)).collect();
    let (sender, begun) = std::sync::mpsc::channel();
    let address = server.address;
    std::thread::scope(|scope| {
        for (body, expected) in bodies.iter().zip(&expected) {
            let mut stream = server.connect();
            let sender = sender.clone();
            scope.spawn(move || {
                let text = body.to_string();
                stream.write_all((head("/v1/completions", text.len()) + &text).as_bytes()).unwrap();
                let mut answer = Vec::new();
                if body["stream"] == true {
                    // The first bytes are here: it has begun.
                    let mut one = [0];
                    stream.read_exact(&mut one).unwrap();
                    answer.push(one[0]);
                }
                sender.send(()).unwrap();
                stream.read_to_end(&mut answer).unwrap();
                let answer = String::from_utf8_lossy(&answer).into_owned();
                let text = expected.as_array().unwrap();
                match body["stream"] == true {
                    true => {
                        assert!(answer.contains("[DONE]"), "{answer}");
                        let pieces = text.iter().map(|c| c[0]["text"].as_str().unwrap_or_default().to_owned());
                        let found: String = answer
                            .lines()
                            .filter_map(|l| l.split_once("data: {"))
                            .map(|(_, l)| {
                                let event: Value = serde_json::from_str(&format!("{{{l}")).unwrap();
                                event["choices"][0]["text"].as_str().unwrap_or_default().to_owned()
                            })
                            .collect();
                        assert_eq!(found, pieces.collect::<String>());
                    }
                    // Not begun when it was told to stop, or whole.
                    false => assert!(
                        answer.contains(&json!(text[0]["text"]).to_string()) || answer.contains("stopping"),
                        "{answer}"
                    ),
                }
            });
        }
        (0..12).for_each(|_| begun.recv().unwrap());
        server.tell();
        server.wait();
    });
    assert!(std::net::TcpStream::connect(address).is_err(), "nobody listens any more");
}

/// The same request alone, among 45 others, and after them, for every number of loops and every type.
#[test]
fn an_answer_is_the_same_alone_and_among_45_others() {
    let kinds = [WeightType::Bf16, WeightType::Q8, WeightType::Q4];
    for loops in [1, 2, 3] {
        for kind in kinds {
            for kv in [KvType::F32, KvType::Bf16, KvType::Q8] {
                let model = model(Some(kind), Some(loops));
                let limits = Limits { cache: 8 << 20, running: 24, ..Limits::default() };
                let start = || start_with(model.clone(), kv, 64 << 20, Options { limits, ..Options::default() });
                let expected = answers(&start());
                let server = start();
                std::thread::scope(|scope| {
                    for i in 0..45 {
                        let server = &server;
                        scope.spawn(move || {
                            let rng = &mut Rng(1000 + i);
                            if i % 5 == 0 {
                                return leaves(server, rng);
                            }
                            let (path, body) = request(rng);
                            let (status, answer) = server.post(path, &body);
                            assert_eq!(status, 200, "{answer}");
                        });
                    }
                    assert_eq!(answers(&server), expected, "among others: {loops} loops, {kind:?}, {kv:?}");
                });
                assert_eq!(answers(&server), expected, "after them: {loops} loops, {kind:?}, {kv:?}");
            }
        }
    }
}
