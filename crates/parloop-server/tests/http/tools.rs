//! Tools, schemas and reasoning, through a template in Qwen's form.

use crate::{Options, Running, start, start_with};
use serde_json::{Value, json};

/// The part of Qwen's templates that writes tools and calls.
pub const HERMES: &str = r#"{%- if tools %}{{- 'system: tools' }}{%- for tool in tools %}{{- '\n' + (tool | tojson) }}{%- endfor %}{{- '\n' }}{%- endif %}
{%- for message in messages %}{{- message.role + ': ' + (message.content or '') }}
{%- for call in message.tool_calls %}{{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}\n</tool_call>' }}{%- endfor %}
{{- '\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- 'assistant:\n' }}{%- if enable_thinking %}{{- '<think>\n' }}{%- endif %}{%- endif %}"#;

fn server() -> Running {
    start_with(HERMES, Options::default())
}

pub fn weather() -> Value {
    let properties = json!({ "city": { "enum": ["Bern", "Rome"] }, "days": { "enum": [1, 2, 3] } });
    let parameters = json!({ "type": "object", "properties": properties, "required": ["city", "days"],
        "additionalProperties": false });
    json!({ "type": "function", "function": { "name": "weather", "description": "Tells it.", "parameters": parameters,
        "strict": true } })
}

fn ask(server: &Running, more: Value) -> (u16, Value) {
    let mut body = json!({ "messages": [{ "role": "user", "content": "Rome?" }], "tools": [weather()], "max_tokens": 200,
        "temperature": 0 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    server.post("/v1/chat/completions", body)
}

/// Whether the arguments of a call are what its schema says.
pub fn fits(arguments: &Value) -> bool {
    let object = arguments.as_object().unwrap();
    object.len() == 2
        && ["Bern", "Rome"].contains(&object["city"].as_str().unwrap())
        && (1..=3).contains(&object["days"].as_u64().unwrap())
}

#[test]
fn a_call_that_must_come_comes_whole_and_streamed() {
    let server = server();
    let named = json!({ "type": "function", "function": { "name": "weather" } });
    for choice in [json!("required"), named] {
        let (status, answer) = ask(&server, json!({ "tool_choice": choice, "parallel_tool_calls": false }));
        assert_eq!(status, 200, "{answer}");
        let choice = &answer["choices"][0];
        assert_eq!((&choice["finish_reason"], &choice["message"]["content"]), (&json!("tool_calls"), &json!(null)));
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert_eq!(
            (calls.len(), &calls[0]["function"]["name"], &calls[0]["type"]),
            (1, &json!("weather"), &json!("function"))
        );
        let arguments = calls[0]["function"]["arguments"].as_str().unwrap();
        assert!(fits(&serde_json::from_str(arguments).unwrap()), "{arguments}");
    }
    let body = json!({ "messages": [{ "role": "user", "content": "Rome?" }], "tools": [weather()], "max_tokens": 200,
        "temperature": 0, "tool_choice": "required", "parallel_tool_calls": false, "stream": true });
    let chunks = server.stream("/v1/chat/completions", body);
    let deltas: Vec<&Value> = chunks.iter().map(|c| &c["choices"][0]["delta"]).collect();
    let calls: Vec<&Value> = deltas.iter().filter_map(|d| d.get("tool_calls")).map(|c| &c[0]).collect();
    // Indices count from 0 without gaps; id and name come once for each.
    let begun: Vec<&&Value> = calls.iter().filter(|c| c.get("id").is_some()).collect();
    assert!(!begun.is_empty());
    for (i, call) in begun.iter().enumerate() {
        assert_eq!((&call["index"], &call["function"]["name"]), (&json!(i), &json!("weather")));
        let arguments: String = calls
            .iter()
            .filter(|c| c["index"] == json!(i))
            .filter_map(|c| c["function"]["arguments"].as_str())
            .collect();
        assert!(fits(&serde_json::from_str(&arguments).unwrap()), "{arguments}");
    }
    assert!(deltas.iter().all(|d| d.get("content").is_none_or(|c| c == "")));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn a_call_that_is_cut_is_none_and_the_reason_says_so() {
    let server = server();
    let (_, answer) = ask(&server, json!({ "tool_choice": "required", "max_tokens": 6 }));
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert!(choice["message"].get("tool_calls").is_none());
}

#[test]
fn tools_and_their_answers_go_through_the_template() {
    let server = server();
    let call = json!({ "id": "call-1", "type": "function",
        "function": { "name": "weather", "arguments": "{\"city\": \"Rome\", \"days\": 1}" } });
    let messages = json!([
        { "role": "user", "content": "Rome?" },
        { "role": "assistant", "content": null, "tool_calls": [call] },
        { "role": "tool", "tool_call_id": "call-1", "content": "Sun." },
    ]);
    let body = json!({ "messages": messages, "tools": [weather()] });
    let (status, rendered) = server.post("/apply-template", body.clone());
    assert_eq!(status, 200, "{rendered}");
    let text = rendered["prompt"].as_str().unwrap();
    assert!(text.contains("{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\", \"days\": 1}}"), "{text}");
    assert!(
        text.starts_with(
            "system: tools\n{\"type\": \"function\", \"function\": {\"name\": \"weather\", \"description\""
        )
    );
    assert!(text.contains("tool: Sun.\nassistant:\n"), "{text}");
    // None are shown if none may be called.
    let mut none = body;
    none["tool_choice"] = json!("none");
    assert!(!server.post("/apply-template", none).1["prompt"].as_str().unwrap().contains("system: tools"));
    // A free answer is text, for this model calls nothing by itself.
    let (_, answer) = ask(&server, json!({ "max_tokens": 5 }));
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert!(answer["choices"][0]["message"]["content"].is_string());
}

#[test]
fn an_answer_of_a_schema_fits_it() {
    let server = start(Options::default());
    let schema = json!({ "type": "object", "properties": {
        "who": { "type": "string", "maxLength": 12 }, "age": { "type": "integer", "minimum": 1, "maximum": 99 },
        "tags": { "type": "array", "items": { "enum": ["good", "bad"] }, "maxItems": 2 },
    }, "required": ["who", "age", "tags"], "additionalProperties": false });
    let format =
        json!({ "type": "json_schema", "json_schema": { "name": "person", "strict": true, "schema": schema } });
    for (seed, temperature) in [(0, 0), (1, 1), (2, 1), (3, 1)] {
        let body = json!({ "messages": [{ "role": "user", "content": "Who?" }], "max_tokens": 300, "seed": seed,
            "temperature": temperature, "response_format": format });
        let (status, answer) = server.post("/v1/chat/completions", body);
        assert_eq!(status, 200, "{answer}");
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{text}");
        assert!(value["who"].as_str().unwrap().chars().count() <= 12, "{text}");
        assert!((1..=99).contains(&value["age"].as_u64().unwrap()), "{text}");
        assert!(value["tags"].as_array().unwrap().len() <= 2 && value.as_object().unwrap().len() == 3, "{text}");
    }
    let body = json!({ "messages": [{ "role": "user", "content": "Who?" }], "max_tokens": 40, "temperature": 0,
        "response_format": { "type": "json_object" } });
    let (_, answer) = server.post("/v1/chat/completions", body);
    assert!(answer["choices"][0]["message"]["content"].as_str().unwrap().starts_with('{'));
}

#[test]
fn reasoning_is_told_apart() {
    let server = start_with(&format!("{HERMES}{{#- </think> #}}"), Options::default());
    let ask = |more: Value| {
        let mut body =
            json!({ "messages": [{ "role": "user", "content": "Rome?" }], "max_tokens": 12, "temperature": 0 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post("/v1/chat/completions", body).1["choices"][0]["message"].clone()
    };
    // The template opens the reasoning, and this model does not close it.
    let thinking = ask(json!({ "chat_template_kwargs": { "enable_thinking": true } }));
    assert!(!thinking["reasoning_content"].as_str().unwrap().is_empty());
    assert_eq!(thinking["content"], "");
    assert_eq!(ask(json!({ "reasoning_effort": "high" })), thinking);
    let plain = ask(json!({ "reasoning_effort": "none" }));
    assert!(plain.get("reasoning_content").is_none() && !plain["content"].as_str().unwrap().is_empty());
}

#[test]
fn what_is_wrong_is_named() {
    let (server, plain) = (server(), start(Options::default()));
    let format = |schema: Value| json!({ "type": "json_schema", "json_schema": { "schema": schema } });
    let strict = |parameters: Value| json!([{ "type": "function", "function": { "name": "f", "parameters": parameters, "strict": true } }]);
    for (more, word) in [
        (json!({ "tools": {} }), "tools"),
        (json!({ "tools": [{ "type": "web_search" }] }), "tools[0]"),
        (json!({ "tools": [{ "type": "function", "function": { "name": "a \"b\"" } }] }), "tools[0].name"),
        (
            json!({ "tools": [{ "type": "function", "function": { "name": "a", "parameters": 5 } }] }),
            "tools[0].parameters",
        ),
        (json!({ "tools": strict(json!({ "type": "object", "not": {} })) }), "tools: the schema cannot be kept"),
        (json!({ "tool_choice": "perhaps" }), "tool_choice"),
        (json!({ "tool_choice": { "type": "function", "function": { "name": "x" } } }), "no tool \"x\""),
        (json!({ "tool_choice": "required", "tools": [] }), "no tools"),
        (json!({ "response_format": format(json!({ "type": "object" })) }), "either JSON"),
        (json!({ "tools": [], "response_format": { "type": "yaml" } }), "response_format"),
        (json!({ "tools": [], "response_format": { "type": "json_schema" } }), "schema is missing"),
        (
            json!({ "tools": [], "response_format": format(json!({ "type": "array", "uniqueItems": true })) }),
            "uniqueItems",
        ),
        (json!({ "functions": [{ "name": "a" }] }), "functions"),
        (json!({ "chat_template_kwargs": [] }), "chat_template_kwargs"),
        (json!({ "reasoning_effort": 5 }), "reasoning_effort"),
        (json!({ "parallel_tool_calls": 5 }), "parallel_tool_calls"),
        (json!({ "messages": [{ "role": "assistant", "tool_calls": [{}] }] }), "messages[0].tool_calls"),
        (json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }), "messages[0].content[0]"),
    ] {
        let (status, answer) = ask(&server, more.clone());
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(status == 400 && message.contains(word), "{more}: {status} {answer}");
    }
    let (status, answer) = ask(&plain, json!({}));
    assert!(status == 400 && answer["error"]["message"].as_str().unwrap().contains("template"), "{answer}");
}
