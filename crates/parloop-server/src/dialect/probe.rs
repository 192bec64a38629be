//! Reads the spelling of calls off a template: a conversation with two calls is written by it, and what stands around
//! the names and arguments is how the model was taught to call.

use super::calls::{ARGUMENTS, Body, Calls};
use parloop_model::chat::Content;
use parloop_model::{ChatTemplate, Conversation, Message};
use serde_json::{Map, Value, json};

/// Words that no template holds.
const NAMES: [&str; 2] = ["parloop_first_call", "parloop_second_call"];
const KEY: &str = "parloop_key";
const VALUES: [&str; 2] = ["parloop_first_value", "parloop_second_value"];

/// The spelling of calls, if a template has one.
pub(super) fn calls(template: &ChatTemplate) -> Option<Calls> {
    let tool = |name: &str| {
        let parameters = json!({ "type": "object", "properties": { KEY: { "type": "string" } } });
        json!({ "type": "function", "function": { "name": name, "description": "probe", "parameters": parameters } })
    };
    let call = |i: usize| {
        // Nine letters and digits: some templates refuse other ids.
        let function = json!({ "name": NAMES[i], "arguments": { KEY: VALUES[i] } });
        json!({ "id": format!("parloop0{i}"), "type": "function", "function": function })
    };
    let conversation = |count: usize| {
        let user = Message::new("user", "probe");
        let mut messages = vec![user];
        if count > 0 {
            let other = Map::from_iter([("tool_calls".to_owned(), (0..count).map(call).collect())]);
            messages.push(Message { role: "assistant".into(), content: Content::Text(String::new()), other });
        }
        let tools = NAMES.iter().map(|name| tool(name)).collect();
        Conversation { messages, tools: Some(tools), add_generation_prompt: count == 0, variables: Map::new() }
    };
    let asked = template.render(&conversation(0)).ok()?;
    let one = template.render(&conversation(1)).ok()?;
    let mut calls = single(&one, &asked)?;
    if let Ok(two) = template.render(&conversation(2)) {
        calls.between = between(&two, &calls).unwrap_or_default();
    }
    Some(calls)
}

/// What stands around one call.
fn single(text: &str, asked: &str) -> Option<Calls> {
    // The system's message may name the tools too; the call comes last.
    let name = text.rfind(NAMES[0])?;
    let (body, range) = json_body(text, name).or_else(|| xml_body(text, name))?;
    let (mut start, end) = range;
    let list = matches!(body, Body::Json { list: true, .. });
    let outer = text[..start].trim_end();
    if list {
        start = outer.len().checked_sub(1)?;
    }
    let outer = text[..start].trim_end();
    // A tag before it, unless the template writes that to ask for any answer.
    let opened = match outer.chars().next_back() {
        Some('>') => outer.rfind('<'),
        Some(']') => outer.rfind('['),
        _ => None,
    };
    let opened = opened.filter(|_| !asked.starts_with(outer));
    let opening = opened.map_or("", |at| &outer[at..]).to_owned();
    let before = if opening.is_empty() { String::new() } else { text[outer.len()..start].to_owned() };
    let mut rest = &text[end..];
    if list {
        rest = rest.trim_start().strip_prefix(']')?;
    }
    let trimmed = rest.trim_start();
    let after = rest[..rest.len() - trimmed.len()].to_owned();
    let closing = match trimmed.chars().next() {
        Some('<') => trimmed.find('>').map(|n| &trimmed[..=n]),
        Some('[') => trimmed.find(']').map(|n| &trimmed[..=n]),
        _ => None,
    };
    // It has the letters of the opening one; another tag ends the turn.
    let letters = |tag: &str| tag.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
    let closing = closing.filter(|tag| !opening.is_empty() && letters(tag) == letters(&opening)).map(str::to_owned);
    let after = if closing.is_some() { after } else { String::new() };
    Some(Calls { opening, before, body, after, closing, between: String::new() })
}

/// An object of JSON around a name: what is constant in it, and where it stands.
fn json_body(text: &str, name: usize) -> Option<(Body, (usize, usize))> {
    let starts = text[..name].rmatch_indices('{').map(|(at, _)| at).take(4);
    let (start, end, key) = starts
        .filter_map(|at| {
            let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
            let value = values.next()?.ok()?;
            let key = ARGUMENTS.iter().find(|key| value.get(key).is_some())?;
            // Not the list of tools that the model is shown.
            let called = text[at..at + values.byte_offset()].contains(VALUES[0]);
            (called && value.get("name")?.as_str()? == NAMES[0]).then_some((at, at + values.byte_offset(), *key))
        })
        .next()?;
    let behind = name + NAMES[0].len();
    let at = text[behind..end].find(&format!("\"{key}\""))? + behind;
    let arguments = at + text[at..end].find('{')?;
    let list = text[..start].trim_end().ends_with('[') && text[end..].trim_start().starts_with(']');
    // What else a template puts into a call, such as an id, is not the model's to write.
    let body = Body::Json {
        list,
        head: text[start..name].to_owned(),
        middle: text[behind..arguments].to_owned(),
        tail: "}".to_owned(),
    };
    Some((body, (start, end)))
}

/// `<function=NAME>` around a name.
fn xml_body(text: &str, name: usize) -> Option<(Body, (usize, usize))> {
    const END: &str = "</function>";
    let start = text[..name].rfind("<function")?;
    let behind = name + NAMES[0].len();
    let end = behind + text[behind..].find(END)? + END.len();
    let key = behind + text[behind..end].find(KEY)?;
    let parameter = behind + text[behind..key].rfind('<')?;
    let value = key + text[key..end].find(VALUES[0])?;
    let closed = value + VALUES[0].len();
    let body = Body::Xml {
        head: text[start..name].to_owned(),
        opened: text[behind..parameter].to_owned(),
        parameter: text[parameter..key].to_owned(),
        value: text[key + KEY.len()..value].to_owned(),
        close: text[closed..end - END.len()].to_owned(),
        tail: END.to_owned(),
    };
    Some((body, (start, end)))
}

/// What stands between two calls.
fn between(text: &str, calls: &Calls) -> Option<String> {
    let second = text.rfind(NAMES[1])?;
    let first = text[..second].rfind(VALUES[0])? + VALUES[0].len();
    let gap = &text[first..second];
    let end = match &calls.closing {
        Some(closing) => gap.find(closing.as_str())? + closing.len(),
        // Without a closing tag two calls are two elements of a list, or lines.
        None => gap.find('}').map(|at| at + gap[at..].find(['}', ']']).unwrap_or(0) + 1)?,
    };
    let rest = &gap[end..];
    let begin = if calls.opening.is_empty() { rest.find(['{', '<'])? } else { rest.find(calls.opening.as_str())? };
    Some(rest[..begin].to_owned())
}
