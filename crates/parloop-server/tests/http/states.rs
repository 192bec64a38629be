//! What is told of a model's states: vectors of texts, and what each loop would have said.

use crate::{Options, model, start};
use base64::Engine as _;
use parloop_engine::{Engine, Observer, Passes, score};
use serde_json::{Value, json};

/// The normed state of the last loop at every position.
#[derive(Default)]
struct States(Vec<(usize, Vec<f32>)>);

impl Observer for States {
    fn state(&mut self, _work: usize, r: usize, _position: usize, state: &[f32]) {
        self.0.push((r, state.to_vec()));
    }
}

#[test]
fn embeddings_are_the_last_state_of_length_one() {
    let server = start(Options::default());
    let mut engine = Engine::new(model(), Some(1)).unwrap();
    let model = engine.model().clone();
    let last = model.config().recipe.count - 1;
    let mut expected = |text: &str| {
        let ids = model.tokenizer().unwrap().encode(text).unwrap();
        let mut states = States::default();
        score(&mut engine, &ids, Passes::Auto, false, Some(&mut states)).unwrap();
        let state = states.0.into_iter().rfind(|(r, _)| *r == last).unwrap().1;
        let length = state.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        state.into_iter().map(|x| (f64::from(x) / length) as f32).collect::<Vec<f32>>()
    };
    let texts = ["ROMEO: Who is there?", "A horse!"];
    let (status, answer) = server.post("/v1/embeddings", json!({ "input": texts }));
    assert_eq!(status, 200, "{answer}");
    let ask = |more: Value| {
        let (status, answer) = server.post("/v1/embeddings", more);
        assert_eq!(status, 200, "{answer}");
        answer["data"][0]["embedding"].clone()
    };
    for (i, text) in texts.iter().enumerate() {
        let data = &answer["data"][i];
        assert_eq!((&data["index"], &data["object"]), (&json!(i), &json!("embedding")));
        let found: Vec<f32> =
            data["embedding"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
        assert_eq!(found, expected(text));
        let encoded = ask(json!({ "input": text, "encoding_format": "base64" }));
        let bytes = base64::prelude::BASE64_STANDARD.decode(encoded.as_str().unwrap()).unwrap();
        let decoded: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(decoded, found);
        let ids = model.tokenizer().unwrap().encode(text).unwrap();
        assert_eq!(ask(json!({ "input": ids })), data["embedding"]);
    }
    assert_eq!(answer["usage"]["prompt_tokens"], answer["usage"]["total_tokens"]);
    for (body, word) in [
        (json!({}), "input"),
        (json!({ "input": [] }), "input"),
        (json!({ "input": [[999_999_999]] }), "vocabulary"),
        (json!({ "input": "a", "encoding_format": "int8" }), "encoding_format"),
        (json!({ "input": "a", "dimensions": 3 }), "dimensions"),
    ] {
        let (status, answer) = server.post("/v1/embeddings", body.clone());
        assert!(status == 400 && answer["error"]["message"].as_str().unwrap().contains(word), "{body}: {answer}");
    }
}

#[test]
fn each_loop_tells_what_it_would_have_said() {
    let server = start(Options::default());
    let loops = model().config().recipe.count;
    let body = json!({ "prompt": "ROMEO:", "max_tokens": 6, "temperature": 0, "logprobs": 2, "loops_logprobs": 2 });
    let (status, answer) = server.post("/v1/completions", body.clone());
    assert_eq!(status, 200, "{answer}");
    let told = answer["choices"][0]["loops_logprobs"].as_array().unwrap().clone();
    assert_eq!(told.len(), 6);
    for (i, token) in told.iter().enumerate() {
        let each = token["loops"].as_array().unwrap();
        assert_eq!(each.len(), loops);
        // The last loop says what the model says.
        let best = &each[loops - 1][0];
        assert_eq!(best["id"], token["id"]);
        let own = answer["choices"][0]["logprobs"]["token_logprobs"][i].as_f64().unwrap();
        assert!((best["logprob"].as_f64().unwrap() - own).abs() < 1e-4, "{best} {own}");
    }
    // In company the same, and nobody else is told.
    let plain = json!({ "prompt": "JULIET:", "max_tokens": 30, "temperature": 0, "n": 3 });
    std::thread::scope(|scope| {
        let other = scope.spawn(|| server.post("/v1/completions", plain).1);
        let mut chat = body.clone();
        chat["stream"] = json!(true);
        let chunks = server.stream("/v1/completions", chat);
        let streamed: Vec<&Value> =
            chunks.iter().filter_map(|c| c["choices"][0].get("loops_logprobs")).map(|l| &l[0]).collect();
        assert_eq!(streamed, told.iter().collect::<Vec<_>>());
        assert!(other.join().unwrap()["choices"].as_array().unwrap().iter().all(|c| c.get("loops_logprobs").is_none()));
    });
}

#[test]
fn a_client_without_the_tokenizer_learns_what_it_needs() {
    let server = start(Options::default());
    let info: Value = serde_json::from_str(&server.get("/tokenizer_info").1).unwrap();
    let model = model();
    assert_eq!(info["vocab_size"], model.tokenizer().unwrap().vocab_size());
    assert!(info["chat_template"].as_str().unwrap().contains("add_generation_prompt"));
    assert!(info.get("eos_token").is_some() && info.get("bos_token").is_some() && info.get("pad_token").is_some());
    let body = json!({ "messages": [{ "role": "user", "content": "Who?" }] });
    let (_, count) = server.post("/v1/chat/completions/input_tokens", body.clone());
    let (_, rendered) = server.post("/apply-template", body);
    assert_eq!(count["input_tokens"], rendered["tokens"].as_array().unwrap().len());
}
