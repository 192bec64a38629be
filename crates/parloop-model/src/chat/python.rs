//! What templates use of Python's values: methods and formats.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

/// What stands behind `value.method(...)`.
pub(super) fn method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let ("format", Some(format)) = (method, value.as_str()) {
        pay_ahead(state, format, args)?;
    }
    match (value.as_str(), text_method(method)) {
        (Some(text), Some(apply)) => apply(text, args),
        _ => unknown_method_callback(state, value, method, args),
    }
}

type Method = fn(&str, &[Value]) -> Result<Value, Error>;

/// Methods of `str` that the library lacks.
fn text_method(name: &str) -> Option<Method> {
    let method: Method = match name {
        "rsplit" => rsplit,
        "partition" => |text, args| {
            let (separator,): (&str,) = from_args(args)?;
            let parts = text.split_once(separator).map(|(a, b)| [a, separator, b]);
            Ok(parts.unwrap_or([text, "", ""]).into_iter().collect())
        },
        "rpartition" => |text, args| {
            let (separator,): (&str,) = from_args(args)?;
            let parts = text.rsplit_once(separator).map(|(a, b)| [a, separator, b]);
            Ok(parts.unwrap_or(["", "", text]).into_iter().collect())
        },
        "removeprefix" => |text, args| {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(text.strip_prefix(prefix).unwrap_or(text).into())
        },
        "removesuffix" => |text, args| {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(text.strip_suffix(suffix).unwrap_or(text).into())
        },
        "casefold" => |text, args| {
            let () = from_args(args)?;
            Ok(text.to_lowercase().into())
        },
        _ => return None,
    };
    Some(method)
}

/// Python's `str.rsplit(sep=None, maxsplit=-1)`.
fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(args)?;
    let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = Vec::new();
    match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "rsplit: the separator is empty")),
        Some(separator) => parts.extend(text.rsplitn(most.saturating_add(1), separator)),
        None => {
            let mut rest = text.trim();
            while !rest.is_empty() {
                let cut = if parts.len() < most { rest.rfind(char::is_whitespace) } else { None };
                let Some(at) = cut else { break };
                let word = rest[at..].trim_start();
                parts.push(word);
                rest = rest[..at].trim_end();
            }
            parts.extend((!rest.is_empty()).then_some(rest));
        }
    }
    Ok(parts.into_iter().rev().collect())
}

pub(super) fn add_to(environment: &mut Environment<'static>) {
    // Runs of what Python's `\\w` means.
    environment.add_filter("wordcount", |text: &str| {
        text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty()).count()
    });
    environment.add_filter("format", |state: &mut State, format: &str, args: Rest<Value>| printf(state, format, &args));
}

/// A text with `%s` and the like in it, and what comes in their place.
pub(super) fn printf(state: &State, text: &str, args: &[Value]) -> Result<String, Error> {
    pay_ahead(state, text, args)?;
    format(FormatStyle::Printf, text, args)
}

/// Pays for the most that a format and its arguments can become: every width it asks for, and the longest argument in
/// every field. minijinja would count the text only once it is made.
fn pay_ahead(state: &State, format: &str, args: &[Value]) -> Result<(), Error> {
    let fields = format.bytes().filter(|b| matches!(b, b'{' | b'%')).count() as u64;
    let numbers = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let widths = numbers.fold(0u64, |sum, n| sum.saturating_add(n.parse().unwrap_or(u64::MAX)));
    let longest = args.iter().map(|arg| match arg.kind() {
        ValueKind::String => arg.as_str().map_or(0, str::len),
        // Its elements are paid for already.
        ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => arg.to_string().len(),
        _ => 64,
    });
    let longest = longest.max().unwrap_or(0) as u64;
    let bytes = fields.saturating_mul(longest).saturating_add(widths).saturating_add(format.len() as u64);
    state.consume_fuel(bytes / 64)
}
