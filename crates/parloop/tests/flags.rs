//! Every option of every command with a value that is none: a sentence, or what the option means, and never a panic.
//! `cargo test --release -p parloop --test flags -- --nocapture` lists what is said.

use assert_cmd::Command;
use std::path::Path;
use std::time::Duration;

fn parloop(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("parloop").unwrap();
    // No hub is asked: this is no address of one.
    command.env("HF_ENDPOINT", "none").timeout(Duration::from_secs(60)).write_stdin("").args(arguments);
    command
}

/// The options of a command, and whether each takes a value.
fn options(command: &str) -> Vec<(String, bool)> {
    let help = parloop(&[command, "--help"]).output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let option = |line: &str| {
        let words = line.strip_prefix("      --").or_else(|| line.trim_start().get(4..)?.strip_prefix("--"))?;
        let name = words.split([' ', '[']).next()?;
        // Two spaces before what it does, or nothing after it.
        line.starts_with("  ").then(|| (format!("--{name}"), words.contains('<')))
    };
    help.lines().filter(|l| l.starts_with("      --") || l.starts_with("  -")).filter_map(option).collect()
}

#[test]
fn a_wrong_value_of_any_option_is_answered_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let out = out.to_str().unwrap();
    let mut commands: Vec<(&str, Vec<&str>)> = vec![
        ("demo", vec!["-n", "2", "--plain"]),
        ("run", vec!["-p", "a", "-n", "1"]),
        ("chat", vec![]),
        ("score", vec!["--ids", "1,2"]),
        ("bench", vec!["decode", "--rounds", "1"]),
        ("inspect", vec![]),
        ("convert", vec!["--out", out]),
        ("quantize", vec!["nowhere", "--out", out, "--type", "q8"]),
        ("pack", vec!["nowhere"]),
        ("list", vec![]),
        ("rm", vec!["OWNER/NAME"]),
        ("task", vec!["s3", "-n", "1"]),
        ("diagnose", vec!["--ids", "1,2,3"]),
        ("eval", vec!["--task", "nowhere"]),
    ];
    if cfg!(feature = "train") {
        commands.push(("train", vec!["--data", "nowhere", "--out", out]));
        commands.push(("plot", vec!["nowhere"]));
    }
    if cfg!(feature = "pull") {
        commands.push(("pull", vec!["OWNER/NAME"]));
    }
    // Options whose value may be any text or name of something to be written.
    let free = [
        "--prompt",
        "--text",
        "--system",
        "--stop",
        "--out",
        "--save-state",
        "--prompt-cache",
        "--sample-prompt",
        "--revision",
        "--plot",
    ];
    let mut tried = 0;
    for (command, base) in &commands {
        let options = options(command);
        assert!(!options.is_empty(), "{command} has no options");
        for (option, _) in options.iter().filter(|(name, value)| *value && !free.contains(&name.as_str())) {
            for wrong in ["x!", "-7", "1e99", ""] {
                // What is given twice is refused for that.
                let at = base.iter().position(|b| b == option);
                let mut arguments = vec![*command];
                arguments.extend(
                    base.iter()
                        .enumerate()
                        .filter(|(i, _)| at.is_none_or(|at| *i != at && *i != at + 1))
                        .map(|(_, b)| *b),
                );
                let value = format!("{option}={wrong}");
                arguments.push(&value);
                let output = parloop(&arguments).env("HF_HUB_CACHE", folder.path().join("hub")).output().unwrap();
                let message = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(!message.contains("panicked"), "{arguments:?}: {message}");
                assert!(output.status.code().is_some_and(|code| code < 3), "{arguments:?}: {message}");
                if output.status.success() {
                    continue;
                }
                assert!(output.stdout.is_empty(), "{arguments:?} printed and failed");
                let first = message
                    .lines()
                    .find(|l| l.starts_with("error: "))
                    .unwrap_or_else(|| panic!("{arguments:?}: {message}"));
                for word in ["invalid digit", "invalid float", "ParseIntError", "is not in "] {
                    // Training takes its options from a table that names them in words of its own.
                    assert!(*command == "train" || !message.contains(word), "{arguments:?}: {message}");
                }
                println!("{}\n    {first}", arguments.join(" "));
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "only {tried} values were refused");
}

/// What a command makes of its `--out` (or `--plot`).
enum Makes {
    File,
    /// With this file in it.
    Folder(&'static str),
    /// A file of this name in the folder.
    In(&'static str),
    /// It adds to the folder of a run or a study, and does not replace.
    Adds,
    /// Another test has it.
    Elsewhere,
}

/// Every command, those below others too.
fn every_command() -> Vec<Vec<String>> {
    let below = |words: &[String]| -> Vec<Vec<String>> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let help = String::from_utf8(parloop(&[&words[..], &["--help"]].concat()).output().unwrap().stdout).unwrap();
        let Some((_, list)) = help.split_once("Commands:\n") else { return Vec::new() };
        let names = list.split("\n\n").next().unwrap().lines().filter(|l| l.starts_with("  ") && !l.starts_with("   "));
        let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
        names.map(|name| words.iter().copied().chain([name]).map(str::to_owned).collect()).collect()
    };
    let top = below(&[]);
    let deeper: Vec<Vec<String>> = top.iter().flat_map(|words| below(words)).collect();
    [top, deeper].concat()
}

#[test]
fn no_command_replaces_what_is_there_unless_it_is_told_to() {
    use std::fs;
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name).to_str().unwrap().to_owned();
    let golden = parloop_testing::Golden::read("plt2").folder;
    let golden = golden.to_str().unwrap();
    let log = at("log.jsonl");
    let row = "{\"step\": 1, \"loss\": 2, \"lr\": 0.1, \"grad_norm\": 1, \"tokens\": 100, \"tokens_per_second\": 9}\n";
    fs::write(&log, row.repeat(3)).unwrap();
    let (book, little) = (at("book.txt"), at("little.toml"));
    fs::write(&book, "To be, or not to be, that is the question.\n".repeat(20)).unwrap();
    let options = "tokenizer = 'bytes'\nhidden_size = 16\nintermediate_size = 32\nlayers = 1\nheads = 2\nkv_heads = 2\n\
                   head_dim = 8\nbatch = 2\nsteps = 2\ncontext = 16\n";
    let study = "name = 'little'\nseeds = [1]\ntests = 2\n[options]\n";
    let rest = "[[arm]]\nname = 'a'\nrecipe = 'vanilla'\n[[task]]\ntask = 's3'\nlength = 4\n";
    fs::write(&little, format!("{study}{options}{rest}")).unwrap();
    let results = at("results");
    if cfg!(feature = "train") {
        assert!(parloop(&["study", &little, "--out", &results]).output().unwrap().status.success());
    }
    let mut seen = 0;
    for words in every_command() {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let help = String::from_utf8(parloop(&[&words[..], &["--help"]].concat()).output().unwrap().stdout).unwrap();
        let Some(flag) = ["--out", "--plot"].into_iter().find(|flag| help.contains(&format!(" {flag} <"))) else {
            continue;
        };
        let (makes, base) = match &words[..] {
            ["task"] => (Makes::File, vec!["s3", "-n", "2"]),
            ["plot"] => (Makes::File, vec![log.as_str()]),
            ["diagnose"] => (Makes::File, vec!["--ids", "1,2,3"]),
            ["quantize"] => (Makes::File, vec![golden, "--type", "q8"]),
            ["convert"] => (Makes::Folder("config.json"), vec![golden, "--type", "f32"]),
            ["study", "report"] => (Makes::In("report.md"), vec![results.as_str()]),
            ["study", "measure"] => (Makes::In("costs.jsonl"), vec![little.as_str(), "--rounds", "1"]),
            ["data", "prepare"] => (Makes::Folder("manifest.json"), vec![book.as_str(), "--tokenizer", "bytes", "-q"]),
            ["tokenizer", "train"] => (Makes::File, vec![book.as_str(), "--vocab-size", "270"]),
            ["train"] => (Makes::Adds, vec!["--data", &book]),
            ["study"] | ["study", "plan"] => (Makes::Adds, vec![little.as_str()]),
            ["study", "arm"] => (Makes::Adds, vec![little.as_str(), "--run", "0"]),
            ["pull"] => (Makes::Elsewhere, vec![]),
            other => panic!("{other:?} has {flag}, and this test does not know what it makes of it"),
        };
        seen += 1;
        let name = words.join("-");
        let run = |out: &str, more: &[&str]| {
            let output = parloop(&[&words[..], &base, &[flag, out], more].concat()).output().unwrap();
            (output.status.success(), String::from_utf8(output.stderr).unwrap())
        };
        let refused = |out: &str, more: &[&str], word: &str| {
            let (fine, said) = run(out, more);
            let last = said.lines().last().unwrap_or_default();
            assert!(!fine && last.contains(word) && last.contains(out), "{words:?} {out} {more:?}: {said}");
        };
        let made = |out: &str, more: &[&str]| {
            let (fine, said) = run(out, more);
            assert!(fine, "{words:?} {out} {more:?}: {said}");
        };
        let (precious, new) = (at(&format!("{name}.precious")), at(&format!("{name}/in/new/folders")));
        fs::write(&precious, "thesis").unwrap();
        let force = ["--force"];
        match makes {
            Makes::File => {
                refused(&precious, &[], "--force");
                assert_eq!(fs::read(&precious).unwrap(), b"thesis");
                made(&precious, &force);
                assert_ne!(fs::read(&precious).unwrap(), b"thesis");
                made(&new, &[]);
                refused(Path::new(&new).parent().unwrap().to_str().unwrap(), &force, "is a folder");
            }
            Makes::Folder(file) => {
                refused(&precious, &force, "is a file");
                made(&new, &[]);
                let one = fs::read(format!("{new}/{file}")).unwrap();
                fs::write(format!("{new}/{file}"), "thesis").unwrap();
                refused(&new, &[], "--force");
                assert_eq!(fs::read(format!("{new}/{file}")).unwrap(), b"thesis");
                made(&new, &force);
                assert_eq!(fs::read(format!("{new}/{file}")).unwrap(), one);
            }
            Makes::In(file) => {
                refused(&precious, &force, "is a file");
                made(&new, &[]);
                fs::write(format!("{new}/{file}"), "thesis").unwrap();
                refused(&new, &[], "--force");
                assert_eq!(fs::read(format!("{new}/{file}")).unwrap(), b"thesis");
                made(&new, &force);
                assert_ne!(fs::read(format!("{new}/{file}")).unwrap(), b"thesis");
            }
            Makes::Adds => refused(&precious, &[], "is a file"),
            Makes::Elsewhere => continue,
        }
        // Nothing half written is left.
        let left = fs::read_dir(temporary.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let left: Vec<String> = left.filter(|name| name.ends_with(".tmp")).collect();
        assert!(left.is_empty(), "{words:?} left {left:?}");
    }
    assert!(seen >= if cfg!(feature = "train") { 14 } else { 5 } - usize::from(cfg!(not(feature = "pull"))), "{seen}");
}
