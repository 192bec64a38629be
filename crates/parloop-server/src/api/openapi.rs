//! `GET /openapi.json`: the interface as programs read it.
//!
//! Requests are read field by field, because clients of many servers send fields that are none of ours and the message about
//! a wrong one has to name it; so there are no types to derive a description from. It is a table here, and a test sends a
//! wrong value for every field that the table names.

use crate::app::App;
use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What a field may hold.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    Whole(u64, u64),
    Number,
    Text,
    List,
    Object,
    /// One of several of these.
    Several,
}

type Field = (&'static str, Kind, &'static str);

const LARGE: u64 = u32::MAX as u64;

/// How the next token is chosen, in every interface that writes.
const SAMPLING: [Field; 16] = [
    ("temperature", Kind::Number, "0 takes the most likely token"),
    ("top_p", Kind::Number, "keep the most likely tokens up to this probability in sum"),
    ("top_k", Kind::Whole(0, LARGE), "keep so many of the most likely tokens; 0 keeps all"),
    ("min_p", Kind::Number, "keep tokens at least this fraction as likely as the best"),
    ("presence_penalty", Kind::Number, "-2 to 2: lowers tokens that were written"),
    ("frequency_penalty", Kind::Number, "-2 to 2: lowers tokens for each time that they were written"),
    ("repetition_penalty", Kind::Number, "divides the logits of recent tokens"),
    ("repeat_penalty", Kind::Number, "the same under llama.cpp's name"),
    ("repeat_last_n", Kind::Whole(0, LARGE), "tokens that are recent"),
    ("logit_bias", Kind::Object, "token ids, and what is added to their logits (-100 to 100, or false)"),
    ("seed", Kind::Whole(0, u64::MAX), "the same seed writes the same text"),
    ("ignore_eos", Kind::Bool, "go on past the end of the text"),
    ("cache_prompt", Kind::Bool, "false neither takes from the cache nor leaves anything in it"),
    ("cache_salt", Kind::Text, "only what was asked with the same salt is found in the cache"),
    ("model", Kind::Text, "the name of the model"),
    ("stream", Kind::Bool, "answer piece by piece"),
];

/// What completions, chat and gaps have beyond that.
const OPENAI: [Field; 5] = [
    ("max_tokens", Kind::Whole(0, LARGE), "tokens to write at most"),
    ("max_completion_tokens", Kind::Whole(0, LARGE), "the same under its newer name"),
    ("stop", Kind::Several, "strings before which the text ends"),
    ("stream_options", Kind::Object, "include_usage, continuous_usage_stats"),
    ("return_progress", Kind::Bool, "tell how far the prompt is"),
];

const CHOICES: [Field; 2] = [
    ("n", Kind::Whole(1, 64), "answers"),
    ("loops_logprobs", Kind::Whole(1, 20), "for each token so many of the most likely ones after each loop"),
];

const TOOLS: [Field; 6] = [
    ("tools", Kind::List, "functions that may be called"),
    ("tool_choice", Kind::Several, "auto, none, required, or a function"),
    ("parallel_tool_calls", Kind::Bool, "more than one call in an answer"),
    ("chat_template_kwargs", Kind::Object, "variables of the chat template"),
    ("enable_thinking", Kind::Bool, "a variable of many templates"),
    ("reasoning_effort", Kind::Text, "a variable of some templates; none switches reasoning off"),
];

const COMPLETIONS: [Field; 4] = [
    ("prompt", Kind::Several, "a text, ids, or a list of either"),
    ("suffix", Kind::Text, "what stands behind the gap"),
    ("logprobs", Kind::Whole(0, 20), "log-probabilities, with so many of the most likely tokens"),
    ("echo", Kind::Bool, "repeat the prompt"),
];

const CONVERSATION: [Field; 2] = [
    ("messages", Kind::List, "the conversation"),
    ("response_format", Kind::Object, "text, json_object, or json_schema"),
];

const CHAT: [Field; 2] = [
    ("logprobs", Kind::Bool, "log-probabilities"),
    ("top_logprobs", Kind::Whole(0, 20), "with so many of the most likely tokens"),
];

const MESSAGES: [Field; 5] = [
    ("messages", Kind::List, "the conversation"),
    ("system", Kind::Several, "rules: a text, or blocks"),
    ("tools", Kind::List, "tools that may be called"),
    ("tool_choice", Kind::Object, "auto, any, none, or a tool"),
    ("thinking", Kind::Object, "whether to reason"),
];

const LIMITS: [Field; 2] = [
    ("max_tokens", Kind::Whole(1, LARGE), "tokens to write at most"),
    ("stop_sequences", Kind::Several, "strings before which the text ends"),
];

const RESPONSES: [Field; 8] = [
    ("input", Kind::Several, "a text, or items of a conversation"),
    ("instructions", Kind::Text, "rules"),
    ("max_output_tokens", Kind::Whole(1, LARGE), "tokens to write at most"),
    ("tools", Kind::List, "functions that may be called; other kinds are skipped"),
    ("tool_choice", Kind::Several, "auto, none, required, or a function"),
    ("parallel_tool_calls", Kind::Bool, "more than one call in an answer"),
    ("reasoning", Kind::Object, "effort"),
    ("text", Kind::Object, "format: text, json_object, or json_schema"),
];

const EMBEDDINGS: [Field; 4] = [
    ("input", Kind::Several, "a text, ids, or a list of either"),
    ("encoding_format", Kind::Text, "float or base64"),
    ("dimensions", Kind::Whole(1, LARGE), "numbers of a vector"),
    ("model", Kind::Text, "the name of the model"),
];

const GAP: [Field; 2] = [("prompt", Kind::Text, "what stands before the gap"), COMPLETIONS[1]];

const INFILL: [Field; 4] = [
    ("input_prefix", Kind::Text, "what stands before the gap"),
    ("prompt", Kind::Text, "what was typed behind it"),
    ("input_suffix", Kind::Text, "what stands behind the gap"),
    ("input_extra", Kind::List, "other files: filename and text"),
];

/// A path that takes a body: what it does, which fields it has, and which of them it wants.
struct Operation {
    path: &'static str,
    does: &'static str,
    fields: &'static [&'static [Field]],
    wants: &'static [&'static str],
}

const fn operation(
    path: &'static str,
    does: &'static str,
    fields: &'static [&'static [Field]],
    wants: &'static [&'static str],
) -> Operation {
    Operation { path, does, fields, wants }
}

const OPERATIONS: [Operation; 13] = [
    operation(
        "/v1/completions",
        "texts that go on from prompts",
        &[&COMPLETIONS, &OPENAI, &CHOICES, &SAMPLING],
        &["prompt"],
    ),
    operation(
        "/v1/chat/completions",
        "the next message of a conversation",
        &[&CONVERSATION, &CHAT, &TOOLS, &OPENAI, &CHOICES, &SAMPLING],
        &["messages"],
    ),
    operation("/v1/responses", "the next items of a conversation", &[&RESPONSES, &SAMPLING], &["input"]),
    operation(
        "/v1/messages",
        "the next message, in Anthropic's shape",
        &[&MESSAGES, &LIMITS, &SAMPLING],
        &["messages", "max_tokens"],
    ),
    operation("/v1/messages/count_tokens", "how many tokens a conversation has", &[&MESSAGES], &["messages"]),
    operation(
        "/v1/chat/completions/input_tokens",
        "how many tokens a conversation has",
        &[&CONVERSATION, &TOOLS],
        &["messages"],
    ),
    operation("/v1/embeddings", "vectors of texts", &[&EMBEDDINGS], &["input"]),
    operation(
        "/v1/fim/completions",
        "what stands in a gap, in the shape of chat",
        &[&GAP, &OPENAI, &SAMPLING],
        &["prompt"],
    ),
    operation("/infill", "what stands in a gap, in llama.cpp's shape", &[&INFILL, &OPENAI, &SAMPLING], &[]),
    operation("/tokenize", "ids of a text", &[&[("content", Kind::Text, "the text")]], &["content"]),
    operation("/detokenize", "the text of ids", &[&[("tokens", Kind::List, "the ids")]], &["tokens"]),
    operation(
        "/apply-template",
        "a conversation as the chat template writes it",
        &[&CONVERSATION, &TOOLS],
        &["messages"],
    ),
    operation(
        "/slots/{id}",
        "saves, restores or erases a state (action)",
        &[&[("filename", Kind::Text, "its name")]],
        &[],
    ),
];

const READ: [(&str, &str); 9] = [
    ("/health", "whether it is there"),
    ("/v1/health", "whether it is there"),
    ("/version", "the version"),
    ("/props", "the model and its limits"),
    ("/metrics", "figures for Prometheus"),
    ("/v1/models", "the model"),
    ("/v1/models/{id}", "the model"),
    ("/tokenizer_info", "what a client without the tokenizer needs to know"),
    ("/openapi.json", "this"),
];

fn schema((_, kind, about): &Field) -> Value {
    let mut schema = match kind {
        Kind::Bool => json!({ "type": ["boolean", "null"] }),
        Kind::Whole(least, most) => json!({ "type": ["integer", "null"], "minimum": least, "maximum": most }),
        Kind::Number => json!({ "type": ["number", "null"] }),
        Kind::Text => json!({ "type": ["string", "null"] }),
        Kind::List => json!({ "type": ["array", "null"] }),
        Kind::Object => json!({ "type": ["object", "null"] }),
        Kind::Several => json!({}),
    };
    schema["description"] = (*about).into();
    schema
}

pub(crate) async fn openapi(State(app): State<Arc<App>>) -> Json<Value> {
    let refused = json!({ "description": "an error that names what is wrong",
        "content": { "application/json": { "schema": { "type": "object" } } } });
    let responses = json!({ "200": { "description": "the answer" }, "400": refused, "401": refused, "404": refused,
        "413": refused, "415": refused, "429": refused, "503": refused });
    let id = json!([{ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }]);
    let mut paths = Map::new();
    let mut put = |path: &str, method: &str, mut operation: Value| {
        operation["responses"] = responses.clone();
        if path.ends_with("{id}") {
            operation["parameters"] = id.clone();
        }
        paths.insert(path.into(), json!({ method: operation }));
    };
    for Operation { path, does, fields, wants } in &OPERATIONS {
        let properties: Map<String, Value> =
            fields.iter().flat_map(|group| group.iter()).map(|field| (field.0.to_owned(), schema(field))).collect();
        let body = json!({ "type": "object", "properties": properties, "required": wants });
        let content = json!({ "required": true, "content": { "application/json": { "schema": body } } });
        put(path, "post", json!({ "summary": does, "requestBody": content }));
    }
    for (path, does) in READ {
        put(path, "get", json!({ "summary": does }));
    }
    let key = json!({ "type": "http", "scheme": "bearer" });
    let mut document = json!({
        "openapi": "3.1.0",
        "info": { "title": format!("parloop: {}", app.name), "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
        "components": { "securitySchemes": { "key": key } },
    });
    if app.key.is_some() {
        document["security"] = json!([{ "key": [] }]);
    }
    Json(document)
}
