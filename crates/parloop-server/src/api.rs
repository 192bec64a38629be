//! The interface, path by path.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
mod fields;
pub(crate) mod fim;
mod job;
pub(crate) mod messages;
pub(crate) mod openapi;
mod reading;
pub(crate) mod responses;
mod sampling;
mod stream;
mod talk;
pub(crate) mod trade;

use crate::app::App;
use crate::error::ApiError;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use fields::Fields;
use job::Usage;
use parloop_engine::Token;
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use stream::Chunk;

/// A body of JSON, with the name of each field in what is refused.
fn object(headers: &HeaderMap, body: &Bytes) -> Result<Map<String, Value>, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message = format!("the content type is \"{kind}\", expected application/json");
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(_) => Err(ApiError::new(StatusCode::BAD_REQUEST, "the body is no JSON object")),
        Err(e) => Err(ApiError::new(StatusCode::BAD_REQUEST, format!("the body is no JSON: {e}"))),
    }
}

/// The most likely tokens after each loop, where they were asked for: for each token a list for each loop.
fn loops(app: &App, tokens: &[Token], choice: &mut Value) {
    if tokens.iter().all(|token| token.loops.is_empty()) {
        return;
    }
    let tokenizer = app.model.tokenizer();
    let one = |(id, l): &(u32, f32)| json!({ "id": id, "token": completions::piece(tokenizer, *id), "logprob": l });
    let likely = |list: &Vec<(u32, f32)>| list.iter().map(one).collect::<Vec<Value>>();
    let each = |token: &Token| {
        let text = completions::piece(tokenizer, token.id);
        json!({ "id": token.id, "token": text, "loops": token.loops.iter().map(likely).collect::<Vec<_>>() })
    };
    choice["loops_logprobs"] = tokens.iter().map(each).collect();
}

/// An identifier that no other answer of this process has.
fn identifier(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}-{:x}-{:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// How OpenAI's completions and chat show an answer.
#[derive(Clone, Copy, Debug)]
struct Shown {
    stream: bool,
    /// The last chunk tells the usage.
    include_usage: bool,
    /// Every chunk does.
    continuous_usage: bool,
    /// What is computed of a prompt is told.
    progress: bool,
    begun: std::time::Instant,
}

impl Shown {
    fn read(fields: &Fields<'_>) -> Result<Self, ApiError> {
        let none = Map::new();
        let options = Fields(fields.object("stream_options")?.unwrap_or(&none));
        let continuous_usage = options.bool("continuous_usage_stats")?;
        Ok(Self {
            stream: fields.bool("stream")?,
            include_usage: options.bool("include_usage")? || continuous_usage,
            continuous_usage,
            progress: fields.bool("return_progress")?,
            begun: std::time::Instant::now(),
        })
    }

    /// Writes the usage into a chunk if it belongs there.
    fn usage(&self, chunk: &mut Value, usage: &Usage, last: bool) {
        if last || self.continuous_usage {
            chunk["usage"] = usage.json();
        } else if self.include_usage {
            chunk["usage"] = Value::Null;
        }
    }

    /// A chunk that tells how far a prompt is, in the words of llama.cpp.
    fn prompt(&self, mut chunk: Value, done: usize, cached: usize, total: usize) -> Chunk {
        let time = self.begun.elapsed().as_millis() as u64;
        chunk["prompt_progress"] = json!({ "total": total, "cache": cached, "processed": done, "time_ms": time });
        Chunk::data(&chunk)
    }
}
