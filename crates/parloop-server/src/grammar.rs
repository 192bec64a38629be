//! What a model may write: schemas and calls of tools as filters over its logits.
//!
//! `llguidance` holds the grammar and says which tokens may follow; what is around it is here: the vocabulary it is to know,
//! the tag behind which a grammar begins, and the errors of a schema that cannot be kept.

mod calls;

pub(crate) use calls::forced as forced_calls;
pub(crate) use calls::triggered as triggered_calls;

use crate::dialect::{Dialect, Thinking};
use crate::error::ApiError;
use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use parloop_engine::{Filter, Filters};
use parloop_model::{Stops, Tokenizer};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Whitespace where JSON allows some, but not without end: a model that has nothing to say would write it for ever. A space,
/// or a new line and its indentation.
const WHITESPACE: &str = r"\x20|\n(\x20{0,16}|\t{0,8})";
/// Bytes of a grammar at most.
const MOST: usize = 1 << 20;

/// The vocabulary of a model as grammars know it.
pub(crate) struct Vocabulary {
    factory: ParserFactory,
    trie: TokTrie,
}

impl Vocabulary {
    /// That of a tokenizer and the tokens that end a text; nothing where no grammar can use it.
    pub fn new(tokenizer: &Tokenizer, stops: &Stops) -> Option<Self> {
        let size = tokenizer.vocab_size();
        let mut words: Vec<Vec<u8>> = (0..size as u32)
            .map(|id| match tokenizer.bytes(id) {
                Some(bytes) if !bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) => bytes,
                Some(bytes) if bytes.len() == 1 => bytes,
                Some(_) => Vec::new(),
                None => tokenizer.token(id).map_or_else(Vec::new, |name| {
                    let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                    word.extend(name.as_bytes());
                    word
                }),
            })
            .collect();
        // The byte by which special tokens are marked is none of a text: no UTF-8 holds it.
        words.iter_mut().filter(|w| w.as_slice() == [TokTrie::SPECIAL_TOKEN_MARKER]).for_each(Vec::clear);
        // An end for models that have none: no logit belongs to it.
        words.push([&[TokTrie::SPECIAL_TOKEN_MARKER], "<|parloop_end|>".as_bytes()].concat());
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, size as u32), &words);
        let ends: Vec<u32> = stops.ids().iter().copied().filter(|id| (*id as usize) < size).collect();
        let trie = if ends.is_empty() { trie } else { trie.with_eos_tokens(&ends) };
        let environment: llguidance::toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie.clone()));
        let mut factory = ParserFactory::new_simple(&environment).ok()?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Some(Self { factory, trie })
    }

    fn matcher(&self, grammar: TopLevelGrammar) -> Result<Matcher, String> {
        let parser = self.factory.create_parser(grammar).map_err(|e| format!("{e:#}"))?;
        let matcher = Matcher::new(Ok(parser));
        match matcher.get_error() {
            Some(error) => Err(error),
            None => Ok(matcher),
        }
    }
}

/// When a grammar holds.
#[derive(Clone, Debug)]
pub(crate) enum Begin {
    /// From the first token on.
    Now,
    /// Behind a tag: its text, and the special token that it is, if it is one.
    Behind { tag: String, id: Option<u32> },
}

/// What comes after a text of a grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The end.
    End,
    /// Anything, until the tag comes again.
    Again,
}

/// A grammar that is ready.
pub(crate) struct Constraint {
    pub begin: Begin,
    pub then: Then,
    grammar: Matcher,
}

impl Constraint {
    /// A grammar in llguidance's form of Lark.
    ///
    /// # Errors
    /// It is none, or too large.
    pub fn lark(vocabulary: &Vocabulary, text: String, begin: Begin, then: Then) -> Result<Self, String> {
        if text.len() > MOST {
            return Err(format!("the grammar has {} bytes, at most {MOST} are taken", text.len()));
        }
        Ok(Self { begin, then, grammar: vocabulary.matcher(TopLevelGrammar::from_lark(text))? })
    }

    /// JSON of a schema.
    ///
    /// # Errors
    /// The schema has a keyword that cannot be kept; the field is named.
    pub fn schema(
        vocabulary: &Vocabulary,
        dialect: &Dialect,
        schema: &Value,
        field: &str,
        begin: Begin,
    ) -> Result<Self, ApiError> {
        let (lead, rules) = lead(dialect, &begin);
        let text = format!("start: {lead}json\njson: %json {}\n{rules}", with_options(schema, false));
        Self::lark(vocabulary, text, begin, Then::End).map_err(|e| ApiError::field(field, cannot(&e)))
    }

    /// Adds it to a request.
    pub fn add_to(self, vocabulary: Arc<Vocabulary>, filters: &mut Filters) {
        let Self { begin, then, grammar } = self;
        filters.push(move || {
            let active = matches!(begin, Begin::Now).then(|| grammar.deep_clone());
            Box::new(Guided {
                vocabulary: vocabulary.clone(),
                fresh: grammar.deep_clone(),
                active,
                begin: begin.clone(),
                then,
                tail: Vec::new(),
                done: false,
            })
        });
    }
}

/// What may stand before an answer that is bound to a grammar, and the rules for it: the reasoning of a model that begins it
/// by itself, or the spaces behind reasoning that is over.
fn lead(dialect: &Dialect, begin: &Begin) -> (&'static str, String) {
    const SPACES: &str = "spaces: /[\\x20\\n]{1,8}/\n";
    match (begin, &dialect.thinking) {
        (Begin::Behind { .. }, _) => ("spaces? ", SPACES.into()),
        (Begin::Now, Some(Thinking { open, close }))
            if [open, close].iter().all(|tag| dialect.special_id(tag).is_none()) =>
        {
            let (open, close) = (Value::from(open.as_str()), Value::from(close.as_str()));
            let rules = format!("thought: {open} thinking spaces?\nthinking[suffix={close}]: /(?s:.*)/\n{SPACES}");
            ("thought? ", rules)
        }
        _ => ("", String::new()),
    }
}

/// A schema with our options in llguidance's own keyword; what a client wrote there does not count.
fn with_options(schema: &Value, lenient: bool) -> Value {
    let mut object = match schema {
        Value::Object(object) => object.clone(),
        // `true` allows everything.
        Value::Bool(true) => Map::new(),
        other => return other.clone(),
    };
    object.insert("x-guidance".into(), json!({ "whitespace_pattern": WHITESPACE, "lenient": lenient }));
    Value::Object(object)
}

/// An error of llguidance in one line.
fn cannot(error: &str) -> String {
    let line = error.split('\n').find(|l| !l.trim().is_empty()).unwrap_or("it is no schema").trim();
    format!("the schema cannot be kept: {}", line.chars().take(300).collect::<String>())
}

/// A grammar over the tokens of one text.
struct Guided {
    vocabulary: Arc<Vocabulary>,
    /// The grammar at its beginning.
    fresh: Matcher,
    /// The grammar where it is, while it holds.
    active: Option<Matcher>,
    begin: Begin,
    then: Then,
    /// The end of the text, as far as it may be the beginning of the tag.
    tail: Vec<u8>,
    done: bool,
}

impl Filter for Guided {
    fn apply(&mut self, logits: &mut [f32]) {
        let Some(grammar) = &mut self.active else { return };
        match grammar.compute_mask_or_eos() {
            Ok(mask) => {
                for (id, logit) in logits.iter_mut().enumerate() {
                    if id >= mask.len() || !mask.get(id) {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
            // Too complex for its limits: nothing may follow, which is said as an error.
            Err(_) => logits.fill(f32::NEG_INFINITY),
        }
    }

    fn accept(&mut self, token: u32) {
        if let Some(grammar) = &mut self.active {
            let refused = grammar.consume_token(token).is_err();
            if refused || grammar.is_stopped() {
                self.active = None;
                self.done = self.then == Then::End;
            }
            return;
        }
        let Begin::Behind { tag, id } = &self.begin else { return };
        let rest = if *id == Some(token) {
            Some(Vec::new())
        } else {
            self.tail.extend(self.vocabulary.trie.token(token));
            let at = self.tail.windows(tag.len()).position(|part| part == tag.as_bytes());
            let rest = at.map(|at| self.tail[at + tag.len()..].to_vec());
            let keep = self.tail.len().saturating_sub(tag.len() - 1);
            self.tail.drain(..keep);
            rest
        };
        let Some(rest) = rest else { return };
        self.tail.clear();
        let mut grammar = self.fresh.deep_clone();
        // What the token held behind the tag belongs to the grammar. If it does not fit, the model has its own way.
        let rest = self.vocabulary.trie.greedy_tokenize(&rest);
        if grammar.try_consume_tokens(&rest).is_ok_and(|n| n == rest.len()) {
            self.active = Some(grammar);
        }
    }

    fn ended(&self) -> bool {
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::{Calls, Tool};

    /// Bytes, so that a text is its own ids.
    fn vocabulary() -> Arc<Vocabulary> {
        Arc::new(Vocabulary::new(&Tokenizer::Bytes, &Stops::default()).unwrap())
    }

    fn filter(vocabulary: &Arc<Vocabulary>, constraint: Constraint) -> Box<dyn Filter> {
        let mut filters = Filters::default();
        constraint.add_to(vocabulary.clone(), &mut filters);
        filters.make().next().unwrap()
    }

    /// The first place at which a text is refused.
    fn refused(filter: &mut dyn Filter, text: &str) -> Option<usize> {
        text.bytes().position(|byte| {
            let mut logits = [0.0; 256];
            filter.apply(&mut logits);
            filter.accept(byte.into());
            logits[usize::from(byte)] != 0.0
        })
    }

    fn tools() -> Vec<Tool> {
        let tool = |name: &str, parameters| Tool { name: name.into(), parameters, strict: true, ..Tool::default() };
        let city = json!({ "type": "string", "enum": ["Bern", "Rome"] });
        let properties = json!({ "city": city, "days": { "type": "integer" } });
        let weather = json!({ "type": "object", "properties": properties, "required": ["city"],
            "additionalProperties": false });
        vec![tool("weather", weather), tool("stop", json!({ "type": "object", "additionalProperties": false }))]
    }

    fn hermes() -> Dialect {
        let calls = Calls {
            opening: "<tool_call>".into(),
            before: "\n".into(),
            after: "\n".into(),
            closing: Some("</tool_call>".into()),
            between: "\n".into(),
            ..Calls::default()
        };
        Dialect { calls: Some(calls), ..Dialect::default() }
    }

    const CALL: &str = "\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\", \"days\": 3}}\n</tool_call>";

    #[test]
    fn a_schema_lets_through_what_fits_and_ends_with_it() {
        let vocabulary = vocabulary();
        let schema = json!({ "type": "object", "properties": { "n": { "type": "integer", "maximum": 20 } },
            "required": ["n"], "additionalProperties": false });
        let new = || Constraint::schema(&vocabulary, &Dialect::default(), &schema, "f", Begin::Now).unwrap();
        let mut good = filter(&vocabulary, new());
        assert_eq!(refused(&mut *good, "{\"n\": 7}"), None);
        assert!(good.ended());
        for (text, at) in [("{\"n\": \"", 6), ("{\"m", 2), (" ", 0), ("{}", 1), ("{\"n\": 21", 7)] {
            assert_eq!(refused(&mut *filter(&vocabulary, new()), text), Some(at), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_said() {
        let vocabulary = vocabulary();
        for schema in [
            json!({ "type": "array", "uniqueItems": true }),
            json!({ "not": { "type": "string" } }),
            json!({ "type": "object", "dependentRequired": { "a": ["b"] } }),
            json!({ "type": "strange" }),
            json!({ "$ref": "https://example.com/schema" }),
        ] {
            let error = Constraint::schema(&vocabulary, &Dialect::default(), &schema, "response_format", Begin::Now);
            let message = error.err().unwrap_or_else(|| panic!("{schema}")).message;
            assert!(message.starts_with("response_format: the schema cannot be kept"), "{message}");
        }
    }

    #[test]
    fn a_call_is_bound_behind_its_tag_only() {
        let vocabulary = vocabulary();
        let new = |many| triggered_calls(&vocabulary, &hermes(), &tools(), many).unwrap().unwrap();
        let mut free = filter(&vocabulary, new(true));
        assert_eq!(refused(&mut *free, "{ <tool and more <tool_call>"), None);
        assert_eq!(refused(&mut *free, CALL), None);
        assert!(!free.ended());
        assert_eq!(refused(&mut *free, "\nand <tool_call>\n{\"name\": \"weather\", \"x"), Some(38));
        let mut single = filter(&vocabulary, new(false));
        assert_eq!(refused(&mut *single, &format!("Well: <tool_call>{CALL}")), None);
        assert!(single.ended());
    }

    #[test]
    fn forced_calls_are_nothing_else() {
        let vocabulary = vocabulary();
        let new = |many| forced_calls(&vocabulary, &hermes(), &tools(), many, Begin::Now).unwrap();
        let text = format!("<tool_call>{CALL}");
        let mut one = filter(&vocabulary, new(false));
        assert_eq!(refused(&mut *one, &text), None);
        assert!(one.ended());
        let mut many = filter(&vocabulary, new(true));
        assert_eq!(refused(&mut *many, &format!("{text}\n{text}")), None);
        assert_eq!(refused(&mut *filter(&vocabulary, new(true)), "Well"), Some(0));
    }

    #[test]
    fn reasoning_may_come_before_what_is_bound() {
        let vocabulary = vocabulary();
        let thinking = Some(Thinking { open: "<think>".into(), close: "</think>".into() });
        let dialect = Dialect { thinking, ..Dialect::default() };
        let schema = json!({ "type": "integer" });
        let new = |begin| Constraint::schema(&vocabulary, &dialect, &schema, "f", begin).unwrap();
        for text in ["12", "<think>Well, {\"a\"</think>\n\n12"] {
            assert_eq!(refused(&mut *filter(&vocabulary, new(Begin::Now)), text), None, "{text}");
        }
        let behind = || Begin::Behind { tag: "</think>".into(), id: None };
        assert_eq!(refused(&mut *filter(&vocabulary, new(behind())), "Well, {\"a\"</think>\n\n12"), None);
        assert_eq!(refused(&mut *filter(&vocabulary, new(behind())), "Well</think>\n\nx"), Some(14));
    }

    #[test]
    fn calls_in_xml_are_bound_value_by_value() {
        let vocabulary = vocabulary();
        let body = crate::dialect::Body::Xml {
            head: "<function=".into(),
            opened: ">\n".into(),
            parameter: "<parameter=".into(),
            value: ">\n".into(),
            close: "\n</parameter>\n".into(),
            tail: "</function>".into(),
        };
        let calls = Calls { body, ..hermes().calls.unwrap() };
        let dialect = Dialect { calls: Some(calls), ..Dialect::default() };
        let new = || forced_calls(&vocabulary, &dialect, &tools(), true, Begin::Now).unwrap();
        let text = |city: &str, days: &str| {
            format!(
                "<tool_call>\n<function=weather>\n<parameter=city>\n{city}\n</parameter>\n<parameter=days>\n{days}\n\
                 </parameter>\n</function>\n</tool_call>"
            )
        };
        assert_eq!(refused(&mut *filter(&vocabulary, new()), &text("Rome", "3")), None);
        assert!(refused(&mut *filter(&vocabulary, new()), &text("Oslo", "3")).is_some());
        assert!(refused(&mut *filter(&vocabulary, new()), &text("Rome", "x")).is_some());
    }
}
