//! The event stream of Anthropic's messages.

use super::{envelope, used, why};
use crate::api::job::{Part, Usage};
use crate::api::reading::Piece;
use crate::api::stream::{Chunk, Render};
use crate::error::ApiError;
use serde_json::{Value, json};

/// The kinds of blocks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Thinking,
    Call,
}

/// Blocks of content, one after another.
pub(super) struct Blocks {
    id: String,
    model: String,
    /// The block that is open, and how many there were with it.
    open: Option<Kind>,
    count: usize,
    /// `message_delta`, which has to wait for the usage.
    last: Option<Value>,
}

impl Blocks {
    pub fn new(id: String, model: String) -> Self {
        Self { id, model, open: None, count: 0, last: None }
    }

    /// Closes the block that is open.
    fn close(&mut self, out: &mut Vec<Chunk>) {
        if self.open.take().is_some() {
            let event = json!({ "type": "content_block_stop", "index": self.count - 1 });
            out.push(Chunk::named("content_block_stop", &event));
        }
    }

    /// Opens a block, unless one of its kind is open that can go on.
    fn open(&mut self, kind: Kind, block: Value, out: &mut Vec<Chunk>) {
        if self.open == Some(kind) && kind != Kind::Call {
            return;
        }
        self.close(out);
        let event = json!({ "type": "content_block_start", "index": self.count, "content_block": block });
        out.push(Chunk::named("content_block_start", &event));
        (self.open, self.count) = (Some(kind), self.count + 1);
    }

    fn delta(&self, delta: Value, out: &mut Vec<Chunk>) {
        let event = json!({ "type": "content_block_delta", "index": self.count.saturating_sub(1), "delta": delta });
        out.push(Chunk::named("content_block_delta", &event));
    }

    fn pieces(&mut self, pieces: Vec<Piece>, out: &mut Vec<Chunk>) {
        for piece in pieces {
            match piece {
                Piece::Text(text) if text.is_empty() => (),
                Piece::Text(text) => {
                    self.open(Kind::Text, json!({ "type": "text", "text": "" }), out);
                    self.delta(json!({ "type": "text_delta", "text": text }), out);
                }
                Piece::Reasoning(text) => {
                    self.open(Kind::Thinking, json!({ "type": "thinking", "thinking": "", "signature": "" }), out);
                    self.delta(json!({ "type": "thinking_delta", "thinking": text }), out);
                }
                Piece::Call { id, name } => {
                    self.open(Kind::Call, json!({ "type": "tool_use", "id": id, "name": name, "input": {} }), out);
                }
                Piece::Arguments(text) => self.delta(json!({ "type": "input_json_delta", "partial_json": text }), out),
            }
        }
    }
}

impl Render for Blocks {
    fn begin(&mut self, usage: &Usage) -> Vec<Chunk> {
        let mut message = envelope(&self.id, &self.model, Vec::new());
        message["usage"] = used(usage);
        let start = json!({ "type": "message_start", "message": message });
        vec![Chunk::named("message_start", &start), Chunk::named("ping", &json!({ "type": "ping" }))]
    }

    fn part(&mut self, _choice: usize, part: Part, _usage: &Usage) -> Vec<Chunk> {
        let mut out = Vec::new();
        match part {
            Part::Token { pieces, .. } => self.pieces(pieces, &mut out),
            Part::End(end) => {
                self.pieces(end.pieces, &mut out);
                if self.count == 0 {
                    self.open(Kind::Text, json!({ "type": "text", "text": "" }), &mut out);
                }
                self.close(&mut out);
                let (reason, sequence) = why(&end.reason);
                self.last = Some(json!({ "stop_reason": reason, "stop_sequence": sequence }));
            }
            // A sign of life while a long prompt is computed.
            Part::Prompt { .. } => out.push(Chunk::named("ping", &json!({ "type": "ping" }))),
            Part::Failed(error) => return self.failed(&error),
        }
        out
    }

    fn end(&mut self, usage: &Usage) -> Vec<Chunk> {
        let delta = json!({ "type": "message_delta", "delta": self.last.take(), "usage": used(usage) });
        let stop = json!({ "type": "message_stop" });
        vec![Chunk::named("message_delta", &delta), Chunk::named("message_stop", &stop)]
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Chunk> {
        vec![Chunk::named("error", &error.anthropic())]
    }
}
