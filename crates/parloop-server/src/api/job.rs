//! What every interface turns a request into, and what comes back of it.

use super::reading::{Piece, Reader, Reading};
use crate::app::App;
use crate::error::ApiError;
use axum::http::StatusCode;
use futures_util::stream::{self, BoxStream, StreamExt};
use parloop_engine::scheduler::Answer;
use parloop_engine::{Event, Finish, Request, Token};
use serde_json::{Value, json};
use std::time::Instant;
use tokio::sync::mpsc::UnboundedReceiver;

/// Texts to be continued, one for each choice, and how what is written is read.
pub(super) struct Job {
    pub requests: Vec<Request>,
    pub reading: Reading,
}

/// Tokens that were read and written, over all choices.
#[derive(Clone, Copy, Debug, Default)]
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
}

/// What becomes of a choice, in the order in which it is told.
pub(super) enum Part {
    /// A part of its prompt is computed: tokens done, among them those from the cache, and tokens in all.
    Prompt { done: usize, cached: usize, total: usize },
    /// A token was written, and what is certain of the text with it.
    Token { token: Token, pieces: Vec<Piece> },
    /// It is done.
    End(Box<End>),
    /// It cannot be done.
    Failed(ApiError),
}

/// How a choice ended.
pub(super) struct End {
    /// What was held back of the text.
    pub pieces: Vec<Piece>,
    pub reason: Reason,
    pub answer: Answer,
    pub timings: Timings,
}

/// Why a choice ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The model ended it.
    End,
    /// A stop string came.
    Stop(String),
    /// As many tokens as were asked for, or as there is room for.
    Length,
    /// The model called tools, and waits for what they give.
    Calls,
}

impl Reason {
    /// In OpenAI's words.
    pub fn openai(&self) -> &'static str {
        match self {
            Self::End | Self::Stop(_) => "stop",
            Self::Length => "length",
            Self::Calls => "tool_calls",
        }
    }
}

/// When what was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timings {
    prompt: usize,
    cached: usize,
    written: usize,
    begun: Instant,
    first: Option<Instant>,
    last: Instant,
}

impl Timings {
    fn new(prompt: usize) -> Self {
        let begun = Instant::now();
        Self { prompt, cached: 0, written: 0, begun, first: None, last: begun }
    }

    /// In the words of llama.cpp. The first token belongs to the prompt.
    pub fn json(&self) -> Value {
        let first = self.first.unwrap_or(self.last);
        let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
        let (prompt_ms, written_ms) = (ms(self.begun, first), ms(first, self.last));
        let fresh = self.prompt.saturating_sub(self.cached);
        let per = |ms: f64, n: usize| if n == 0 { 0.0 } else { ms / n as f64 };
        let rate = |ms: f64, n: usize| if ms <= 0.0 { 0.0 } else { n as f64 * 1e3 / ms };
        json!({
            "cache_n": self.cached,
            "prompt_n": fresh,
            "prompt_ms": prompt_ms,
            "prompt_per_token_ms": per(prompt_ms, fresh),
            "prompt_per_second": rate(prompt_ms, fresh),
            "predicted_n": self.written,
            "predicted_ms": written_ms,
            "predicted_per_token_ms": per(written_ms, self.written.saturating_sub(1)),
            "predicted_per_second": rate(written_ms, self.written.saturating_sub(1)),
        })
    }
}

/// A choice on its way.
struct Choice {
    events: UnboundedReceiver<Event>,
    reader: Reader,
    timings: Timings,
    over: bool,
}

impl Choice {
    async fn next(&mut self) -> Option<Part> {
        if self.over {
            return None;
        }
        let part = match self.events.recv().await {
            Some(Event::Prompt { done, total }) => {
                // The scheduler counts what the cache did not have.
                let cached = self.timings.prompt.saturating_sub(total);
                Part::Prompt { done: cached + done, cached, total: self.timings.prompt }
            }
            Some(Event::Token(token)) => {
                let now = Instant::now();
                self.timings.first.get_or_insert(now);
                (self.timings.last, self.timings.written) = (now, self.timings.written + 1);
                let mut pieces = Vec::new();
                self.reader.push(&token, &mut pieces);
                Part::Token { token, pieces }
            }
            Some(Event::Finished(answer)) => {
                self.timings.cached = answer.cached;
                let mut pieces = Vec::new();
                let cut = matches!(answer.finish, Finish::Length | Finish::Context);
                self.reader.finish(&answer.rest, cut, &mut pieces);
                let reason = match (answer.finish, &answer.stop) {
                    (Finish::Length | Finish::Context, _) => Reason::Length,
                    _ if self.reader.called() => Reason::Calls,
                    (Finish::Stopped, Some(stop)) => Reason::Stop(stop.clone()),
                    _ => Reason::End,
                };
                self.over = true;
                Part::End(Box::new(End { pieces, reason, answer, timings: self.timings }))
            }
            Some(Event::Failed(error)) => {
                self.over = true;
                Part::Failed(error.into())
            }
            None => {
                self.over = true;
                Part::Failed(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the engine has stopped"))
            }
        };
        Some(part)
    }
}

/// A choice that has ended.
pub(super) struct Whole {
    pub text: String,
    pub reasoning: String,
    pub calls: Vec<Call>,
    pub tokens: Vec<Token>,
    pub reason: Reason,
    pub answer: Answer,
    pub timings: Timings,
}

/// A call of a tool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Call {
    pub id: String,
    pub name: String,
    /// JSON.
    pub arguments: String,
}

/// A job that the engine has taken. It is cancelled when this is dropped.
pub(super) struct Running {
    choices: Vec<Choice>,
    pub usage: Usage,
}

impl Job {
    /// Hands it to the engine.
    pub fn start(self, app: &App) -> Result<Running, ApiError> {
        let prompts: Vec<usize> = self.requests.iter().map(|r| r.prompt.len()).collect();
        let events = app.worker.submit(self.requests)?;
        let choices = events.into_iter().zip(&prompts).map(|(events, prompt)| Choice {
            events,
            reader: Reader::new(&self.reading),
            timings: Timings::new(*prompt),
            over: false,
        });
        let choices = choices.collect();
        Ok(Running { choices, usage: Usage { prompt: prompts.iter().sum(), ..Usage::default() } })
    }
}

impl Running {
    /// Waits for the end of every choice.
    pub async fn whole(mut self) -> Result<(Vec<Whole>, Usage), ApiError> {
        let mut wholes = Vec::with_capacity(self.choices.len());
        for mut choice in std::mem::take(&mut self.choices) {
            let (mut text, mut reasoning) = (String::new(), String::new());
            let (mut calls, mut tokens) = (Vec::<Call>::new(), Vec::new());
            let mut take = |pieces: Vec<Piece>| {
                for piece in pieces {
                    match piece {
                        Piece::Text(piece) => text += &piece,
                        Piece::Reasoning(piece) => reasoning += &piece,
                        Piece::Call { id, name } => calls.push(Call { id, name, arguments: String::new() }),
                        Piece::Arguments(piece) => {
                            calls.iter_mut().last().into_iter().for_each(|c| c.arguments += &piece)
                        }
                    }
                }
            };
            while let Some(part) = choice.next().await {
                match part {
                    Part::Prompt { .. } => (),
                    Part::Token { token, pieces } => {
                        take(pieces);
                        tokens.push(token);
                    }
                    Part::Failed(error) => return Err(error),
                    Part::End(end) => {
                        let End { pieces, reason, answer, timings } = *end;
                        take(pieces);
                        self.usage.cached += answer.cached;
                        self.usage.written += answer.written;
                        wholes.push(Whole { text, reasoning, calls, tokens, reason, answer, timings });
                        break;
                    }
                }
            }
        }
        Ok((wholes, self.usage))
    }

    /// The parts of all choices as they come, each with the number of its choice.
    pub fn parts(self) -> BoxStream<'static, (usize, Part)> {
        let each = self.choices.into_iter().enumerate().map(|(i, choice)| {
            stream::unfold(choice, |mut choice| async { choice.next().await.map(|part| (part, choice)) })
                .map(move |part| (i, part))
                .boxed()
        });
        stream::select_all(each).boxed()
    }

    pub fn len(&self) -> usize {
        self.choices.len()
    }
}
