//! The server as its clients see it, over loopback.

use parloop_engine::{Engine, Generation, Generator, Limits, Model, Passes, SampleOptions, score};
use parloop_kernels::{KvPool, Pool};
use parloop_model::{ChatSource, ChatTemplate, Checkpoint};
use parloop_server::{Options, Server};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

#[path = "http/described.rs"]
mod described;
#[path = "http/gaps.rs"]
mod gaps;
#[path = "http/messages.rs"]
mod messages;
#[path = "http/responses.rs"]
mod responses;
#[path = "http/sampling.rs"]
mod sampling;
#[path = "http/states.rs"]
mod states;
#[path = "http/tools.rs"]
mod tools;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../parloop/model")
}

fn model() -> Arc<Model> {
    model_of(&folder())
}

fn model_of(folder: &Path) -> Arc<Model> {
    let checkpoint = Checkpoint::open(folder).unwrap();
    Arc::new(Model::load(&checkpoint, None, &mut Pool::new(1), &mut |_, _| ()).unwrap())
}

/// A server that stops with this.
struct Running {
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// A template that says nothing but who said what.
const PLAIN: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

fn start(options: Options) -> Running {
    start_with(PLAIN, options)
}

fn start_with(template: &str, options: Options) -> Running {
    start_model(model(), template, options)
}

fn start_model(model: Arc<Model>, template: &str, options: Options) -> Running {
    let mut engine = Engine::new(model, Some(1)).unwrap();
    engine.set_kv_pool(KvPool::new(64 << 20));
    let source = ChatSource { template: template.into(), tool_use: None, tokens: Default::default() };
    let server = Server::new(
        engine,
        Some(ChatTemplate::new(&source).unwrap()),
        Default::default(),
        Options { port: 0, name: "shakespeare".into(), ..options },
    );
    let server = server.unwrap();
    let address = server.address().unwrap();
    let (stop, told) = tokio::sync::oneshot::channel();
    let thread = std::thread::spawn(move || server.run(async { _ = told.await }).unwrap());
    Running { address, stop: Some(stop), thread: Some(thread) }
}

impl Running {
    fn send(&self, request: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    }

    /// Status and body of a request with further header lines.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut answer = String::new();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
            body.len()
        );
        self.send(&request).read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (status, if chunked { unchunked(body) } else { body.to_owned() })
    }

    fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "", "")
    }

    fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let (status, body) = self.ask("POST", path, "Content-Type: application/json\r\n", &body.to_string());
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }

    /// The JSON of every chunk of a stream, which ends as streams do.
    fn stream(&self, path: &str, body: Value) -> Vec<Value> {
        let (status, body) = self.ask("POST", path, "Content-Type: application/json\r\n", &body.to_string());
        assert_eq!(status, 200, "{body}");
        let mut lines: Vec<&str> = body.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
        assert_eq!(lines.pop(), Some("[DONE]"));
        lines.into_iter().map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.get("/metrics");
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("parloop_{name} ")).map(str::to_owned));
        line.unwrap().parse().unwrap()
    }
}

/// Names and data of the events of a stream.
fn events(server: &Running, path: &str, body: Value) -> Vec<(String, Value)> {
    let (status, body) = server.ask("POST", path, "Content-Type: application/json\r\n", &body.to_string());
    assert_eq!(status, 200, "{body}");
    let event = |lines: &str| {
        let name = lines.lines().find_map(|l| l.strip_prefix("event: "))?;
        let data = lines.lines().find_map(|l| l.strip_prefix("data: "))?;
        Some((name.to_owned(), serde_json::from_str(data).unwrap()))
    };
    body.split("\n\n").filter_map(event).collect()
}

fn unchunked(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        out += &rest[..size];
        body = rest[size..].strip_prefix("\r\n").unwrap_or_default();
    }
    out
}

/// What the model writes when nobody else is there.
fn alone(prompt: &str, tokens: usize) -> String {
    let mut engine = Engine::new(model(), Some(1)).unwrap();
    let model = engine.model().clone();
    let tokenizer = model.tokenizer().unwrap();
    let ids = tokenizer.encode(prompt).unwrap();
    let options = Generation { tokens, sampling: SampleOptions::greedy(), ..Generation::default() };
    let mut sequence = engine.sequence();
    let generator = Generator::new(&mut engine, &mut sequence, &ids, &options).unwrap();
    let mut generator = generator.text(tokenizer.stream_after(&ids).unwrap());
    let text: String = (&mut generator).map(|t| t.unwrap().text).collect();
    text + &generator.rest()
}

#[test]
fn completions_whole_streamed_and_in_company_are_the_text_of_one_alone() {
    let server = start(Options::default());
    let prompts = ["ROMEO:", "JULIET:\n", "First Citizen:", "ROMEO:\nO"];
    let expected: Vec<String> = prompts.iter().map(|p| alone(p, 40)).collect();
    let ask =
        |prompt: &str, stream: bool| json!({ "prompt": prompt, "max_tokens": 40, "temperature": 0, "stream": stream });
    std::thread::scope(|scope| {
        for round in 0..3 {
            for (prompt, expected) in prompts.iter().zip(&expected) {
                let server = &server;
                scope.spawn(move || {
                    let (status, answer) = server.post("/v1/completions", ask(prompt, false));
                    assert_eq!(status, 200, "{answer}");
                    assert_eq!(answer["choices"][0]["text"], json!(expected), "{round}");
                    assert_eq!(answer["usage"]["completion_tokens"], 40);
                    assert_eq!(answer["choices"][0]["finish_reason"], "length");
                    let chunks = server.stream("/v1/completions", ask(prompt, true));
                    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
                    assert_eq!(&text, expected);
                    assert!(chunks.iter().all(|c| c.get("usage").is_none()), "usage only if asked");
                });
            }
        }
    });
    // All prompts in one request, twice each, and the usage at the end of a stream.
    let body = json!({ "prompt": prompts, "n": 2, "max_tokens": 40, "temperature": 0 });
    let (_, answer) = server.post("/v1/completions", body);
    for (i, choice) in answer["choices"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&choice["index"], &choice["text"]), (&json!(i), &json!(expected[i / 2])));
    }
    let mut body = ask("ROMEO:", true);
    body["stream_options"] = json!({ "include_usage": true });
    let last = server.stream("/v1/completions", body).pop().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(40)));
    assert_eq!(server.metric("requests_running") + server.metric("requests_waiting"), 0);
}

#[test]
fn log_probabilities_of_a_prompt_are_those_of_scoring() {
    let server = start(Options::default());
    let mut engine = Engine::new(model(), Some(1)).unwrap();
    let model = engine.model().clone();
    let text = "To be, or not to be: that is the question.";
    let ids = model.tokenizer().unwrap().encode(text).unwrap();
    let expected = score(&mut engine, &ids, Passes::Auto, false, None).unwrap().logprobs;
    let body = json!({ "prompt": [ids], "echo": true, "logprobs": 1, "max_tokens": 1, "temperature": 0 });
    let (status, answer) = server.post("/v1/completions", body);
    assert_eq!(status, 200, "{answer}");
    let list = &answer["choices"][0]["logprobs"];
    let own = list["token_logprobs"].as_array().unwrap();
    assert_eq!(own.len(), ids.len() + 1, "the prompt and one written token");
    assert!(own[0].is_null() && list["top_logprobs"][0].is_null());
    let found: Vec<f32> = own[1..ids.len()].iter().map(|v| v.as_f64().unwrap() as f32).collect();
    assert_eq!(found, expected);
    // The written token was the most likely one: its number is the largest of the list, to the last digit.
    let top = list["top_logprobs"][ids.len()].as_object().unwrap();
    let most = top.values().map(|v| v.as_f64().unwrap()).fold(f64::MIN, f64::max);
    assert_eq!(own[ids.len()].as_f64().unwrap(), most);
    assert!(answer["choices"][0]["text"].as_str().unwrap().starts_with(text));
}

#[test]
fn chat_goes_through_the_template_and_ends_before_a_stop_string() {
    let server = start(Options::default());
    let messages = json!([{ "role": "user", "content": [{ "type": "text", "text": "Who is there?" }] }]);
    let (_, rendered) = server.post("/apply-template", json!({ "messages": messages }));
    assert_eq!(rendered["prompt"], "user: Who is there?\nassistant: ");
    let body = json!({ "messages": messages, "max_completion_tokens": 30, "temperature": 0 });
    let (status, answer) = server.post("/v1/chat/completions", body.clone());
    assert_eq!(status, 200, "{answer}");
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let mut streamed = body.clone();
    streamed["stream"] = json!(true);
    let chunks = server.stream("/v1/chat/completions", streamed);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let whole: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(whole, text);
    assert_eq!(chunks.iter().filter(|c| c["choices"][0]["finish_reason"].is_string()).count(), 1);
    let stop: String = text.chars().skip(5).take(4).collect();
    let mut stopped = body;
    stopped["stop"] = json!([stop]);
    let (_, answer) = server.post("/v1/chat/completions", stopped);
    assert_eq!(answer["choices"][0]["message"]["content"], json!(text.split(&stop).next().unwrap()));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    // The next turn of a conversation finds the last one's keys and values.
    let long: Vec<Value> =
        (0..6).map(|i| json!({ "role": "user", "content": format!("Message {i}. {}", "Ay. ".repeat(20)) })).collect();
    let ask = |messages: &[Value]| {
        let (status, answer) =
            server.post("/v1/chat/completions", json!({ "messages": messages, "max_tokens": 2, "temperature": 0 }));
        assert_eq!(status, 200, "{answer}");
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(ask(&long[..5]), 0);
    assert!(ask(&long) > 100);
}

#[test]
fn whoever_leaves_is_forgotten_and_memory_comes_back() {
    let server = start(Options { limits: Limits { cache: 0, ..Limits::default() }, ..Options::default() });
    let body = json!({ "prompt": "ROMEO:", "max_tokens": 400, "ignore_eos": true, "stream": true }).to_string();
    for n in 0..20 {
        let mut stream = server.send(&format!(
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        // Some leave at once, some after some text, some in the middle of what they have to say.
        if n % 3 > 0 {
            let mut some = [0; 600];
            let _ = stream.read(&mut some[..n * 20 + 1]);
        }
        drop(stream);
    }
    drop(server.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{\"prompt\""));
    // Everything is answered while the rest is cleared away; then nothing is held.
    let (done, waits) = channel();
    std::thread::scope(|scope| {
        let server = &server;
        scope.spawn(move || {
            while server.metric("requests_running") + server.metric("requests_waiting") + server.metric("kv_bytes") > 0
            {
                std::thread::yield_now();
            }
            done.send(()).unwrap();
        });
        waits.recv().unwrap();
    });
    assert_eq!(server.get("/health").0, 200);
}

#[test]
fn what_is_wrong_is_named() {
    let server = start(Options { body: 20_000, most: 3, ..Options::default() });
    let refused = |path: &str, body: Value, status: u16, word: &str| {
        let (found, answer) = server.post(path, body.clone());
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(found, status, "{body}: {answer}");
        assert!(message.contains(word), "{body}: {message}");
    };
    let base = |more: Value| {
        let mut body = json!({ "prompt": "a", "max_tokens": 2 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (more, word) in [
        (json!({ "prompt": null }), "prompt"),
        (json!({ "prompt": 7 }), "prompt"),
        (json!({ "prompt": [[1, "a"]] }), "prompt"),
        (json!({ "prompt": [99_999_999] }), "vocabulary"),
        (json!({ "prompt": "" }), "prompt"),
        (json!({ "max_tokens": -1 }), "max_tokens"),
        (json!({ "max_tokens": "many" }), "max_tokens"),
        (json!({ "temperature": "hot" }), "temperature"),
        (json!({ "temperature": -1 }), "temperature"),
        (json!({ "top_p": 2 }), "top-p"),
        (json!({ "n": 0 }), "n:"),
        (json!({ "stop": [1] }), "stop"),
        (json!({ "stream": 1 }), "stream"),
        (json!({ "stream_options": [] }), "stream_options"),
        (json!({ "logprobs": 99 }), "logprobs"),
        (json!({ "logit_bias": { "five": 1 } }), "logit_bias"),
        (json!({ "logit_bias": { "99999999": 1 } }), "logit_bias"),
        (json!({ "logit_bias": { "5": 101 } }), "logit_bias"),
        (json!({ "logit_bias": [5] }), "logit_bias"),
        (json!({ "presence_penalty": 3 }), "presence_penalty"),
        (json!({ "frequency_penalty": "a" }), "frequency_penalty"),
        (json!({ "repeat_last_n": -2 }), "repeat_last_n"),
        (json!({ "stop": "a".repeat(17_000) }), "stop"),
        (json!({ "ignore_eos": "yes" }), "ignore_eos"),
        (json!({ "cache_salt": 5 }), "cache_salt"),
        (json!({ "stream_options": { "include_usage": 1 } }), "include_usage"),
        (json!({ "mirostat": 2 }), "mirostat"),
        (json!({ "suffix": "b" }), "filling in the middle"),
        (json!({ "loops_logprobs": 0 }), "loops_logprobs"),
    ] {
        refused("/v1/completions", base(more), 400, word);
    }
    refused("/v1/completions", base(json!({ "model": "other" })), 404, "other");
    refused("/v1/completions", base(json!({ "n": 4 })), 429, "3 may be");
    refused("/v1/completions", base(json!({ "prompt": vec![1; 5000] })), 400, "maximum context length");
    refused("/v1/completions", base(json!({ "prompt": "x".repeat(30_000) })), 413, "larger");
    for (messages, word) in [(json!([]), "messages"), (json!([{ "content": "a" }]), "role"), (json!("a"), "messages")] {
        refused("/v1/chat/completions", json!({ "messages": messages }), 400, word);
    }
    refused("/detokenize", json!({ "tokens": ["a"] }), 400, "tokens");
    refused("/tokenize", json!({}), 400, "content");
    assert_eq!(server.get("/nowhere").0, 404);
    assert_eq!(server.get("/v1/completions").0, 405);
    assert_eq!(server.get("/v1/models/other").0, 404);
    let json = "Content-Type: application/json\r\n";
    for (headers, body, status) in [("Content-Type: text/plain\r\n", "{}", 415), (json, "{", 400), (json, "[]", 400)] {
        let (found, answer) = server.ask("POST", "/v1/completions", headers, body);
        assert_eq!(found, status, "{answer}");
        assert!(serde_json::from_str::<Value>(&answer).unwrap()["error"]["message"].is_string());
    }
    let (status, answer) = server.post("/tokenize", json!({ "content": "ROMEO:" }));
    assert_eq!(status, 200);
    let (_, text) = server.post("/detokenize", json!({ "tokens": answer["tokens"] }));
    assert_eq!(text["content"], "ROMEO:");
    let models: Value = serde_json::from_str(&server.get("/v1/models").1).unwrap();
    assert_eq!(
        (&models["data"][0]["id"], &models["models"][0]["name"]),
        (&json!("shakespeare"), &json!("shakespeare"))
    );
}

#[test]
fn strangers_are_kept_out() {
    let server = start(Options { key: Some("secret".into()), ..Options::default() });
    assert_eq!(server.get("/health").0, 200);
    assert_eq!(server.get("/v1/models").0, 401);
    assert_eq!(server.ask("GET", "/v1/models", "Authorization: Bearer secre\r\n", "").0, 401);
    assert_eq!(server.ask("GET", "/v1/models", "Authorization: Bearer secret\r\n", "").0, 200);
    assert_eq!(server.ask("GET", "/v1/models", "x-api-key: secret\r\n", "").0, 200);
    let page = "Authorization: Bearer secret\r\nOrigin: https://example.com\r\n";
    assert_eq!(server.ask("GET", "/v1/models", page, "").0, 403);
    let mut answer = String::new();
    let stream = "GET /health HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n";
    server.send(stream).read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let engine = Engine::new(model(), Some(1)).unwrap();
    let open = Options { host: "0.0.0.0".into(), port: 0, ..Options::default() };
    let refusal = Server::new(engine, None, Default::default(), open).err().unwrap().to_string();
    assert!(refusal.contains("0.0.0.0") && refusal.contains("key"), "{refusal}");
}
