//! States that move between servers: what one has computed, another goes on from.

#[path = "faults/client.rs"]
#[allow(dead_code, reason = "shared with the tests of faults, which use more of it")]
mod client;

use client::{Running, model, start_with};
use parloop_engine::Limits;
use parloop_kernels::KvType;
use parloop_server::Options;
use serde_json::{Value, json};
use std::path::Path;

fn start(folder: Option<&Path>, kv: KvType) -> Running {
    let limits = Limits { cache: 16 << 20, ..Limits::default() };
    let options = Options { limits, slots: folder.map(Path::to_owned), most: 8, ..Options::default() };
    start_with(model(None, None), kv, 64 << 20, options)
}

/// The text that goes on after a prompt, and how much of the prompt was there already.
fn ask(server: &Running, prompt: &str, slot: Value) -> (String, u64) {
    let body = json!({ "prompt": prompt, "max_tokens": 40, "temperature": 0, "id_slot": slot, "ignore_eos": true });
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!(status, 200, "{answer}");
    let text = answer["choices"][0]["text"].as_str().unwrap().to_owned();
    (text, answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap())
}

#[test]
fn a_state_goes_on_where_it_was_saved_and_in_another_server() {
    let folder = tempfile::tempdir().unwrap();
    for kv in [KvType::F32, KvType::Q8] {
        let (one, two) = (start(Some(folder.path()), kv), start(Some(folder.path()), kv));
        let name = json!({ "filename": "talk.state" });
        let prompt = "First Citizen:\nBefore we proceed any further, hear me speak.\n";
        let (text, _) = ask(&one, prompt, json!(3));
        let (status, saved) = one.post("/slots/3?action=save", &name);
        assert_eq!((status, &saved["filename"]), (200, &json!("talk.state")), "{saved}");
        let tokens = saved["n_saved"].as_u64().unwrap();
        assert!(tokens > 40 && saved["n_written"].as_u64().unwrap() > 1000, "{saved}");
        // Another server computes only what is new, and writes the same.
        let longer = format!("{prompt}{text}\nAll:\nSpeak");
        let expected = ask(&start(None, kv), &longer, Value::Null);
        assert_eq!(expected.1, 0);
        let (status, restored) = two.post("/slots/0?action=restore", &name);
        assert_eq!((status, restored["n_restored"].as_u64()), (200, Some(tokens)), "{restored}");
        assert_eq!(ask(&two, &longer, Value::Null), (expected.0, tokens));
        // What was restored can be saved again, and forgotten.
        let (status, again) = two.post("/slots/0?action=save", &json!({ "filename": "again" }));
        assert_eq!((status, again["n_saved"].as_u64()), (200, Some(tokens)), "{again}");
        let (_, erased) = two.post("/slots/0?action=erase", &json!({}));
        assert_eq!(erased["n_erased"].as_u64(), Some(tokens));
        let (_, erased) = two.post("/slots/0?action=erase", &json!({}));
        assert_eq!(erased["n_erased"].as_u64(), Some(0));
        for file in ["talk.state", "again"] {
            std::fs::remove_file(folder.path().join(file)).unwrap();
        }
    }
}

#[test]
fn what_cannot_be_kept_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("notes.txt"), "not a state").unwrap();
    let server = start(Some(folder.path()), KvType::F32);
    let refused = |path: &str, body: Value, status: u16, word: &str| {
        let (found, answer) = server.post(path, &body);
        let message = answer["error"]["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(found, status, "{path} {body}: {answer}");
        assert!(message.contains(word), "{message:?} has no {word:?}");
        assert!(!message.contains(folder.path().to_str().unwrap()), "{message} tells where the folder is");
    };
    let name = |name: &str| json!({ "filename": name });
    refused("/slots/1?action=save", name("a"), 400, "slot 1 is empty");
    refused("/slots/8?action=save", name("a"), 400, "0 to 7");
    refused("/slots/x?action=save", name("a"), 400, "no slot");
    refused("/slots/1?action=dance", name("a"), 400, "save, restore or erase");
    refused("/slots/1", name("a"), 400, "save, restore or erase");
    refused("/slots/1?action=save", json!({}), 400, "filename");
    for wrong in ["../a", "/etc/passwd", "a/b", ".a", "", "nul"] {
        refused("/slots/1?action=save", name(wrong), 400, "letters");
        refused("/slots/1?action=restore", name(wrong), 400, "letters");
    }
    refused("/slots/1?action=restore", name("nothing"), 404, "nothing");
    refused("/slots/1?action=restore", name("notes.txt"), 400, "notes.txt");
    ask(&server, "ROMEO:", json!(1));
    refused("/slots/1?action=save", name("notes.txt"), 400, "notes.txt");
    assert_eq!(std::fs::read_to_string(folder.path().join("notes.txt")).unwrap(), "not a state");
    let bodies = [json!({ "prompt": "a", "id_slot": 8 }), json!({ "prompt": "a", "id_slot": "a" })];
    for body in bodies {
        let (status, answer) = server.post("/v1/completions", &body);
        assert!(status == 400 && answer["error"]["param"] == "id_slot", "{answer}");
    }
    // Without a folder there are no files, but slots may be forgotten.
    let other = start(None, KvType::F32);
    ask(&other, "ROMEO:", json!(1));
    let (status, answer) = other.post("/slots/1?action=save", &name("a"));
    assert!(status == 400 && answer["error"]["message"].as_str().unwrap().contains("--slot-save-path"), "{answer}");
    assert_eq!(other.post("/slots/1?action=erase", &json!({})).0, 200);
}
