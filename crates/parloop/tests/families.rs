//! Checkpoints of other families on the command line.

use assert_cmd::Command;
use parloop_model::{Checkpoint, tensors};
use parloop_testing::{FAMILIES, FamilyCase, Golden};
use std::path::Path;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn written(arguments: &[&str]) -> String {
    text(&Command::cargo_bin("parloop").unwrap().args(arguments).assert().success().get_output().stdout)
}

/// Standard output and standard error of a command that fails.
fn refused(arguments: &[&str]) -> (String, String) {
    let output = Command::cargo_bin("parloop").unwrap().args(arguments).assert().failure().get_output().clone();
    (text(&output.stdout), text(&output.stderr))
}

fn path(folder: &Path) -> &str {
    folder.to_str().unwrap()
}

fn score(folder: &Path) -> String {
    written(&["score", path(folder), "--tokens", "1,2,3,4,5,6,7,8,9,10", "--logits"])
}

#[test]
fn a_plt_converts_to_iquestpltcoder_and_back_without_losing_a_bit() {
    let place = tempfile::tempdir().unwrap();
    for name in ["plt2", "plt3", "plt2-query-gate"] {
        let golden = Golden::read(name);
        let (theirs, back) = (place.path().join(format!("{name}-hf")), place.path().join(format!("{name}-back")));
        written(&["convert", path(&golden.folder), "--to", "iquestpltcoder", "--out", path(&theirs)]);
        written(&["convert", path(&theirs), "--to", "parloop", "--out", path(&back)]);
        let config = std::fs::read_to_string(theirs.join("config.json")).unwrap();
        assert!(config.contains("\"model_type\": \"iquestpltcoder\"") && config.contains("plt_num_loops"), "{config}");
        let (there, again) = (Checkpoint::open(&theirs).unwrap(), Checkpoint::open(&back).unwrap());
        assert_eq!((there.family().model_type, again.family().model_type), ("iquestpltcoder", "parloop"));
        for checkpoint in [&there, &again] {
            assert_eq!(checkpoint.config(), golden.checkpoint.config());
            for spec in tensors::expected(checkpoint.config()) {
                let (found, expected) = (checkpoint.tensor(&spec.name), golden.checkpoint.tensor(&spec.name));
                let (found, expected) = (found.unwrap(), expected.unwrap());
                assert!(found.dtype == expected.dtype && found.bytes() == expected.bytes(), "{name}: {}", spec.name);
            }
        }
        assert_eq!(score(&theirs), score(&golden.folder));
        assert_eq!(score(&back), score(&golden.folder));
    }
    let golden = Golden::read("loop2").folder;
    let out = place.path().join("none");
    let message = refused(&["convert", path(&golden), "--to", "iquestpltcoder", "--out", path(&out)]).1;
    assert!(message.contains("cannot express") && !out.exists(), "{message}");
    let message = refused(&["convert", path(&golden), "--to", "ouro", "--out", path(&out)]).1;
    assert!(message.contains("ouro cannot express this model"), "{message}");
    let message = refused(&["convert", path(&golden), "--to", "whisper", "--out", path(&out)]).1;
    assert!(message.contains("parloop, iquestpltcoder, iquestloopcoder, ouro"), "{message}");
}

#[test]
fn every_family_stays_what_it_is_and_converts_to_our_form_with_the_same_logits() {
    let place = tempfile::tempdir().unwrap();
    for name in FAMILIES {
        let case = FamilyCase::read(name);
        let family = case.checkpoint.family().model_type;
        let same = place.path().join(format!("{name}-again"));
        let kind = case.checkpoint.tensor(tensors::EMBEDDING).unwrap().dtype;
        let kind = if kind == parloop_model::DType::F32 { "f32" } else { "bf16" };
        written(&["convert", path(&case.folder), "--type", kind, "--out", path(&same)]);
        let text = std::fs::read_to_string(same.join("config.json")).unwrap();
        assert!(text.contains(&format!("\"model_type\": \"{family}\"")), "{name}: {text}");
        assert_eq!(score(&same), score(&case.folder), "{name}");
        let inspected: serde_json::Value =
            serde_json::from_str(&written(&["inspect", path(&case.folder), "--json"])).unwrap();
        assert_eq!(inspected["config"]["model_type"], family, "{name}");
        let ours = place.path().join(name);
        written(&["convert", path(&case.folder), "--to", "parloop", "--out", path(&ours)]);
        assert_eq!(Checkpoint::open(&ours).unwrap().config(), case.checkpoint.config(), "{name}");
        assert_eq!(score(&ours), score(&case.folder), "{name}");
    }
}

#[test]
fn inspect_names_family_recipe_and_tensors_that_do_not_fit() {
    let inspect = |name: &str| written(&["inspect", path(&FamilyCase::read(name).folder)]);
    for (name, parts) in [
        ("iquestpltcoder", vec!["iquestpltcoder: LoopCoder-V2", "one pass a token for all 2 loops", "64 + 1 own keys"]),
        ("ouro-exit", vec!["ouro: Ouro", "4 passes a token", "sandwich norms", "exit gate reaches"]),
        ("llama-biases-tied", vec!["llama: Llama", "one pass a token", "biases in attention", "tied head"]),
        ("llama-yarn", vec!["RoPE scaling yarn"]),
        (
            "qwen2_moe",
            vec!["3 of 8 experts of width 16", "a shared expert of width 24 with a gate", "of them for a row"],
        ),
        ("llama", vec!["unused      model.layers.1.self_attn.rotary_emb.inv_freq"]),
    ] {
        let shown = inspect(name);
        parts.iter().for_each(|part| assert!(shown.contains(part), "{part} is missing from:\n{shown}"));
    }
    // The same tensors under another configuration: what is missing and what is left over, by name.
    let place = tempfile::tempdir().unwrap();
    let case = FamilyCase::read("iquestpltcoder");
    std::fs::copy(case.folder.join("model.safetensors"), place.path().join("model.safetensors")).unwrap();
    let config = std::fs::read_to_string(case.folder.join("config.json")).unwrap();
    let config = config.replace("\"mlp_bias\": false", "\"mlp_bias\": true");
    let config = config.replace("\"plt_gate_use_hidden_states\": true", "\"plt_gate_use_hidden_states\": false");
    std::fs::write(place.path().join("config.json"), config).unwrap();
    let (shown, message) = refused(&["inspect", path(place.path())]);
    for part in [
        "family      iquestpltcoder",
        "missing     model.layers.1.mlp.up_proj.bias [48]",
        "misshapen   model.layers.0.self_attn.plt_gate.weight has shape [4, 32]",
        "unknown     model.layers.1.self_attn.plt_gate.gate_norm.weight",
    ] {
        assert!(shown.contains(part), "{part} is missing from:\n{shown}");
    }
    assert!(message.contains("6 missing, 2 of another shape, 2 unknown"), "{message}");
    let json: serde_json::Value = serde_json::from_str(&refused(&["inspect", path(place.path()), "--json"]).0).unwrap();
    assert_eq!(json["missing"].as_array().unwrap().len(), 6);
    assert_eq!(json["unknown"].as_array().unwrap().len(), 2);
}
