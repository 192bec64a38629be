//! Anthropic's interface: `POST /v1/messages` and `/v1/messages/count_tokens`.

mod render;

use super::fields::{Fields, short};
use super::job::{Reason, Usage, Whole};
use super::sampling::Asked;
use super::talk::{Choice, Talk, few, tool};
use super::{identifier, object, stream};
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
use render::Blocks;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A system block of Claude Code that holds a number which changes with every request: with it no prefix would ever be
/// found in the cache.
const BILLING: &str = "x-anthropic-billing-header:";

pub(crate) async fn messages(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body = object(&headers, &body)?;
    let fields = Fields(&body);
    fields.check_model(&app)?;
    let most = u64::from(u32::MAX);
    let tokens = fields.whole("max_tokens", 1, most)?.ok_or_else(|| ApiError::field("max_tokens", "it is missing"))?;
    let asked = Asked { tokens: Some(tokens), stop: fields.strings("stop_sequences")? };
    let streamed = fields.bool("stream")?;
    let running = talk(&fields)?.job(&app, &fields, &asked, 1)?.start(&app)?;
    let id = identifier("msg");
    if streamed {
        let render = Blocks::new(id, app.name.clone());
        return Ok(stream::answer(app, running, render));
    }
    let (mut answers, usage) = running.whole().await?;
    let Some(one) = answers.pop() else { return Ok(Json(json!({})).into_response()) };
    let why_ended = one.reason.clone();
    let (reason, sequence) = why(&why_ended);
    let mut message = envelope(&id, &app.name, blocks(one));
    message["stop_reason"] = reason.into();
    message["stop_sequence"] = sequence.into();
    message["usage"] = used(&usage);
    Ok(Json(message).into_response())
}

/// How many tokens a request would have; nothing is computed.
pub(crate) async fn count_tokens(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let body = object(&headers, &body)?;
    let fields = Fields(&body);
    fields.check_model(&app)?;
    Ok(Json(json!({ "input_tokens": talk(&fields)?.write(&app)?.ids.len() })))
}

/// A message around its content.
fn envelope(id: &str, model: &str, content: Vec<Value>) -> Value {
    json!({
        "id": id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": null,
        "stop_sequence": null,
    })
}

fn used(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt - usage.cached.min(usage.prompt),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.written,
    })
}

/// `stop_reason` and `stop_sequence`.
fn why(reason: &Reason) -> (&'static str, Option<&str>) {
    match reason {
        Reason::End => ("end_turn", None),
        Reason::Stop(stop) => ("stop_sequence", Some(stop)),
        Reason::Length => ("max_tokens", None),
        Reason::Calls => ("tool_use", None),
    }
}

fn blocks(one: Whole) -> Vec<Value> {
    let mut blocks = Vec::new();
    if !one.reasoning.is_empty() {
        blocks.push(json!({ "type": "thinking", "thinking": one.reasoning, "signature": "" }));
    }
    if !one.text.is_empty() || one.calls.is_empty() && blocks.is_empty() {
        blocks.push(json!({ "type": "text", "text": one.text }));
    }
    blocks.extend(one.calls.into_iter().map(|call| {
        let input: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
        json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": input })
    }));
    blocks
}

/// The conversation of a request.
fn talk(fields: &Fields<'_>) -> Result<Talk, ApiError> {
    let mut messages = system(fields)?;
    let all = fields.list("messages")?.ok_or_else(|| ApiError::field("messages", "it is missing"))?;
    if all.is_empty() {
        return Err(ApiError::field("messages", "there are none"));
    }
    for (i, value) in all.iter().enumerate() {
        message(value, &format!("messages[{i}]"), &mut messages)?;
    }
    let (choice, single) = choice(fields)?;
    let mut variables = super::talk::variables(fields, None)?;
    if let Some(thinking) = fields.object("thinking")? {
        let on = thinking.get("type").and_then(Value::as_str) != Some("disabled");
        variables.entry("enable_thinking").or_insert(on.into());
    }
    let tools = tools(fields)?;
    Ok(Talk { messages, tools, choice, single, schema: None, variables, field: "messages" })
}

/// `system`: a text, or blocks of it.
fn system(fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let mut text = String::new();
    match fields.get("system") {
        None => return Ok(Vec::new()),
        Some(Value::String(whole)) => text += whole,
        Some(Value::Array(blocks)) => {
            for (i, block) in blocks.iter().enumerate() {
                let field = format!("system[{i}]");
                let part = block.get("text").and_then(Value::as_str);
                let part = part.ok_or_else(|| ApiError::field(&field, format!("{} is no text block", short(block))))?;
                if part.trim_start().starts_with(BILLING) {
                    continue;
                }
                if !text.is_empty() {
                    text.push_str("\n\n");
                }
                text += part;
            }
        }
        Some(other) => return Err(ApiError::field("system", format!("{} is no text and no list", short(other)))),
    }
    Ok(if text.is_empty() { Vec::new() } else { vec![Message::new("system", text)] })
}

/// A message as those that templates know: what tools gave are messages of their own.
fn message(value: &Value, field: &str, out: &mut Vec<Message>) -> Result<(), ApiError> {
    let role = value.get("role").and_then(Value::as_str).unwrap_or_default();
    if !["user", "assistant", "system"].contains(&role) {
        let message = format!("{} has none of the roles user and assistant", short(value));
        return Err(ApiError::field(&format!("{field}.role"), message));
    }
    let blocks = match value.get("content") {
        Some(Value::String(text)) => {
            out.push(Message::new(role, text.as_str()));
            return Ok(());
        }
        Some(Value::Array(blocks)) => blocks,
        _ => return Err(ApiError::field(&format!("{field}.content"), "it is no text and no list of blocks")),
    };
    let (mut text, mut thoughts, mut calls) = (String::new(), String::new(), Vec::new());
    for (i, block) in blocks.iter().enumerate() {
        let field = format!("{field}.content[{i}]");
        let wrong = |what: &str| ApiError::field(&field, format!("{}: {what}", short(block)));
        let string = |name: &str| block.get(name).and_then(Value::as_str);
        match (string("type").unwrap_or_default(), role) {
            ("text", _) => {
                if !text.is_empty() {
                    text.push('\n');
                }
                text += string("text").ok_or_else(|| wrong("it has no text"))?;
            }
            ("thinking", "assistant") => thoughts += string("thinking").unwrap_or_default(),
            ("redacted_thinking", "assistant") => (),
            ("tool_use", "assistant") => {
                let name = string("name").ok_or_else(|| wrong("it has no name"))?;
                let input = block.get("input").cloned().unwrap_or_else(|| json!({}));
                let function = json!({ "name": name, "arguments": input });
                calls.push(json!({ "id": string("id").unwrap_or_default(), "type": "function", "function": function }));
            }
            ("tool_result", "user") => {
                let id = string("tool_use_id").ok_or_else(|| wrong("it has no tool_use_id"))?;
                let given = result(block.get("content")).ok_or_else(|| wrong("its content is no text"))?;
                let other = Map::from_iter([("tool_call_id".to_owned(), id.into())]);
                out.push(Message { role: "tool".into(), content: Content::Text(given), other });
            }
            _ => return Err(wrong("this model reads text, thinking, tool_use and tool_result only")),
        }
    }
    let mut other = Map::new();
    if !thoughts.is_empty() {
        other.insert("reasoning_content".into(), thoughts.into());
    }
    let called = !calls.is_empty();
    if called {
        other.insert("tool_calls".into(), calls.into());
    }
    // What is only results of tools says nothing else.
    if called || !text.is_empty() || blocks.is_empty() || !other.is_empty() {
        out.push(Message { role: role.into(), content: Content::Text(text), other });
    }
    Ok(())
}

/// What a tool gave: a text, or blocks of it. Pictures are named, for the model cannot see them.
fn result(content: Option<&Value>) -> Option<String> {
    match content {
        None | Some(Value::Null) => Some(String::new()),
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(blocks)) => {
            let text = |block: &Value| match block.get("type").and_then(Value::as_str) {
                Some("text") => block.get("text").and_then(Value::as_str).map(str::to_owned),
                Some(other) => Some(format!("[{other}]")),
                None => None,
            };
            Some(blocks.iter().map(text).collect::<Option<Vec<_>>>()?.join("\n"))
        }
        Some(_) => None,
    }
}

/// `tools`: those with a schema. The ones that Anthropic's own servers run have none, and are left out.
fn tools(fields: &Fields<'_>) -> Result<Vec<Tool>, ApiError> {
    let mut tools = Vec::new();
    for (i, value) in fields.list("tools")?.unwrap_or_default().iter().enumerate() {
        let field = format!("tools[{i}]");
        let kind = value.get("type").and_then(Value::as_str).unwrap_or("custom");
        match value.get("input_schema") {
            Some(schema) => {
                let mut function = value.clone();
                function["parameters"] = schema.clone();
                tools.push(tool(&function, &field)?);
            }
            None if kind == "custom" => return Err(ApiError::field(&field, "it has no input_schema")),
            None => (),
        }
    }
    few(tools)
}

/// `tool_choice`, and whether there is one call at a time.
fn choice(fields: &Fields<'_>) -> Result<(Choice, bool), ApiError> {
    let Some(object) = fields.object("tool_choice")? else { return Ok((Choice::Auto, false)) };
    let single = Fields(object).bool("disable_parallel_tool_use")?;
    let named = object.get("name").and_then(Value::as_str);
    let choice = match (object.get("type").and_then(Value::as_str), named) {
        (Some("auto"), _) => Choice::Auto,
        (Some("any"), _) => Choice::Any,
        (Some("none"), _) => Choice::Never,
        (Some("tool"), Some(name)) => Choice::Named(name.to_owned()),
        _ => return Err(ApiError::field("tool_choice", "its type is none of auto, any, none, and tool with a name")),
    };
    Ok((choice, single))
}
