//! The pages of `docs/commands` are what the commands say of themselves. After a change of a help text:
//!
//!     PARLOOP_UPDATE_DOCS=1 cargo test --release -p parloop --test help
#![cfg(all(feature = "train", feature = "pull", feature = "serve", feature = "client"))]

use assert_cmd::Command;
use std::path::PathBuf;

fn said(arguments: &[&str]) -> String {
    let mut command = Command::cargo_bin("parloop").unwrap();
    // Wrapped alike on every terminal.
    command.env_remove("COLUMNS").env_remove("PARLOOP_THREADS").args(arguments);
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

/// Every command with its line in the overview.
fn commands() -> Vec<(String, String)> {
    let top = listed(&["--help"]);
    let below = |(name, _): &(String, String)| {
        let inner = listed(&[name, "--help"]);
        inner.into_iter().map(|(inner, about)| (format!("{name} {inner}"), about)).collect::<Vec<_>>()
    };
    top.iter().flat_map(|command| [vec![command.clone()], below(command)].concat()).collect()
}

/// The commands that a help text lists.
fn listed(arguments: &[&str]) -> Vec<(String, String)> {
    let overview = said(arguments);
    let Some((_, list)) = overview.split_once("Commands:\n") else { return Vec::new() };
    let list = list.split("\n\n").next().unwrap();
    let mut commands: Vec<(String, String)> = Vec::new();
    for line in list.lines() {
        match (line.trim().split_once("  "), commands.last_mut()) {
            // Two columns of margin begin a command; what stands further right goes on with the line before.
            (Some((name, about)), _) if line.starts_with("  ") && !line.starts_with("   ") => {
                commands.push((name.to_owned(), about.trim().to_owned()));
            }
            (_, Some((_, about))) => *about += &format!(" {}", line.trim()),
            _ => {}
        }
    }
    commands.retain(|(name, _)| name != "help");
    commands
}

/// The file of a command's page.
fn page(command: &str) -> String {
    format!("{}.md", command.replace(' ', "-"))
}

#[test]
fn the_pages_of_the_commands_are_their_help() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/commands"));
    let commands = commands();
    assert!(commands.len() >= 14, "{commands:?}");
    let mut pages = vec![("README.md".to_owned(), {
        let rows: String =
            commands.iter().map(|(name, about)| format!("| [{name}]({}) | {about} |\n", page(name))).collect();
        format!(
            "# Commands\n\nOne page a command, made from its help.\n\n| command | what it does |\n|---|---|\n{rows}"
        )
    })];
    for (name, _) in &commands {
        let help = said(&name.split(' ').chain(["--help"]).collect::<Vec<_>>());
        let help: Vec<&str> = help.trim_end().lines().map(str::trim_end).collect();
        pages.push((page(name), format!("# parloop {name}\n\n```text\n{}\n```\n", help.join("\n"))));
    }
    let update = std::env::var_os("PARLOOP_UPDATE_DOCS").is_some();
    for (name, page) in &pages {
        let path = folder.join(name);
        if update {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, page).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
        assert!(found == *page, "docs/commands/{name} is not what the command says: see the head of this test");
    }
    let found = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(found, pages.len(), "docs/commands holds a page of no command");
}

#[test]
fn help_fits_a_terminal_and_breaks_only_between_words() {
    for (name, _) in commands() {
        let asked = |flag, width: &str| {
            let mut command = Command::cargo_bin("parloop").unwrap();
            let words = name.split(' ').chain([flag]);
            String::from_utf8(command.args(words).env("COLUMNS", width).output().unwrap().stdout).unwrap()
        };
        let words = |text: &str| {
            let words = text.split_whitespace().filter(|word| *word != "\\").map(str::to_owned);
            words.collect::<Vec<_>>()
        };
        let wide = asked("--help", "100");
        for width in [100, 80, 60] {
            for text in [asked("--help", &width.to_string()), asked("-h", &width.to_string())] {
                // A word alone may be too long: a value that must stay whole.
                let fits = |line: &str| line.chars().count() <= width || line.split_whitespace().count() <= 2;
                // Lists of values and usages are one word to those who lay them out.
                let listed = |line: &str| line.contains("<") || line.contains("[");
                let long: Vec<&str> = text.lines().filter(|line| !fits(line) && !listed(line)).collect();
                assert!(long.is_empty(), "parloop {name} at {width}: {long:?}");
            }
            assert_eq!(words(&asked("--help", &width.to_string())), words(&wide), "parloop {name} at {width}");
        }
    }
}
