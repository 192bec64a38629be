//! What a value of an option may be, and reading one from text.

use serde::Serialize;
use std::fmt;

/// What an option may be.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Allowed {
    /// True or false.
    Switch,
    /// Any text.
    Text,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// The name of a recipe, or a table with its fields.
    Recipe,
    /// A whole number between these two, which are allowed.
    Whole(u64, u64),
    /// A number between `low` and `high`, which are allowed.
    Number {
        /// The smallest allowed.
        low: f64,
        /// The largest allowed.
        high: f64,
    },
    /// A number above the first and at most the second.
    Above(f64, f64),
    /// A number of at least the first and below the second.
    Below(f64, f64),
}

impl Allowed {
    /// Whether a value is allowed.
    pub fn holds(&self, value: &toml::Value) -> bool {
        let number = || match value {
            toml::Value::Integer(n) => *n as f64,
            toml::Value::Float(x) => *x,
            _ => f64::NAN,
        };
        // Comparisons are written so that NaN fails.
        match *self {
            Self::Switch => value.is_bool(),
            Self::Text => value.is_str(),
            Self::OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Recipe => value.is_str() || value.is_table(),
            Self::Whole(low, high) => {
                value.as_integer().and_then(|n| u64::try_from(n).ok()).is_some_and(|n| low <= n && n <= high)
            }
            Self::Number { low, high } => low <= number() && number() <= high,
            Self::Above(low, high) => low < number() && number() <= high,
            Self::Below(low, high) => low <= number() && number() < high,
        }
    }

    /// The value that a text stands for, if it is of the right kind: `5`, `1e-3`, `true`, a word or a TOML table.
    pub fn parse(&self, text: &str) -> toml::Value {
        let toml = || format!("v = {text}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("v"));
        let word = || toml::Value::from(text);
        match self {
            // `Once` and `"Once"` are the same text, and `5` is a text, too.
            Self::Text | Self::OneOf(_) => toml().filter(toml::Value::is_str).unwrap_or_else(word),
            _ => toml().unwrap_or_else(word),
        }
    }
}

/// What is allowed, for the sentence "x is 5, expected ...".
impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Switch => f.write_str("true or false"),
            Self::Text => f.write_str("a text"),
            Self::OneOf([most @ .., last]) if !most.is_empty() => write!(f, "{} or {last}", most.join(", ")),
            Self::OneOf(words) => f.write_str(&words.concat()),
            Self::Recipe => f.write_str("the name of a recipe or a table with its fields"),
            Self::Whole(low, high) => write!(f, "a whole number from {low} to {high}"),
            Self::Number { low, high } => write!(f, "a number from {low} to {high}"),
            Self::Above(low, high) => write!(f, "a number above {low} and at most {high}"),
            Self::Below(low, high) => write!(f, "a number of at least {low} and below {high}"),
        }
    }
}

/// A field's value as TOML has it.
pub(super) fn of(value: &impl Serialize) -> toml::Value {
    // Options are numbers, words and tables of these; a number beyond TOML's is caught as no number.
    toml::Value::try_from(value).unwrap_or(toml::Value::Float(f64::NAN))
}
