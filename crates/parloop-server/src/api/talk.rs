//! Conversations: what chat, messages and responses turn their requests into.

use super::fields::{Fields, short};
use super::job::Job;
use super::reading::Reading;
use super::sampling::{Asked, request, times};
use crate::app::App;
use crate::dialect::Tool;
use crate::error::ApiError;
use crate::grammar::{Begin, Constraint, forced_calls, triggered_calls};
use parloop_model::{Conversation, Message};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Tools of a request at most.
const TOOLS: usize = 512;

/// Whether tools are called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Choice {
    /// As the model likes.
    #[default]
    Auto,
    /// Not at all.
    Never,
    /// At least one, and nothing else.
    Any,
    /// This one.
    Named(String),
}

/// A conversation and what its next answer may be.
#[derive(Clone, Debug, Default)]
pub(super) struct Talk {
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub choice: Choice,
    /// One call at a time.
    pub single: bool,
    /// A JSON schema of the answer, and the field that it came in.
    pub schema: Option<(Value, &'static str)>,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
    /// The field that the messages came in.
    pub field: &'static str,
}

/// A conversation in the model's own words.
pub(super) struct Written {
    pub text: String,
    pub ids: Vec<u32>,
    reading: Reading,
}

impl Talk {
    /// Writes it by the model's template.
    pub fn write(&self, app: &App) -> Result<Written, ApiError> {
        let named = |message: String| ApiError::field(self.field, message);
        let Some(template) = &app.template else {
            return Err(named("the model has no chat template: use /v1/completions".into()));
        };
        let tokenizer = app.model.tokenizer().ok_or_else(|| named("the model has no tokenizer".into()))?;
        let called = self.called()?;
        if !called.is_empty() && app.dialect.calls.is_none() {
            let message = "the model's chat template does not say how tools are called: leave them out";
            return Err(ApiError::field("tools", message));
        }
        let tools = (!called.is_empty()).then(|| called.iter().map(|tool| tool.source.clone()).collect());
        let conversation = Conversation {
            messages: self.messages.iter().cloned().map(with_objects).collect(),
            tools,
            add_generation_prompt: true,
            variables: self.variables.clone(),
        };
        // A control token that someone's message spells is text.
        let rendered = template.render_literal(&conversation, tokenizer).map_err(|e| named(e.to_string()))?;
        let (ids, text) = (rendered.ids(0, tokenizer)?, rendered.text);
        if ids.is_empty() {
            return Err(named("the model's template makes an empty text of them".into()));
        }
        let dialect = &app.dialect;
        let thinking = dialect.thinking.as_ref().is_some_and(|tags| text.trim_end().ends_with(&tags.open));
        let tools = (!called.is_empty()).then(|| Arc::new(called));
        let looks = dialect.thinking.is_some() || tools.is_some();
        let reading = Reading {
            dialect: looks.then(|| dialect.clone()),
            thinking,
            splits_reasoning: dialect.thinking.is_some(),
            tools,
        };
        Ok(Written { text, ids, reading })
    }

    /// The job of `n` answers to it.
    pub fn job(&self, app: &App, fields: &Fields<'_>, asked: &Asked, n: usize) -> Result<Job, ApiError> {
        let written = self.write(app)?;
        let mut request = request(app, fields, asked, written.ids.clone())?;
        request.apart = true;
        if let Some(constraint) = self.constraint(app, &written.reading)? {
            // Nothing may follow a text that is complete, so its end must be able to come.
            request.options.ignore_end = false;
            constraint.add_to(app.vocabulary()?, &mut request.filters);
        }
        Ok(Job { requests: times(&request, n).collect(), reading: written.reading })
    }

    /// The tools that may be called.
    fn called(&self) -> Result<Vec<Tool>, ApiError> {
        match &self.choice {
            Choice::Never => Ok(Vec::new()),
            Choice::Auto => Ok(self.tools.clone()),
            Choice::Any if self.tools.is_empty() => Err(ApiError::field("tool_choice", "there are no tools to call")),
            Choice::Any => Ok(self.tools.clone()),
            Choice::Named(name) if !self.tools.iter().any(|tool| tool.name == *name) => {
                Err(ApiError::field("tool_choice", format!("there is no tool \"{name}\"")))
            }
            Choice::Named(_) => Ok(self.tools.clone()),
        }
    }

    /// What the answer must look like.
    fn constraint(&self, app: &App, reading: &Reading) -> Result<Option<Constraint>, ApiError> {
        let begin = match app.dialect.thinking.as_ref().filter(|_| reading.thinking) {
            Some(tags) => Begin::Behind { tag: tags.close.clone(), id: app.dialect.special_id(&tags.close) },
            None => Begin::Now,
        };
        let tools = reading.tools.as_deref().map_or(&[][..], Vec::as_slice);
        let many = !self.single;
        match (&self.choice, &self.schema) {
            (Choice::Any, _) => forced_calls(&*app.vocabulary()?, &app.dialect, tools, many, begin).map(Some),
            (Choice::Named(name), _) => {
                let only: Vec<Tool> = tools.iter().filter(|tool| tool.name == *name).cloned().collect();
                forced_calls(&*app.vocabulary()?, &app.dialect, &only, false, begin).map(Some)
            }
            (_, Some((schema, field))) if tools.is_empty() => {
                Constraint::schema(&*app.vocabulary()?, &app.dialect, schema, field, begin).map(Some)
            }
            (_, Some((_, field))) => {
                Err(ApiError::field(field, "an answer is either JSON of a schema or calls of tools: give one of them"))
            }
            _ if !tools.is_empty() => triggered_calls(&*app.vocabulary()?, &app.dialect, tools, many),
            _ => Ok(None),
        }
    }
}

/// The messages of OpenAI's chat.
pub(super) fn messages(fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let Some(all) = fields.list("messages")? else { return Err(ApiError::field("messages", "it is missing")) };
    if all.is_empty() {
        return Err(ApiError::field("messages", "there are none"));
    }
    all.iter().enumerate().map(|(i, value)| message(value, &format!("messages[{i}]"))).collect()
}

fn message(value: &Value, field: &str) -> Result<Message, ApiError> {
    let Value::Object(object) = value else {
        return Err(ApiError::field(field, format!("{} is no message", short(value))));
    };
    if !object.get("role").is_some_and(Value::is_string) {
        return Err(ApiError::field(field, format!("{} has no role", short(value))));
    }
    if let Some(Value::Array(parts)) = object.get("content") {
        for (i, part) in parts.iter().enumerate() {
            let kind = part.get("type").and_then(Value::as_str).unwrap_or_default();
            if !part.is_string() && (kind != "text" || !part.get("text").is_some_and(Value::is_string)) {
                let what = format!("{} is no text part, and this model reads text only", short(part));
                return Err(ApiError::field(&format!("{field}.content[{i}]"), what));
            }
        }
    }
    if let Some(calls) = object.get("tool_calls").filter(|c| !c.is_null()) {
        let is_call = |call: &Value| call.pointer("/function/name").is_some_and(Value::is_string);
        if !calls.as_array().is_some_and(|all| all.iter().all(is_call)) {
            let what = format!("{} is no list of calls with a function's name", short(calls));
            return Err(ApiError::field(&format!("{field}.tool_calls"), what));
        }
    }
    let mut object = object.clone();
    // Both names are in use; templates know this one.
    if let Some(reasoning) = object.remove("reasoning").filter(Value::is_string) {
        object.entry("reasoning_content").or_insert(reasoning);
    }
    object.retain(|_, value| !value.is_null());
    serde_json::from_value(Value::Object(object)).map_err(|e| ApiError::field(field, e))
}

/// The tools of OpenAI's chat.
pub(super) fn tools(fields: &Fields<'_>) -> Result<Vec<Tool>, ApiError> {
    let all = fields.list("tools")?.unwrap_or_default();
    let each = all.iter().enumerate().map(|(i, value)| {
        let field = format!("tools[{i}]");
        match (value.get("type").and_then(Value::as_str), value.get("function")) {
            (Some("function"), Some(function)) => tool(function, &field),
            _ => Err(ApiError::field(&field, format!("{} is no function", short(value)))),
        }
    });
    few(each.collect::<Result<_, _>>()?)
}

/// Refuses too many tools.
pub(super) fn few(tools: Vec<Tool>) -> Result<Vec<Tool>, ApiError> {
    match tools.len() {
        n if n > TOOLS => Err(ApiError::field("tools", format!("there are {n}, at most {TOOLS} are taken"))),
        _ => Ok(tools),
    }
}

/// A tool from `{"name", "description", "parameters", "strict"}`.
pub(super) fn tool(function: &Value, field: &str) -> Result<Tool, ApiError> {
    let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:".contains(c);
    if name.is_empty() || name.len() > 128 || !name.chars().all(plain) {
        let what = "the name has to be 1 to 128 letters, digits, or any of _-./:";
        return Err(ApiError::field(&format!("{field}.name"), what));
    }
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => json!({ "type": "object", "properties": {} }),
        Some(schema @ Value::Object(_)) => schema.clone(),
        Some(other) => {
            return Err(ApiError::field(&format!("{field}.parameters"), format!("{} is no schema", short(other))));
        }
    };
    let strict = function.get("strict").and_then(Value::as_bool).unwrap_or(false);
    let mut shown = json!({ "name": name, "parameters": parameters.clone() });
    if let (Some(words), Value::Object(shown)) = (function.get("description").filter(|d| d.is_string()), &mut shown) {
        // In the order in which templates of all models were trained to read it.
        shown.shift_insert(1, "description".into(), words.clone());
    }
    let source = json!({ "type": "function", "function": shown });
    Ok(Tool { name: name.to_owned(), parameters, strict, source })
}

/// `tool_choice` of chat and responses: a word, or the name of a function.
pub(super) fn choice(fields: &Fields<'_>) -> Result<Choice, ApiError> {
    let wrong = |v: &Value| {
        ApiError::field(
            "tool_choice",
            format!("{} is none of \"auto\", \"none\", \"required\" or a function", short(v)),
        )
    };
    match fields.get("tool_choice") {
        None => Ok(Choice::Auto),
        Some(value @ Value::String(word)) => match word.as_str() {
            "auto" => Ok(Choice::Auto),
            "none" => Ok(Choice::Never),
            "required" | "any" => Ok(Choice::Any),
            _ => Err(wrong(value)),
        },
        Some(value) => {
            let name = value.pointer("/function/name").or_else(|| value.get("name")).and_then(Value::as_str);
            name.map(|name| Choice::Named(name.to_owned())).ok_or_else(|| wrong(value))
        }
    }
}

/// `response_format` of chat, or `text.format` of responses.
pub(super) fn schema(format: Option<&Value>, field: &'static str) -> Result<Option<(Value, &'static str)>, ApiError> {
    let Some(format) = format else { return Ok(None) };
    let wrong = |what: String| ApiError::field(field, what);
    match format.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        // llama.cpp takes a schema here too.
        Some("json_object") => {
            Ok(Some((format.get("schema").cloned().unwrap_or_else(|| json!({ "type": "object" })), field)))
        }
        Some("json_schema") => {
            let schema = format.pointer("/json_schema/schema").or_else(|| format.get("schema"));
            match schema {
                Some(schema @ (Value::Object(_) | Value::Bool(true))) => Ok(Some((schema.clone(), field))),
                Some(other) => Err(wrong(format!("{} is no schema", short(other)))),
                None => Err(wrong("the schema is missing".into())),
            }
        }
        _ => Err(wrong(format!("{} is none of the types text, json_object and json_schema", short(format)))),
    }
}

/// Variables of the template: `chat_template_kwargs`, and how much is to be thought.
pub(super) fn variables(fields: &Fields<'_>, effort: Option<&str>) -> Result<Map<String, Value>, ApiError> {
    let mut variables = Map::new();
    if let Some(effort) = effort {
        variables.insert("reasoning_effort".into(), effort.into());
        variables.insert("enable_thinking".into(), (effort != "none").into());
    }
    if let Some(on) = fields.maybe("enable_thinking")? {
        variables.insert("enable_thinking".into(), on.into());
    }
    variables.extend(fields.object("chat_template_kwargs")?.cloned().into_iter().flatten());
    Ok(variables)
}

/// Calls with their arguments as objects, which templates expect, instead of texts, which clients send.
fn with_objects(mut message: Message) -> Message {
    if let Some(Value::Array(calls)) = message.other.get_mut("tool_calls") {
        for call in calls {
            if let Some(arguments) = call.pointer_mut("/function/arguments")
                && let Some(text) = arguments.as_str()
            {
                let text = if text.trim().is_empty() { "{}" } else { text };
                if let Ok(object @ Value::Object(_)) = serde_json::from_str(text) {
                    *arguments = object;
                }
            }
        }
    }
    message
}
