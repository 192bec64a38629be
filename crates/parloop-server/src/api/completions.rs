//! `POST /v1/completions`.

use super::fields::{Fields, short};
use super::fim::gap;
use super::job::{Job, Part, Usage, Whole};
use super::reading::{Piece, Reading};
use super::sampling::{Asked, choices, request, times};
use super::stream::{self, Chunk, Render};
use super::{Shown, identifier, loops, now, object};
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
    fields.check_model(&app)?;
    let suffix = fields.string("suffix")?.filter(|s| !s.is_empty());
    let top = fields.whole("logprobs", 0, 20)?.map(|n| n as usize);
    let echo = fields.bool("echo")?;
    let (shown, n) = (Shown::read(&fields)?, choices(&fields)?);
    if echo && suffix.is_some() {
        return Err(ApiError::field("echo", "what stands around a gap is not repeated: ask without it"));
    }
    if echo && shown.stream {
        return Err(ApiError::field("echo", "a stream does not repeat its prompt: ask without stream"));
    }
    let asked = Asked::read(&fields, Some(16))?;
    let mut requests = Vec::new();
    let loops = fields.whole("loops_logprobs", 1, 20)?.map(|n| n as usize);
    let each = match suffix {
        None => prompts(&app, &fields, "prompt")?.into_iter().map(|p| request(&app, &fields, &asked, p)).collect(),
        Some(suffix) => {
            let prompt = fields.string("prompt")?.ok_or_else(|| ApiError::field("prompt", "it is missing"))?;
            gap(&app, &fields, &asked, prompt, suffix, "suffix").map(|request| vec![request])
        }
    };
    for mut one in each? {
        (one.logprobs, one.loops) = (top, loops);
        if echo && top.is_some() {
            one.prompt_logprobs = top;
            // Whoever scores texts counts on a written token, be it the end.
            one.options.ignore_end = true;
        }
        requests.extend(times(&one, n));
    }
    let around = Around { id: identifier("cmpl"), created: now(), model: app.name.clone() };
    let texts: Vec<Vec<u32>> = requests.iter().map(|r: &Request| r.prompt.clone()).collect();
    let running = Job { requests, reading: Reading::default() }.start(&app)?;
    if shown.stream {
        let offsets = vec![0; texts.len()];
        let kind = Pieces { around, app: app.clone(), logprobs: top.is_some(), offsets, shown };
        return Ok(stream::answer(app, running, kind));
    }
    let (answers, usage) = running.whole().await?;
    let timings = answers.last().map(|one| one.timings.json());
    let choices = answers.into_iter().zip(&texts).enumerate();
    let choices = choices.map(|(i, (answer, prompt))| choice(&app, i, answer, prompt, echo, top.is_some()));
    let mut answer = around.json(choices.collect::<Result<_, _>>()?);
    answer["usage"] = usage.json();
    answer["timings"] = timings.into();
    Ok(Json(answer).into_response())
}

/// The prompts: a string, ids, or a list of either.
pub(super) fn prompts(app: &App, fields: &Fields<'_>, name: &str) -> Result<Vec<Vec<u32>>, ApiError> {
    let encode = |text: &str| match app.model.tokenizer() {
        Some(tokenizer) => Ok(tokenizer.encode(text)?),
        None => Err(ApiError::field(name, "the model has no tokenizer: give ids")),
    };
    let wrong =
        |value: &Value| ApiError::field(name, format!("{} is no string, list of ids, or list of these", short(value)));
    let id = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| wrong(value));
    let one = |value: &Value| match value {
        Value::String(text) => encode(text),
        Value::Array(ids) => ids.iter().map(id).collect(),
        other => Err(wrong(other)),
    };
    let Some(value) = fields.get(name) else { return Err(ApiError::field(name, "it is missing")) };
    let prompts = match value {
        Value::Array(all) if all.first().is_some_and(|v| v.is_string() || v.is_array()) => {
            all.iter().map(one).collect::<Result<Vec<_>, _>>()?
        }
        one_of_them => vec![one(one_of_them)?],
    };
    if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
        return Err(ApiError::field(name, "a text without a token cannot be gone on from: give at least one"));
    }
    if prompts.len() > PROMPTS {
        return Err(ApiError::field(name, format!("{} texts, at most {PROMPTS} are taken", prompts.len())));
    }
    // One that is too long is refused with the words for that, in `sampling::request`.
    let context = app.model.config().max_position_embeddings;
    for prompt in prompts.iter().filter(|p| p.len() <= context) {
        app.model.config().check_tokens(prompt).map_err(|e| ApiError::field(name, e))?;
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
    let Whole { mut text, tokens, answer, reason, .. } = whole;
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
    let mut choice = json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason.openai() });
    loops(app, &tokens, &mut choice);
    Ok(choice)
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
    shown: Shown,
}

impl Pieces {
    fn chunk(&self, choice: Option<Value>, usage: &Usage) -> Value {
        let mut chunk = self.around.json(choice.into_iter().collect());
        self.shown.usage(&mut chunk, usage, false);
        chunk
    }
}

/// The text of pieces that are nothing else.
fn text(pieces: Vec<Piece>) -> String {
    let text = |piece| if let Piece::Text(text) = piece { text } else { String::new() };
    pieces.into_iter().map(text).collect()
}

impl Render for Pieces {
    fn begin(&mut self, _usage: &Usage) -> Vec<Chunk> {
        Vec::new()
    }

    fn part(&mut self, choice: usize, part: Part, usage: &Usage) -> Vec<Chunk> {
        let chunk = match part {
            Part::Token { token, pieces } => {
                let logprobs = self.logprobs.then(|| {
                    let mut list = Logprobs { offset: self.offsets[choice], ..Logprobs::default() };
                    list.written(&self.app, &token);
                    self.offsets[choice] = list.offset;
                    list.json()
                });
                let text = text(pieces);
                let mut choice = json!({ "index": choice, "text": text, "logprobs": logprobs, "finish_reason": null });
                loops(&self.app, &[token], &mut choice);
                choice
            }
            Part::End(end) => {
                let text = text(end.pieces);
                let reason = end.reason.openai();
                let choice = json!({ "index": choice, "text": text, "logprobs": null, "finish_reason": reason });
                let mut chunk = self.chunk(Some(choice), usage);
                chunk["timings"] = end.timings.json();
                return vec![Chunk::data(&chunk)];
            }
            Part::Prompt { done, cached, total } if self.shown.progress => {
                let choice = json!({ "index": choice, "text": "", "logprobs": null, "finish_reason": null });
                return vec![self.shown.prompt(self.chunk(Some(choice), usage), done, cached, total)];
            }
            Part::Prompt { .. } => return Vec::new(),
            Part::Failed(error) => return self.failed(&error),
        };
        vec![Chunk::data(&self.chunk(Some(chunk), usage))]
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
