//! The description of the interface, and figures.

use crate::{Options, start};
use parloop_server::MetricsNames;
use serde_json::{Value, json};

#[test]
fn a_wrong_value_of_every_field_that_is_described_is_named() {
    let server = start(Options::default());
    let document: Value = serde_json::from_str(&server.get("/openapi.json").1).unwrap();
    let mut tried = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        let Some(post) = operations.get("post") else {
            let (status, _) = server.get(&path.replace("{id}", "shakespeare"));
            assert_eq!(status, 200, "{path}");
            continue;
        };
        if path.contains("{id}") {
            continue;
        }
        let schema = &post["requestBody"]["content"]["application/json"]["schema"];
        for (name, field) in schema["properties"].as_object().unwrap() {
            let wrong = match field.get("type").map(|t| t[0].as_str().unwrap()) {
                Some("boolean") => json!("perhaps"),
                Some("integer" | "number") => json!("many"),
                Some("string") => json!({ "a": [] }),
                Some("array" | "object") => json!(5),
                _ => json!({ "type": 5 }),
            };
            let mut body = json!({ "messages": [{ "role": "user", "content": "a" }], "max_tokens": 1, "prompt": "a",
                "input": "a", "content": "a", "tokens": [1] });
            body.as_object_mut().unwrap().retain(|base, _| schema["properties"].get(base).is_some());
            // What is only looked at beside another field.
            match name.as_str() {
                "top_logprobs" => body["logprobs"] = json!(true),
                "repeat_last_n" => body["repeat_penalty"] = json!(1.1),
                _ => (),
            }
            body[name] = wrong.clone();
            let (status, answer) = server.post(path, body);
            let message = answer["error"]["message"].as_str().unwrap_or_default();
            // A name that is no text is no other model; a gap needs a model for it, which this one is not.
            assert_eq!(status, 400, "{path} {name} {wrong}: {answer}");
            assert!(
                message.contains(name.as_str()) || message.contains("filling in the middle"),
                "{path} {name}: {message}"
            );
            tried += 1;
        }
    }
    assert!(tried > 150, "{tried}");
}

#[test]
fn figures_under_either_names_count_the_same() {
    let ask = |names: MetricsNames| {
        let server = start(Options { metrics_names: names, ..Options::default() });
        let body = json!({ "prompt": "ROMEO:", "max_tokens": 7, "ignore_eos": true, "n": 2 });
        assert_eq!(server.post("/v1/completions", body).0, 200);
        server.get("/metrics").1
    };
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let (own, vllm) = (ask(MetricsNames::Own), ask(MetricsNames::Vllm));
    for (ours, theirs, expected) in [
        ("parloop_tokens_written_total ", "vllm:generation_tokens_total{", 14.0),
        ("parloop_requests_done_total ", "vllm:request_success_total{", 2.0),
        ("parloop_requests_running ", "vllm:num_requests_running{", 0.0),
        ("parloop_first_token_seconds_count ", "vllm:time_to_first_token_seconds_count{", 2.0),
        ("parloop_gap_seconds_count ", "vllm:inter_token_latency_seconds_count{", 12.0),
        ("parloop_request_seconds_count ", "vllm:e2e_request_latency_seconds_count{", 2.0),
    ] {
        assert_eq!((value(&own, ours), value(&vllm, theirs)), (expected, expected), "{ours}");
    }
    assert!(value(&vllm, "vllm:kv_cache_usage_perc{") <= 1.0);
    assert_eq!(value(&vllm, "vllm:prefix_cache_queries_total{"), value(&own, "parloop_tokens_prompt_total "));
    assert!(!own.contains("vllm:") && !vllm.contains("parloop_") && vllm.contains("model_name=\"shakespeare\""));
}
