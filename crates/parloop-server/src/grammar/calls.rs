//! Grammars of calls, in the spelling of a model's template.

use super::{Begin, Constraint, Then, Vocabulary, cannot, lead, with_options};
use crate::dialect::{Body, Calls, Dialect, Tool};
use crate::error::ApiError;
use serde_json::{Value, json};
use std::fmt::Write;

/// Answers that are calls and nothing else: at least one, of one of `tools`.
///
/// # Errors
/// A schema cannot be kept.
pub(crate) fn forced(
    vocabulary: &Vocabulary,
    dialect: &Dialect,
    tools: &[Tool],
    many: bool,
    begin: Begin,
) -> Result<Constraint, ApiError> {
    let Some(calls) = &dialect.calls else {
        return Err(ApiError::field("tool_choice", "the model's chat template has no calls of tools: leave it out"));
    };
    let grammar = Grammar::new(dialect, calls, tools)?;
    let (opening, gap) = (grammar.tag(&calls.opening), grammar.text(&calls.between));
    let many = many && !calls.opening.is_empty() && !grammar.list;
    // A tag that is a special token stands for itself, spaces around it are the model's.
    let more = if many { format!(" ({gap} {opening} rest)*") } else { String::new() };
    let (lead, rules) = lead(dialect, &begin);
    let start = format!("start: {lead}{opening} rest{more}\n{rules}");
    grammar.finish(vocabulary, &start, begin, Then::End)
}

/// What follows the opening tag of a call, wherever the model writes one; nothing where calls have no tag.
///
/// # Errors
/// A schema cannot be kept.
pub(crate) fn triggered(
    vocabulary: &Vocabulary,
    dialect: &Dialect,
    tools: &[Tool],
    many: bool,
) -> Result<Option<Constraint>, ApiError> {
    let Some(calls) = dialect.calls.as_ref().filter(|calls| !calls.opening.is_empty()) else { return Ok(None) };
    let grammar = Grammar::new(dialect, calls, tools)?;
    let begin = Begin::Behind { tag: calls.opening.clone(), id: dialect.special_id(&calls.opening) };
    let then = if many { Then::Again } else { Then::End };
    grammar.finish(vocabulary, "start: rest\n", begin, then).map(Some)
}

/// A grammar being written.
struct Grammar<'a> {
    dialect: &'a Dialect,
    rules: String,
    list: bool,
}

impl<'a> Grammar<'a> {
    /// The rules of `rest`: a call behind its opening tag.
    fn new(dialect: &'a Dialect, calls: &Calls, tools: &[Tool]) -> Result<Self, ApiError> {
        let list = matches!(calls.body, Body::Json { list: true, .. });
        let mut this = Self { dialect, rules: String::new(), list };
        for (i, tool) in tools.iter().enumerate() {
            match &calls.body {
                Body::Json { head, middle, tail, .. } => {
                    let (head, tail) = (this.text(&format!("{head}{}{middle}", tool.name)), this.text(tail));
                    let schema = with_options(&object(&tool.parameters), !tool.strict);
                    let _ =
                        writeln!(this.rules, "call_{i}: {head} arguments_{i} {tail}\narguments_{i}: %json {schema}");
                }
                Body::Xml { head, opened, parameter, value, close, tail } => {
                    let begin = this.text(&format!("{head}{}{opened}", tool.name));
                    let mut rule = format!("call_{i}: {begin}");
                    let properties = tool.parameters.get("properties").and_then(Value::as_object);
                    let required = tool.parameters.get("required").and_then(Value::as_array);
                    for (j, (key, schema)) in properties.into_iter().flatten().enumerate() {
                        let is_required = required.is_some_and(|all| all.iter().any(|r| r == key));
                        let _ = write!(rule, " value_{i}_{j}{}", if is_required { "" } else { "?" });
                        let name = this.text(&format!("{parameter}{key}{value}"));
                        if schema.get("type").is_some_and(|t| t == "string") && schema.get("enum").is_none() {
                            // Any text up to the closing tag.
                            let close = this.text(close);
                            let _ = writeln!(
                                this.rules,
                                "value_{i}_{j}: {name} text_{i}_{j}\ntext_{i}_{j}[suffix={close}]: /(?s:.*)/"
                            );
                        } else if let Some(words) = words(schema) {
                            let close = this.text(close);
                            let words: Vec<String> = words.iter().map(|w| this.text(w)).collect();
                            let _ = writeln!(this.rules, "value_{i}_{j}: {name} ({}) {close}", words.join(" | "));
                        } else {
                            // References reach from the root of the tool's schema.
                            let close = this.text(close);
                            let schema = with_options(&rooted(schema, &tool.parameters), !tool.strict);
                            let _ = writeln!(
                                this.rules,
                                "value_{i}_{j}: {name} json_{i}_{j} {close}\njson_{i}_{j}: %json {schema}"
                            );
                        }
                    }
                    let tail = this.text(tail);
                    let _ = writeln!(this.rules, "{rule} {tail}");
                }
            }
        }
        let any: Vec<String> = (0..tools.len()).map(|i| format!("call_{i}")).collect();
        let _ = writeln!(this.rules, "any: {}", any.join(" | "));
        let (before, after) = (this.text(&calls.before), this.text(&calls.after));
        let closing = calls.closing.as_deref().map(|tag| this.tag(tag)).unwrap_or_default();
        let body = if list { r#""[" any (", " any)* "]""# } else { "any" };
        let _ = writeln!(this.rules, "rest: {before} {body} {after} {closing}");
        Ok(this)
    }

    /// A text as a literal of the grammar; nothing for none.
    fn text(&self, text: &str) -> String {
        if text.is_empty() { String::new() } else { Value::from(text).to_string() }
    }

    /// A tag: a special token, or its text.
    fn tag(&self, tag: &str) -> String {
        match self.dialect.special_id(tag) {
            Some(id) => format!("<[{id}]>"),
            None => self.text(tag),
        }
    }

    fn finish(self, vocabulary: &Vocabulary, start: &str, begin: Begin, then: Then) -> Result<Constraint, ApiError> {
        let constraint = Constraint::lark(vocabulary, format!("{start}{}", self.rules), begin, then);
        constraint.map_err(|e| ApiError::field("tools", cannot(&e)))
    }
}

/// The schema of a tool's arguments: always an object.
fn object(parameters: &Value) -> Value {
    match parameters {
        Value::Object(object) if object.contains_key("type") || object.contains_key("$ref") => parameters.clone(),
        Value::Object(object) => {
            let mut object = object.clone();
            object.insert("type".into(), "object".into());
            Value::Object(object)
        }
        _ => json!({ "type": "object" }),
    }
}

/// The values of a list of words.
fn words(schema: &Value) -> Option<Vec<String>> {
    let all = schema.get("enum")?.as_array()?;
    all.iter()
        .map(|v| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned))
        .collect::<Option<Vec<_>>>()
        .filter(|w| !w.is_empty())
}

/// The schema of a property, with the definitions that it may refer to.
fn rooted(schema: &Value, root: &Value) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(object) = &mut schema {
        for key in ["$defs", "definitions"] {
            if let Some(definitions) = root.get(key) {
                object.entry(key).or_insert_with(|| definitions.clone());
            }
        }
    }
    schema
}
