//! The functions and filters that chat templates use beyond Jinja's own.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use std::fmt::Write;

/// How deep a value may nest to be written as JSON.
const MAX_DEPTH: usize = 200;

/// The longest JSON a value may become: lists that hold one list many times are small but long to write.
const MAX_JSON: usize = 1 << 24;

/// What a template said when it refused.
#[derive(Debug)]
struct Refusal(String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// The words of `raise_exception`, if that is what an error comes from.
pub(super) fn refusal(error: &Error) -> Option<&str> {
    super::chain(error).find_map(|e| e.downcast_ref::<Refusal>()).map(|r| r.0.as_str())
}

pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Refusal(message)))
    });
    environment.add_function("strftime_now", |format: &str| -> Result<String, Error> {
        jiff::fmt::strtime::format(format, &jiff::Zoned::now())
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now(\"{format}\"): {e}")))
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: Value| match float(&value) {
        Some(x) => Value::from(python_float(x)),
        None if value.as_str().is_some() => value,
        None => Value::from(value.to_string()),
    });
    environment.set_formatter(|out, state, value| match float(value) {
        Some(x) => Ok(out.write_str(&python_float(x))?),
        None => minijinja::escape_formatter(out, state, value),
    });
    // Python cannot iterate over None, and templates tell text from nothing by it.
    environment.add_test("iterable", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Undefined
        )
    });
}

/// Python's `json.dumps(value, ensure_ascii=False, ...)`.
fn tojson(_: &State, value: &Value, indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.get::<Option<bool>>("ensure_ascii")?;
    options.assert_all_used()?;
    let unit = match indent.filter(|i| !i.is_none() && !i.is_undefined()) {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        // At most what any text needs: the output counts as work only once it is made.
        Some(number) => Some(" ".repeat(usize::try_from(number)?.min(64))),
    };
    let usual = if unit.is_some() { "," } else { ", " };
    let (item, key) = match separators.as_deref() {
        None => (usual, ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson takes two separators")),
    };
    let mut json = Json { out: String::new(), unit, item, key, sort_keys, depth: 0 };
    json.value(value)?;
    Ok(Value::from(json.out))
}

struct Json<'a> {
    out: String,
    unit: Option<String>,
    item: &'a str,
    key: &'a str,
    sort_keys: bool,
    depth: usize,
}

impl Json<'_> {
    fn value(&mut self, value: &Value) -> Result<(), Error> {
        if self.out.len() > MAX_JSON {
            return Err(Error::new(ErrorKind::OutOfFuel, "a value is too long to be written as JSON"));
        }
        match value.kind() {
            ValueKind::None => self.out.push_str("null"),
            ValueKind::Bool => self.out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => self.out.push_str(&value.to_string()),
            ValueKind::Number => self.out.push_str(&python_float(f64::try_from(value.clone())?)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.container('[', ']', items, |this, item| this.value(item))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.container('{', '}', keys, |this, key| {
                    this.string(key.as_str().unwrap_or(&key.to_string()));
                    this.out.push_str(this.key);
                    this.value(&value.get_item(key)?)
                })?;
            }
            other => {
                let what = format!("a value of type {other} is not JSON serializable");
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            }
        }
        Ok(())
    }

    fn container(
        &mut self,
        open: char,
        close: char,
        items: Vec<Value>,
        mut each: impl FnMut(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if self.depth == MAX_DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, "a value nests too deeply to be written as JSON"));
        }
        self.out.push(open);
        self.depth += 1;
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                self.out.push_str(self.item);
            }
            self.line();
            each(self, item)?;
        }
        self.depth -= 1;
        if !items.is_empty() {
            self.line();
        }
        self.out.push(close);
        Ok(())
    }

    fn line(&mut self) {
        if let Some(unit) = &self.unit {
            self.out.push('\n');
            (0..self.depth).for_each(|_| self.out.push_str(unit));
        }
    }

    fn string(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                c if c < ' ' => _ = write!(self.out, "\\u{:04x}", u32::from(c)),
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// A number with a point, if that is what a value is.
fn float(value: &Value) -> Option<f64> {
    if value.kind() != ValueKind::Number || value.is_integer() {
        return None;
    }
    f64::try_from(value.clone()).ok()
}

/// A number as Python's `repr` writes it: an exponent of at least two digits below 1e-4 and from 1e16 on.
fn python_float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "NaN".into()
        } else if x > 0.0 {
            "Infinity".into()
        } else {
            "-Infinity".into()
        };
    }
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        return format!("{x:?}");
    }
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    format!("{digits}e{sign}{exponent:0>2}")
}
