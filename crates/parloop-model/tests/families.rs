//! Configurations and tensors of other families: what is read, and what is refused by name.

use parloop_model::{Checkpoint, GateKind, KvMode, Local, ModelConfig, family, tensors};
use parloop_testing::{FAMILIES, FamilyCase};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

fn config_of(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(FamilyCase::read(name).folder.join("config.json")).unwrap()).unwrap()
}

fn described(value: Value) -> parloop_model::Result<ModelConfig> {
    family::describe(value, &[]).map(|described| described.config)
}

#[test]
fn every_case_opens_as_its_family() {
    for name in FAMILIES {
        let case = FamilyCase::read(name);
        assert!(name.starts_with(case.checkpoint.family().model_type), "{name}");
        let unused = case.checkpoint.unused();
        assert_eq!(unused.len(), if name == "llama" { 2 } else { 0 }, "{name}: {unused:?}");
        // Described in our terms, it is a model of our own form.
        let text = family::own().to_json(case.checkpoint.config(), case.checkpoint.notes()).unwrap();
        assert_eq!(&family::parse(&text).unwrap().config, case.checkpoint.config(), "{name}");
    }
    assert_eq!(FamilyCase::read("iquestpltcoder").checkpoint.config().eos_ids(), [2, 40, 45]);
}

#[test]
fn published_configurations_are_read() {
    let loopcoder = described(json!({
        "architectures": ["IQuestPLTCoderForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "configuration_iquestpltcoder.IQuestPLTCoderConfig"}, "bos_token_id": 1,
        "eos_token_id": [2, 75864, 75869], "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120,
        "initializer_range": 0.02, "intermediate_size": 27648, "max_position_embeddings": 131072, "mlp_bias": false,
        "model_type": "iquestpltcoder", "num_attention_heads": 40, "num_hidden_layers": 14, "num_key_value_heads": 8,
        "plt_emb_scale": 0.707, "plt_gate_use_hidden_states": true, "plt_hidden_scale": 0.053,
        "plt_normalize_per_loop": true, "plt_num_loops": 2, "plt_window_size": [64, 0], "rms_norm_eps": 1e-5,
        "rope_scaling": null, "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.57.1", "use_cache": true, "vocab_size": 76800,
    }))
    .unwrap();
    assert_eq!(loopcoder.recipe, parloop_model::Recipe::plt(2));
    assert_eq!(tensors::expected(&loopcoder).len(), 171);
    assert_eq!(tensors::parameters(&loopcoder), 7_615_749_680);

    let loop_40b = described(json!({
        "architectures": ["IQuestLoopCoderForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
        "eos_token_id": [2, 75864, 75869], "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120,
        "initializer_range": 0.02, "intermediate_size": 27648, "loop_num": 2, "loop_window_size": 8192,
        "max_position_embeddings": 131072, "mlp_bias": false, "model_type": "iquestloopcoder",
        "num_attention_heads": 40, "num_hidden_layers": 80, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "rope_theta": 500000, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true,
        "vocab_size": 76800,
    }))
    .unwrap();
    let recipe = &loop_40b.recipe;
    assert_eq!((recipe.shift, recipe.embedding_scale, recipe.norm, recipe.kv), (false, None, false, KvMode::Shared));
    assert_eq!(recipe.local, Some(Local { left: 8191, gate: GateKind::Query }));

    let ouro = described(json!({
        "model_type": "ouro", "hidden_size": 2048, "num_hidden_layers": 48, "intermediate_size": 5632,
        "num_attention_heads": 16, "rms_norm_eps": 1e-06, "vocab_size": 49152, "num_key_value_heads": 16,
        "max_position_embeddings": 65536, "rope_theta": 1000000.0, "head_dim": 128, "tie_word_embeddings": false,
        "rope_scaling": null, "total_ut_steps": 4, "early_exit_threshold": 1.0, "eos_token_id": 2,
        "layer_types": vec!["full_attention"; 48], "max_window_layers": 48, "sliding_window": null,
        "use_sliding_window": false, "use_cache": true, "attention_dropout": 0.0, "dtype": "bfloat16",
    }))
    .unwrap();
    assert!(ouro.extras.sandwich_norms && ouro.recipe.norm && ouro.recipe.exit.is_some());
    assert_eq!((ouro.recipe.count, ouro.recipe.kv), (4, KvMode::PerLoop));

    let nanbeige = described(json!({
        "architectures": ["NanbeigeForCausalLM"], "model_type": "nanbeige", "vocab_size": 166144, "hidden_size": 3072,
        "auto_map": {"AutoConfig": "configuration_nanbeige.NanbeigeConfig"}, "intermediate_size": 10752,
        "num_hidden_layers": 22, "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128,
        "kv_channels": 128, "hidden_act": "silu", "max_position_embeddings": 262144, "rope_theta": 70000000,
        "rope_scaling": null, "attention_bias": false, "attention_dropout": 0.0, "rms_norm_eps": 1e-05, "num_loops": 2,
        "loop_loss_weights": [], "skip_loop_final_norm": false, "pretraining_tp": 1, "tie_word_embeddings": false,
        "pad_token_id": 0, "bos_token_id": 166100, "eos_token_id": 166101, "torch_dtype": "bfloat16",
    }))
    .unwrap();
    assert_eq!((nanbeige.query_width(), nanbeige.recipe.count, nanbeige.recipe.norm), (6144, 2, true));
}

#[test]
fn what_would_be_another_model_is_refused_by_name() {
    let absent = Value::Null;
    let scaling = |value: Value| ("llama", "rope_scaling", value);
    let cases: Vec<(&str, &str, Value, &str)> = vec![
        ("iquestpltcoder", "plt_num_loops", absent.clone(), "has no plt_num_loops"),
        ("iquestpltcoder", "plt_num_loops", 0.into(), "loop.count is 0"),
        ("iquestpltcoder", "plt_window_size", json!([64, 1]), "plt_window_size is [64, 1], expected [left, 0]"),
        ("iquestpltcoder", "plt_window_size", json!([64]), "plt_window_size is [64]"),
        ("iquestpltcoder", "plt_window_size", 64.into(), "plt_window_size is 64, expected a list"),
        ("iquestpltcoder", "plt_shift", true.into(), "\"plt_shift\" = true"),
        ("iquestpltcoder", "hidden_act", "gelu".into(), "hidden_act is \"gelu\""),
        ("iquestpltcoder", "quantization_config", json!({"bits": 4}), "quantization_config"),
        ("iquestloopcoder", "loop_num", absent.clone(), "has no loop_num"),
        ("iquestloopcoder", "loop_window_size", 0.into(), "loop_window_size is 0, expected at least 1"),
        ("ouro", "total_ut_steps", absent.clone(), "has no total_ut_steps"),
        ("ouro", "early_exit_threshold", 1.5.into(), "threshold is 1.5, expected 0 to 1"),
        ("ouro", "early_exit_step", 2.into(), "early_exit_step"),
        ("ouro", "use_sliding_window", true.into(), "use_sliding_window"),
        ("ouro", "layer_types", json!(["full_attention", "sliding_attention"]), "layer_types"),
        ("nanbeige", "num_loops", absent.clone(), "has no num_loops"),
        ("nanbeige", "kv_channels", 8.into(), "kv_channels is 8, expected head_dim (16)"),
        ("nanbeige", "loop_loss_weights", json!([0.5]), "loop_loss_weights = [0.5]"),
        ("nanbeige", "emb_neighbor_num", 4.into(), "emb_neighbor_num = 4"),
        ("llama", "model_type", "lama".into(), "\"lama\", expected one of parloop, iquestpltcoder"),
        ("llama", "num_loops", 2.into(), "\"num_loops\" = 2"),
        ("llama", "sliding_window", 128.into(), "sliding_window"),
        ("llama", "head_dim", 7.into(), "head_dim is 7"),
    ];
    let rope = vec![
        (json!({"rope_type": "dynamic", "factor": 2.0}), "rope_scaling.rope_type is \"dynamic\", expected"),
        (json!({"type": "longrope"}), "\"longrope\""),
        (json!({"factor": 2.0}), "has no rope_scaling.rope_type"),
        (json!({"rope_type": "linear"}), "has no rope_scaling.factor"),
        (json!({"rope_type": "linear", "factor": 0}), "rope_scaling.factor is 0"),
        (json!({"rope_type": "linear", "type": "yarn", "factor": 2}), "\"yarn\", expected \"linear\""),
        (json!({"rope_type": "linear", "factor": 2, "short_factor": [1.0]}), "rope_scaling.short_factor"),
        (json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}), "more than low"),
        (json!({"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 0}), "is 0, expected 1 to"),
        (json!({"rope_type": "default", "partial_rotary_factor": 0.5}), "partial_rotary_factor is 0.5"),
        (json!({"rope_type": "default", "rope_theta": 7.0}), "rope_theta is 7, expected 10000"),
        (json!("yarn"), "rope_scaling is \"yarn\", expected an object"),
    ];
    let rope = rope.into_iter().map(|(value, words)| {
        let (name, key, value) = scaling(value);
        (name, key, value, words)
    });
    for (name, key, value, words) in cases.into_iter().chain(rope) {
        let mut config = config_of(name);
        config[key] = value.clone();
        let message = described(config).expect_err(&format!("{name}: {key} = {value}")).to_string();
        assert!(message.contains(words), "{name}, {key} = {value}: {message}");
    }
    for switch in [
        "enable_double_loop_split",
        "loop_share_kv",
        "enable_hyper_connection",
        "enable_mhc",
        "enable_depth_attention",
        "qk_layernorm",
    ] {
        let mut config = config_of("nanbeige");
        config[switch] = false.into();
        described(config.clone()).unwrap();
        config[switch] = true.into();
        assert!(described(config).unwrap_err().to_string().contains(switch), "{switch}");
    }
}

#[test]
fn no_value_of_any_key_is_more_than_a_sentence() {
    let odd = [
        Value::Null,
        json!(-1),
        json!(0),
        json!(1),
        json!(3),
        json!(1e-300),
        json!(1e300),
        json!(u64::MAX),
        json!(0.5),
        json!(true),
        json!(""),
        json!("yarn"),
        json!([]),
        json!([0, 0]),
        json!([u64::MAX, 0]),
        json!({}),
        json!({"rope_type": "yarn", "factor": 1e300}),
        json!({"rope_type": "llama3", "factor": 2, "low_freq_factor": 1e-30, "high_freq_factor": 1e30}),
        json!({"rope_type": "yarn", "factor": 1e-30, "beta_fast": 1e-30, "beta_slow": 1e30}),
    ];
    let mut read = 0;
    for name in FAMILIES {
        let whole = config_of(name);
        let keys: Vec<String> = whole.as_object().unwrap().keys().cloned().chain(["rope_scaling".into()]).collect();
        for (key, value) in keys.iter().flat_map(|key| odd.iter().map(move |value| (key, value))) {
            let mut config = whole.clone();
            config[key] = value.clone();
            match described(config) {
                Ok(config) => {
                    read += 1;
                    let (frequencies, factor) = config.frequencies();
                    assert!(frequencies.iter().all(|f| f.is_finite()) && factor.is_finite(), "{name}: {key} = {value}");
                    assert!(tensors::parameters(&config) > 0);
                }
                Err(e) => {
                    let message = e.to_string();
                    let plain = !message.contains('\n') && !message.is_empty() && message.len() < 500;
                    assert!(plain, "{name}: {key} = {value}: {message}");
                }
            }
        }
    }
    assert!(read > 500, "only {read} were read");
}

/// Opens a copy of a case in which the tensors and the configuration were changed.
fn changed(
    name: &str,
    config: impl FnOnce(&mut Value),
    tensors: impl FnOnce(&mut Vec<(String, TensorView<'_>)>),
) -> parloop_model::Result<Checkpoint> {
    let folder = tempfile::tempdir().unwrap();
    let mut value = config_of(name);
    config(&mut value);
    std::fs::write(folder.path().join("config.json"), value.to_string()).unwrap();
    let bytes = std::fs::read(FamilyCase::read(name).folder.join("model.safetensors")).unwrap();
    let mut list = SafeTensors::deserialize(&bytes).unwrap().tensors();
    tensors(&mut list);
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, safetensors::serialize(list, None).unwrap()).unwrap();
    Checkpoint::open(folder.path())
}

/// The message with which such a copy is refused.
fn refused(
    name: &str,
    config: impl FnOnce(&mut Value),
    tensors: impl FnOnce(&mut Vec<(String, TensorView<'_>)>),
) -> String {
    changed(name, config, tensors).unwrap_err().to_string()
}

#[test]
fn a_tied_head_may_be_stored_once_more_but_not_another_one() {
    let copy = |of: &'static str| {
        move |list: &mut Vec<(String, TensorView<'_>)>| {
            let tensor = list.iter().find(|(name, _)| name == of).unwrap().1.clone();
            list.push(("lm_head.weight".into(), tensor));
        }
    };
    let same = changed("llama-biases-tied", |_| (), copy("model.embed_tokens.weight")).unwrap();
    assert_eq!(same.unused(), ["lm_head.weight"]);
    let message = refused("llama-biases-tied", |_| (), copy("model.layers.0.mlp.up_proj.weight"));
    assert!(message.contains("tensor lm_head.weight: is not part of the model"), "{message}");
}

#[test]
fn gates_that_are_missing_doubled_or_of_another_kind_are_refused() {
    let as_is = |_: &mut Value| ();
    let message = refused("iquestpltcoder", as_is, |t| t.retain(|(name, _)| !name.contains("plt_gate")));
    assert!(message.contains("layers.0.self_attn.plt_gate.weight: is missing"), "{message}");
    assert!(message.contains("6 missing"), "{message}");
    let message =
        refused("iquestloopcoder", as_is, |t| t.retain(|(name, _)| !name.contains("gate_projections.1.bias")));
    assert!(message.contains("layers.1.self_attn.plt_gate.bias: is missing"), "{message}");
    let message = refused("ouro", as_is, |t| t.retain(|(name, _)| !name.contains("early_exit_gate")));
    assert!(message.contains("early_exit_gate.weight: is missing"), "{message}");
    // The flag and the gate's shape must agree, in both directions.
    let query = |c: &mut Value| c["plt_gate_use_hidden_states"] = false.into();
    let message = refused("iquestpltcoder", query, |t| t.retain(|(name, _)| !name.contains("gate_norm")));
    assert!(message.contains("plt_gate.weight: has shape [4, 32], the configuration needs [4, 8]"), "{message}");
    assert!(message.contains("must agree"), "{message}");
    let message = refused("iquestpltcoder", query, |_| ());
    assert!(message.contains("2 unknown"), "{message}");
    let hidden = |c: &mut Value| c["plt_gate_use_hidden_states"] = true.into();
    assert!(refused("iquestpltcoder-query", hidden, |_| ()).contains("gate_norm.weight: is missing"));
    // One gate under two names.
    let message = refused("iquestloopcoder", as_is, |t| {
        let (name, gate) = t.iter().find(|(name, _)| name.contains("gate_projections.0.bias")).unwrap().clone();
        assert_eq!(name, "model.gate_projections.0.bias");
        t.push(("model.layers.0.self_attn.plt_gate.bias".into(), gate));
    });
    assert!(message.contains("is the same as"), "{message}");
    let message = refused("llama", as_is, |t| {
        let other = t[0].1.clone();
        t.push(("model.layers.0.self_attn.q_norm.weight".into(), other));
    });
    assert!(message.contains("q_norm.weight: is not part of the model"), "{message}");
    let biased = |c: &mut Value| c["attention_bias"] = true.into();
    assert!(refused("llama", biased, |_| ()).contains("q_proj.bias: is missing"));
    assert!(refused("llama-biases-tied", |c| c["mlp_bias"] = false.into(), |_| ()).contains("mlp.down_proj.bias"));
}

#[test]
fn experts_that_do_not_fit_are_refused_in_a_sentence() {
    let as_is = |_: &mut Value| ();
    let with = |key: &'static str, value: Value| move |c: &mut Value| c[key] = value;
    let message = refused("mixtral", with("num_experts_per_tok", 7.into()), |_| ());
    assert!(message.contains("moe.top_k is 7, expected 1 to the number of experts, 6"), "{message}");
    let message = refused("mixtral", with("num_local_experts", 8.into()), |_| ());
    assert!(message.contains("mlp.experts.6.gate_proj.weight: is missing"), "{message}");
    let message = refused("mixtral", with("num_local_experts", 5.into()), |_| ());
    assert!(message.contains("gate.weight: has shape [6, 32], the configuration needs [5, 32]"), "{message}");
    let message = refused("mixtral", as_is, |t| t.retain(|(name, _)| !name.contains("experts.3.w2")));
    assert!(message.contains("layers.0.mlp.experts.3.down_proj.weight: is missing"), "{message}");
    let message = refused("granitemoe", with("num_local_experts", 5.into()), |_| ());
    assert!(
        message.contains("input_linear.weight: has shape [6, 32, 32], the configuration needs [5, 32, 32]"),
        "{message}"
    );
    let message = refused("granitemoe", with("intermediate_size", 8.into()), |_| ());
    assert!(
        message.contains("[6, 32, 32], the configuration needs [6, 16, 32]: the matrices of 6 experts"),
        "{message}"
    );
    let message = refused("dots1", with("n_group", 3.into()), |_| ());
    assert!(message.contains("moe.groups.count is 3"), "{message}");
    let message = refused("dots1", with("first_k_dense_replace", 2.into()), |_| ());
    assert!(message.contains("first_k_dense_replace is 2"), "{message}");
    let message = refused("glm4_moe", with("n_shared_experts", 0.into()), |_| ());
    assert!(message.contains("mlp.shared_experts") && message.contains("is not part of the model"), "{message}");
    let message = refused("olmoe", with("clip_qkv", 8.into()), |_| ());
    assert!(message.contains("clip_qkv"), "{message}");
    let message = refused("qwen2_moe", with("mlp_only_layers", json!([5])), |_| ());
    assert!(message.contains("mlp_only_layers is a list with 5"), "{message}");
    let message = refused("qwen3_moe", with("num_experts", 9.into()), |_| ());
    assert!(message.contains("num_local_experts is 8, expected 9"), "{message}");
    let golden: Value =
        serde_json::from_str(include_str!("../../../tests/goldens/moe-plt2-shared/config.json")).unwrap();
    for (change, words) in [
        (json!({"moe": null}), "loop.experts is \"shared\", expected \"own\" where there is no moe"),
        (json!({"loop": {"count": 1}}), "expected \"own\" with loop.count = 1"),
        (json!({"loop": {"experts": "some"}}), "loop.experts is \"some\", expected \"own\" or \"shared\""),
        (json!({"moe": {"swing": 1}}), "moe.swing"),
        (json!({"moe": {"score": "tanh"}}), "moe.score is \"tanh\""),
        (json!({"moe": {"shared": {"width": 0}}}), "moe.shared.width is 0"),
        (json!({"mlp_bias": true}), "mlp_bias is true, expected false beside moe"),
    ] {
        let mut config = golden.clone();
        for (key, value) in change.as_object().unwrap() {
            match value.as_object() {
                Some(inner) => inner.iter().for_each(|(k, v)| config[key][k] = v.clone()),
                None => config[key] = value.clone(),
            }
        }
        let message = described(config).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn every_family_is_written_in_its_own_form_and_read_back_the_same() {
    for name in FAMILIES {
        let checkpoint = FamilyCase::read(name).checkpoint;
        let text = checkpoint.family().to_json(checkpoint.config(), checkpoint.notes()).unwrap();
        let again = family::parse(&text).unwrap();
        assert_eq!((&again.config, &again.notes), (checkpoint.config(), checkpoint.notes()), "{name}");
        assert_eq!(again.family.model_type, checkpoint.family().model_type, "{name}");
        // Tensor names go both ways.
        for spec in tensors::expected(checkpoint.config()) {
            let theirs = again.family.their_name(&spec.name);
            assert_eq!(again.family.our_name(&theirs), spec.name, "{name}: {theirs}");
            let own = theirs.starts_with("model.gate_projections.");
            assert_eq!(own, name == "iquestloopcoder" && spec.name.contains("plt_gate"), "{name}: {theirs}");
        }
    }
}

/// Whatever a family writes means the same model, or the family says that it cannot.
#[test]
fn a_family_writes_a_model_as_it_is_or_not_at_all() {
    let mut rng = parloop_testing::Rng(3);
    let mut written = std::collections::BTreeMap::new();
    for _ in 0..300 {
        let config = parloop_testing::any_config(&mut rng);
        let own = family::own().write(&config, &Default::default()).unwrap();
        assert_eq!(described(own).unwrap().computed(), config.computed());
        for family in family::FAMILIES {
            match family.write(&config, &Default::default()) {
                Ok(value) => {
                    assert_eq!(described(value).unwrap().computed(), config.computed(), "{}", family.model_type);
                    *written.entry(family.model_type).or_insert(0) += 1;
                }
                Err(e) => assert!(e.to_string().contains("cannot express this model"), "{e}"),
            }
        }
    }
    assert_eq!(written["parloop"], 300);
    assert!(written["llama"] > 0, "{written:?}");
}

#[test]
fn a_plt_is_written_as_iquestpltcoder_and_read_back_the_same() {
    let golden = parloop_testing::Golden::read("plt3");
    let theirs = family::named("iquestpltcoder").unwrap();
    let write =
        |family: &family::Family, checkpoint: &Checkpoint| family.to_json(checkpoint.config(), checkpoint.notes());
    let text = write(theirs, &golden.checkpoint).unwrap();
    assert!(text.contains("\"plt_hidden_scale\": 0.053") && !text.contains("\"loop\""), "{text}");
    assert_eq!(&family::parse(&text).unwrap().config, golden.checkpoint.config());
    for name in ["vanilla", "loop2", "loop2-clp", "loop2-clp-share", "loop2-share-gswa"] {
        let message = write(theirs, &parloop_testing::Golden::read(name).checkpoint).unwrap_err().to_string();
        assert!(message.contains("cannot express"), "{name}: {message}");
    }
    let message = write(family::named("llama").unwrap(), &golden.checkpoint).unwrap_err().to_string();
    assert!(message.contains("\"plain transformer (1 loop)\" instead of \"3 loops"), "{message}");
    assert!(write(family::named("llama").unwrap(), &parloop_testing::Golden::read("vanilla").checkpoint).is_ok());
}

#[test]
fn keys_that_change_nothing_are_read_and_kept_and_others_only_when_they_are_to_be_ignored() {
    let mut value = config_of("llama");
    for (key, harmless) in [
        ("unsloth_version", json!("2025.3.1")),
        ("max_sequence_length", json!(2048)),
        ("keys_to_ignore_at_inference", json!(["past_key_values"])),
        ("temperature", json!(0.5)),
        ("pruned_heads", json!({})),
        ("pad_token_id", json!(3)),
    ] {
        value[key] = harmless;
    }
    let read = family::describe(value.clone(), &[]).unwrap();
    let written = read.family.write(&read.config, &read.notes).unwrap();
    assert_eq!((&written["pad_token_id"], &written["unsloth_version"]), (&json!(3), &json!("2025.3.1")));
    // The same keys with a value that means something, and a key that nobody knows.
    for (key, odd) in [("pruned_heads", json!({"0": [1]})), ("sliding_window", json!(5)), ("swing", json!(1))] {
        let mut changed = value.clone();
        changed[key] = odd;
        let error = family::describe(changed.clone(), &[]).unwrap_err();
        assert!(matches!(&error, parloop_model::Error::UnknownKey { key: found, .. } if found == key), "{error}");
        assert_eq!(family::describe(changed, &[key.to_owned()]).unwrap().config, read.config, "{key}");
    }
}
