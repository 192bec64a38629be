//! The event stream of responses.

use super::{Head, called, reasoning, said, text_part};
use crate::api::identifier;
use crate::api::job::{Call, Part, Reason, Usage};
use crate::api::reading::Piece;
use crate::api::stream::{Chunk, Render};
use crate::error::ApiError;
use serde_json::{Value, json};

/// An item that is open.
enum Open {
    Reasoning { id: String, text: String },
    Text { id: String, text: String },
    Call { id: String, call: Call },
}

/// Items of output, one after another.
pub(super) struct Items {
    head: Head,
    /// Events so far.
    sequence: u64,
    open: Option<Open>,
    done: Vec<Value>,
    reason: Reason,
}

impl Items {
    pub fn new(head: Head) -> Self {
        Self { head, sequence: 0, open: None, done: Vec::new(), reason: Reason::End }
    }

    fn event(&mut self, name: &'static str, mut event: Value) -> Chunk {
        event["type"] = name.into();
        event["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        Chunk::named(name, &event)
    }

    /// An event of the item that is open.
    fn of(&mut self, name: &'static str, id: &str, mut event: Value) -> Chunk {
        event["item_id"] = id.into();
        event["output_index"] = self.done.len().into();
        self.event(name, event)
    }

    fn added(&mut self, item: Value, out: &mut Vec<Chunk>) {
        let index = self.done.len();
        out.push(self.event("response.output_item.added", json!({ "output_index": index, "item": item })));
    }

    fn close(&mut self, out: &mut Vec<Chunk>) {
        let Some(open) = self.open.take() else { return };
        let item = match open {
            Open::Reasoning { id, text } => {
                let event = json!({ "content_index": 0, "text": text });
                out.push(self.of("response.reasoning_text.done", &id, event));
                reasoning(&id, &text)
            }
            Open::Text { id, text } => {
                let done = json!({ "content_index": 0, "text": text, "logprobs": [] });
                out.push(self.of("response.output_text.done", &id, done));
                let part = json!({ "content_index": 0, "part": text_part(&text) });
                out.push(self.of("response.content_part.done", &id, part));
                let status = if self.reason == Reason::Length { "incomplete" } else { "completed" };
                said(&id, status, vec![text_part(&text)])
            }
            Open::Call { id, call } => {
                let done = json!({ "name": call.name, "arguments": call.arguments });
                out.push(self.of("response.function_call_arguments.done", &id, done));
                called(&id, "completed", &call.id, &call.name, &call.arguments)
            }
        };
        let index = self.done.len();
        out.push(self.event("response.output_item.done", json!({ "output_index": index, "item": item.clone() })));
        self.done.push(item);
    }

    fn piece(&mut self, piece: Piece, out: &mut Vec<Chunk>) {
        match piece {
            Piece::Text(piece) if piece.is_empty() => (),
            Piece::Text(piece) => {
                if !matches!(self.open, Some(Open::Text { .. })) {
                    self.begin_text(out);
                }
                if let Some(Open::Text { id, text }) = &mut self.open {
                    text.push_str(&piece);
                    let id = id.clone();
                    let delta = json!({ "content_index": 0, "delta": piece, "logprobs": [] });
                    out.push(self.of("response.output_text.delta", &id, delta));
                }
            }
            Piece::Reasoning(piece) => {
                if !matches!(self.open, Some(Open::Reasoning { .. })) {
                    self.close(out);
                    let id = identifier("rs");
                    let item = json!({ "id": id, "type": "reasoning", "summary": [], "content": [] });
                    self.added(item, out);
                    self.open = Some(Open::Reasoning { id, text: String::new() });
                }
                if let Some(Open::Reasoning { id, text }) = &mut self.open {
                    text.push_str(&piece);
                    let id = id.clone();
                    let delta = json!({ "content_index": 0, "delta": piece });
                    out.push(self.of("response.reasoning_text.delta", &id, delta));
                }
            }
            Piece::Call { id: call, name } => {
                self.close(out);
                let id = identifier("fc");
                self.added(called(&id, "in_progress", &call, &name, ""), out);
                self.open = Some(Open::Call { id, call: Call { id: call, name, arguments: String::new() } });
            }
            Piece::Arguments(piece) => {
                if let Some(Open::Call { id, call }) = &mut self.open {
                    call.arguments.push_str(&piece);
                    let id = id.clone();
                    out.push(self.of("response.function_call_arguments.delta", &id, json!({ "delta": piece })));
                }
            }
        }
    }

    fn begin_text(&mut self, out: &mut Vec<Chunk>) {
        self.close(out);
        let id = identifier("msg");
        self.added(said(&id, "in_progress", Vec::new()), out);
        let part = json!({ "content_index": 0, "part": text_part("") });
        out.push(self.of("response.content_part.added", &id, part));
        self.open = Some(Open::Text { id, text: String::new() });
    }
}

impl Render for Items {
    fn begin(&mut self, _usage: &Usage) -> Vec<Chunk> {
        let response = self.head.json("in_progress", Vec::new());
        let created = self.event("response.created", json!({ "response": response.clone() }));
        vec![created, self.event("response.in_progress", json!({ "response": response }))]
    }

    fn part(&mut self, _choice: usize, part: Part, _usage: &Usage) -> Vec<Chunk> {
        let mut out = Vec::new();
        match part {
            Part::Token { pieces, .. } => pieces.into_iter().for_each(|piece| self.piece(piece, &mut out)),
            Part::End(end) => {
                self.reason = end.reason;
                end.pieces.into_iter().for_each(|piece| self.piece(piece, &mut out));
                if self.open.is_none() && self.done.is_empty() {
                    self.begin_text(&mut out);
                }
                self.close(&mut out);
            }
            Part::Prompt { .. } => (),
            Part::Failed(error) => return self.failed(&error),
        }
        out
    }

    fn end(&mut self, usage: &Usage) -> Vec<Chunk> {
        let output = std::mem::take(&mut self.done);
        let response = self.head.finished(output, &self.reason, usage);
        let name = if self.reason == Reason::Length { "response.incomplete" } else { "response.completed" };
        vec![self.event(name, json!({ "response": response }))]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Chunk> {
        let mut response = self.head.json("failed", std::mem::take(&mut self.done));
        let code = error.code.unwrap_or("server_error");
        response["error"] = json!({ "code": code, "message": error.message });
        vec![self.event("response.failed", json!({ "response": response }))]
    }
}
