//! Answers piece by piece, as server-sent events.

use super::job::{Part, Running, Usage};
use crate::app::App;
use crate::error::ApiError;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::Value;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// Time without a sign of life after which a comment keeps a stream open.
const QUIET: Duration = Duration::from_secs(10);

/// An event of a stream.
pub(super) struct Chunk {
    name: Option<&'static str>,
    data: String,
}

impl Chunk {
    /// Data without a name.
    pub fn data(value: &Value) -> Self {
        Self { name: None, data: value.to_string() }
    }

    /// A named event.
    pub fn named(name: &'static str, value: &Value) -> Self {
        Self { name: Some(name), data: value.to_string() }
    }

    /// The end of OpenAI's streams.
    pub fn done() -> Self {
        Self { name: None, data: "[DONE]".into() }
    }
}

/// How an interface tells what becomes of a job.
pub(super) trait Render: Send + 'static {
    /// Before the first token.
    fn begin(&mut self, usage: &Usage) -> Vec<Chunk>;
    /// Something of a choice that has not ended; `usage` is what was used so far.
    fn part(&mut self, choice: usize, part: Part, usage: &Usage) -> Vec<Chunk>;
    /// After the end of all choices.
    fn end(&mut self, usage: &Usage) -> Vec<Chunk>;
    /// Instead of everything that would have followed.
    fn failed(&mut self, error: &ApiError) -> Vec<Chunk>;
}

struct State<R> {
    /// The application lives as long as its streams do.
    _app: Arc<App>,
    parts: Option<BoxStream<'static, (usize, Part)>>,
    left: usize,
    usage: Usage,
    render: R,
    queue: VecDeque<Chunk>,
}

/// Streams a job.
pub(super) fn answer(app: Arc<App>, running: Running, mut render: impl Render) -> Response {
    let (usage, left) = (running.usage, running.len());
    let queue = render.begin(&usage).into();
    let state = State { _app: app, parts: Some(running.parts()), left, usage, render, queue };
    let events = stream::unfold(state, |mut state| async {
        loop {
            if let Some(chunk) = state.queue.pop_front() {
                let event = Event::default().data(chunk.data);
                let event = match chunk.name {
                    Some(name) => event.event(name),
                    None => event,
                };
                return Some((Ok::<_, Infallible>(event), state));
            }
            let (choice, part) = state.parts.as_mut()?.next().await?;
            match part {
                Part::Failed(error) => {
                    // The others are cancelled with their receivers.
                    state.parts = None;
                    state.queue.extend(state.render.failed(&error));
                    continue;
                }
                Part::Token { .. } => state.usage.written += 1,
                Part::End(ref end) => {
                    state.usage.cached += end.answer.cached;
                    state.left -= 1;
                }
                Part::Prompt { .. } => (),
            }
            state.queue.extend(state.render.part(choice, part, &state.usage));
            if state.left == 0 {
                state.parts = None;
                state.queue.extend(state.render.end(&state.usage));
            }
        }
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(QUIET)).into_response()
}
