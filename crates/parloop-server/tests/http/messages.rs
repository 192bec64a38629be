//! Anthropic's interface, by its specification.

use crate::tools::{HERMES, fits, weather};
use crate::{Options, Running, events, start, start_with};
use serde_json::{Value, json};

fn body(more: Value) -> Value {
    let mut body =
        json!({ "messages": [{ "role": "user", "content": "Who is there?" }], "max_tokens": 12, "temperature": 0 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn ask(server: &Running, more: Value) -> Value {
    let (status, answer) = server.post("/v1/messages", body(more));
    assert_eq!(status, 200, "{answer}");
    answer
}

/// A tool in Anthropic's words.
fn tool() -> Value {
    let function = weather()["function"].take();
    json!({ "name": function["name"], "description": function["description"], "input_schema": function["parameters"],
        "strict": true })
}

#[test]
fn a_message_is_that_of_chat_in_another_shape() {
    let server = start(Options::default());
    let (_, chat) = server.post("/v1/chat/completions", body(json!({})));
    let answer = ask(&server, json!({ "system": [{ "type": "text", "text": "" }] }));
    assert_eq!(
        (&answer["type"], &answer["role"], &answer["stop_reason"]),
        (&json!("message"), &json!("assistant"), &json!("max_tokens"))
    );
    assert_eq!(answer["content"], json!([{ "type": "text", "text": chat["choices"][0]["message"]["content"] }]));
    assert_eq!(answer["usage"]["output_tokens"], 12);
    let prompt = chat["usage"]["prompt_tokens"].as_u64().unwrap();
    let usage = |name: &str| answer["usage"][name].as_u64().unwrap();
    assert_eq!(usage("input_tokens") + usage("cache_read_input_tokens"), prompt);
    let (_, count) = server.post("/v1/messages/count_tokens", body(json!({})));
    assert_eq!(count, json!({ "input_tokens": prompt }));
    // A stop sequence is named, and no part of the text.
    let text = answer["content"][0]["text"].as_str().unwrap();
    let stop: String = text.chars().skip(4).take(3).collect();
    let stopped = ask(&server, json!({ "stop_sequences": ["never", stop] }));
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!(stop)));
    assert_eq!(stopped["content"][0]["text"], json!(text.split(&stop).next().unwrap()));
}

#[test]
fn the_events_of_a_stream_come_in_their_order() {
    let server = start(Options::default());
    let whole = ask(&server, json!({}));
    let stream = events(&server, "/v1/messages", body(json!({ "stream": true })));
    let names: Vec<&str> = stream.iter().map(|(name, _)| name.as_str()).filter(|n| *n != "ping").collect();
    let deltas = names.len() - 5;
    let mut expected = vec!["message_start", "content_block_start"];
    expected.extend(vec!["content_block_delta"; deltas]);
    expected.extend(["content_block_stop", "message_delta", "message_stop"]);
    assert_eq!(names, expected);
    assert!(stream.iter().any(|(name, data)| name == "ping" && *data == json!({ "type": "ping" })));
    for (name, data) in &stream {
        assert_eq!(data["type"], json!(name), "the type stands in the data too");
    }
    let find = |name: &str| stream.iter().filter(|(n, _)| n == name).map(|(_, data)| data).collect::<Vec<_>>();
    let start = &find("message_start")[0]["message"];
    assert_eq!(
        (&start["content"], &start["stop_reason"], &start["role"]),
        (&json!([]), &json!(null), &json!("assistant"))
    );
    assert!(start["usage"]["input_tokens"].as_u64().unwrap() > 0 && start["id"].as_str().unwrap().starts_with("msg"));
    assert_eq!(find("content_block_start")[0]["content_block"], json!({ "type": "text", "text": "" }));
    let text: String = find("content_block_delta").iter().map(|d| d["delta"]["text"].as_str().unwrap()).collect();
    assert_eq!(json!(text), whole["content"][0]["text"]);
    let last = find("message_delta")[0];
    assert_eq!((&last["delta"]["stop_reason"], &last["usage"]["output_tokens"]), (&json!("max_tokens"), &json!(12)));
}

#[test]
fn tools_in_and_out() {
    let server = start_with(HERMES, Options::default());
    let choice = json!({ "type": "any", "disable_parallel_tool_use": true });
    let more = json!({ "tools": [tool(), { "type": "web_search_20250305", "name": "web_search" }], "tool_choice": choice,
        "max_tokens": 200 });
    let answer = ask(&server, more.clone());
    assert_eq!(answer["stop_reason"], "tool_use");
    let block = &answer["content"][0];
    assert_eq!((&block["type"], &block["name"]), (&json!("tool_use"), &json!("weather")));
    assert!(fits(&block["input"]), "{block}");
    let mut streamed = body(more);
    streamed["stream"] = json!(true);
    let stream = events(&server, "/v1/messages", streamed);
    let begin = stream.iter().find(|(name, _)| name == "content_block_start").unwrap();
    assert_eq!(
        (&begin.1["content_block"]["type"], &begin.1["content_block"]["input"]),
        (&json!("tool_use"), &json!({}))
    );
    let arguments: String = stream.iter().filter_map(|(_, data)| data["delta"]["partial_json"].as_str()).collect();
    assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), block["input"]);
    // What the tool gave goes back through the template, in the order of the conversation.
    let messages = json!([
        { "role": "user", "content": "Rome?" },
        { "role": "assistant", "content": [{ "type": "text", "text": "I look." }, block] },
        { "role": "user", "content": [
            { "type": "tool_result", "tool_use_id": block["id"], "content": [{ "type": "text", "text": "Sun." }] },
            { "type": "text", "text": "And now?" },
        ] },
    ]);
    let call = json!({ "id": block["id"], "type": "function",
        "function": { "name": "weather", "arguments": block["input"].to_string() } });
    let same = json!([
        { "role": "user", "content": "Rome?" },
        { "role": "assistant", "content": "I look.", "tool_calls": [call] },
        { "role": "tool", "tool_call_id": block["id"], "content": "Sun." },
        { "role": "user", "content": "And now?" },
    ]);
    let (_, count) = server.post("/v1/messages/count_tokens", json!({ "messages": messages, "tools": [tool()] }));
    let (_, rendered) = server.post("/apply-template", json!({ "messages": same, "tools": [weather()] }));
    assert_eq!(count["input_tokens"], rendered["tokens"].as_array().unwrap().len(), "{rendered}");
}

#[test]
fn a_system_block_that_changes_with_every_request_is_left_out() {
    let server = start(Options::default());
    let rules = "Be brief. ".repeat(25);
    let count = |more: Value| {
        let mut body = json!({ "messages": [{ "role": "user", "content": "Who?" }] });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post("/v1/messages/count_tokens", body).1["input_tokens"].as_u64().unwrap()
    };
    let blocks = |number: u32| {
        let header = format!("x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch={number};");
        json!([{ "type": "text", "text": header },
            { "type": "text", "text": rules, "cache_control": { "type": "ephemeral" } }])
    };
    assert_eq!(count(json!({ "system": blocks(7) })), count(json!({ "system": rules })));
    // So the next turn of the conversation finds what the last one left.
    let said = "Speak. ".repeat(12);
    let first = ask(&server, json!({ "system": blocks(1), "messages": [{ "role": "user", "content": said }] }));
    let messages = json!([{ "role": "user", "content": said },
        { "role": "assistant", "content": first["content"] }, { "role": "user", "content": said }]);
    let second = ask(&server, json!({ "system": blocks(2), "messages": messages }));
    assert!(second["usage"]["cache_read_input_tokens"].as_u64().unwrap() > 100, "{second}");
}

#[test]
fn errors_have_the_shape_of_the_interface() {
    let server = start(Options { body: 20_000, ..Options::default() });
    for (more, status, kind, word) in [
        (json!({ "max_tokens": null }), 400, "invalid_request_error", "max_tokens"),
        (json!({ "max_tokens": 0 }), 400, "invalid_request_error", "max_tokens"),
        (json!({ "messages": [] }), 400, "invalid_request_error", "messages"),
        (json!({ "messages": [{ "role": "user" }] }), 400, "invalid_request_error", "messages[0].content"),
        (json!({ "messages": [{ "role": "judge", "content": "" }] }), 400, "invalid_request_error", "messages[0].role"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image" }] }] }),
            400,
            "invalid_request_error",
            "messages[0].content[0]",
        ),
        (json!({ "system": 5 }), 400, "invalid_request_error", "system"),
        (json!({ "stop_sequences": [5] }), 400, "invalid_request_error", "stop_sequences"),
        (json!({ "tools": [{ "name": "a" }] }), 400, "invalid_request_error", "tools[0]"),
        (json!({ "tool_choice": { "type": "tool" } }), 400, "invalid_request_error", "tool_choice"),
        (json!({ "model": "claude" }), 404, "not_found_error", "claude"),
        (
            json!({ "messages": [{ "role": "user", "content": "a ".repeat(3000) }] }),
            400,
            "invalid_request_error",
            "prompt is too long",
        ),
        (json!({ "system": "x".repeat(30_000) }), 413, "request_too_large", "larger"),
    ] {
        let (found, answer) = server.post("/v1/messages", body(more.clone()));
        assert_eq!(
            (found, &answer["type"], &answer["error"]["type"]),
            (status, &json!("error"), &json!(kind)),
            "{answer}"
        );
        assert!(answer["error"]["message"].as_str().unwrap().contains(word), "{word}: {answer}");
    }
    let closed = start(Options { key: Some("secret".into()), ..Options::default() });
    let json = "Content-Type: application/json\r\nanthropic-version: 2023-06-01\r\n";
    let (status, answer) = closed.ask("POST", "/v1/messages", json, &body(json!({})).to_string());
    assert!(status == 401 && answer.contains("\"authentication_error\""), "{answer}");
    let (status, _) =
        closed.ask("POST", "/v1/messages", &format!("{json}x-api-key: secret\r\n"), &body(json!({})).to_string());
    assert_eq!(status, 200);
}
