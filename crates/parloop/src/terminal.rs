//! What standard output can show.

use console::Term;
use std::io::IsTerminal;

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
        let screen = term.is_term() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
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
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Whether `NO_COLOR` leaves colours on: any value but an empty one turns them off.
pub fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
