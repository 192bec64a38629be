//! `POST /v1/chat/completions`.

use super::completions::piece;
use super::fields::{Fields, short};
use super::stream::{Chunks, Usage, chunks, reason, whole};
use super::{identifier, now, object};
use crate::app::App;
use crate::error::ApiError;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use parloop_engine::Token;
use parloop_model::{Conversation, Message};
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) async fn chat(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let body = object(&headers, &body)?;
    let fields = Fields(&body);
    fields.check(&app)?;
    let top = match fields.bool("logprobs")? {
        true => Some(fields.whole("top_logprobs", 0, 20)?.unwrap_or(0) as usize),
        false => None,
    };
    let (streamed, n) = (fields.stream()?, fields.choices()?);
    let (_, prompt) = render(&app, &fields)?;
    let mut usage = Usage { prompt: prompt.len(), ..Usage::default() };
    usage.prompt *= n;
    let mut requests = Vec::with_capacity(n);
    for i in 0..n {
        let mut request = fields.request(&app, prompt.clone(), None)?;
        (request.apart, request.logprobs) = (true, top);
        request.options.sampling.seed = request.options.sampling.seed.wrapping_add(i as u64);
        requests.push(request);
    }
    let around = Around { id: identifier("chatcmpl"), created: now(), model: app.name.clone() };
    let events = app.worker.submit(requests)?;
    if let Some(tell_usage) = streamed {
        let kind = Pieces { around, app: app.clone(), logprobs: top.is_some() };
        return Ok(chunks(app, events, kind, usage, tell_usage));
    }
    let (answers, usage) = whole(events, usage).await?;
    let choices = answers.into_iter().enumerate().map(|(i, one)| {
        let list = top.map(|_| json!({ "content": one.tokens.iter().map(|t| logprob(&app, t)).collect::<Vec<_>>() }));
        json!({
            "index": i,
            "message": { "role": "assistant", "content": one.text },
            "logprobs": list,
            "finish_reason": reason(one.answer.finish),
        })
    });
    let mut answer = around.json("chat.completion", choices.collect());
    answer["usage"] = usage.json();
    Ok(Json(answer).into_response())
}

/// The conversation as the model's template writes it, and its ids.
pub(super) fn render(app: &App, fields: &Fields<'_>) -> Result<(String, Vec<u32>), ApiError> {
    let Some(template) = &app.template else {
        return Err(ApiError::field("messages", "the model has no chat template: use /v1/completions"));
    };
    let tokenizer = app.model.tokenizer();
    let tokenizer = tokenizer.ok_or_else(|| ApiError::field("messages", "the model has no tokenizer"))?;
    let messages: Vec<Message> = match fields.get("messages") {
        Some(value @ Value::Array(all)) if !all.is_empty() => {
            for (i, message) in all.iter().enumerate() {
                if !message.get("role").is_some_and(Value::is_string) {
                    let message = format!("{} has no role", short(message));
                    return Err(ApiError::field(&format!("messages[{i}]"), message));
                }
            }
            serde_json::from_value(value.clone()).map_err(|e| ApiError::field("messages", e))?
        }
        Some(other) => {
            return Err(ApiError::field("messages", format!("{} is no list of messages", short(other))));
        }
        None => return Err(ApiError::field("messages", "it is missing")),
    };
    let mut conversation = Conversation { messages, add_generation_prompt: true, ..Conversation::default() };
    match fields.get("chat_template_kwargs") {
        None => (),
        Some(Value::Object(extra)) => conversation.variables.extend(extra.clone()),
        Some(other) => {
            return Err(ApiError::field("chat_template_kwargs", format!("{} is no object", short(other))));
        }
    }
    // A control token that someone's message spells is text.
    let rendered = template.render_literal(&conversation, tokenizer).map_err(|e| ApiError::field("messages", e))?;
    let (ids, text) = (rendered.ids(0, tokenizer)?, rendered.text);
    if ids.is_empty() {
        return Err(ApiError::field("messages", "the model's template makes an empty text of them"));
    }
    Ok((text, ids))
}

fn logprob(app: &App, token: &Token) -> Value {
    let one = |id: u32, l: Option<f32>| {
        let text = piece(app.model.tokenizer(), id);
        json!({ "token": text, "logprob": l, "bytes": text.as_bytes() })
    };
    let mut own = one(token.id, token.logprob);
    own["top_logprobs"] = token.top.iter().map(|(id, l)| one(*id, Some(*l))).collect();
    own
}

struct Around {
    id: String,
    created: u64,
    model: String,
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
struct Pieces {
    around: Around,
    app: Arc<App>,
    logprobs: bool,
}

impl Chunks for Pieces {
    fn first(&self, choice: usize) -> Option<Value> {
        let delta = json!({ "role": "assistant", "content": "" });
        Some(json!({ "index": choice, "delta": delta, "logprobs": null, "finish_reason": null }))
    }

    fn token(&mut self, choice: usize, token: &Token) -> Value {
        let logprobs = self.logprobs.then(|| json!({ "content": [logprob(&self.app, token)] }));
        let delta = json!({ "content": token.text });
        json!({ "index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": null })
    }

    fn last(&mut self, choice: usize, rest: &str, reason: &'static str) -> Value {
        let delta = if rest.is_empty() { json!({}) } else { json!({ "content": rest }) };
        json!({ "index": choice, "delta": delta, "logprobs": null, "finish_reason": reason })
    }

    fn around(&self, choices: Vec<Value>) -> Value {
        self.around.json("chat.completion.chunk", choices)
    }
}
