use super::*;
use serde_json::json;

fn listing(names: &[&str]) -> Result<Listing> {
    let siblings: Vec<_> = names.iter().map(|name| json!({ "rfilename": name, "size": 1 })).collect();
    Listing::parse(json!({ "siblings": siblings }).to_string().as_bytes())
}

fn chosen(names: &[&str], include: &[&str]) -> Result<Vec<String>> {
    let include: Vec<_> = include.iter().map(|text| Pattern::new(text).unwrap()).collect();
    Ok(listing(names)?.choose(&include)?.into_iter().map(|entry| entry.name).collect())
}

fn first(sibling: serde_json::Value) -> Result<Entry> {
    let listing = Listing::parse(json!({ "siblings": [sibling] }).to_string().as_bytes())?;
    Ok(listing.choose(&[Pattern::new("*").unwrap()])?.remove(0))
}

#[test]
fn what_a_model_needs_is_chosen_and_nothing_else() {
    let settings = ["config.json", "generation_config.json", "special_tokens_map.json", "chat_template.jinja"];
    let tokenizer = ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"];
    let weights = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let needed = [&settings[..], &tokenizer, &weights, &["model.safetensors.index.json"]].concat();
    let other =
        [".gitattributes", "README.md", "pytorch_model.bin", "consolidated.safetensors", "fp16/model.safetensors"];
    assert_eq!(chosen(&[&other[..], &needed].concat(), &[]).unwrap(), needed);
    // Where nothing has the usual name, any safetensors file may be the weights.
    assert_eq!(chosen(&["weights.safetensors", "a.bin"], &[]).unwrap(), ["weights.safetensors"]);
    let refused = |names: &[&str]| chosen(names, &[]).unwrap_err().to_string();
    assert!(refused(&["config.json", "a-Q4.gguf"]).contains("--include 'a-Q4.gguf'"));
    assert!(refused(&["config.json", "a.bin"]).contains("it has config.json, a.bin"));
    assert!(refused(&[]).contains("empty"));
}

#[test]
fn patterns_choose_by_path() {
    let names = ["a-Q4.gguf", "a-Q8.gguf", "Q4/part-1.gguf", "config.json", ".hidden.gguf", "sub/.hidden.gguf"];
    assert_eq!(chosen(&names, &["*.gguf"]).unwrap(), ["a-Q4.gguf", "a-Q8.gguf", "Q4/part-1.gguf"]);
    assert_eq!(chosen(&names, &["*-Q4.gguf", "config.json"]).unwrap(), ["a-Q4.gguf", "config.json"]);
    assert!(chosen(&names, &["*.onnx"]).unwrap_err().to_string().contains("no file matches"));
}

#[test]
fn names_that_leave_the_folder_spoil_the_list() {
    for name in ["", "/etc/passwd", "../a", "a/../../b", "..", "a//b", "a/", "./a", "a\\b", "a\u{7}b", "a\0b", "a\nb"] {
        let error = listing(&["config.json", name]).err().unwrap_or_else(|| panic!("{name:?} is taken")).to_string();
        assert!(error.contains(&format!("{name:?}")), "{error}");
    }
    assert!(listing(&["a", "a"]).err().unwrap().to_string().contains("twice"));
}

#[test]
fn odd_names_are_refused_only_if_they_are_chosen() {
    let long = "x".repeat(201);
    for name in ["C:a", "a?", "a.", "a ", ".profile", ".git/hooks", "a.part", "a/.b/c", &long] {
        let pattern = Pattern::escape(name);
        assert!(chosen(&[name], &[&pattern]).unwrap_err().to_string().contains("every system"), "{name}");
        assert_eq!(chosen(&["model.safetensors", name], &[]).unwrap(), ["model.safetensors"]);
    }
}

#[test]
fn sizes_and_hashes_are_checked_before_they_are_used() {
    let sha = "Ab".repeat(32);
    let lfs = json!({ "sha256": sha, "size": 7 });
    let large = first(json!({ "rfilename": "a", "size": 7, "blobId": "0".repeat(40), "lfs": lfs })).unwrap();
    assert_eq!((large.size, large.hash), (7, Some(Hash::Sha256(sha.to_lowercase()))));
    let small = first(json!({ "rfilename": "a", "size": 7, "blobId": "0".repeat(40) })).unwrap();
    assert_eq!(small.hash, Some(Hash::Blob("0".repeat(40))));
    let refused = |sibling| format!("{:#}", first(sibling).unwrap_err());
    assert!(refused(json!({ "rfilename": "a" })).contains("how long a is"));
    assert!(refused(json!({ "rfilename": "a", "size": 7, "lfs": { "size": 8 } })).contains("with 7 and with 8"));
    assert!(refused(json!({ "rfilename": "a", "size": 7, "lfs": { "sha256": "12" } })).contains("64 hexadecimal"));
    assert!(refused(json!({ "rfilename": "a", "size": -1 })).contains("not a list"));
    let most = json!({ "siblings": [{ "rfilename": "a", "size": u64::MAX }, { "rfilename": "b", "size": 1 }] });
    let listing = Listing::parse(most.to_string().as_bytes()).unwrap();
    assert!(listing.choose(&[Pattern::new("*").unwrap()]).unwrap_err().to_string().contains("more bytes"));
}

#[test]
fn small_files_have_gits_hash() {
    // `printf hello | git hash-object --stdin`
    let mut digest = Hash::Blob(String::new()).digest(5);
    digest.update(b"hello");
    let hex: String = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0");
}
