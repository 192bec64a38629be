//! A server of this process, and clients that may behave badly.

use parloop_engine::{Engine, Limits, Model};
use parloop_kernels::{KvPool, KvType, Pool, WeightType};
use parloop_model::{ChatSource, ChatTemplate, Checkpoint, Recipe};
use parloop_server::{Options, Server};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The built-in model, with other weights and another number of loops.
pub fn model(kind: Option<WeightType>, loops: Option<usize>) -> Arc<Model> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../parloop/model");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let model = Model::load(&checkpoint, kind, &mut Pool::new(1), &mut |_, _| ()).unwrap();
    match loops {
        None => Arc::new(model),
        Some(count) => {
            let recipe = Recipe { count, ..model.config().recipe.clone() };
            Arc::new(model.with_recipe(recipe).unwrap())
        }
    }
}

/// A server that stops with this.
pub struct Running {
    pub address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tell();
        self.wait();
    }
}

/// Keys and values of 64 MB, nothing cached: what is in use at the end was leaked.
pub fn start(options: Options) -> Running {
    let limits = Limits { cache: 0, ..options.limits };
    start_with(model(None, None), KvType::F32, 64 << 20, Options { limits, ..options })
}

pub fn start_with(model: Arc<Model>, kv: KvType, budget: usize, options: Options) -> Running {
    let mut engine = Engine::new(model, Some(1)).unwrap();
    engine.set_kv_type(kv);
    engine.set_kv_pool(KvPool::new(budget));
    let source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
    let source = ChatSource { template: source.into(), tool_use: None, tokens: Default::default() };
    let template = Some(ChatTemplate::new(&source).unwrap());
    let server = Server::new(engine, template, Default::default(), Options { port: 0, ..options }).unwrap();
    let address = server.address().unwrap();
    let (stop, told) = tokio::sync::oneshot::channel();
    let thread = std::thread::spawn(move || server.run(async { _ = told.await }).unwrap());
    Running { address, stop: Some(stop), thread: Some(thread) }
}

impl Running {
    /// Tells it to stop.
    pub fn tell(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
    }

    /// Waits until it has stopped; it panics if the server did.
    pub fn wait(&mut self) {
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(std::thread::panicking() || !matches!(ended, Some(Err(_))), "the server panicked");
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        // A test that waits for what never comes fails instead.
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    }

    /// Status and body; the server may close before it has read everything.
    pub fn send(&self, head: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let mut stream = self.connect();
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| panic!("no answer: {read:?}"));
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = &answer[end + 4..];
        let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        (status, if chunked { unchunked(body) } else { body.to_vec() })
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string();
        let (status, answer) = self.send(&head(path, body.len()), body.as_bytes());
        (status, serde_json::from_slice(&answer).unwrap_or(Value::Null))
    }

    /// What a request gets in the end, without what every answer has of its own; a stream is put together.
    pub fn answer(&self, path: &str, body: &Value) -> Value {
        let text = body.to_string();
        let (status, answer) = self.send(&head(path, text.len()), text.as_bytes());
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        if body["stream"] == true {
            let text = String::from_utf8(answer).unwrap();
            let mut lines: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
            assert_eq!(lines.pop(), Some("[DONE]"), "{text}");
            let events = lines.into_iter().map(|l| serde_json::from_str::<Value>(l).unwrap());
            return events.map(|event| event["choices"].clone()).collect();
        }
        serde_json::from_slice::<Value>(&answer).unwrap()["choices"].clone()
    }

    pub fn metric(&self, name: &str) -> u64 {
        let (_, text) = self.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"");
        let text = String::from_utf8(text).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("parloop_{name} ")).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    /// Waits until nothing is computed, and checks that nothing is held.
    pub fn settles(&self) {
        for _ in 0..6000 {
            if self.metric("requests_running") + self.metric("requests_waiting") + self.metric("kv_bytes") == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let held = ["requests_running", "requests_waiting", "kv_bytes"].map(|name| (name, self.metric(name)));
        panic!("nobody is there, and this is still in use: {held:?}");
    }
}

pub fn head(path: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    )
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = body.windows(2).position(|w| w == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap().trim(), 16).unwrap();
        out.extend_from_slice(&body[end + 2..end + 2 + size]);
        body = body[end + 2 + size..].strip_prefix(b"\r\n").unwrap_or_default();
    }
    out
}
