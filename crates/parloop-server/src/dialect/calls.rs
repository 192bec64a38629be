//! Calls of tools in a text.

use serde_json::{Map, Value};

/// A tool that may be called.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tool {
    pub name: String,
    /// A JSON schema of the arguments.
    pub parameters: Value,
    /// Every keyword of the schema has to be kept.
    pub strict: bool,
    /// As the template takes it.
    pub source: Value,
}

/// How calls are written: `opening before BODY after closing`, and `between` two of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    /// Empty where calls have no tag.
    pub opening: String,
    pub before: String,
    pub body: Body,
    pub after: String,
    /// Nothing where a call ends with its body.
    pub closing: Option<String>,
    pub between: String,
}

/// How a call itself is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// `head NAME middle {arguments} tail`, an object of JSON; in a list of such.
    Json { list: bool, head: String, middle: String, tail: String },
    /// `<function=NAME>`, and `<parameter=KEY>` for each argument.
    Xml {
        /// Before the name of the function.
        head: String,
        /// Behind it.
        opened: String,
        /// Before the name of a parameter.
        parameter: String,
        /// Between that and its value.
        value: String,
        /// Behind the value.
        close: String,
        /// The end of the function.
        tail: String,
    },
}

impl Default for Body {
    fn default() -> Self {
        Self::Json { list: false, head: "{\"name\": \"".into(), middle: "\", \"arguments\": ".into(), tail: "}".into() }
    }
}

/// The names under which a call's arguments stand.
pub(super) const ARGUMENTS: [&str; 3] = ["arguments", "parameters", "args"];

impl Calls {
    /// Whether a text that has no tag may be a call of one of these tools.
    pub fn may_begin(&self, text: &str, tools: &[Tool]) -> bool {
        match &self.body {
            Body::Json { list, .. } => {
                let object = if *list { text.strip_prefix('[').map(str::trim_start) } else { Some(text) };
                let Some(object) = object.filter(|t| t.starts_with('{')) else { return false };
                // Other JSON is an answer. What is not there yet may still be a call.
                let found = object.match_indices('"').nth(3).map_or(object, |(end, _)| &object[..=end]);
                found.len() == object.len() && found.matches('"').count() < 4
                    || tools.iter().any(|tool| found.ends_with(&format!("\"{}\"", tool.name)))
            }
            Body::Xml { head, .. } => text.starts_with(head.as_str()),
        }
    }

    /// Bytes of a body that begins a text and has no closing tag, once it is whole.
    pub fn length(&self, text: &str) -> Option<usize> {
        match &self.body {
            Body::Json { .. } => {
                let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
                values.next()?.ok()?;
                Some(values.byte_offset())
            }
            Body::Xml { tail, .. } => text.find(tail.trim()).map(|at| at + tail.trim().len()),
        }
    }

    /// Names and arguments (as JSON) of the calls in a body; nothing if it is none.
    pub fn parse(&self, body: &str, tools: &[Tool]) -> Option<Vec<(String, String)>> {
        match &self.body {
            Body::Json { .. } => match serde_json::from_str(body.trim()).ok()? {
                // Whatever the template shows: models trained on both write one or the other.
                Value::Array(all) if !all.is_empty() => all.iter().map(object_call).collect(),
                one => Some(vec![object_call(&one)?]),
            },
            Body::Xml { head, parameter, tail, .. } => {
                xml_call(body, head.trim(), parameter.trim(), tail.trim(), tools)
            }
        }
    }
}

fn object_call(value: &Value) -> Option<(String, String)> {
    let value = value.get("function").filter(|f| f.is_object()).unwrap_or(value);
    let name = value.get("name")?.as_str()?.to_owned();
    let arguments = match ARGUMENTS.iter().find_map(|key| value.get(key)) {
        None => "{}".into(),
        // A text that holds the JSON.
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    Some((name, arguments))
}

/// `<function=NAME> <parameter=KEY> VALUE </parameter> ... </function>`.
fn xml_call(body: &str, head: &str, parameter: &str, tail: &str, tools: &[Tool]) -> Option<Vec<(String, String)>> {
    let rest = body.trim().strip_prefix(head)?;
    let (name, mut rest) = rest.split_once('>')?;
    let name = name.trim();
    let properties = tools.iter().find(|tool| tool.name == name).and_then(|t| t.parameters.get("properties"));
    let mut arguments = Map::new();
    while let Some(at) = rest.find(parameter) {
        let (key, value) = rest[at + parameter.len()..].split_once('>')?;
        // A value ends before its closing tag, or where the next one begins.
        let end = value.find("</parameter>").or_else(|| value.find(parameter)).or_else(|| value.find(tail))?;
        let (value, after) = value.split_at(end);
        rest = after.strip_prefix("</parameter>").unwrap_or(after);
        // One line break on either side is the template's.
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        let key = key.trim().to_owned();
        let schema = properties.and_then(|p| p.get(&key));
        arguments.insert(key, typed(value, schema));
    }
    Some(vec![(name.to_owned(), Value::Object(arguments).to_string())])
}

/// A value of a parameter by the type that its schema gives it.
fn typed(text: &str, schema: Option<&Value>) -> Value {
    let kinds: Vec<&str> = match schema.and_then(|s| s.get("type")) {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let plain = || Value::String(text.to_owned());
    if kinds == ["string"] {
        return plain();
    }
    let value = match text.trim() {
        "True" => Value::Bool(true),
        "False" => Value::Bool(false),
        "None" => Value::Null,
        trimmed => serde_json::from_str(trimmed).unwrap_or_else(|_| plain()),
    };
    let fits = |kind: &&str| match &value {
        Value::Null => *kind == "null",
        Value::Bool(_) => *kind == "boolean",
        Value::Number(n) => *kind == "number" || *kind == "integer" && !n.is_f64(),
        Value::String(_) => *kind == "string",
        Value::Array(_) => *kind == "array",
        Value::Object(_) => *kind == "object",
    };
    if kinds.is_empty() && schema.is_some_and(|s| s.get("enum").is_none()) || kinds.iter().any(fits) {
        return value;
    }
    plain()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn xml() -> Calls {
        Calls {
            opening: "<tool_call>".into(),
            closing: Some("</tool_call>".into()),
            body: Body::Xml {
                head: "<function=".into(),
                opened: ">\n".into(),
                parameter: "<parameter=".into(),
                value: ">\n".into(),
                close: "\n</parameter>\n".into(),
                tail: "</function>".into(),
            },
            ..Calls::default()
        }
    }

    fn tools() -> Vec<Tool> {
        let parameters = json!({ "type": "object", "properties": {
            "text": { "type": "string" }, "count": { "type": "integer" }, "all": { "type": "boolean" },
            "list": { "type": "array" }, "either": { "type": ["string", "integer"] },
        } });
        vec![Tool { name: "look".into(), parameters, ..Tool::default() }]
    }

    #[test]
    fn json_in_all_its_spellings() {
        let parse = |text: &str| Calls::default().parse(text, &tools());
        let expected = Some(vec![("look".to_owned(), r#"{"a":1,"b":"x"}"#.to_owned())]);
        for text in [
            "\n{\"name\": \"look\", \"arguments\": {\"a\": 1, \"b\": \"x\"}}\n",
            r#"{"name":"look","parameters":{"a":1,"b":"x"}}"#,
            r#"[{"name":"look","arguments":{"a":1,"b":"x"}}]"#,
            r#"{"type":"function","function":{"name":"look","arguments":{"a":1,"b":"x"}}}"#,
            r#"{"name":"look","arguments":"{\"a\":1,\"b\":\"x\"}"}"#,
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
        assert_eq!(parse(r#"[{"name":"a"},{"name":"b"}]"#).unwrap().len(), 2);
        for text in ["", "{}", "[]", "{\"name\": 1}", "{\"name\": \"look\", \"arguments\": {", "say \"look\""] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn xml_gives_each_value_the_type_of_its_schema() {
        let text = "\n<function=look>\n<parameter=text>\n17\nnext\n</parameter>\n<parameter=count>\n17\n</parameter>\n\
                    <parameter=all>\nTrue\n</parameter>\n<parameter=list>\n[1, \"a\"]\n</parameter>\n\
                    <parameter=either>\n5\n</parameter>\n<parameter=unknown>\n5\n</parameter>\n</function>\n";
        let (name, arguments) = xml().parse(text, &tools()).unwrap().remove(0);
        assert_eq!(name, "look");
        let expected =
            json!({ "text": "17\nnext", "count": 17, "all": true, "list": [1, "a"], "either": 5, "unknown": "5" });
        assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), expected);
        assert_eq!(xml().parse("<function=go></function>", &[]), Some(vec![("go".into(), "{}".into())]));
        for text in ["", "go", "<function=go", "<function=go><parameter=a>1"] {
            assert_eq!(xml().parse(text, &tools()), None, "{text}");
        }
    }

    #[test]
    fn without_a_tag_only_what_names_a_tool_is_a_call() {
        let calls = Calls::default();
        for text in ["{", "{\"name", "{\"name\": \"loo", "{\"name\": \"look\", \"par"] {
            assert!(calls.may_begin(text, &tools()), "{text}");
        }
        for text in ["[", "Look", "{\"name\": \"Anna\", ", "{\"answer\": \"look out\", "] {
            assert!(!calls.may_begin(text, &tools()), "{text}");
        }
        assert_eq!(calls.length("{\"a\": {\"b\": \"}\"}} and"), Some(17));
        assert_eq!(calls.length("{\"a\": {"), None);
    }
}
