//! The texts that follow the options in the help, laid out for the width of a terminal.
//!
//! They are written as paragraphs, and as indented lines: examples, each perhaps with what it does behind it. Paragraphs
//! flow; an example that is wider than the terminal is broken with backslashes, so that it can be copied, and what it does
//! moves to the next line.

use crate::terminal::wrap::flowing;
use clap::Command;
use console::{Term, measure_text_width};

/// Columns of a help text at most.
const WIDEST: usize = 100;
/// Columns below which nothing can be laid out.
const NARROWEST: usize = 20;
/// Spaces that stand at least between an example and what it does.
const BETWEEN: &str = "   ";

/// The columns that a help text is laid out for: those of the terminal, or of `COLUMNS` where there is none.
fn width() -> usize {
    let terminal = [Term::stdout(), Term::stderr()].into_iter().find_map(|term| term.size_checked());
    let said = || std::env::var("COLUMNS").ok()?.parse().ok();
    let width = terminal.map(|(_, columns)| usize::from(columns)).or_else(said).unwrap_or(WIDEST);
    width.clamp(NARROWEST, WIDEST)
}

/// A command and all below it, with their texts laid out.
pub fn laid_out(command: Command) -> Command {
    let width = width();
    of_width(command.term_width(width).max_term_width(WIDEST), width)
}

fn of_width(mut command: Command, width: usize) -> Command {
    if let Some(text) = command.get_after_help().map(ToString::to_string) {
        command = command.after_help(text_of_width(&text, width));
    }
    let names: Vec<String> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    names.iter().fold(command, |command, name| command.mut_subcommand(name, |below| of_width(below, width)))
}

fn text_of_width(text: &str, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut paragraph = String::new();
    for line in text.lines() {
        let is_prose = !line.is_empty() && !line.starts_with(' ');
        // A line with a colon at its end stands over what follows.
        let ends = !is_prose || paragraph.ends_with(':');
        if ends && !paragraph.is_empty() {
            lines.extend(flowing(&std::mem::take(&mut paragraph), width, 0));
        }
        match is_prose {
            true if paragraph.is_empty() => line.clone_into(&mut paragraph),
            true => paragraph = format!("{paragraph} {line}"),
            false => lines.extend(example(line, width)),
        }
    }
    lines.extend(flowing(&paragraph, width, 0).into_iter().filter(|line| !line.is_empty()));
    lines.join("\n")
}

/// An example in lines that fit.
fn example(line: &str, width: usize) -> Vec<String> {
    if measure_text_width(line) <= width {
        return vec![line.to_owned()];
    }
    let begins = line.len() - line.trim_start().len();
    let (done, does) = match line[begins..].split_once(BETWEEN) {
        Some((done, does)) => (done, does.trim_start()),
        None => (&line[begins..], ""),
    };
    let margin = " ".repeat(begins);
    let mut lines = match measure_text_width(done) + begins <= width {
        true => vec![format!("{margin}{done}")],
        // Two columns for the backslash.
        false => flowing(&format!("{margin}{done}"), width - 2, 2),
    };
    let last = lines.len() - 1;
    if done.starts_with("parloop ") || done.contains("| parloop ") {
        lines[..last].iter_mut().for_each(|line| line.push_str(" \\"));
    }
    if !does.is_empty() {
        lines.extend(flowing(&format!("{margin}    {does}"), width, 0));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Examples:
  parloop run -p 'ROMEO:'                      the built-in model
  parloop run out/plt2 --prompts prompts.jsonl --batch 4 -n 50

A first sentence that is
cut in the source. Another:
  name = 'mine'";

    #[test]
    fn paragraphs_flow_and_examples_can_be_copied() {
        assert_eq!(
            text_of_width(TEXT, 100),
            "Examples:\n  parloop run -p 'ROMEO:'                      the built-in model\n  parloop run out/plt2 --prompts \
             prompts.jsonl --batch 4 -n 50\n\nA first sentence that is cut in the source. Another:\n  name = 'mine'"
        );
        let narrow = text_of_width(TEXT, 40);
        assert!(narrow.contains("  parloop run -p 'ROMEO:'\n      the built-in model\n"), "{narrow}");
        assert!(
            narrow.contains("  parloop run out/plt2 --prompts \\\n    prompts.jsonl --batch 4 -n 50\n"),
            "{narrow}"
        );
        assert!(narrow.lines().all(|line| line.chars().count() <= 40), "{narrow}");
        for width in 20..100 {
            let words =
                |text: &str| text.split_whitespace().filter(|w| *w != "\\").map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(&text_of_width(TEXT, width)), words(TEXT), "{width}");
        }
    }
}
