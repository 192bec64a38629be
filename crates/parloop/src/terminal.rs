//! What standard output and standard error can show.

pub mod flow;
pub mod wrap;

use console::Term;
use std::io::{IsTerminal, Write};

/// Prints a line on standard output, in a function that returns what went wrong.
macro_rules! put {
    ($($text:tt)*) => {
        std::io::Write::write_fmt(&mut std::io::stdout().lock(), format_args!("{}\n", format_args!($($text)*)))?
    };
}

/// Says something on standard error ([`tell`]).
macro_rules! say {
    ($($text:tt)*) => { $crate::terminal::tell(&format!($($text)*)) };
}

/// A colour of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    Blue,
    Green,
    Yellow,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Blue => "36",
            Self::Green => "32",
            Self::Yellow => "33",
        }
    }
}

/// What is written to, and how.
pub struct Terminal {
    /// Columns; 80 where there is no screen.
    pub width: usize,
    /// Lines; 24 where there is no screen.
    pub height: usize,
    /// What was written may be overwritten.
    pub live: bool,
    /// Questions can be answered.
    pub asks: bool,
    colour: bool,
}

impl Terminal {
    /// Standard output; `plain` asks for nothing but text.
    pub fn of_output(plain: bool) -> Self {
        let term = Term::stdout();
        let screen = is_screen(&term);
        let (height, width) = term.size_checked().map_or((24, 80), |(h, w)| (usize::from(h), usize::from(w)));
        Self {
            width: width.max(10),
            height,
            live: screen && !plain,
            asks: std::io::stdin().is_terminal(),
            colour: screen && !plain && wants_colour(),
        }
    }

    /// Text in a colour, if there are colours.
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        self.styled(colour.code(), text)
    }

    /// Text that stands out, if anything can.
    pub fn bold(&self, text: &str) -> String {
        self.styled("1", text)
    }

    fn styled(&self, code: &str, text: &str) -> String {
        if self.colour { styled(code, text) } else { text.to_owned() }
    }
}

fn styled(code: &str, text: &str) -> String {
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Whether a terminal is one that moves its cursor and has colours.
fn is_screen(term: &Term) -> bool {
    term.is_term() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A text as standard output shows it: in lines that break between words where that is a terminal.
pub fn shown(text: &str) -> String {
    let term = Term::stdout();
    match term.size_checked().filter(|_| term.is_term()) {
        Some((_, width)) => wrap::flowing(text, width.into(), 2).join("\n"),
        None => text.to_owned(),
    }
}

/// Says something on standard error, in lines that break between words where that is a terminal.
pub fn tell(text: &str) {
    say(text, false);
}

/// The same, to be overlooked easily.
pub fn aside(text: &str) {
    say(text, true);
}

fn say(text: &str, faint: bool) {
    let term = Term::stderr();
    let mut text = text.to_owned();
    if let Some((_, width)) = term.size_checked().filter(|_| term.is_term()) {
        text = wrap::flowing(&text, width.into(), 2).join("\n");
    }
    if faint && is_screen(&term) && wants_colour() {
        text = styled("2", &text);
    }
    // Where nothing can be said, nothing can be said about that.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Whether `NO_COLOR` leaves colours on: any value but an empty one turns them off.
pub fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
