//! `POST /v1/responses`, without state: what Codex speaks.

mod render;

use super::fields::{Fields, short};
use super::job::{Reason, Usage, Whole};
use super::sampling::Asked;
use super::talk::{self, Talk, few, tool};
use super::{identifier, now, object, stream};
use crate::app::App;
use crate::dialect::Tool;
use crate::error::ApiError;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use parloop_model::Message;
use parloop_model::chat::Content;
use render::Items;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What a response repeats of its request.
const REPEATED: [&str; 9] = [
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "temperature",
    "tool_choice",
    "tools",
    "top_p",
    "user",
];

pub(crate) async fn responses(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body = object(&headers, &body)?;
    let fields = Fields(&body);
    fields.check_model(&app)?;
    if fields.get("previous_response_id").is_some() || fields.get("conversation").is_some() {
        let name = if fields.get("conversation").is_some() { "conversation" } else { "previous_response_id" };
        return Err(ApiError::field(name, "this server keeps no responses: send the whole conversation as input"));
    }
    fields.refuse(&["background", "prompt"])?;
    // Clients ask with one token whether somebody is there.
    let asked =
        Asked { tokens: fields.whole("max_output_tokens", 1, u64::from(u32::MAX))?, stop: fields.strings("stop")? };
    let streamed = fields.bool("stream")?;
    let running = talk(&fields)?.job(&app, &fields, &asked, 1)?.start(&app)?;
    let head = Head::new(&app, &fields);
    if streamed {
        return Ok(stream::answer(app, running, Items::new(head)));
    }
    let (mut answers, usage) = running.whole().await?;
    let Some(one) = answers.pop() else { return Ok(Json(json!({})).into_response()) };
    let reason = one.reason.clone();
    Ok(Json(head.finished(output(one), &reason, &usage)).into_response())
}

/// What all events of a response have in common.
struct Head {
    id: String,
    created: u64,
    model: String,
    repeated: Map<String, Value>,
}

impl Head {
    fn new(app: &App, fields: &Fields<'_>) -> Self {
        let repeated = REPEATED.iter().filter_map(|name| Some(((*name).to_owned(), fields.get(name)?.clone())));
        let repeated = repeated.collect();
        Self { id: identifier("resp"), created: now(), model: app.name.clone(), repeated }
    }

    /// The response with some output.
    fn json(&self, status: &str, output: Vec<Value>) -> Value {
        let mut response = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "background": false,
            "error": null,
            "incomplete_details": null,
            "model": self.model,
            "output": output,
            "previous_response_id": null,
            "store": false,
            "usage": null,
        });
        if let Value::Object(response) = &mut response {
            response.extend(self.repeated.clone());
        }
        response
    }

    /// The response at its end.
    fn finished(&self, output: Vec<Value>, reason: &Reason, usage: &Usage) -> Value {
        let cut = *reason == Reason::Length;
        let mut response = self.json(if cut { "incomplete" } else { "completed" }, output);
        if cut {
            response["incomplete_details"] = json!({ "reason": "max_output_tokens" });
        }
        response["usage"] = json!({
            "input_tokens": usage.prompt,
            "input_tokens_details": { "cached_tokens": usage.cached },
            "output_tokens": usage.written,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": usage.prompt + usage.written,
        });
        response
    }
}

/// An item of the output.
fn reasoning(id: &str, text: &str) -> Value {
    json!({
        "id": id,
        "type": "reasoning",
        "summary": [],
        "content": [{ "type": "reasoning_text", "text": text }],
        "status": "completed",
    })
}

fn text_part(text: &str) -> Value {
    json!({ "type": "output_text", "text": text, "annotations": [] })
}

fn said(id: &str, status: &str, content: Vec<Value>) -> Value {
    json!({ "id": id, "type": "message", "role": "assistant", "status": status, "content": content })
}

fn called(id: &str, status: &str, call: &str, name: &str, arguments: &str) -> Value {
    json!({
        "id": id,
        "type": "function_call",
        "status": status,
        "call_id": call,
        "name": name,
        "arguments": arguments,
    })
}

fn output(one: Whole) -> Vec<Value> {
    let mut items = Vec::new();
    if !one.reasoning.is_empty() {
        items.push(reasoning(&identifier("rs"), &one.reasoning));
    }
    if !one.text.is_empty() || one.calls.is_empty() {
        let status = if one.reason == Reason::Length { "incomplete" } else { "completed" };
        items.push(said(&identifier("msg"), status, vec![text_part(&one.text)]));
    }
    let call = |c: &super::job::Call| called(&identifier("fc"), "completed", &c.id, &c.name, &c.arguments);
    items.extend(one.calls.iter().map(call));
    items
}

/// The conversation of a request.
fn talk(fields: &Fields<'_>) -> Result<Talk, ApiError> {
    let mut messages = Vec::new();
    if let Some(instructions) = fields.string("instructions")? {
        messages.push(Message::new("system", instructions));
    }
    match fields.get("input") {
        Some(Value::String(text)) => messages.push(Message::new("user", text.as_str())),
        Some(Value::Array(items)) => {
            for (i, value) in items.iter().enumerate() {
                item(value, &format!("input[{i}]"), &mut messages)?;
            }
        }
        Some(other) => return Err(ApiError::field("input", format!("{} is no text and no list", short(other)))),
        None => return Err(ApiError::field("input", "it is missing")),
    }
    if !messages.iter().any(|m| m.role != "system") {
        // Whoever only asks whether the model answers sends nothing.
        messages.push(Message::new("user", ""));
    }
    let none = Map::new();
    let effort = Fields(fields.object("reasoning")?.unwrap_or(&none)).string("effort")?;
    let text = Fields(fields.object("text")?.unwrap_or(&none));
    let tools = tools(fields)?;
    // A tool of another kind was skipped, and so is the choice of it.
    let other = fields
        .get("tool_choice")
        .and_then(|c| c.get("type"))
        .is_some_and(|kind| kind.is_string() && kind != "function");
    let choice = if other { talk::Choice::Auto } else { talk::choice(fields)? };
    Ok(Talk {
        messages,
        tools,
        choice,
        single: fields.maybe("parallel_tool_calls")? == Some(false),
        schema: talk::schema(text.get("format"), "text.format")?,
        variables: talk::variables(fields, effort)?,
        field: "input",
    })
}

/// An item of the input as messages. Kinds that are unknown are an error: leaving out what was said would change the answer.
fn item(value: &Value, field: &str, out: &mut Vec<Message>) -> Result<(), ApiError> {
    let string = |name: &str| value.get(name).and_then(Value::as_str);
    let wrong = |what: &str| ApiError::field(field, format!("{}: {what}", short(value)));
    match string("type").unwrap_or("message") {
        "message" => {
            let role = match string("role") {
                Some("developer") => "system",
                Some(role) => role,
                None => return Err(wrong("it has no role")),
            };
            let text = text(value.get("content")).ok_or_else(|| wrong("its content is no text"))?;
            // A text that was said with calls is one message with them.
            out.push(Message::new(role, text));
        }
        "function_call" | "custom_tool_call" => {
            let name = string("name").ok_or_else(|| wrong("it has no name"))?;
            let arguments = string("arguments").or_else(|| string("input")).unwrap_or("{}");
            let id = string("call_id").or_else(|| string("id")).unwrap_or_default();
            let function = json!({ "name": name, "arguments": arguments });
            let call = json!({ "id": id, "type": "function", "function": function });
            let last = out.last_mut().filter(|m| m.role == "assistant");
            let message = match last {
                Some(message) => message,
                None => {
                    out.push(Message::new("assistant", ""));
                    match out.last_mut() {
                        Some(message) => message,
                        None => return Ok(()),
                    }
                }
            };
            match message.other.entry("tool_calls").or_insert_with(|| json!([])) {
                Value::Array(calls) => calls.push(call),
                other => *other = json!([call]),
            }
        }
        "function_call_output" | "custom_tool_call_output" => {
            let id = string("call_id").ok_or_else(|| wrong("it has no call_id"))?;
            let given = text(value.get("output")).ok_or_else(|| wrong("its output is no text"))?;
            let other = Map::from_iter([("tool_call_id".to_owned(), id.into())]);
            out.push(Message { role: "tool".into(), content: Content::Text(given), other });
        }
        "reasoning" => {
            let thoughts = text(value.get("content")).unwrap_or_default();
            if !thoughts.is_empty() {
                let mut message = Message::new("assistant", "");
                message.other.insert("reasoning_content".into(), thoughts.into());
                out.push(message);
            }
        }
        _ => return Err(wrong("items of this kind are not known here")),
    }
    join(out);
    Ok(())
}

/// Joins what the model said in one turn: its reasoning, then its text, then its calls.
fn join(messages: &mut Vec<Message>) {
    if let [.., first, second] = &mut messages[..]
        && first.role == "assistant"
        && second.role == "assistant"
        && matches!(&first.content, Content::Text(text) if text.is_empty())
        && !first.other.contains_key("tool_calls")
    {
        first.content = std::mem::take(&mut second.content);
        first.other.append(&mut second.other);
        messages.pop();
    }
}

/// A text, or parts of it in one piece.
fn text(content: Option<&Value>) -> Option<String> {
    match content {
        None | Some(Value::Null) => Some(String::new()),
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(parts)) => parts.iter().map(|part| part.get("text")?.as_str()).collect(),
        Some(_) => None,
    }
}

/// The functions among the tools; other kinds are skipped, as clients expect who send them to every server.
fn tools(fields: &Fields<'_>) -> Result<Vec<Tool>, ApiError> {
    let all = fields.list("tools")?.unwrap_or_default().iter().enumerate();
    let functions = all.filter(|(_, value)| value.get("type").is_some_and(|t| t == "function"));
    few(functions.map(|(i, value)| tool(value, &format!("tools[{i}]"))).collect::<Result<_, _>>()?)
}
