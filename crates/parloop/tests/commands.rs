//! The other commands as a person uses them.

use assert_cmd::Command;
use parloop_testing::Golden;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn parloop() -> Command {
    Command::cargo_bin("parloop").unwrap()
}

fn written(arguments: &[&str]) -> String {
    text(&parloop().args(arguments).assert().success().get_output().stdout)
}

fn refused(arguments: &[&str], word: &str) {
    let output = parloop().args(arguments).assert().failure().get_output().clone();
    let message = text(&output.stderr);
    assert!(message.contains(word) && !message.contains("panicked"), "{arguments:?}: {message}");
}

#[test]
fn the_same_seed_writes_the_same_text_in_one_pass_and_loop_by_loop() {
    let base = ["run", "-p", "ROMEO:", "-n", "40", "--seed", "5"];
    let first = written(&base);
    assert!(first.starts_with("ROMEO:") && first.len() > 40, "{first}");
    for more in [["--passes", "sequential"], ["--mode", "one-pass"], ["--chunk", "2"], ["--threads", "1"]] {
        assert_eq!(written(&[&base[..], &more].concat()), first, "{more:?}");
    }
    assert_ne!(written(&["run", "-p", "ROMEO:", "-n", "40", "--seed", "6"]), first);
    let greedy = ["run", "-p", "ROMEO:", "-n", "20", "--temp", "0"];
    assert_eq!(written(&greedy), written(&[&greedy[..], &["--seed", "9"]].concat()));
}

#[test]
fn a_prompt_may_come_through_a_pipe() {
    let run = |input: &[u8]| parloop().args(["run", "-n", "3", "--no-echo"]).write_stdin(input).assert();
    run(b"To be").success();
    // Nothing begins a new text.
    run(b"").success();
    assert!(text(&run(b"\xff").failure().get_output().stderr).contains("UTF-8"));
}

#[test]
fn bad_options_are_refused_by_name() {
    refused(&["run", "-p", "a", "--temp", "-1"], "temp");
    refused(&["run", "-p", "a", "--top-p", "0"], "top-p");
    refused(&["run", "-p", "a", "--min-p", "7"], "min-p");
    refused(&["run", "-p", "a", "--repeat-penalty", "0"], "penalty");
    refused(&["run", "-p", "a", "--chunk", "0"], "chunk");
    refused(&["run", "nowhere", "-p", "a"], "nowhere is not there");
    let weights = Golden::read("plt2").folder.join("model.safetensors");
    refused(&["run", weights.to_str().unwrap(), "-p", "a"], "is one file of a model: give its folder");
    refused(&["run", "-p", &"word ".repeat(20_000)], "context");
    let looped = Golden::read("loop2").folder;
    refused(&["run", looped.to_str().unwrap(), "-p", "a"], "tokenizer");
}

#[test]
fn the_demo_shows_the_idea() {
    let demo = written(&["demo", "-n", "30"]);
    for part in ["8 passes for 8 tokens", "16 passes for 8 tokens", "loops in turn", "the same bits in all 30 steps"] {
        assert!(demo.contains(part), "{part} is missing from:\n{demo}");
    }
}

#[test]
fn inspect_describes_the_machine_with_the_kernels_that_are_used() {
    let text = written(&["inspect", "--machine", "--json", "--threads", "1"]);
    let found: serde_json::Value = serde_json::from_str(&text).unwrap();
    let available: Vec<_> = found["available"].as_array().unwrap().iter().collect();
    assert!(available.contains(&&found["isa"]) && found["threads"] == 1, "{text}");
    let types: Vec<_> = found["weights"].as_array().unwrap().iter().map(|w| w["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["bf16", "q8", "q4"]);
    assert!(found["weights"].as_array().unwrap().iter().all(|w| w["kernel_of_one_row"] != ""));
}

#[test]
fn inspect_tells_recipe_sizes_and_tensors() {
    let golden = Golden::read("plt3").folder;
    let folder = golden.to_str().unwrap();
    let shown = written(&["inspect", folder, "--tensors"]);
    assert!(!written(&["inspect", folder]).contains("plt_gate.weight"));
    for part in ["3 loops", "one pass a token for all 3 loops", "plt_gate.weight", "[4, 24]", "tied head"] {
        assert!(shown.contains(part), "{part} is missing from:\n{shown}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&written(&["inspect", folder, "--json", "--context", "100"])).unwrap();
    // K/V of a position: 3 layers x (k and v) x 2 heads x 8 x 4 bytes; two windows of 4; two carried vectors of 24.
    let position = 3 * 2 * 2 * 8 * 4;
    assert_eq!(json["kv_bytes_per_token"], position);
    assert_eq!(json["state_bytes"], position * (100 + 2 * 4) + 2 * 24 * 4);
    assert_eq!(json["state_bytes_of_one_loop"], position * 100);
    assert!(written(&["inspect"]).contains("built-in"));
}

#[test]
fn convert_writes_what_score_reads() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Golden::read("plt2").folder;
    let (golden, out) = (golden.to_str().unwrap(), folder.path().join("f32"));
    let out = out.to_str().unwrap();
    parloop().args(["convert", golden, "--type", "f32", "--shard-mb", "1", "--out", out]).assert().success();
    let score = |model: &str| written(&["score", model, "--ids", "1,2,3,4"]);
    assert_eq!(score(out), score(golden));
    refused(&["convert", golden, "--out", out], "--force");
    refused(&["convert", out, "--out", out, "--force"], "itself");
    let above = folder.path().to_str().unwrap();
    refused(&["convert", out, "--out", above, "--force"], "itself");
    // What is not a model is never replaced.
    let precious = folder.path().join("precious");
    std::fs::create_dir(&precious).unwrap();
    std::fs::write(precious.join("thesis.tex"), "x").unwrap();
    refused(&["convert", golden, "--out", precious.to_str().unwrap(), "--force"], "thesis.tex");
    refused(&["convert", golden, "--out", precious.join("thesis.tex").to_str().unwrap(), "--force"], "is a file");
    assert_eq!(std::fs::read(precious.join("thesis.tex")).unwrap(), b"x");
    parloop().args(["convert", golden, "--type", "bf16", "--out", out, "--force"]).assert().success();
    assert_ne!(score(out), score(golden));
}

#[test]
fn quantize_writes_one_file_that_every_command_reads() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Golden::read("plt2").folder;
    let (golden, out) = (golden.to_str().unwrap(), folder.path().join("plt2.gguf"));
    let out = out.to_str().unwrap();
    let quantize = |from: &str, to: &str, kind: &str| {
        let done = parloop().args(["quantize", from, to, "--type", kind, "--force"]).assert().success();
        text(&done.get_output().stderr)
    };
    let score = |model: &str| written(&["score", model, "--ids", "1,2,3,4"]);
    assert!(quantize(golden, out, "f32").contains("32.00 bits a weight"));
    assert_eq!(score(out), score(golden), "the same numbers, looped as before");
    let shown = written(&["inspect", out, "--tensors"]);
    assert!(shown.contains("2 loops") && shown.contains("plt_gate.weight"), "{shown}");
    let back = folder.path().join("folder");
    let back = back.to_str().unwrap();
    parloop().args(["convert", out, "--type", "f32", "--out", back]).assert().success();
    assert_eq!(score(back), score(golden));
    // Rows of 24 and 40 are no whole blocks: the command says what became of them.
    let said = quantize(golden, out, "q4_k");
    assert!(said.contains("blk.0.attn_q.weight: rows of 24 are no whole blocks of q4_k, stored as f16"), "{said}");
    assert!(written(&["inspect", out, "--tensors"]).contains("float16"));
    let loss = |model: &str| -> f64 {
        let json: serde_json::Value = serde_json::from_str(&written(&["score", model, "--ids", "1,2,3,4"])).unwrap();
        json["loss"].as_f64().unwrap()
    };
    assert!((loss(out) - loss(golden)).abs() < 0.1, "{} {}", loss(out), loss(golden));
    refused(&["quantize", golden, out, "--type", "q8_0"], "--force");
    refused(&["quantize", golden, out, "--type", "q3_k"], "q4_k");
    refused(&["quantize", out, out, "--type", "q8_0", "--force"], "itself");
    refused(&["quantize", golden, back, "--type", "q8_0", "--force"], "folder");
    refused(&["quantize", "nowhere", out, "--type", "q8_0", "--force"], "nowhere");
    std::fs::write(out, "GGUF?").unwrap();
    refused(&["run", out, "-p", "a"], "plt2.gguf");
}

#[test]
fn pack_keeps_the_weights_that_a_later_run_uses() {
    let folder = tempfile::tempdir().unwrap();
    let golden = Golden::read("plt2").folder;
    let model = folder.path().join("plt2.gguf");
    let model = model.to_str().unwrap();
    parloop().args(["quantize", golden.to_str().unwrap(), model, "--type", "f16"]).assert().success();
    // f16 runs as f32: that is converted at every load, until it is packed.
    let packed = folder.path().join("plt2.gguf.packed.parloop");
    let expected = written(&["score", model, "--tokens", "1,2,3", "--logits"]);
    let said = text(&parloop().args(["pack", model]).assert().success().get_output().stderr);
    assert!(said.contains("plt2.gguf.packed.parloop"), "{said}");
    assert_eq!(written(&["score", model, "--tokens", "1,2,3", "--logits"]), expected);
    let mut bytes = std::fs::read(&packed).unwrap();
    bytes.pop();
    std::fs::write(&packed, bytes).unwrap();
    refused(&["score", model, "--tokens", "1,2,3"], "run `parloop pack` again");
    parloop().args(["pack", model]).assert().success();
    assert_eq!(written(&["score", model, "--tokens", "1,2,3", "--logits"]), expected);
    // A model that is replaced takes its packed weights along.
    let out = folder.path().join("half");
    let convert = ["convert", golden.to_str().unwrap(), "--type", "f16", "--out", out.to_str().unwrap(), "--force"];
    parloop().args(convert).assert().success();
    parloop().args(["pack", out.to_str().unwrap()]).assert().success();
    assert!(out.join("packed.parloop").exists());
    parloop().args(convert).assert().success();
    assert!(!out.join("packed.parloop").exists());
    refused(&["pack", golden.to_str().unwrap()], "nothing to pack");
    refused(&["pack", golden.to_str().unwrap(), "--weights", "q4"], "multiple of 32");
    refused(&["pack", "nowhere"], "nowhere");
}

#[cfg(unix)]
#[test]
fn a_text_without_an_end_is_refused() {
    refused(&["score", "--file", "/dev/zero"], "longer than");
}

#[cfg(all(unix, feature = "train"))]
#[test]
fn training_stops_on_ctrl_c_with_a_checkpoint_and_goes_on_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let (book, out) = (folder.path().join("text.txt"), folder.path().join("out"));
    std::fs::write(&book, "To be, or not to be, that is the question.\n".repeat(400)).unwrap();
    let arguments = |steps: &str| {
        let sizes = ["--hidden-size", "32", "--layers", "1", "--context", "32", "--batch", "2", "--tokenizer", "bytes"];
        let mut list = vec!["train", "--data", book.to_str().unwrap(), "--out", out.to_str().unwrap()];
        list.extend(sizes.iter().chain(&["--steps", steps, "--log-every", "1"]));
        list.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let mut child = std::process::Command::new(assert_cmd::cargo::cargo_bin("parloop"))
        .args(arguments("100000"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let log = out.join("train.jsonl");
    while std::fs::read_to_string(&log).map_or(0, |l| l.lines().count()) < 5 {
        assert!(child.try_wait().unwrap().is_none(), "training ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let interrupt = format!("kill -INT {}", child.id());
    assert!(std::process::Command::new("sh").args(["-c", &interrupt]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let score = written(&["score", out.to_str().unwrap(), "--text", "To be"]);
    let step: u64 = std::fs::read_dir(&out)
        .unwrap()
        .filter_map(|e| e.unwrap().file_name().to_str()?.strip_prefix("checkpoint-")?.parse().ok())
        .max()
        .unwrap();
    let mut more = arguments(&(step + 2).to_string());
    more.push("--resume".into());
    parloop().args(&more).assert().success();
    assert_ne!(written(&["score", out.to_str().unwrap(), "--text", "To be"]), score);
    // There is nothing left to do, and nothing is done.
    let again = parloop().args(&more).assert().success();
    assert!(self::text(&again.get_output().stderr).contains("nothing to do"));
}

#[test]
fn completions_exist_for_the_usual_shells() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(written(&["completions", shell]).contains("parloop"), "{shell}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_reason() {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_parloop"))
        .args(["score", "--file", "no-such-file.txt"])
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&out.stderr);
    assert!(message.contains("cannot read no-such-file.txt: No such file"), "{message}");
}

#[cfg(feature = "train")]
#[test]
fn training_options_are_refused_in_the_words_of_whoever_gave_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let text = file("text.txt", &"To be, or not to be.\n".repeat(200));
    let out = folder.path().join("out").to_str().unwrap().to_owned();
    let train = |more: &[&str], words: &str| {
        refused(&[&["train", "--data", &text, "--out", &out][..], more].concat(), words);
    };
    let toml = |text: &str, words: &str| train(&["--config", &file("run.toml", text)], words);
    toml("steps = 0\n", "run.toml: steps is 0, expected a whole number from 1");
    toml("learning_rate = 1\n", "run.toml: there is no training option \"learning_rate\"");
    toml("lr = 0.1\nsteps = \n", "run.toml: line 2 is not TOML");
    toml("[recipe]\ncount = 2\nshift = true\nnorm = true\n", "recipe.hidden_scale (a number) and no recipe.kv");
    // A value that only contradicts another is known to be the file's, too.
    toml("kv_heads = 3\n", "run.toml: kv_heads is 3, expected a divisor");
    train(&["--set", "beta2=1"], "--set beta2=1: beta2 is 1, expected a number of at least 0 and below 1");
    train(&["--set", "betas=1"], "--set betas=1: there is no training option");
    train(&["--set", "kv_heads=3"], "--set kv_heads is 3");
    train(&["--kv-heads", "3"], "--kv-heads is 3");
    train(&["--steps", "0"], "expected a whole number from 1");
    train(&["--recipe", "plt-two"], "--recipe is not usable");
    train(&["--resume"], "start the run without --resume");
}

#[cfg(feature = "train")]
#[test]
fn training_says_what_a_recipe_leaves_out_and_replaces_nothing_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let little = "hidden_size = 16\nintermediate_size = 32\nlayers = 1\nheads = 2\nkv_heads = 2\nhead_dim = 8\nbatch = 2\n\
                  steps = 1\ncontext = 16\ntokenizer = \"bytes\"\n";
    let recipe = "[recipe]\ncount = 2\nshift = true\nhidden_scale = 1\nnorm = true\nkv = \"shared\"\n";
    std::fs::write(at("run.toml"), format!("{little}{recipe}")).unwrap();
    std::fs::write(at("book.txt"), "To be, or not to be.\n".repeat(50)).unwrap();
    let train = |data: &str, out: &str, more: &[&str]| {
        let output = parloop()
            .args(["train", "--data", at(data).to_str().unwrap(), "--out", at(out).to_str().unwrap()])
            .args(["--config", at("run.toml").to_str().unwrap()])
            .args(more)
            .output()
            .unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let (code, said) = train("book.txt", "out", &[]);
    assert_eq!(code, Some(0), "{said}");
    for part in ["note: the recipe has no embedding_scale", "plt2: 0.707", "no local", "later loops have no window"] {
        assert!(said.contains(part), "{part} is missing from {said}");
    }
    assert!(!train("book.txt", "out2", &["--recipe", "loop2"]).1.contains("note: "));
    // A file of examples that is called as the log is, in the folder to be written.
    std::fs::create_dir(at("mine")).unwrap();
    let examples = "{\"prompt\": \"a\", \"answer\": \"b\"}\n".repeat(40);
    for name in ["train.jsonl", "tokens.bin"] {
        std::fs::write(at("mine").join(name), &examples).unwrap();
        let data = if name == "tokens.bin" { "book.txt" } else { "mine/train.jsonl" };
        let (code, said) = train(data, "mine", &[]);
        assert!(code == Some(1) && said.contains(name) && said.contains("another --out"), "{said}");
        assert_eq!(std::fs::read_to_string(at("mine").join(name)).unwrap(), examples);
        std::fs::remove_file(at("mine").join(name)).unwrap();
    }
    // Nobody said bpe.
    std::fs::write(at("examples.jsonl"), &examples).unwrap();
    std::fs::write(at("run.toml"), "steps = 1\n").unwrap();
    let (code, said) = train("examples.jsonl", "out3", &[]);
    assert!(code == Some(1) && said.contains("give --tokenizer bytes") && !said.contains("bpe"), "{said}");
}

#[test]
fn a_key_of_a_configuration_can_be_ignored_wherever_one_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let golden = Golden::read("plt2").folder;
    let model = at("model");
    std::fs::create_dir(&model).unwrap();
    std::fs::copy(golden.join("model.safetensors"), format!("{model}/model.safetensors")).unwrap();
    let config = std::fs::read_to_string(golden.join("config.json")).unwrap();
    let config = config.replacen('{', "{\"swing_factor\": 3,", 1);
    std::fs::write(format!("{model}/config.json"), config).unwrap();
    let (file, out, run) = (at("model.gguf"), at("out"), at("run"));
    let mut commands = vec![
        vec!["score", &model, "--ids", "1,2"],
        vec!["inspect", &model],
        vec!["diagnose", &model, "--ids", "1,2,3"],
        vec!["quantize", &model, "--type", "q8", "--out", &file],
        vec!["convert", &model, "--out", &out],
        vec!["pack", &model, "--weights", "q8"],
        vec!["bench", "decode", &model, "--rounds", "1"],
    ];
    let book = at("book.txt");
    std::fs::write(&book, "To be, or not to be.\n".repeat(50)).unwrap();
    if cfg!(feature = "train") {
        let train = ["train", "--data", &book, "--out", &run, "--init", &model, "--tokenizer", "bytes", "--steps", "1"];
        commands.push([&train[..], &["--context", "8", "--vocab-size", "256"]].concat());
    }
    for mut command in commands {
        let output = parloop().args(&command).assert().failure().get_output().clone();
        let said = text(&output.stderr);
        let named = said.contains("swing_factor") && said.contains("ignore-config-key");
        assert!(named || command[0] == "train" && said.contains("ignore_config_key"), "{command:?}: {said}");
        command.extend(["--ignore-config-key", "swing_factor"]);
        let said = text(&parloop().args(&command).output().unwrap().stderr);
        // What else is wrong (rows that are no whole blocks) is not the key.
        assert!(!said.contains("swing_factor"), "{command:?}: {said}");
    }
}

#[test]
fn nobody_who_reads_is_no_reason_to_panic() {
    let folder = tempfile::tempdir().unwrap();
    let book = folder.path().join("book.txt");
    std::fs::write(&book, "To be, or not to be.\n".repeat(9)).unwrap();
    let book = book.to_str().unwrap();
    let cache = folder.path().join("hub");
    let commands: [&[&str]; 12] = [
        &["demo", "-n", "9", "--plain"],
        &["run", "-p", "a", "-n", "9"],
        &["score", "--text", "To be"],
        &["eval", "--text", book],
        &["eval", "--text", book, "--json"],
        &["diagnose", "--ids", "1,2,3", "--attention"],
        &["inspect", "--tensors"],
        &["inspect", "--json"],
        &["bench", "decode", "--rounds", "1", "--json"],
        &["task", "s3", "-n", "100"],
        &["list"],
        &["completions", "bash"],
    ];
    for arguments in commands {
        let closed = || {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            std::process::Stdio::from(writer)
        };
        let program = || {
            let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("parloop"));
            command.args(arguments).env("HF_HUB_CACHE", &cache).stdin(std::process::Stdio::null());
            command
        };
        let output = program().stdout(closed()).stderr(std::process::Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", text(&output.stderr));
        let output = program().stderr(closed()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?} with its standard error closed");
    }
}
