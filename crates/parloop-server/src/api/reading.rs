//! What a model writes, as text, reasoning and calls of tools.

use crate::dialect::{Calls, Dialect, Tool};
use parloop_engine::Token;
use std::sync::Arc;

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Reasoning(String),
    /// A call begins.
    Call {
        id: String,
        name: String,
    },
    /// More of the arguments of the last call, as JSON.
    Arguments(String),
}

/// How a text is read: as it stands, or by the habits of a model.
#[derive(Clone, Default)]
pub(super) struct Reading {
    pub dialect: Option<Arc<Dialect>>,
    /// The text begins within reasoning.
    pub thinking: bool,
    /// Reasoning is told apart.
    pub splits_reasoning: bool,
    /// Calls of these are looked for.
    pub tools: Option<Arc<Vec<Tool>>>,
}

/// Where a text stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing but spaces so far.
    Start,
    Reasoning,
    Text,
    /// Between the opening and the closing of a call.
    Call,
}

/// Reads a text while it comes.
pub(super) struct Reader {
    reading: Reading,
    place: Place,
    /// What is not certain yet.
    held: String,
    calls: usize,
    /// Spaces before the last tag, which are text if no call follows.
    spaces: String,
    /// A tag was the last that came: the spaces behind it are the template's.
    behind_tag: bool,
    /// Reasoning may still begin.
    may_think: bool,
}

impl Reader {
    pub fn new(reading: &Reading) -> Self {
        let place = if reading.thinking { Place::Reasoning } else { Place::Start };
        Self {
            reading: reading.clone(),
            place,
            held: String::new(),
            calls: 0,
            spaces: String::new(),
            behind_tag: reading.thinking,
            may_think: true,
        }
    }

    /// Whether a call was told.
    pub fn called(&self) -> bool {
        self.calls > 0
    }

    /// Takes a token.
    pub fn push(&mut self, token: &Token, out: &mut Vec<Piece>) {
        let Some(dialect) = self.reading.dialect.clone() else {
            out.push(Piece::Text(token.text.clone()));
            return;
        };
        self.held += &token.text;
        // Special tokens are no part of a text, but this one says how it is to be read.
        if let Some(tag) = dialect.special_tag(token.id) {
            self.held += tag;
        }
        self.read(&dialect, false, out);
    }

    /// Takes what was held back with the last token. `cut` says that the text would have gone on.
    pub fn finish(&mut self, rest: &str, cut: bool, out: &mut Vec<Piece>) {
        let Some(dialect) = self.reading.dialect.clone() else {
            if !rest.is_empty() {
                out.push(Piece::Text(rest.into()));
            }
            return;
        };
        self.held += rest;
        self.read(&dialect, true, out);
        if self.place == Place::Call {
            // A call without its closing tag is one if it is whole; what was cut off is not.
            let body = std::mem::take(&mut self.held);
            let whole = dialect.calls.as_ref().filter(|_| !cut).is_some_and(|calls| self.call(calls, &body, out));
            if !whole {
                let opening = dialect.calls.as_ref().map_or("", |c| c.opening.as_str());
                out.push(Piece::Text(format!("{}{opening}{body}", self.spaces)));
            }
        }
    }

    fn read(&mut self, dialect: &Dialect, last: bool, out: &mut Vec<Piece>) {
        loop {
            let before = (self.place, self.held.len());
            match self.place {
                Place::Start => self.start(dialect, last),
                Place::Reasoning => {
                    let close = dialect.thinking.as_ref().map_or("", |t| t.close.as_str());
                    let found = self.until(&[close], last, out);
                    if found.is_some() {
                        (self.place, self.behind_tag, self.may_think) = (Place::Start, true, false);
                    }
                }
                Place::Text => {
                    let opening = dialect.calls.as_ref().filter(|c| !c.opening.is_empty());
                    match opening.filter(|_| self.reading.tools.is_some()) {
                        Some(calls) => {
                            let opening = calls.opening.clone();
                            if self.until(&[&opening], last, out).is_some() {
                                self.place = Place::Call;
                            }
                        }
                        None => {
                            let text = std::mem::take(&mut self.held);
                            self.tell(text, out);
                        }
                    }
                }
                Place::Call => self.in_call(dialect, out),
            }
            if before == (self.place, self.held.len()) {
                return;
            }
        }
    }

    /// At the beginning, where reasoning or a bare call may stand.
    fn start(&mut self, dialect: &Dialect, last: bool) {
        let text = self.held.trim_start();
        if let Some(thinking) = dialect.thinking.as_ref().filter(|_| self.reading.splits_reasoning && self.may_think) {
            if let Some(rest) = text.strip_prefix(thinking.open.as_str()) {
                self.held = rest.to_owned();
                (self.place, self.behind_tag) = (Place::Reasoning, true);
                return;
            }
            if !last && thinking.open.starts_with(text) {
                return;
            }
        }
        if let Some(calls) = dialect.calls.as_ref().filter(|c| c.opening.is_empty())
            && let Some(tools) = &self.reading.tools
        {
            // Without a tag a call is what begins as one; it ends with the text.
            if calls.may_begin(text, tools) {
                self.place = Place::Call;
                return;
            }
            if !last && text.is_empty() {
                return;
            }
        }
        self.place = Place::Text;
    }

    fn in_call(&mut self, dialect: &Dialect, out: &mut Vec<Piece>) {
        let Some(calls) = &dialect.calls else { return };
        let end = match &calls.closing {
            Some(closing) => self.held.find(closing.as_str()).map(|at| (at, at + closing.len())),
            None => calls.length(&self.held).map(|n| (n, n)),
        };
        let Some((body, end)) = end else { return };
        let rest = self.held.split_off(end);
        let whole = std::mem::replace(&mut self.held, rest);
        if !self.call(calls, &whole[..body], out) {
            out.push(Piece::Text(format!("{}{}{whole}", self.spaces, calls.opening)));
            (self.place, self.behind_tag) = (Place::Text, false);
            return;
        }
        (self.place, self.behind_tag) = (Place::Text, true);
    }

    /// Tells the calls of a body; false if there are none in it.
    fn call(&mut self, calls: &Calls, body: &str, out: &mut Vec<Piece>) -> bool {
        let Some(found) = calls.parse(body, self.reading.tools.as_deref().map_or(&[], Vec::as_slice)) else {
            return false;
        };
        for (name, arguments) in found {
            out.push(Piece::Call { id: super::identifier("call"), name });
            out.push(Piece::Arguments(arguments));
            self.calls += 1;
        }
        true
    }

    /// Tells text up to one of some tags, or to what can still become one; returns which one was found.
    fn until(&mut self, tags: &[&str], last: bool, out: &mut Vec<Piece>) -> Option<usize> {
        let found = tags.iter().enumerate().filter(|(_, tag)| !tag.is_empty());
        let found = found.filter_map(|(i, tag)| Some((self.held.find(tag)?, i))).min();
        if let Some((at, i)) = found {
            let rest = self.held.split_off(at + tags[i].len());
            let mut text = std::mem::replace(&mut self.held, rest);
            text.truncate(at);
            // The spaces between a text and a tag are the template's.
            self.spaces = text.split_off(text.trim_end().len());
            self.tell(text, out);
            return Some(i);
        }
        let open = if last { 0 } else { tags.iter().map(|tag| overlap(&self.held, tag)).max().unwrap_or(0) };
        // Spaces before what may be a tag wait with it.
        let mut keep = self.held.len() - open;
        if !last {
            keep = self.held[..keep].trim_end().len();
        }
        let rest = self.held.split_off(keep);
        let text = std::mem::replace(&mut self.held, rest);
        self.tell(text, out);
        None
    }

    fn tell(&mut self, text: String, out: &mut Vec<Piece>) {
        let text = if self.behind_tag { text.trim_start().to_owned() } else { text };
        if text.is_empty() {
            return;
        }
        self.behind_tag = false;
        out.push(if self.place == Place::Reasoning { Piece::Reasoning(text) } else { Piece::Text(text) });
    }
}

/// Bytes of the longest end of `text` that `tag` begins with, `tag` itself left out.
fn overlap(text: &str, tag: &str) -> usize {
    let fits = |n: &usize| tag.is_char_boundary(*n) && text.ends_with(&tag[..*n]);
    (1..tag.len().min(text.len() + 1)).rev().find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Thinking;

    fn reading(thinking: bool) -> Reading {
        let tags = Thinking { open: "<think>".into(), close: "</think>".into() };
        let calls = Calls { opening: "<tool_call>".into(), closing: Some("</tool_call>".into()), ..Calls::default() };
        let dialect = Dialect { thinking: Some(tags), calls: Some(calls), ..Dialect::default() };
        let tools = Some(Arc::new(vec![Tool { name: "look".into(), ..Tool::default() }]));
        Reading { dialect: Some(Arc::new(dialect)), thinking, splits_reasoning: true, tools }
    }

    /// Text, reasoning and calls (name and arguments) of a text that comes in pieces of so many characters.
    fn read(reading: &Reading, text: &str, size: usize, cut: bool) -> (String, String, Vec<(String, String)>) {
        let mut reader = Reader::new(reading);
        let mut pieces = Vec::new();
        let characters: Vec<char> = text.chars().collect();
        for part in characters.chunks(size) {
            let mut token = Token::default();
            token.text = part.iter().collect();
            reader.push(&token, &mut pieces);
        }
        reader.finish("", cut, &mut pieces);
        let (mut text, mut thoughts, mut calls) = (String::new(), String::new(), Vec::<(String, String)>::new());
        for piece in pieces {
            match piece {
                Piece::Text(piece) => text += &piece,
                Piece::Reasoning(piece) => thoughts += &piece,
                Piece::Call { name, .. } => calls.push((name, String::new())),
                Piece::Arguments(piece) => calls.last_mut().unwrap().1 += &piece,
            }
        }
        assert_eq!(reader.called(), !calls.is_empty());
        (text, thoughts, calls)
    }

    #[test]
    fn however_a_text_is_cut_into_tokens_it_reads_the_same() {
        let call = "<tool_call>\n{\"name\": \"look\", \"arguments\": {\"at\": \"x\"}}\n</tool_call>";
        let found = ("look".to_owned(), "{\"at\":\"x\"}".to_owned());
        let cases = [
            (false, "Plain  <b> text < ".to_owned(), ("Plain  <b> text < ", "", 0)),
            (false, "<think>\nWell.\n</think>\n\nYes.\n".into(), ("Yes.\n", "Well.", 0)),
            (true, "Well.\n</think>\n\nYes.".into(), ("Yes.", "Well.", 0)),
            (true, "Never ending".into(), ("", "Never ending", 0)),
            (false, call.to_owned(), ("", "", 1)),
            (false, format!("I look.\n\n{call}\n{call}"), ("I look.", "", 2)),
            (true, format!("Well.</think>\n{call}"), ("", "Well.", 1)),
            (false, "No <tool_call> {nothing} </tool_call>".into(), ("No <tool_call> {nothing} </tool_call>", "", 0)),
            (false, call[..call.len() - 12].to_owned(), ("", "", 1)),
            (false, "Later <think>no</think>".into(), ("Later <think>no</think>", "", 0)),
        ];
        for (thinking, text, (content, thoughts, calls)) in cases {
            for size in [1, 2, 3, 7, 1000] {
                let expected = (content.to_owned(), thoughts.to_owned(), vec![found.clone(); calls]);
                assert_eq!(read(&reading(thinking), &text, size, false), expected, "{text} by {size}");
            }
        }
    }

    #[test]
    fn a_call_that_is_cut_off_is_text() {
        let text = "<tool_call>{\"name\": \"look\", \"arguments\": {}}";
        for size in [1, 5, 1000] {
            let (content, _, calls) = read(&reading(false), text, size, true);
            assert_eq!((content.as_str(), calls.len()), (text, 0));
        }
    }

    #[test]
    fn without_habits_a_text_is_what_it_is() {
        let text = " <think>a</think><tool_call>{}</tool_call> ";
        assert_eq!(read(&Reading::default(), text, 3, false), (text.into(), String::new(), Vec::new()));
    }
}
