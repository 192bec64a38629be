//! `POST /v1/completions`.

use super::fields::{Fields, short};
use super::stream::{Chunks, Usage, Whole, chunks, reason, whole};
use super::{identifier, now, object};
use crate::app::App;
use crate::error::ApiError;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use parloop_engine::scheduler::PromptLogprob;
use parloop_engine::{Request, Token};
use parloop_model::Tokenizer;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Prompts of a request at most.
const PROMPTS: usize = 256;

pub(crate) async fn completions(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body = object(&headers, &body)?;
    let fields = Fields(&body);
    fields.check(&app)?;
    if fields.get("suffix").is_some_and(|s| s != "") {
        return Err(ApiError::field("suffix", "this server does not fill in the middle yet: leave it out"));
    }
    let top = fields.whole("logprobs", 0, 20)?.map(|n| n as usize);
    let echo = fields.bool("echo")?;
    let (streamed, n) = (fields.stream()?, fields.choices()?);
    let prompts = prompts(&app, &fields)?;
    let mut requests = Vec::with_capacity(prompts.len() * n);
    let mut usage = Usage::default();
    for prompt in &prompts {
        usage.prompt += prompt.len();
        for i in 0..n {
            let mut request = fields.request(&app, prompt.clone(), Some(16))?;
            request.logprobs = top;
            if echo && top.is_some() {
                request.prompt_logprobs = top;
                // Whoever scores texts counts on a written token, be it the end.
                request.options.ignore_end = true;
            }
            request.options.sampling.seed = request.options.sampling.seed.wrapping_add(i as u64);
            requests.push(request);
        }
    }
    let around = Around { id: identifier("cmpl"), created: now(), model: app.name.clone() };
    let texts: Vec<Vec<u32>> = requests.iter().map(|r: &Request| r.prompt.clone()).collect();
    let events = app.worker.submit(requests)?;
    if let Some(tell_usage) = streamed {
        if echo {
            return Err(ApiError::field("echo", "a stream does not repeat its prompt: ask without stream"));
        }
        let kind = Pieces { around, app: app.clone(), logprobs: top.is_some(), offsets: vec![0; texts.len()] };
        return Ok(chunks(app, events, kind, usage, tell_usage));
    }
    let (answers, usage) = whole(events, usage).await?;
    let choices = answers.into_iter().zip(&texts).enumerate();
    let choices = choices.map(|(i, (answer, prompt))| choice(&app, i, answer, prompt, echo, top.is_some()));
    let mut answer = around.json(choices.collect::<Result<_, _>>()?);
    answer["usage"] = usage.json();
    Ok(Json(answer).into_response())
}

/// The prompts: a string, ids, or a list of either.
fn prompts(app: &App, fields: &Fields<'_>) -> Result<Vec<Vec<u32>>, ApiError> {
    let encode = |text: &str| match app.model.tokenizer() {
        Some(tokenizer) => Ok(tokenizer.encode(text)?),
        None => Err(ApiError::field("prompt", "the model has no tokenizer: give ids")),
    };
    let wrong = |value: &Value| {
        ApiError::field("prompt", format!("{} is no string, list of ids, or list of these", short(value)))
    };
    let id = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| wrong(value));
    let one = |value: &Value| match value {
        Value::String(text) => encode(text),
        Value::Array(ids) => ids.iter().map(id).collect(),
        other => Err(wrong(other)),
    };
    let Some(value) = fields.get("prompt") else { return Err(ApiError::field("prompt", "it is missing")) };
    let prompts = match value {
        Value::Array(all) if all.first().is_some_and(|v| v.is_string() || v.is_array()) => {
            all.iter().map(one).collect::<Result<Vec<_>, _>>()?
        }
        one_of_them => vec![one(one_of_them)?],
    };
    if prompts.len() > PROMPTS {
        return Err(ApiError::field("prompt", format!("{} prompts, at most {PROMPTS} are taken", prompts.len())));
    }
    // One that is too long is refused with the words for that, in `Fields::request`.
    let context = app.model.config().max_position_embeddings;
    for prompt in prompts.iter().filter(|p| p.len() <= context) {
        app.model.config().check_tokens(prompt).map_err(|e| ApiError::field("prompt", e))?;
    }
    Ok(prompts)
}

struct Around {
    id: String,
    created: u64,
    model: String,
}

impl Around {
    fn json(&self, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }
}

fn choice(
    app: &App,
    index: usize,
    whole: Whole,
    prompt: &[u32],
    echo: bool,
    logprobs: bool,
) -> Result<Value, ApiError> {
    let Whole { mut text, tokens, answer } = whole;
    if echo && let Some(tokenizer) = app.model.tokenizer() {
        text.insert_str(0, &tokenizer.decode(prompt)?);
    }
    let mut list = Logprobs::default();
    if logprobs {
        if echo {
            prompt.iter().zip(&answer.prompt_logprobs).for_each(|(id, l)| list.prompt(app, *id, l));
        }
        tokens.iter().for_each(|token| list.written(app, token));
    }
    let logprobs = if logprobs { list.json() } else { Value::Null };
    Ok(json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason(answer.finish) }))
}

/// Log-probabilities as lists side by side.
#[derive(Default)]
struct Logprobs {
    tokens: Vec<String>,
    own: Vec<Option<f32>>,
    top: Vec<Value>,
    offsets: Vec<usize>,
    offset: usize,
}

impl Logprobs {
    fn push(&mut self, app: &App, id: u32, own: Option<f32>, top: Option<&[(u32, f32)]>) {
        let tokenizer = app.model.tokenizer();
        let text = piece(tokenizer, id);
        let top = top.map(|top| {
            let mut map: Map<String, Value> =
                top.iter().rev().map(|(id, l)| (piece(tokenizer, *id), json!(l))).collect();
            map.insert(text.clone(), json!(own));
            Value::Object(map)
        });
        self.offsets.push(self.offset);
        self.offset += text.chars().count();
        self.tokens.push(text);
        self.own.push(own);
        self.top.push(top.unwrap_or(Value::Null));
    }

    fn prompt(&mut self, app: &App, id: u32, logprob: &PromptLogprob) {
        let (own, top) = logprob.as_ref().map_or((None, None), |(own, top)| (Some(*own), Some(&top[..])));
        self.push(app, id, own, top);
    }

    fn written(&mut self, app: &App, token: &Token) {
        self.push(app, token.id, token.logprob, Some(&token.top));
    }

    fn json(self) -> Value {
        json!({
            "tokens": self.tokens,
            "token_logprobs": self.own,
            "top_logprobs": self.top,
            "text_offset": self.offsets,
        })
    }
}

/// The text of a single token.
pub(super) fn piece(tokenizer: Option<&Tokenizer>, id: u32) -> String {
    tokenizer
        .and_then(|t| t.decode(&[id]).ok().filter(|text| !text.is_empty()).or_else(|| t.token(id)))
        .unwrap_or_else(|| format!("<{id}>"))
}

/// Chunks of a stream.
struct Pieces {
    around: Around,
    app: Arc<App>,
    logprobs: bool,
    offsets: Vec<usize>,
}

impl Chunks for Pieces {
    fn first(&self, _choice: usize) -> Option<Value> {
        None
    }

    fn token(&mut self, choice: usize, token: &Token) -> Value {
        let logprobs = self.logprobs.then(|| {
            let mut list = Logprobs { offset: self.offsets[choice], ..Logprobs::default() };
            list.written(&self.app, token);
            self.offsets[choice] = list.offset;
            list.json()
        });
        json!({ "index": choice, "text": token.text, "logprobs": logprobs, "finish_reason": null })
    }

    fn last(&mut self, choice: usize, rest: &str, reason: &'static str) -> Value {
        json!({ "index": choice, "text": rest, "logprobs": null, "finish_reason": reason })
    }

    fn around(&self, choices: Vec<Value>) -> Value {
        self.around.json(choices)
    }
}
