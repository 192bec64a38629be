//! `POST /v1/chat/completions`.

use super::completions::piece;
use super::fields::Fields;
use super::job::{Call, End, Job, Part, Usage, Whole};
use super::reading::Piece;
use super::sampling::{Asked, choices};
use super::stream::{self, Chunk, Render};
use super::talk::{self, Talk};
use super::{Shown, identifier, loops, now, object};
use crate::app::App;
use crate::error::ApiError;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use parloop_engine::Token;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn chat(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let body = object(&headers, &body)?;
    let fields = Fields(&body);
    fields.check_model(&app)?;
    fields.refuse(&["functions", "function_call", "audio"])?;
    let top = match fields.bool("logprobs")? {
        true => Some(fields.whole("top_logprobs", 0, 20)?.unwrap_or(0) as usize),
        false => None,
    };
    let mut job = talk(&fields)?.job(&app, &fields, &Asked::read(&fields, None)?, choices(&fields)?)?;
    let loops = fields.whole("loops_logprobs", 1, 20)?.map(|n| n as usize);
    job.requests.iter_mut().for_each(|request| (request.logprobs, request.loops) = (top, loops));
    answer(app, &fields, job, top).await
}

/// Runs a job and answers in the shape of chat.
pub(super) async fn answer(
    app: Arc<App>,
    fields: &Fields<'_>,
    job: Job,
    top: Option<usize>,
) -> Result<Response, ApiError> {
    let (shown, n) = (Shown::read(fields)?, job.requests.len());
    let around = Around { id: identifier("chatcmpl"), created: now(), model: app.name.clone() };
    let running = job.start(&app)?;
    if shown.stream {
        let kind = Pieces { around, app: app.clone(), logprobs: top.is_some(), shown, calls: vec![0; n] };
        return Ok(stream::answer(app, running, kind));
    }
    let (answers, usage) = running.whole().await?;
    let timings = answers.last().map(|one| one.timings.json());
    let choices = answers.into_iter().enumerate().map(|(i, one)| choice(&app, i, one, top.is_some()));
    let mut answer = around.json("chat.completion", choices.collect());
    answer["usage"] = usage.json();
    answer["timings"] = timings.into();
    Ok(Json(answer).into_response())
}

/// The conversation of a request.
pub(super) fn talk(fields: &Fields<'_>) -> Result<Talk, ApiError> {
    Ok(Talk {
        messages: talk::messages(fields)?,
        tools: talk::tools(fields)?,
        choice: talk::choice(fields)?,
        single: fields.maybe("parallel_tool_calls")? == Some(false),
        schema: talk::schema(fields.get("response_format"), "response_format")?,
        variables: talk::variables(fields, fields.string("reasoning_effort")?)?,
        field: "messages",
    })
}

fn choice(app: &App, index: usize, one: Whole, logprobs: bool) -> Value {
    let list = logprobs.then(|| json!({ "content": one.tokens.iter().map(|t| logprob(app, t)).collect::<Vec<_>>() }));
    let mut message = json!({ "role": "assistant", "content": one.text });
    if !one.reasoning.is_empty() {
        message["reasoning_content"] = one.reasoning.into();
    }
    if !one.calls.is_empty() {
        if one.text.is_empty() {
            message["content"] = Value::Null;
        }
        message["tool_calls"] = one.calls.iter().map(call).collect();
    }
    let mut choice =
        json!({ "index": index, "message": message, "logprobs": list, "finish_reason": one.reason.openai() });
    loops(app, &one.tokens, &mut choice);
    choice
}

fn call(call: &Call) -> Value {
    json!({
        "id": call.id,
        "type": "function",
        "function": { "name": call.name, "arguments": call.arguments },
    })
}

fn logprob(app: &App, token: &Token) -> Value {
    let one = |id: u32, l: Option<f32>| {
        let text = piece(app.model.tokenizer(), id);
        let bytes = app.model.tokenizer().and_then(|t| t.bytes(id)).unwrap_or_else(|| text.clone().into_bytes());
        json!({ "token": text, "logprob": l, "bytes": bytes })
    };
    let mut own = one(token.id, token.logprob);
    own["top_logprobs"] = token.top.iter().map(|(id, l)| one(*id, Some(*l))).collect();
    own
}

pub(super) struct Around {
    pub id: String,
    pub created: u64,
    pub model: String,
}

impl Around {
    fn json(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }
}

/// Chunks of a stream.
pub(super) struct Pieces {
    pub around: Around,
    pub app: Arc<App>,
    pub logprobs: bool,
    pub shown: Shown,
    /// Calls of each choice so far.
    pub calls: Vec<usize>,
}

impl Pieces {
    fn chunk(&self, choice: Option<Value>, usage: &Usage) -> Value {
        let mut chunk = self.around.json("chat.completion.chunk", choice.into_iter().collect());
        self.shown.usage(&mut chunk, usage, false);
        chunk
    }

    fn delta(&mut self, choice: usize, piece: Piece) -> Value {
        match piece {
            Piece::Text(text) => json!({ "content": text }),
            Piece::Reasoning(text) => json!({ "reasoning_content": text }),
            Piece::Call { id, name } => {
                self.calls[choice] += 1;
                let function = json!({ "name": name, "arguments": "" });
                json!({ "tool_calls": [{
                    "index": self.calls[choice] - 1, "id": id, "type": "function", "function": function,
                }] })
            }
            Piece::Arguments(text) => json!({ "tool_calls": [{
                "index": self.calls[choice].saturating_sub(1), "function": { "arguments": text },
            }] }),
        }
    }

    fn deltas(
        &mut self,
        choice: usize,
        pieces: Vec<Piece>,
        mut logprobs: Option<Value>,
        mut tokens: &[Token],
        usage: &Usage,
    ) -> Vec<Chunk> {
        let mut deltas: Vec<Value> = pieces.into_iter().map(|piece| self.delta(choice, piece)).collect();
        if deltas.is_empty() && (logprobs.is_some() || tokens.iter().any(|t| !t.loops.is_empty())) {
            deltas.push(json!({ "content": "" }));
        }
        let chunk = |delta: Value| {
            let logprobs = logprobs.take();
            let mut choice = json!({ "index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": null });
            loops(&self.app, std::mem::take(&mut tokens), &mut choice);
            Chunk::data(&self.chunk(Some(choice), usage))
        };
        deltas.into_iter().map(chunk).collect()
    }
}

impl Render for Pieces {
    fn begin(&mut self, usage: &Usage) -> Vec<Chunk> {
        let begin = |i: usize| {
            let delta = json!({ "role": "assistant", "content": "" });
            let choice = json!({ "index": i, "delta": delta, "logprobs": null, "finish_reason": null });
            Chunk::data(&self.chunk(Some(choice), usage))
        };
        (0..self.calls.len()).map(begin).collect()
    }

    fn part(&mut self, choice: usize, part: Part, usage: &Usage) -> Vec<Chunk> {
        match part {
            Part::Token { token, pieces } => {
                let logprobs = self.logprobs.then(|| json!({ "content": [logprob(&self.app, &token)] }));
                self.deltas(choice, pieces, logprobs, &[token], usage)
            }
            Part::End(end) => {
                let End { pieces, reason, timings, .. } = *end;
                let mut chunks = self.deltas(choice, pieces, None, &[], usage);
                let last = json!({
                    "index": choice, "delta": {}, "logprobs": null, "finish_reason": reason.openai(),
                });
                let mut last = self.chunk(Some(last), usage);
                last["timings"] = timings.json();
                chunks.push(Chunk::data(&last));
                chunks
            }
            Part::Prompt { done, cached, total } => {
                let chunk = self.shown.progress.then(|| {
                    let delta = json!({});
                    let choice = json!({ "index": choice, "delta": delta, "logprobs": null, "finish_reason": null });
                    self.shown.prompt(self.chunk(Some(choice), usage), done, cached, total)
                });
                chunk.into_iter().collect()
            }
            Part::Failed(error) => self.failed(&error),
        }
    }

    fn end(&mut self, usage: &Usage) -> Vec<Chunk> {
        let last = self.shown.include_usage.then(|| {
            let mut chunk = self.chunk(None, usage);
            self.shown.usage(&mut chunk, usage, true);
            Chunk::data(&chunk)
        });
        last.into_iter().chain([Chunk::done()]).collect()
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Chunk> {
        vec![Chunk::data(&error.body()), Chunk::done()]
    }
}
