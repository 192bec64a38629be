//! Every option of every command with a value that is none: a sentence, or what the option means, and never a panic.
//! `cargo test --release -p parloop --test flags -- --nocapture` lists what is said.

use assert_cmd::Command;
use std::time::Duration;

fn parloop(arguments: &[&str]) -> Command {
    let mut command = Command::cargo_bin("parloop").unwrap();
    command.env_remove("HF_ENDPOINT").timeout(Duration::from_secs(60)).write_stdin("").args(arguments);
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
    ];
    if cfg!(feature = "train") {
        commands.push(("train", vec!["--data", "nowhere", "--out", out]));
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
