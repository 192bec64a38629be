//! Events of requests as an answer: whole, or piece by piece.

use crate::app::App;
use crate::error::ApiError;
use axum::http::StatusCode;
use axum::response::sse::{Event as Chunk, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use parloop_engine::scheduler::Answer;
use parloop_engine::{Event, Finish, Token};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;

/// Tokens that were read and written, over all choices.
#[derive(Clone, Copy, Default)]
pub(super) struct Usage {
    pub prompt: usize,
    pub cached: usize,
    pub written: usize,
}

impl Usage {
    pub fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.written,
            "total_tokens": self.prompt + self.written,
            "prompt_tokens_details": { "cached_tokens": self.cached },
        })
    }

    fn add(&mut self, answer: &Answer) {
        self.cached += answer.cached;
        self.written += answer.written;
    }
}

/// Why a choice ended, in OpenAI's words.
pub(super) fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::End | Finish::Stopped => "stop",
        Finish::Length | Finish::Context => "length",
    }
}

/// A choice that has ended.
pub(super) struct Whole {
    pub text: String,
    pub tokens: Vec<Token>,
    pub answer: Answer,
}

/// Waits for the end of every choice.
pub(super) async fn whole(
    events: Vec<UnboundedReceiver<Event>>,
    mut usage: Usage,
) -> Result<(Vec<Whole>, Usage), ApiError> {
    let mut choices = Vec::with_capacity(events.len());
    for mut events in events {
        let (mut text, mut tokens) = (String::new(), Vec::new());
        let answer = loop {
            match events.recv().await {
                Some(Event::Token(token)) => {
                    text += &token.text;
                    tokens.push(token);
                }
                Some(Event::Finished(answer)) => break answer,
                Some(Event::Failed(error)) => return Err(error.into()),
                Some(Event::Prompt { .. }) => (),
                None => return Err(stopped()),
            }
        };
        text += &answer.rest;
        usage.add(&answer);
        choices.push(Whole { text, tokens, answer });
    }
    Ok((choices, usage))
}

fn stopped() -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the engine has stopped")
}

/// How a kind of answer writes its chunks; each is a choice for the field `choices`.
pub(super) trait Chunks: Send + 'static {
    /// The chunk before the first token, if there is one.
    fn first(&self, choice: usize) -> Option<Value>;
    /// The chunk of a token.
    fn token(&mut self, choice: usize, token: &Token) -> Value;
    /// The last chunk.
    fn last(&mut self, choice: usize, rest: &str, reason: &'static str) -> Value;
    /// The answer around some choices.
    fn around(&self, choices: Vec<Value>) -> Value;
}

/// Sends chunks as they come, `[DONE]` at the end; a comment keeps the line open during a long prompt.
pub(super) fn chunks(
    app: Arc<App>,
    events: Vec<UnboundedReceiver<Event>>,
    mut kind: impl Chunks,
    usage: Usage,
    tell_usage: bool,
) -> Response {
    let count = events.len();
    let each = events.into_iter().enumerate().map(|(i, receiver)| {
        // After the last event of a choice there is one that says so.
        let end = stream::once(async move { (i, None) });
        stream::unfold(receiver, |mut r| async { r.recv().await.map(|event| (event, r)) })
            .map(move |event| (i, Some(event)))
            .chain(end)
            .boxed()
    });
    let mut usage = usage;
    let mut ended = vec![false; count];
    let begin: Vec<Value> = (0..count).filter_map(|i| kind.first(i)).map(|c| kind.around(vec![c])).collect();
    let middle = stream::select_all(each).flat_map(move |(i, event)| {
        let mut out = Vec::new();
        match event {
            Some(Event::Token(token)) => {
                let choice = kind.token(i, &token);
                out.push(kind.around(vec![choice]));
            }
            Some(Event::Finished(answer)) => {
                usage.add(&answer);
                ended[i] = true;
                let choice = kind.last(i, &answer.rest, reason(answer.finish));
                out.push(kind.around(vec![choice]));
                if tell_usage && ended.iter().all(|e| *e) {
                    let mut chunk = kind.around(Vec::new());
                    chunk["usage"] = usage.json();
                    out.push(chunk);
                }
            }
            Some(Event::Failed(error)) => {
                ended[i] = true;
                out.push(ApiError::from(error).body());
            }
            Some(Event::Prompt { .. }) => (),
            None if !ended[i] => out.push(stopped().body()),
            None => (),
        }
        // The application lives as long as its streams do.
        let _ = &app;
        stream::iter(out)
    });
    let text = |value: Value| Ok::<_, Infallible>(Chunk::default().data(value.to_string()));
    let done = stream::once(async { Ok(Chunk::default().data("[DONE]")) });
    let all = stream::iter(begin).chain(middle).map(text).chain(done);
    Sse::new(all).keep_alive(KeepAlive::new().interval(Duration::from_secs(10))).into_response()
}
