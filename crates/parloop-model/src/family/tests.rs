//! Configurations of our own form, and what every family shares.

use super::*;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../../tests/goldens/plt2/config.json")).unwrap()
}

fn parse(change: impl Fn(&mut Value)) -> Result<ModelConfig> {
    let mut value = golden();
    change(&mut value);
    super::parse(&value.to_string()).map(|d| d.config)
}

fn there_and_back(config: &ModelConfig) -> ModelConfig {
    super::parse(&own().to_json(config, &Notes::default()).unwrap()).unwrap().config
}

#[test]
fn the_goldens_config_survives_a_round_trip() {
    let config = parse(|_| {}).unwrap();
    assert_eq!(config, there_and_back(&config));
    assert_eq!(config.eos_ids(), [2]);
}

#[test]
fn every_bad_field_is_refused_by_name() {
    let cases: [(&str, Value, &str); 20] = [
        ("vocab_size", 0.into(), "is 0"),
        ("vocab_size", (1u64 << 40).into(), "expected 1 to"),
        ("hidden_size", (-3).into(), "is -3, expected a whole number"),
        ("hidden_size", "wide".into(), "is \"wide\", expected a whole number"),
        ("hidden_size", 24.5.into(), "is 24.5, expected a whole number"),
        ("hidden_size", Value::Null, "has no hidden_size"),
        ("tie_word_embeddings", 1.into(), "is 1, expected true or false"),
        ("num_key_value_heads", 3.into(), "divisor"),
        ("head_dim", 7.into(), "even"),
        ("num_hidden_layers", 1_000_000.into(), "expected 1 to"),
        ("rms_norm_eps", 0.0.into(), "positive"),
        ("rope_theta", 0.5.into(), "at least 1"),
        ("hidden_act", "gelu".into(), "\"gelu\", expected \"silu\""),
        ("eos_token_id", 61.into(), "special token has id 61"),
        ("eos_token_id", "end".into(), "is \"end\", expected a token id or a list"),
        ("model_type", "mystery".into(), "\"mystery\", expected"),
        ("loop", 2.into(), "is 2, expected an object"),
        ("qk_norm", true.into(), "will not ignore"),
        ("sliding_window", 128.into(), "will not ignore"),
        ("surprise", "x".repeat(1000).into(), "xxx..., which this version does not know"),
    ];
    for (field, value, words) in cases {
        let message = match parse(|c| c[field] = value.clone()) {
            Ok(_) => panic!("{field} = {value} was accepted"),
            Err(e) => e.to_string(),
        };
        assert!(message.contains(field) || message.contains("special token"), "{field}: {message}");
        assert!(message.contains(words) && message.len() < 400, "{field}: {message}");
    }
    let looped = |key: &str, value: Value| parse(|c| c["loop"][key] = value.clone()).unwrap_err().to_string();
    assert!(looped("count", "two".into()).contains("loop.count is \"two\", expected a whole number"));
    assert!(looped("kv", "own".into()).contains("loop.kv is \"own\", expected \"per_loop\" or \"shared\""));
    assert!(looped("local", true.into()).contains("loop.local is true, expected an object"));
    assert!(looped("exit", serde_json::json!({"threshold": 2})).contains("loop.exit.threshold is 2"));
    assert!(looped("exit", serde_json::json!({"limit": 1})).contains("loop.exit.limit"));
    assert!(parse(|c| c["loop"]["count"] = 0.into()).is_err());
    assert!(parse(|c| c["loop"]["hop"] = 0.into()).unwrap_err().to_string().contains("hop"));
    assert!(parse(|c| c["loop"]["kv"] = "per_loop".into()).is_err(), "a window needs shared K/V");
    assert!(super::parse("{").is_err() && super::parse("[]").is_err());
}

#[test]
fn a_description_with_everything_survives_a_round_trip() {
    for scaling in [
        serde_json::json!({"rope_type": "linear", "factor": 4.0}),
        serde_json::json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                           "original_max_position_embeddings": 64}),
        serde_json::json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}),
    ] {
        let config = parse(|c| {
            c["attention_bias"] = true.into();
            c["mlp_bias"] = true.into();
            c["sandwich_norms"] = true.into();
            c["rope_scaling"] = scaling.clone();
            c["loop"]["exit"] = serde_json::json!({"threshold": 0.3});
        })
        .unwrap();
        assert!(config.extras.attention_bias && config.extras.mlp_bias && config.extras.sandwich_norms);
        assert_eq!(config.recipe.exit.unwrap().threshold, 0.3);
        assert_eq!(config, there_and_back(&config), "{scaling}");
    }
}
