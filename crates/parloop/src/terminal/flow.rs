//! Text that comes in pieces, shown in lines that break between words.

use super::Terminal;
use console::measure_text_width;

/// What marks the beginning and the end of a program's text.
const FENCE: &str = "```";

/// Breaks lines between words as they come: a word is shown when what follows it is known. Programs (between fences, or
/// indented) and words that are longer than a line stay as they are.
pub struct Flow {
    /// Columns; `None` shows everything as it comes.
    width: Option<usize>,
    /// Columns of the line that are filled.
    column: usize,
    /// The line so far, as far as its kind depends on it.
    begins: String,
    fenced: bool,
    word: String,
}

impl Flow {
    /// For standard output, if that is a terminal.
    pub fn new() -> Self {
        let terminal = Terminal::of_output(false);
        Self::of(terminal.live.then_some(terminal.width))
    }

    fn of(width: Option<usize>) -> Self {
        Self { width, column: 0, begins: String::new(), fenced: false, word: String::new() }
    }

    /// What is to be shown after another piece.
    pub fn push(&mut self, piece: &str) -> String {
        if self.width.is_none() {
            return piece.to_owned();
        }
        let mut shown = String::new();
        for c in piece.chars() {
            if self.begins.len() < 4 {
                self.begins.push(c);
            }
            match c {
                '\n' => {
                    shown += &self.rest();
                    shown.push('\n');
                    self.fenced ^= self.begins.starts_with(FENCE);
                    self.begins.clear();
                    self.column = 0;
                }
                ' ' => {
                    shown += &self.rest();
                    // Past the edge the end of the line is the space.
                    let full = self.width.is_some_and(|width| self.column >= width) && !self.is_program();
                    shown.push(if full { '\n' } else { ' ' });
                    self.column = if full { 0 } else { self.column + 1 };
                }
                c => {
                    let wide = measure_text_width(c.encode_utf8(&mut [0; 4])) > 1;
                    if wide {
                        // Scripts without spaces break anywhere.
                        shown += &self.rest();
                    }
                    self.word.push(c);
                    if wide || self.is_program() || measure_text_width(&self.word) >= self.width.unwrap_or(usize::MAX) {
                        shown += &self.rest();
                    }
                }
            }
        }
        shown
    }

    /// What has not been shown yet.
    pub fn rest(&mut self) -> String {
        let word = std::mem::take(&mut self.word);
        let columns = measure_text_width(&word);
        let breaks = self.width.is_some_and(|width| self.column > 0 && self.column + columns > width);
        if breaks && columns > 0 && !self.is_program() {
            self.column = columns;
            return format!("\n{word}");
        }
        self.column += columns;
        word
    }

    fn is_program(&self) -> bool {
        self.fenced || self.begins.starts_with(FENCE) || self.begins == "    " || self.begins.starts_with('\t')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, pieces: usize, width: Option<usize>) -> String {
        let mut flow = Flow::of(width);
        let chars: Vec<char> = text.chars().collect();
        let mut shown: String = chars.chunks(pieces).map(|c| flow.push(&c.iter().collect::<String>())).collect();
        shown += &flow.rest();
        shown
    }

    #[test]
    fn lines_break_between_words_wherever_pieces_end() {
        let text = "Some valour of our great business\nthat ever\n\n```\nlet a_long_line = of(a, program);\n```\n    and an \
                    indented line\nunbreakableunbreakableunbreakable e\u{301} \u{6a58}\u{6a58}\u{6a58}\u{6a58}\u{6a58}";
        for width in [6, 10, 20, 31] {
            let once = shown(text, 1000, Some(width));
            for pieces in 1..9 {
                assert_eq!(shown(text, pieces, Some(width)), once, "{width}");
            }
            assert_eq!(shown(text, 3, None), text);
            let words = |t: &str| t.split_whitespace().map(str::to_owned).collect::<Vec<_>>().concat();
            assert_eq!(words(&once), words(text));
            assert!(once.contains("let a_long_line = of(a, program);") && once.contains("    and an indented line"));
        }
        assert_eq!(shown("Some valour of our", 2, Some(10)), "Some \nvalour of \nour");
        assert_eq!(shown("abcde fgh", 1, Some(5)), "abcde\nfgh");
    }
}
