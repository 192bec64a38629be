//! A hub of the test's own on 127.0.0.1: it answers what the test says, and keeps what it was asked.

use sha1::Digest;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

pub struct Request {
    pub path: String,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that a Range header asks for.
    fn first_byte(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What is sent: a status line, headers and a body as they are; then the connection is closed.
pub struct Answer {
    pub status: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn new(status: &'static str, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { status, headers: vec![("Content-Length", body.len().to_string())], body }
    }

    pub fn redirect(to: String) -> Self {
        let mut answer = Self::new("302 Found", "");
        answer.headers.push(("Location", to));
        answer
    }

    /// The file, or the part of it that is asked for.
    pub fn file(bytes: &[u8], request: &Request) -> Self {
        let Some(first) = request.first_byte() else { return Self::new("200 OK", bytes) };
        let mut answer = Self::new("206 Partial Content", &bytes[first..]);
        answer.headers.push(("Content-Range", format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len())));
        answer
    }

    /// The connection breaks after some bytes of the body.
    pub fn cut(mut self, bytes: usize) -> Self {
        self.body.truncate(bytes);
        self
    }

    /// The end of the body is only told by the end of the connection.
    pub fn of_unknown_length(mut self) -> Self {
        self.headers.clear();
        self
    }
}

pub struct Server {
    pub address: String,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers every request by `answer`, which is told how many requests for the same path came before.
    pub fn start(answer: impl Fn(&Request, usize) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<Request>>>::default();
        let kept = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read(&mut stream);
                let before = kept.lock().unwrap().iter().filter(|r| r.path == request.path).count();
                let answer = answer(&request, before);
                kept.lock().unwrap().push(request);
                let lines: String = answer.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
                let head = format!("HTTP/1.1 {}\r\nConnection: close\r\n{lines}\r\n", answer.status);
                // The client may have seen enough.
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&answer.body));
            }
        });
        Self { address, asked }
    }

    /// All requests so far.
    pub fn asked(&self) -> std::sync::MutexGuard<'_, Vec<Request>> {
        self.asked.lock().unwrap()
    }

    /// The values of a header in the requests for files of a name, in order.
    pub fn headers_of(&self, name: &str, header: &str) -> Vec<Option<String>> {
        let asked = self.asked();
        let of_file = asked.iter().filter(|r| r.path.ends_with(name));
        of_file.map(|r| r.header(header).map(str::to_owned)).collect()
    }
}

fn read(stream: &mut TcpStream) -> Request {
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty());
    let first = lines.next().unwrap();
    let path = first.strip_prefix("GET ").and_then(|rest| rest.strip_suffix(" HTTP/1.1")).unwrap().to_owned();
    let split = |line: String| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    Request { path, headers: lines.filter_map(split).collect() }
}

/// A list of files as a hub gives it: hashes of large files by SHA-256, of others by Git.
pub fn list(files: &[(&str, Vec<u8>)]) -> serde_json::Value {
    let siblings: Vec<_> = files
        .iter()
        .map(|(name, bytes)| match name.ends_with(".json") {
            true => {
                let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
                serde_json::json!({ "rfilename": name, "size": bytes.len(), "blobId": hex(&sha1::Sha1::digest(blob)) })
            }
            false => {
                let large = serde_json::json!({ "sha256": hex(&sha2::Sha256::digest(bytes)), "size": bytes.len() });
                serde_json::json!({ "rfilename": name, "size": bytes.len(), "blobId": "0".repeat(40), "lfs": large })
            }
        })
        .collect();
    serde_json::json!({ "id": "owner/model", "siblings": siblings })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
