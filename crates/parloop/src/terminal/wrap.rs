//! Text in lines of a given width.

use console::measure_text_width;

/// Breaks a text at spaces into lines of at most `width` columns, keeping its own line breaks; a word that is longer
/// than a line is cut.
pub fn lines(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split_inclusive(' ') {
            if measure_text_width(&line) + measure_text_width(word.trim_end()) > width && !line.is_empty() {
                lines.push(std::mem::take(&mut line).trim_end().to_owned());
            }
            for c in word.chars() {
                if measure_text_width(&line) + measure_text_width(c.encode_utf8(&mut [0; 4])) > width && c != ' ' {
                    lines.push(std::mem::take(&mut line));
                }
                line.push(c);
            }
        }
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// Breaks a text at spaces into lines of at most `width` columns, keeping its own line breaks; what goes on in another line
/// is indented by so many columns more, or stands below what three spaces part from the beginning. A word that is longer than a line, such as a path, stays whole.
pub fn flowing(text: &str, width: usize, indent: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let begins = paragraph.len() - paragraph.trim_start_matches(' ').len();
        let second = paragraph[begins..].find("   ").map(|at| begins + at);
        let second = second.map(|at| at + paragraph[at..].len() - paragraph[at..].trim_start_matches(' ').len());
        let second = second.map(|at| measure_text_width(&paragraph[..at])).filter(|column| *column <= width / 2);
        let margin = " ".repeat(second.unwrap_or((begins + indent).min(width / 2)));
        let mut line = " ".repeat(begins.min(width / 2));
        let (mut is_new, mut is_broken) = (true, false);
        for word in paragraph.trim_start_matches(' ').split_inclusive(' ') {
            if !is_new && measure_text_width(&line) + measure_text_width(word.trim_end()) > width {
                lines.push(std::mem::replace(&mut line, margin.clone()).trim_end().to_owned());
                is_broken = true;
            }
            // Of several spaces in a row the first may end a line; none begins one.
            if is_broken && word == " " && line == margin {
                continue;
            }
            line += word;
            is_new = false;
        }
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// A text filled up with spaces to a width; it must not be wider.
pub fn padded(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(measure_text_width(text))))
}

/// What can be shown of a text without moving the cursor about.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_no_wider_than_asked_for_and_lose_no_letter() {
        let text =
            "Shall I compare thee\nto a summer's day? Honorificabilitudinitatibus, \u{6a58}\u{6a58}\u{6a58} e\u{301}";
        for width in 2..40 {
            let lines = lines(text, width);
            assert!(lines.iter().all(|l| measure_text_width(l) <= width), "{width}: {lines:?}");
            let letters = |t: &str| t.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            assert_eq!(letters(&lines.concat()), letters(text), "{width}");
        }
        assert_eq!(lines("a bc\n\nd", 4), ["a bc", "", "d"]);
        assert_eq!(padded("ab", 4), "ab  ");
        assert_eq!(flowing("a bc\n\n  d e f", 6, 1), ["a bc", "", "  d e", "   f"]);
        assert_eq!(flowing("ab    cd", 3, 1), ["ab", " cd"]);
        assert_eq!(flowing("/a   bc de f", 9, 2), ["/a   bc", "  de f"]);
        assert_eq!(flowing("/a   bc de f", 10, 2), ["/a   bc de", "     f"]);
        assert_eq!(flowing("a /long/path b", 4, 0), ["a", "/long/path", "b"]);
        assert_eq!(flowing("\x1b[1mab cd\x1b[0m", 3, 0), ["\x1b[1mab", "cd\x1b[0m"]);
        assert_eq!(printable("a\x1b[2Jb\n"), "a [2Jb\n");
    }
}
