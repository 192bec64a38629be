//! What templates use of Python's values: methods and formats.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Rest, ValueKind};
use minijinja::{Environment, Error, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

/// What stands behind `value.method(...)`.
pub(super) fn method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let ("format", Some(format)) = (method, value.as_str()) {
        pay_ahead(state, format, args)?;
    }
    unknown_method_callback(state, value, method, args)
}

pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter("format", |state: &mut State, format: &str, args: Rest<Value>| printf(state, format, &args));
}

/// A text with `%s` and the like in it, and what comes in their place.
fn printf(state: &State, text: &str, args: &[Value]) -> Result<String, Error> {
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
