//! Where messages come from: an editor on a terminal, lines elsewhere; a message may have several.

use super::command::WORDS;
use crate::terminal::{Colour, Terminal};
use anyhow::{Context, Result, bail};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Editor, Helper};
use std::borrow::Cow;
use std::io::{BufRead, IsTerminal, Read};
use std::path::PathBuf;

/// The longest message, in bytes.
const MAX_MESSAGE: usize = 16 << 20;
/// Begins and ends a message of several lines.
const QUOTES: &str = "\"\"\"";

/// What was typed or read.
pub enum Line {
    Text(String),
    /// What is no text, and why.
    Wrong(String),
    /// Ctrl-C on a line that was being typed.
    Dropped,
    End,
}

/// Where messages come from.
pub enum Input {
    Person(Box<Editor<Lines, FileHistory>>, Option<PathBuf>),
    Pipe,
}

impl Input {
    /// An editor if standard input is a terminal.
    pub fn open() -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Self::Pipe);
        }
        let mut editor = Editor::new().context("cannot edit lines on this terminal")?;
        editor.set_helper(Some(Lines { terminal: Terminal::of_output(false) }));
        let history = std::env::var_os("PARLOOP_HISTORY").filter(|name| !name.is_empty()).map(PathBuf::from);
        if let Some(path) = history.as_ref().filter(|path| path.exists()) {
            editor.load_history(path).with_context(|| format!("cannot read PARLOOP_HISTORY {}", path.display()))?;
        }
        Ok(Self::Person(Box::new(editor), history))
    }

    /// Whether someone is typing.
    pub fn is_person(&self) -> bool {
        matches!(self, Self::Person(..))
    }

    /// The next message, without what marks it as one of several lines.
    pub fn next(&mut self) -> Result<Line> {
        let typed = match self {
            Self::Pipe => match read_message(&mut std::io::stdin().lock())? {
                Some(Ok(text)) => text,
                Some(Err(why)) => return Ok(Line::Wrong(why)),
                None => return Ok(Line::End),
            },
            Self::Person(editor, history) => match editor.readline("> ") {
                Ok(text) => {
                    editor.add_history_entry(text.as_str()).context("cannot keep what was typed")?;
                    if let Some(path) = history {
                        let cannot = || format!("cannot write PARLOOP_HISTORY {}", path.display());
                        editor.append_history(path).with_context(cannot)?;
                    }
                    text
                }
                Err(ReadlineError::Interrupted) => return Ok(Line::Dropped),
                Err(ReadlineError::Eof) => return Ok(Line::End),
                Err(error) => return Err(error).context("cannot read the terminal"),
            },
        };
        Ok(Line::Text(message(&typed)))
    }
}

/// Whether a message ends here.
fn is_whole(text: &str) -> bool {
    match text.trim_start().strip_prefix(QUOTES) {
        Some(rest) => rest.trim_end().ends_with(QUOTES),
        None => !text.ends_with('\\'),
    }
}

/// The message that was typed, without quotes and backslashes at the ends of lines.
fn message(typed: &str) -> String {
    match typed.trim_start().strip_prefix(QUOTES) {
        Some(rest) => {
            let rest = rest.trim_end();
            rest.strip_suffix(QUOTES).unwrap_or(rest).trim_matches('\n').to_owned()
        }
        None => typed.replace("\\\n", "\n").trim_end_matches('\\').to_owned(),
    }
}

/// Lines until a message is whole, without the end of the last, or why it is none; `None` at the end of input.
fn read_message(input: &mut impl BufRead) -> Result<Option<Result<String, String>>> {
    let mut text = String::new();
    loop {
        let mut bytes = Vec::new();
        let room = (MAX_MESSAGE - text.len()) as u64;
        Read::take(&mut *input, room).read_until(b'\n', &mut bytes).context("cannot read standard input")?;
        if bytes.is_empty() {
            return Ok(Some(text).filter(|text| !text.is_empty()).map(Ok));
        }
        match super::super::utf8(bytes, "the line") {
            Ok(line) => text += &line,
            Err(why) => return Ok(Some(Err(why.to_string()))),
        }
        if text.len() >= MAX_MESSAGE {
            bail!("a message is longer than {MAX_MESSAGE} bytes: cut it into several");
        }
        let whole = text.trim_end_matches(['\n', '\r']);
        if is_whole(whole) {
            return Ok(Some(Ok(whole.to_owned())));
        }
    }
}

/// Lets a message that is not whole go on in the next line, completes commands, and shows what is typed in a colour, so
/// that it stands out from the answers.
pub struct Lines {
    terminal: Terminal,
}

/// What is typed.
const TYPED: Colour = Colour::Blue;

impl Validator for Lines {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_whole(context.input()) { ValidationResult::Valid(None) } else { ValidationResult::Incomplete })
    }
}

impl Completer for Lines {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &rustyline::Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let words = WORDS.iter().filter(|word| line.starts_with('/') && word.starts_with(&line[..at]));
        Ok((0, words.map(|word| (*word).to_owned()).collect()))
    }
}

impl Hinter for Lines {
    type Hint = String;
}

impl Highlighter for Lines {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        self.terminal.paint(TYPED, line).into()
    }

    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        self.terminal.paint(TYPED, prompt).into()
    }

    fn highlight_char(&self, _: &str, _: usize, kind: CmdKind) -> bool {
        kind != CmdKind::MoveCursor
    }
}

impl Helper for Lines {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_may_have_several_lines() {
        let mut input: &[u8] =
            b"one\ntwo \\\nlines\n\"\"\"three\n\nlines\"\"\"\n\"\"\"\nfour\n\"\"\"\r\n\"\"\"open\nto the end";
        let mut messages = Vec::new();
        while let Some(typed) = read_message(&mut input).unwrap() {
            messages.push(message(&typed.unwrap()));
        }
        assert_eq!(messages, ["one", "two \nlines", "three\n\nlines", "four", "open\nto the end"]);
    }

    #[test]
    fn what_is_not_text_is_refused() {
        let mut input = &b"\xff\nnext\n"[..];
        assert!(read_message(&mut input).unwrap().unwrap().unwrap_err().contains("UTF-8"));
        assert_eq!(read_message(&mut input).unwrap(), Some(Ok("next".into())));
    }
}
