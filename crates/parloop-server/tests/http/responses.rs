//! `/v1/responses`, as Codex speaks it.

use crate::tools::{HERMES, fits, weather};
use crate::{Options, Running, events, start, start_with};
use serde_json::{Value, json};

/// What Codex sends, but for the length of its instructions.
fn codex(more: Value) -> Value {
    let mut body = json!({
        "model": "shakespeare",
        "instructions": "You are a coding agent.",
        "input": [{ "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "Who is there?" }] }],
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": false,
        "reasoning": { "effort": "medium", "summary": "auto" },
        "store": false,
        "stream": false,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199",
        "client_metadata": { "a": "b" },
        "temperature": 0,
        "max_output_tokens": 12,
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn ask(server: &Running, more: Value) -> Value {
    let (status, answer) = server.post("/v1/responses", codex(more));
    assert_eq!(status, 200, "{answer}");
    answer
}

/// A tool as responses take it: without the object around it.
fn tool() -> Value {
    let mut function = weather()["function"].take();
    function["type"] = json!("function");
    function
}

#[test]
fn a_response_is_that_of_chat_in_another_shape() {
    let server = start(Options::default());
    let answer = ask(&server, json!({}));
    let chat = json!({ "temperature": 0, "max_tokens": 12, "messages": [
        { "role": "system", "content": "You are a coding agent." }, { "role": "user", "content": "Who is there?" }] });
    let (_, chat) = server.post("/v1/chat/completions", chat);
    assert_eq!((&answer["object"], &answer["status"]), (&json!("response"), &json!("incomplete")));
    assert_eq!(answer["incomplete_details"]["reason"], "max_output_tokens");
    let item = &answer["output"][0];
    assert_eq!((&item["type"], &item["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(item["content"][0]["text"], chat["choices"][0]["message"]["content"]);
    assert_eq!(answer["usage"]["input_tokens"], chat["usage"]["prompt_tokens"]);
    assert_eq!((&answer["usage"]["output_tokens"], &answer["tool_choice"]), (&json!(12), &json!("auto")));
    // A probe without input and with one token is answered.
    let probe = ask(&server, json!({ "input": [], "instructions": null, "max_output_tokens": 1 }));
    assert_eq!(probe["usage"]["output_tokens"], 1);
}

#[test]
fn the_events_of_a_stream_come_in_their_order() {
    let server = start(Options::default());
    let whole = ask(&server, json!({}));
    let stream = events(&server, "/v1/responses", codex(json!({ "stream": true })));
    let names: Vec<&str> = stream.iter().map(|(name, _)| name.as_str()).collect();
    let mut expected =
        vec!["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"];
    expected.extend(vec!["response.output_text.delta"; names.len() - 8]);
    expected.extend([
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]);
    assert_eq!(names, expected);
    for (i, (name, data)) in stream.iter().enumerate() {
        assert_eq!((&data["type"], &data["sequence_number"]), (&json!(name), &json!(i)));
    }
    let text: String = stream
        .iter()
        .filter(|(n, _)| n == "response.output_text.delta")
        .map(|(_, d)| d["delta"].as_str().unwrap())
        .collect();
    let item = &stream[stream.len() - 2].1["item"];
    assert_eq!(
        (&item["content"][0]["text"], &json!(text)),
        (&whole["output"][0]["content"][0]["text"], &item["content"][0]["text"])
    );
    let last = &stream.last().unwrap().1["response"];
    assert_eq!((&last["output"][0], &last["id"]), (item, &stream[0].1["response"]["id"]));
    let tokens =
        |response: &Value| (response["usage"]["input_tokens"].clone(), response["usage"]["output_tokens"].clone());
    assert_eq!(tokens(last), tokens(&whole));
}

#[test]
fn functions_in_and_out_and_other_tools_skipped() {
    let server = start_with(HERMES, Options::default());
    let tools = json!([{ "type": "web_search" }, { "type": "namespace", "name": "x", "tools": [] }, tool(),
        { "type": "custom", "name": "apply_patch", "format": { "type": "grammar" } }]);
    let more = json!({ "tools": tools, "tool_choice": "required", "max_output_tokens": 200 });
    let answer = ask(&server, more.clone());
    let item = &answer["output"][0];
    assert_eq!(
        (&item["type"], &item["name"], &answer["status"]),
        (&json!("function_call"), &json!("weather"), &json!("completed"))
    );
    let arguments: Value = serde_json::from_str(item["arguments"].as_str().unwrap()).unwrap();
    assert!(fits(&arguments), "{item}");
    let mut streamed = codex(more);
    streamed["stream"] = json!(true);
    let stream = events(&server, "/v1/responses", streamed);
    let names: Vec<&str> = stream.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    assert_eq!(stream[5].1["item"]["arguments"], item["arguments"]);
    // The call and what it gave go back, and make the conversation that chat makes.
    let input = json!([
        { "type": "message", "role": "user", "content": "Rome?" },
        { "type": "reasoning", "summary": [], "encrypted_content": "x" },
        { "type": "message", "role": "assistant", "content": [{ "type": "output_text", "text": "I look." }] },
        { "type": "function_call", "call_id": "c1", "name": "weather", "arguments": item["arguments"] },
        { "type": "function_call_output", "call_id": "c1", "output": "Sun." },
    ]);
    let back = ask(&server, json!({ "input": input, "instructions": null, "reasoning": null, "tools": [tool()] }));
    let call =
        json!({ "id": "c1", "type": "function", "function": { "name": "weather", "arguments": item["arguments"] } });
    let messages = json!([{ "role": "user", "content": "Rome?" },
        { "role": "assistant", "content": "I look.", "tool_calls": [call] },
        { "role": "tool", "tool_call_id": "c1", "content": "Sun." }]);
    let (_, rendered) = server.post("/apply-template", json!({ "messages": messages, "tools": [weather()] }));
    assert_eq!(back["usage"]["input_tokens"], rendered["tokens"].as_array().unwrap().len());
}

#[test]
fn what_is_wrong_is_named() {
    let server = start(Options::default());
    for (more, status, word) in [
        (json!({ "previous_response_id": "resp_1" }), 400, "previous_response_id"),
        (json!({ "conversation": "c" }), 400, "conversation"),
        (json!({ "background": true }), 400, "background"),
        (json!({ "input": null }), 400, "input"),
        (json!({ "input": 5 }), 400, "input"),
        (json!({ "input": [{ "type": "message" }] }), 400, "input[0]"),
        (json!({ "input": [{ "type": "item_reference", "id": "x" }] }), 400, "input[0]"),
        (json!({ "input": [{ "role": "user", "content": [{ "type": "input_image" }] }] }), 400, "input[0]"),
        (json!({ "instructions": [] }), 400, "instructions"),
        (json!({ "max_output_tokens": -1 }), 400, "max_output_tokens"),
        (json!({ "text": { "format": { "type": "yaml" } } }), 400, "text.format"),
        (json!({ "reasoning": "much" }), 400, "reasoning"),
        (json!({ "tools": [{ "type": "function" }] }), 400, "tools[0].name"),
        (json!({ "input": "a ".repeat(3000) }), 400, "exceeds the available context size"),
        (json!({ "model": "gpt-5" }), 404, "gpt-5"),
    ] {
        let (found, answer) = server.post("/v1/responses", codex(more.clone()));
        assert_eq!(found, status, "{more}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(word), "{word}: {answer}");
    }
}
