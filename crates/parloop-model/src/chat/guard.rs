//! Bounds on what a template can build.
//!
//! minijinja's fuel counts instructions and bytes, but not what hides behind shared values: `[x, x]` sixty times over is
//! a small object whose text, or comparison, has no end, and lists within lists within lists overflow the stack when
//! they are dropped. Every such value has to be read from a variable to grow, so here every reading of a variable is
//! put through a filter, [`VALUE`], that pays for the whole tree behind it and refuses what nests too deeply. Lists are
//! not repeated with `*` ([`FACTOR`]), the one way to grow without a variable.
//!
//! The filters are written into the source, where they bind to the operand before them and change no meaning. What
//! cannot be followed here is refused. In the same way `text % values`, which minijinja does not know, becomes a filter
//! ([`FORMAT`]).

use minijinja::value::{Enumerator, Object, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::collections::HashMap;
use std::sync::Arc;

/// The filter behind every reading of a variable.
const VALUE: &str = "|parloop_value";
/// The filter behind what is indexed: an index into a text counts its characters, and minijinja charges filters, not
/// indices, for the length of a text.
const INDEXED: &str = "|parloop_indexed)";
/// The filter around every factor.
const FACTOR: &str = "|parloop_factor";
/// The filter that takes the place of `%` where a text may stand before it.
const FORMAT: &str = "|parloop_percent(";
/// Most words and signs in one tag: the template's parser calls itself once for many of them.
const MAX_TOKENS: usize = 1000;
/// Most `elif` in a template, which its compiler nests.
const MAX_ELIF: usize = 300;
/// How deep a value may nest.
const MAX_DEPTH: usize = 64;
/// Units that are paid with one fuel; a byte of text is one, and so it is for minijinja.
const UNITS: u64 = 64;
/// Units of an element of a list or an entry of a map: to walk to one takes about as long as an instruction.
const ELEMENT: u64 = 64;

/// The template with a filter behind every reading of a variable.
pub(super) fn guarded(template: &str) -> Result<String, String> {
    let mut out = String::with_capacity(template.len() * 2);
    let (mut at, mut elifs) = (0, 0);
    while let Some(start) = find(template, at, "{").map(|n| n - 1) {
        let text = &template[start..];
        let end = if text.starts_with("{#") {
            find(template, start + 2, "#}").ok_or("a comment has no end")?
        } else if text.starts_with("{{") || text.starts_with("{%") {
            let mut tag = Tag::read(template, start)?;
            let end = match tag.word(0) {
                "raw" if tag.is_block => end_of_raw(template, tag.end)?,
                "include" | "import" | "from" | "extends" if tag.is_block => {
                    return Err("a chat template stands alone, but this one names another".into());
                }
                word => {
                    elifs += usize::from(word == "elif");
                    tag.guard()?;
                    tag.end
                }
            };
            out.push_str(&template[at..start]);
            at = start;
            tag.insertions.sort_by_key(|insertion| insertion.at);
            for Insertion { at: offset, over, text } in tag.insertions {
                out.push_str(&template[at..offset]);
                out.push_str(text);
                at = offset + over;
            }
            end
        } else {
            start + 1
        };
        out.push_str(&template[at..end]);
        at = end;
    }
    if elifs > MAX_ELIF {
        return Err(format!("it has {elifs} elif, expected at most {MAX_ELIF}"));
    }
    Ok(out + &template[at..])
}

/// The end of the next `what`.
fn find(text: &str, from: usize, what: &str) -> Option<usize> {
    text.get(from..)?.find(what).map(|n| from + n + what.len())
}

fn end_of_raw(template: &str, mut at: usize) -> Result<usize, String> {
    loop {
        at = find(template, at, "{%").ok_or("a raw block has no end")?;
        let inner = template[at..].trim_start_matches(['-', '+']).trim_start();
        if let Some(rest) = inner.strip_prefix("endraw")
            && let Some(rest) = rest.trim_start().trim_start_matches(['-', '+']).strip_prefix("%}")
        {
            return Ok(template.len() - rest.len());
        }
    }
}

/// A word, number, text or sign.
#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    end: usize,
}

impl Token<'_> {
    fn is_name(&self) -> bool {
        self.text.starts_with(|c: char| c == '_' || c.is_alphabetic())
    }
}

/// What is written at an offset of the template, over so many bytes of it.
struct Insertion {
    at: usize,
    over: usize,
    text: &'static str,
}

/// What stands between `{{` and `}}` or `{%` and `%}`.
struct Tag<'a> {
    tokens: Vec<Token<'a>>,
    /// For each bracket, where its counterpart stands.
    partner: Vec<usize>,
    /// How many brackets are open around a token.
    depth: Vec<usize>,
    is_block: bool,
    end: usize,
    insertions: Vec<Insertion>,
}

impl<'a> Tag<'a> {
    /// Follows minijinja's lexer: a tag ends only where no bracket is open.
    fn read(template: &'a str, start: usize) -> Result<Self, String> {
        let is_block = template[start..].starts_with("{%");
        let closing = if is_block { "%}" } else { "}}" };
        let mut tag = Self { tokens: vec![], partner: vec![], depth: vec![], is_block, end: 0, insertions: Vec::new() };
        let mut open = Vec::new();
        let mut at = start + 2;
        // A sign right behind the opening belongs to it.
        at += usize::from(template[at..].starts_with(['-', '+']));
        loop {
            let rest = template[at..].trim_start_matches(|c: char| c.is_ascii_whitespace());
            at = template.len() - rest.len();
            let Some(first) = rest.chars().next() else { return Err("a tag has no end".into()) };
            if open.is_empty() {
                let signed = rest.strip_prefix(['-', '+']).unwrap_or(rest);
                if let Some(after) = rest.strip_prefix(closing).or_else(|| signed.strip_prefix(closing)) {
                    tag.end = template.len() - after.len();
                    return Ok(tag);
                }
            }
            let length = match first {
                '"' | '\'' => end_of_text(rest, first).ok_or("a text has no end")?,
                '0'..='9' => number(rest),
                _ if ["//", "**", "==", "!=", ">=", "<="].iter().any(|sign| rest.starts_with(sign)) => 2,
                c if c == '_' || c.is_alphabetic() => {
                    rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len())
                }
                c if "+-*/%.,:~|=><()[]{}".contains(c) => 1,
                c => return Err(format!("a tag holds the sign {c:?}")),
            };
            let index = tag.tokens.len();
            if index == MAX_TOKENS {
                return Err(format!("a tag has more than {MAX_TOKENS} words and signs"));
            }
            tag.partner.push(index);
            if matches!(first, ')' | ']' | '}') {
                let other: usize = open.pop().ok_or("a bracket was never opened")?;
                (tag.partner[other], tag.partner[index]) = (index, other);
            }
            tag.depth.push(open.len());
            if matches!(first, '(' | '[' | '{') {
                open.push(index);
            }
            at += length;
            tag.tokens.push(Token { text: &rest[..length], end: at });
        }
    }

    /// The text of a token; empty where there is none.
    fn word(&self, index: usize) -> &'a str {
        self.tokens.get(index).map_or("", |t| t.text)
    }

    fn before(&self, index: usize) -> &'a str {
        index.checked_sub(1).map_or("", |i| self.word(i))
    }

    /// Writes the filters.
    fn guard(&mut self) -> Result<(), String> {
        let head = if self.is_block { self.word(0) } else { "" };
        let outside = |word: &str| (1..self.tokens.len()).find(|i| self.depth[*i] == 0 && self.word(*i) == word);
        let from = match head {
            "" => 0,
            "for" => outside("in").map_or(self.tokens.len(), |i| i + 1),
            "set" => outside("=").map_or(1, |i| i + 1),
            _ => 1,
        };
        // Of these only what stands in brackets is an expression.
        let names = match head {
            "macro" | "call" | "filter" | "do" | "block" => true,
            "set" => from == 1,
            _ => false,
        };
        // The brackets that hold parameters.
        let parameters = match head {
            "macro" => 2,
            "call" => 1,
            _ => usize::MAX,
        };
        let parameters = if self.word(parameters) == "(" { parameters..self.partner[parameters] } else { 0..0 };
        let mut closed = Vec::new();
        for i in from..self.tokens.len() {
            let (before, word) = (self.before(i), self.word(i));
            if word == "%" {
                if self.may_be_format(i, from) {
                    self.insertions.push(Insertion { at: self.tokens[i].end - 1, over: 1, text: FORMAT });
                    closed.push(self.operand(i + 1));
                }
                continue;
            }
            if word == "*" && !matches!(before, "(" | ",") {
                self.filter(i.checked_sub(1).ok_or("a tag begins with *")?, FACTOR);
                let right = self.operand(i + 1);
                self.filter(right, FACTOR);
                continue;
            }
            let is_parameter = parameters.contains(&i) && self.depth[i] == 1 && matches!(before, "(" | ",");
            let is_bare = names && self.depth[i] == 0;
            let is_named = self.word(i + 1) == "=" || matches!(before, "." | "|");
            if !self.is_variable(i) || is_parameter || is_bare || is_named || self.is_test(i) {
                continue;
            }
            let last = self.chain(i + 1) - 1;
            let start = self.tokens[i].end - word.len();
            for j in i + 1..=last {
                if self.word(j) == "[" && self.depth[j] == self.depth[i] {
                    self.insert(start, "(");
                    self.filter(j - 1, INDEXED);
                }
            }
            if matches!((self.word(last + 1), self.word(last + 2)), ("|", "length" | "count")) {
                // Looks at no element; for a text minijinja counts its bytes.
            } else if i > from && self.is_test(i - 1) {
                // The one argument of a test that stands without brackets.
                self.insert(start, "(");
                self.filter(last, VALUE);
                self.insert(self.tokens[last].end, ")");
            } else {
                self.filter(last, VALUE);
            }
        }
        // After what the values in them are put through.
        closed.into_iter().rev().for_each(|last| self.filter(last, ")"));
        Ok(())
    }

    fn insert(&mut self, at: usize, text: &'static str) {
        self.insertions.push(Insertion { at, over: 0, text });
    }

    fn filter(&mut self, index: usize, filter: &'static str) {
        if let Some(end) = self.tokens.get(index).map(|token| token.end) {
            self.insert(end, filter);
        }
    }

    /// Whether a text may stand before the `%` at `i`: not a number, nor what was computed from numbers.
    fn may_be_format(&self, i: usize, from: usize) -> bool {
        let Some(last) = i.checked_sub(1).filter(|last| *last >= from) else { return false };
        if self.word(last).starts_with(|c: char| c.is_ascii_digit()) {
            return false;
        }
        // Back over the operand: brackets, attributes, filters.
        let mut first = last;
        loop {
            if matches!(self.word(first), ")" | "]" | "}") {
                first = self.partner[first];
            }
            let joined = first.checked_sub(1).filter(|before| *before >= from);
            first = match joined {
                Some(before) if matches!(self.word(before), "." | "|") => match before.checked_sub(1) {
                    Some(operand) => operand,
                    None => return false,
                },
                // A call or an index.
                Some(before) if matches!(self.word(first), "(" | "[") && self.is_operand_end(before) => before,
                _ => break,
            };
        }
        first == from || !matches!(self.before(first), "*" | "/" | "//" | "%" | "**" | "-")
    }

    /// Whether an operand may end here.
    fn is_operand_end(&self, i: usize) -> bool {
        matches!(self.word(i), ")" | "]" | "}") || self.is_variable(i) || self.word(i).starts_with(['"', '\''])
    }

    fn is_variable(&self, i: usize) -> bool {
        const WORDS: [&str; 14] = [
            "and",
            "or",
            "not",
            "in",
            "is",
            "if",
            "else",
            "true",
            "false",
            "none",
            "True",
            "False",
            "None",
            "recursive",
        ];
        self.tokens[i].is_name() && !WORDS.contains(&self.word(i))
    }

    /// Whether a token names a test: it follows `is` or `is not`.
    fn is_test(&self, i: usize) -> bool {
        self.before(i) == "is" || (self.before(i) == "not" && i >= 2 && self.word(i - 2) == "is")
    }

    /// Where attributes, indices and calls end.
    fn chain(&self, mut i: usize) -> usize {
        loop {
            i = match self.word(i) {
                "." => i + 2,
                "[" | "(" => self.partner[i] + 1,
                _ => return i.min(self.tokens.len()),
            }
        }
    }

    /// The last token of the operand that begins here.
    fn operand(&self, mut i: usize) -> usize {
        while self.word(i) == "-" {
            i += 1;
        }
        let primary = self.partner.get(i).map_or(i, |p| p.max(&i) + 1);
        i = self.chain(primary);
        while self.word(i) == "|" {
            i = self.chain(i + 2);
        }
        i.saturating_sub(1)
    }
}

/// Bytes of a text with its quotes.
fn end_of_text(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().skip(1).find_map(|(i, c)| {
        let end = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        end.then_some(i + 1)
    })
}

/// Bytes of a number. `1.x` is an attribute of 1, `1.5` a number.
fn number(text: &str) -> usize {
    let digits = |from: usize| {
        text[from..].find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).map_or(text.len(), |n| from + n)
    };
    let whole = digits(0);
    let mut end = whole;
    if text[whole..].starts_with('.') && text[whole + 1..].starts_with(|c: char| c.is_ascii_digit()) {
        end = digits(whole + 1);
    }
    if text[..end].ends_with(['e', 'E']) && text[end..].starts_with(['+', '-']) {
        end = digits(end + 1);
    }
    end
}

pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter(VALUE.trim_start_matches('|'), paid);
    environment.add_filter("chain", chain);
    environment.add_filter(FORMAT.trim_matches(['|', '(']), percent);
    environment.add_filter(INDEXED.trim_matches(['|', ')']), |value: Value| value);
    environment.add_filter(FACTOR.trim_start_matches('|'), |value: Value| match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            Err(Error::new(ErrorKind::InvalidOperation, "a chat template cannot repeat a list with *"))
        }
        _ => Ok(value),
    });
}

/// Python's `%`: a format and what comes in its places, or the rest of a division.
fn percent(state: &State, left: Value, right: Value) -> Result<Value, Error> {
    if let Some(format) = left.as_str() {
        let is_tuple = right.downcast_object_ref::<minijinja::value::Tuple>().is_some();
        let values = if is_tuple { right.try_iter()?.collect() } else { vec![right] };
        return super::python::printf(state, format, &values).map(Value::from);
    }
    let unfit = || {
        let (left, right) = (left.kind(), right.kind());
        Error::new(ErrorKind::InvalidOperation, format!("tried to use % operator on {left} and {right}"))
    };
    match (i64::try_from(left.clone()), i64::try_from(right.clone())) {
        (Ok(a), Ok(b)) if left.is_integer() && right.is_integer() => {
            // As in Python the rest has the sign of the divisor.
            let rest = a.checked_rem(b).ok_or_else(unfit)?;
            Ok(Value::from(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }))
        }
        _ => match (f64::try_from(left.clone()), f64::try_from(right.clone())) {
            (Ok(a), Ok(b)) if b != 0.0 => {
                let rest = a % b;
                Ok(Value::from(if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }))
            }
            _ => Err(unfit()),
        },
    }
}

/// The entries of several maps, of which later ones count.
#[derive(Debug, Default)]
struct Joined {
    keys: Vec<Value>,
    values: HashMap<Value, Value>,
}

impl Object for Joined {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.values.get(key).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.keys.clone())
    }
}

/// The elements of several lists, or the entries of several maps, one after the other.
fn chain(state: &State, first: Value, others: Rest<Value>) -> Result<Value, Error> {
    let all: Vec<Value> = std::iter::once(first).chain(others.0).collect();
    let mut price = Price { state, units: 0 };
    if all.iter().all(|value| value.kind() == ValueKind::Map) {
        let mut joined = Joined::default();
        for map in &all {
            for key in map.try_iter()? {
                price.pay(2 * ELEMENT)?;
                if joined.values.insert(key.clone(), map.get_item(&key)?).is_none() {
                    joined.keys.push(key);
                }
            }
        }
        return Ok(Value::from_object(joined));
    }
    let mut list = Vec::new();
    for value in &all {
        for item in value.try_iter()? {
            price.pay(ELEMENT)?;
            list.push(item);
        }
    }
    Ok(Value::from(list))
}

/// Pays for a value. What is computed only when it is looked at, such as a slice, becomes a list.
fn paid(state: &State, value: Value) -> Result<Value, Error> {
    let mut price = Price { state, units: 0 };
    if value.kind() != ValueKind::Iterable {
        price.add(&value, 0)?;
        return Ok(value);
    }
    let mut list = Vec::new();
    for item in value.try_iter()? {
        price.add(&item, 1)?;
        list.push(item);
    }
    Ok(Value::from(list))
}

/// What is still to be paid.
struct Price<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    units: u64,
}

impl Price<'_, '_, '_> {
    fn pay(&mut self, units: u64) -> Result<(), Error> {
        self.units += units;
        self.state.consume_fuel(self.units / UNITS)?;
        self.units %= UNITS;
        Ok(())
    }

    fn add(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.pay(ELEMENT + value.as_str().map_or(0, str::len) as u64)?;
        if value.as_object().is_none() {
            return Ok(());
        }
        if depth == MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("a value nests more than {MAX_DEPTH} deep")));
        }
        let Ok(items) = value.try_iter() else { return Ok(()) };
        let is_list = matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable);
        for item in items {
            self.add(&item, depth + 1)?;
            if !is_list {
                self.add(&value.get_item(&item)?, depth + 1)?;
            }
        }
        Ok(())
    }
}
