//! Conversations, generation defaults and SentencePiece models as a person uses them.

use assert_cmd::Command;
use parloop::model::checkpoint::{CheckpointWriter, TensorData};
use parloop::model::{Checkpoint, DType, Tokenizer, tensors};
use parloop_testing::{Rng, checkpoint, config};
use std::path::{Path, PathBuf};

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}<|endoftext|>{% endfor %}\
                        {% if messages[-1].content == 'no' %}{{ raise_exception('I take no for no answer') }}{% endif %}\
                        {% if add_generation_prompt %}<assistant>{% endif %}";

fn parloop(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("parloop").unwrap();
    command.args(arguments);
    command
}

fn output(command: &mut Command) -> (String, String) {
    let output = command.assert().success().get_output().clone();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// What a conversation through a pipe printed and said. It ends with 1 if a line went wrong, after all were answered.
fn ended(command: &mut Command) -> (String, String) {
    let output = command.output().unwrap();
    let (text, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    let wrong = said.lines().filter(|line| line.starts_with("error: ") && !line.ends_with("went wrong, see above"));
    let (wrong, last) = (wrong.count(), said.lines().last().unwrap_or_default());
    assert_eq!(output.status.code(), Some(i32::from(wrong > 0)), "{said}");
    assert_eq!(last.starts_with(&format!("error: {wrong} line")) && last.contains("see above"), wrong > 0, "{said}");
    (text, said)
}

fn refusal(command: &mut Command) -> String {
    String::from_utf8(command.assert().failure().get_output().stderr.clone()).unwrap()
}

/// A small random model with a tokenizer, in a folder.
fn model(folder: &Path, tokenizer: &Tokenizer) -> PathBuf {
    let mut rng = Rng(11);
    let mut config = config(&mut rng);
    config.vocab_size = tokenizer.vocab_size() + 3;
    config.max_position_embeddings = 300;
    let source = checkpoint(&config, &mut rng);
    let data: Vec<TensorData<'_>> = tensors::expected(&config)
        .into_iter()
        .map(|s| TensorData {
            values: source.tensor(&s.name).unwrap().to_f32().into(),
            name: s.name,
            shape: s.shape,
            dtype: DType::F32,
        })
        .collect();
    let folder = folder.join("model");
    let writer = CheckpointWriter::create(&folder).unwrap();
    writer.model(&config, Some(tokenizer)).unwrap();
    writer.weights(&data, None).unwrap();
    writer.finish().unwrap();
    folder
}

fn bpe() -> Tokenizer {
    Tokenizer::train_bpe(&"to be or not to be, that is the question\n".repeat(20), 280).unwrap()
}

#[test]
fn a_scripted_conversation_processes_only_what_is_new() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = model(temporary.path(), &bpe());
    std::fs::write(folder.join("chat_template.jinja"), TEMPLATE).unwrap();
    let name = folder.to_str().unwrap();
    let options = ["-n", "12", "--seed", "3"];
    let talk = |script: &str| output(parloop(&["chat", name]).args(options).write_stdin(script));

    let (one, _) = talk("to be\n");
    let (turn, _) = output(parloop(&["run", name, "--chat", "-p", "to be", "--quiet"]).args(options));
    assert_eq!(one, turn, "one turn of a chat is what run --chat writes");

    let (two, figures) = talk("to be\n\nor not\n/exit\nnever said\n");
    assert!(two.starts_with(&one) && two.len() > one.len());
    let after: Vec<usize> =
        figures.lines().filter_map(|l| l.split_once(" new tokens after ")?.1.split(' ').next()?.parse().ok()).collect();
    assert!(after.len() == 2 && after[0] == 0 && after[1] > 10, "{figures}");

    // The same seed and an empty memory give the same answer again.
    let (again, _) = talk("to be\n/reset\nto be");
    assert_eq!(again, format!("{one}{one}"));
    let (told, _) = output(parloop(&["chat", name, "--system", "the question"]).args(options).write_stdin("to be"));
    assert_ne!(told, one);

    let wrong = |script: &str| ended(parloop(&["chat", name]).args(options).write_stdin(script));
    let (answers, said) = wrong("no\n/help\n/nonsense\nto be\n");
    assert_eq!(answers, one, "what comes after an error is answered");
    for part in ["I take no for no answer", "left out", "/reset", "/nonsense is no command"] {
        assert!(said.contains(part), "{part} is missing from {said}");
    }
    let broken = ended(parloop(&["chat", name]).args(options).write_stdin(&b"\xff\xfe\nto be\n"[..]));
    assert!(broken.0 == one && broken.1.contains("not UTF-8"), "{broken:?}");
    let (_, said) = wrong(&format!("{}\nto be\n", "word ".repeat(2000)));
    assert!(said.contains("context of 300") && said.contains("new tokens after 0"), "{said}");
}

#[test]
fn what_a_state_holds_changes_no_answer() {
    // Plain text as template: the past may be read as other tokens than were written, and is then processed anew.
    let temporary = tempfile::tempdir().unwrap();
    let folder = model(temporary.path(), &bpe());
    let template = temporary.path().join("plain.jinja");
    std::fs::write(&template, "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: ").unwrap();
    let (name, template) = (folder.to_str().unwrap(), template.to_str().unwrap());
    let options = ["-n", "9", "--temp", "0", "--quiet"];
    let talk = parloop(&["chat", name, "--template", template]).args(options).write_stdin("be\nto\n").output().unwrap();
    let both = String::from_utf8(talk.stdout).unwrap();
    let (first, _) = output(parloop(&["run", name, "--no-echo", "-p", "user: be\nassistant: "]).args(options));
    let said = first.strip_suffix('\n').unwrap();
    let past = format!("user: be\nassistant: {said}\nuser: to\nassistant: ");
    let (second, _) = output(parloop(&["run", name, "--no-echo", "-p", &past]).args(options));
    assert_eq!(both, first + &second);
}

#[test]
fn a_model_without_a_template_says_what_to_add() {
    for arguments in [&["chat"][..], &["run", "--chat", "-p", "x"]] {
        let message = refusal(parloop(arguments).write_stdin("hello"));
        for part in ["no chat template", "chat_template.jinja", "--template FILE"] {
            assert!(message.contains(part), "{message}");
        }
    }
    assert!(refusal(&mut parloop(&["run", "-p", "x", "--system", "y"])).contains("--chat"));
    assert!(refusal(parloop(&["chat", "--template", "nowhere.jinja"]).write_stdin("x")).contains("nowhere.jinja"));
    let temporary = tempfile::tempdir().unwrap();
    let broken = temporary.path().join("broken.jinja");
    std::fs::write(&broken, "{% for %}").unwrap();
    let message = refusal(parloop(&["chat", "--template", broken.to_str().unwrap()]).write_stdin("x"));
    assert!(message.contains("broken.jinja") && message.contains("line 1"), "{message}");
}

#[test]
fn generation_defaults_stand_behind_the_flags() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = model(temporary.path(), &bpe());
    let name = folder.to_str().unwrap();
    let run = |more: &[&str]| output(parloop(&["run", name, "-p", "to be", "--no-echo"]).args(more));
    let (free, _) = run(&["-n", "5", "--seed", "1", "--temp", "5"]);
    std::fs::write(folder.join("generation_config.json"), r#"{"do_sample": false, "max_new_tokens": 7}"#).unwrap();
    let (greedy, figures) = run(&["--seed", "1"]);
    assert!(figures.contains("; 7 tokens"), "{figures}");
    assert_eq!(greedy, run(&["--seed", "2"]).0);
    assert_eq!(free, run(&["-n", "5", "--seed", "1", "--temp", "5"]).0, "flags come first");

    // Whatever the first token is, the file may call it an end.
    let ids: Vec<u32> = (0..280).collect();
    std::fs::write(folder.join("generation_config.json"), format!("{{\"eos_token_id\": {ids:?}}}")).unwrap();
    let (text, figures) = run(&[]);
    assert!(text == "\n" && figures.contains("ended by the model"), "{figures}");
    assert!(run(&["--ignore-eos", "-n", "3"]).1.contains("; 3 tokens"));

    std::fs::write(folder.join("generation_config.json"), r#"{"temperature": -3}"#).unwrap();
    assert!(refusal(&mut parloop(&["run", name, "-p", "x"])).contains("temperature"));
    std::fs::write(folder.join("generation_config.json"), r#"{"top_k": "all"}"#).unwrap();
    assert!(refusal(&mut parloop(&["run", name, "-p", "x"])).contains("top_k"));
}

#[test]
fn a_sentencepiece_model_runs_and_keeps_its_files_when_converted() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../parloop-model/tests/sentencepiece");
    let pieces = std::fs::read(format!("{fixtures}/bpe-bytes.model")).unwrap();
    let pieces = parloop::model::tokenizer::Pieces::from_bytes(&pieces).unwrap();
    let tokenizer = Tokenizer::from_pieces(pieces, Default::default()).unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let folder = model(temporary.path(), &tokenizer);
    let settings = format!(
        r#"{{"add_bos_token": true, "bos_token": "<s>", "eos_token": {{"content": "</s>"}}, "chat_template": {}}}"#,
        serde_json::Value::from(TEMPLATE)
    );
    std::fs::write(folder.join("tokenizer_config.json"), settings).unwrap();
    let name = folder.to_str().unwrap();
    let options = ["-n", "20", "--temp", "0", "--quiet"];
    let (text, _) = output(parloop(&["run", name, "-p", "To be, or not"]).args(options));
    assert!(text.starts_with("To be, or not") && text.len() > 20, "{text}");
    let (answer, _) = output(parloop(&["run", name, "--chat", "-p", "To be"]).args(options));

    let copy = temporary.path().join("copy");
    output(&mut parloop(&["convert", name, "--type", "f32", "--out", copy.to_str().unwrap()]));
    assert_eq!(Checkpoint::open(&copy).unwrap().stops(), Checkpoint::open(&folder).unwrap().stops());
    assert!(Checkpoint::open(&copy).unwrap().stops().contains(2));
    let (again, _) = output(parloop(&["run", copy.to_str().unwrap(), "--chat", "-p", "To be"]).args(options));
    assert_eq!(again, answer);
}

#[test]
fn a_full_context_drops_the_oldest_turns_and_says_so() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = model(temporary.path(), &bpe());
    std::fs::write(folder.join("chat_template.jinja"), TEMPLATE).unwrap();
    let name = folder.to_str().unwrap();
    let script = "to be or not to be, that is the question\n".repeat(12);
    let talk = |more: &[&str]| {
        output(
            parloop(&["chat", name, "-n", "20", "--temp", "0", "--ignore-eos"]).args(more).write_stdin(script.as_str()),
        )
    };
    let (answers, said) = talk(&["--json"]);
    assert_eq!(answers.lines().count(), 12, "every message is answered: {said}");
    assert!(said.contains("the context of 300 tokens is full: the oldest 1 turn is left out"), "{said}");
    for answer in answers.lines() {
        let answer: serde_json::Value = serde_json::from_str(answer).unwrap();
        assert_eq!(answer["finish"], "length");
        assert_eq!(answer["ids"].as_array().unwrap().len(), 20);
    }
    // Fewer tokens have room where keys and values may take less.
    let (_, said) = talk(&["--kv-budget", "60kB"]);
    assert!(said.contains("--kv-budget leaves room for") && said.contains("left out"), "{said}");
    let message = refusal(parloop(&["chat", name, "--kv-budget", "1kB"]).write_stdin("to be"));
    assert!(message.contains("--kv-budget leaves room for"), "{message}");
}

#[test]
fn what_begins_with_a_slash_is_done_and_not_sent() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = model(temporary.path(), &bpe());
    std::fs::write(folder.join("chat_template.jinja"), TEMPLATE).unwrap();
    let (name, kept) = (folder.to_str().unwrap(), temporary.path().join("kept.json"));
    let kept = kept.to_str().unwrap();
    let talk = |script: &str| {
        let (answers, said) = ended(parloop(&["chat", name, "-n", "12", "--seed", "3", "--json"]).write_stdin(script));
        let text =
            |l: &str| serde_json::from_str::<serde_json::Value>(l).unwrap()["content"].as_str().unwrap().to_owned();
        (answers.lines().map(text).collect::<Vec<_>>(), said)
    };
    let (one, _) = talk("to be\nor not\n");
    // What was kept is gone on with.
    talk(&format!("to be\n/save {kept}\n"));
    let saved: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(kept).unwrap()).unwrap();
    let said: Vec<_> = saved["messages"].as_array().unwrap().iter().map(|m| m["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["to be", one[0].as_str()]);
    let (two, told) = talk(&format!("/load {kept}\nor not\n"));
    assert!(two.len() == 1 && told.contains("2 messages"), "{told}");
    let (again, _) = talk("to be\n/retry\n/retry\n/set seed 3\n");
    assert!(again.len() == 3 && again[0] == one[0] && again.iter().any(|text| *text != again[0]), "{again:?}");
    let (_, said) = talk(
        "/set temp 7000\n/set temp 0.5\n/set\n/stats\n/system be brief\n/system\n/nonsense with words\n/save\n/load nowhere\n/retry\n/bye\nnever said\n",
    );
    for part in [
        "from 0 to 100",
        "temp 0.5",
        "turns: 0",
        "anew",
        "be brief",
        "/nonsense is no command",
        "nothing was sent",
        "needs the name",
        "nowhere",
        "no answer",
    ] {
        assert!(said.contains(part), "{part} is missing from {said}");
    }
    std::fs::write(kept, "my thesis").unwrap();
    let (_, said) = talk(&format!("to be\n/save {kept}\n/load {kept}\n"));
    assert!(said.contains("not replaced") && said.contains("not JSON"), "{said}");
    assert_eq!(std::fs::read_to_string(kept).unwrap(), "my thesis");
    // A message of several lines is one message.
    let (several, _) = talk("\"\"\"to be\nor not\"\"\"\n");
    assert!(several.len() == 1 && talk("to be\\\nor not\n").0 == several);
}
