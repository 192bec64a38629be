//! Fields that say how a text is continued.

use crate::{Options, Running, alone, model, start};
use parloop_engine::{Engine, Filter, Generation, Generator, SampleOptions, filter};
use serde_json::{Value, json};

fn text(server: &Running, more: Value) -> String {
    let (status, answer) = server.post("/v1/completions", with(more));
    assert_eq!(status, 200, "{answer}");
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

fn with(more: Value) -> Value {
    let mut body = json!({ "prompt": "ROMEO:", "max_tokens": 24, "temperature": 0 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// What the engine writes under a filter.
fn filtered(filter: Box<dyn Filter>) -> String {
    let mut engine = Engine::new(model(), Some(1)).unwrap();
    let model = engine.model().clone();
    let tokenizer = model.tokenizer().unwrap();
    let ids = tokenizer.encode("ROMEO:").unwrap();
    let options = Generation { tokens: 24, sampling: SampleOptions::greedy(), ..Generation::default() };
    let mut sequence = engine.sequence();
    let generator = Generator::new(&mut engine, &mut sequence, &ids, &options).unwrap();
    let mut generator = generator.text(tokenizer.stream_after(&ids).unwrap()).filter(filter);
    let text: String = (&mut generator).map(|t| t.unwrap().text).collect();
    text + &generator.rest()
}

#[test]
fn biases_and_penalties_are_the_engines_filters() {
    let server = start(Options::default());
    let plain = alone("ROMEO:", 24);
    assert_eq!(text(&server, json!({})), plain);
    let model = model();
    let tokenizer = model.tokenizer().unwrap();
    // The first token that it writes, forbidden in two ways.
    let prompt = tokenizer.encode("ROMEO:").unwrap();
    let whole = tokenizer.encode(&format!("ROMEO:{plain}")).unwrap();
    let first = whole[prompt.len()];
    for bias in [json!(-100), json!(false)] {
        let biased = text(&server, json!({ "logit_bias": { first.to_string(): bias } }));
        assert_eq!(biased, filtered(Box::new(filter::Bias(vec![(first, f32::NEG_INFINITY)]))));
        assert_ne!(biased, plain);
    }
    // One that cannot lose.
    let forced = text(&server, json!({ "logit_bias": { first.to_string(): 100 }, "max_tokens": 3 }));
    assert_eq!(forced, tokenizer.decode(&[first; 3]).unwrap());
    let penalised = text(&server, json!({ "presence_penalty": 1.5, "frequency_penalty": 0.5 }));
    assert_eq!(penalised, filtered(Box::new(filter::Penalties::new(1.5, 0.5))));
    assert_ne!(penalised, plain);
    // Both spellings of the third penalty.
    let repeated = text(&server, json!({ "repetition_penalty": 1.8 }));
    assert_eq!(repeated, text(&server, json!({ "repeat_penalty": 1.8 })));
    assert_ne!(repeated, plain);
    assert_eq!(text(&server, json!({ "repeat_penalty": 1.8, "repeat_last_n": 0 })), plain);
}

#[test]
fn any_number_of_stops_and_none() {
    let server = start(Options::default());
    let plain = alone("ROMEO:", 24);
    for stop in [json!(null), json!([]), json!(""), json!(["never in it"])] {
        assert_eq!(text(&server, json!({ "stop": stop })), plain, "{stop}");
    }
    let third: String = plain.chars().skip(3).take(3).collect();
    let mut stops: Vec<String> = (0..40).map(|i| format!("never {i}")).collect();
    stops.push(third.clone());
    assert_eq!(text(&server, json!({ "stop": stops })), plain.split(&third).next().unwrap());
}

#[test]
fn usage_progress_and_times_are_told_where_asked_for() {
    let server = start(Options::default());
    let prompt = "Now is the winter of our discontent. ".repeat(20);
    let body = json!({ "prompt": prompt, "max_tokens": 5, "temperature": 0, "ignore_eos": true, "stream": true,
        "stream_options": { "continuous_usage_stats": true }, "return_progress": true });
    let chunks = server.stream("/v1/completions", body.clone());
    let written: Vec<u64> = chunks.iter().map(|c| c["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert!(written.is_sorted() && written.last() == Some(&5), "{written:?}");
    let told: Vec<&Value> = chunks.iter().filter_map(|c| c.get("prompt_progress")).collect();
    let prompt_tokens = &chunks[0]["usage"]["prompt_tokens"];
    assert!(told.iter().all(|p| p["total"] == *prompt_tokens && p["cache"] == 0), "{told:?}");
    assert!(told.iter().map(|p| p["processed"].as_u64().unwrap()).is_sorted());
    let times = chunks.iter().find_map(|c| c.get("timings")).unwrap();
    assert_eq!((&times["prompt_n"], &times["predicted_n"], &times["cache_n"]), (prompt_tokens, &json!(5), &json!(0)));
    // A part of what goes on from it is known now; not for another tenant, nor for whoever wants no cache.
    let mut body = body;
    body["stream"] = json!(false);
    body["prompt"] = json!(prompt.clone() + &"Made glorious summer. ".repeat(10));
    let cached = |more: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (_, answer) = server.post("/v1/completions", body);
        let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
        assert_eq!(answer["timings"]["cache_n"], cached);
        cached
    };
    assert_eq!(cached(json!({ "cache_prompt": false })), 0);
    assert_eq!(cached(json!({ "cache_salt": "someone else" })), 0);
    assert!(cached(json!({})) >= 64);
}

#[test]
fn what_other_servers_leave_at_its_default_asks_for_nothing() {
    let server = start(Options::default());
    let defaults = json!({ "best_of": 1, "use_beam_search": false, "length_penalty": 1.0, "typical_p": 1.0, "tfs_z": 1.0,
        "mirostat": 0, "dry_multiplier": 0.0, "top_n_sigma": -1.0, "grammar": "", "id_slot": -1, "top_k": -1,
        "n_predict": 24, "suffix": null, "user": "somebody", "unheard_of": [1] });
    assert_eq!(text(&server, defaults), alone("ROMEO:", 24));
    for one in [json!({ "best_of": 2 }), json!({ "length_penalty": 0.5 }), json!({ "grammar": "root ::= \"a\"" })] {
        let name = one.as_object().unwrap().keys().next().unwrap().clone();
        let (status, answer) = server.post("/v1/completions", with(one));
        assert!(status == 400 && answer["error"]["param"] == json!(name), "{answer}");
    }
}

#[test]
fn seeds_repeat_and_choices_differ() {
    let server = start(Options::default());
    let ask = |seed: Value| {
        let body = with(json!({ "temperature": 1, "seed": seed, "n": 3 }));
        let (status, answer) = server.post("/v1/completions", body);
        assert_eq!(status, 200, "{answer}");
        let choices = answer["choices"].as_array().unwrap().clone();
        choices.iter().map(|c| c["text"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let seven = ask(json!(7));
    assert_eq!(seven, ask(json!(7)));
    assert_eq!(seven[1..], ask(json!(8))[..2], "choice i has the seed plus i");
    assert!(seven[0] != seven[1] && seven[1] != seven[2]);
    assert_ne!(ask(json!(null)), ask(json!(null)));
    assert_eq!(ask(json!(-5)), ask(json!(-5)));
}

/// A field drawn from all that change how a text goes on.
fn drawn(rng: &mut parloop_testing::Rng) -> Value {
    let id = rng.range(0, 200).to_string();
    let schema = json!({ "type": "object", "properties": { "n": { "enum": ["one", "two", "three"] } },
        "required": ["n"], "additionalProperties": false });
    let each = [
        json!({ "logit_bias": { id: rng.range(0, 100) } }),
        json!({ "presence_penalty": 1.0, "frequency_penalty": 0.3 }),
        json!({ "repeat_penalty": 1.3, "min_p": 0.1 }),
        json!({ "top_k": 5, "top_p": 0.9 }),
        json!({ "stop": ["e", "the"] }),
        json!({ "ignore_eos": true }),
        json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": schema } } }),
        json!({ "cache_prompt": false }),
    ];
    let mut body = json!({ "max_tokens": rng.range(1, 30), "temperature": rng.range(0, 1), "seed": rng.bits() >> 12,
        "logprobs": true, "top_logprobs": 2,
        "messages": [{ "role": "user", "content": "Speak. ".repeat(rng.range(1, 60)) }] });
    for more in each.iter().filter(|_| rng.range(0, 2) == 0) {
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    body
}

proptest::proptest! {
    #![proptest_config(parloop_testing::cases(4))]

    /// Texts, log-probabilities and reasons are those of the same request alone, whatever the others ask for.
    #[test]
    fn answers_are_the_same_alone_and_in_company(seed: u64) {
        let rng = &mut parloop_testing::Rng(seed);
        let bodies: Vec<Value> = (0..8).map(|_| drawn(rng)).collect();
        let ask = |server: &Running, body: &Value| {
            let (status, mut answer) = server.post("/v1/chat/completions", body.clone());
            assert_eq!(status, 200, "{body}: {answer}");
            answer["choices"].take()
        };
        let alone: Vec<Value> = {
            let server = start(Options::default());
            bodies.iter().map(|body| ask(&server, body)).collect()
        };
        let server = start(Options::default());
        std::thread::scope(|scope| {
            for (body, expected) in bodies.iter().zip(&alone) {
                let (server, ask) = (&server, &ask);
                scope.spawn(move || assert_eq!(ask(server, body), *expected, "{body}"));
            }
        });
    }
}
