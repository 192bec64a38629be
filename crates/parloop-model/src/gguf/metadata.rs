//! Metadata by key, with errors that name the key, what was found and what was expected.

use super::reader::Result;
use super::value::{Array, Value};
use std::collections::HashMap;

/// A file's metadata.
pub(super) struct Metadata<'a>(pub &'a HashMap<String, Value>);

/// A value as messages show it.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(array) => format!("an array of {}", array.len()),
        Value::String(text) => format!("\"{}\"", text.chars().take(60).collect::<String>()),
        other => {
            let text = format!("{other:?}");
            text.split_once('(').map_or(text.clone(), |(_, rest)| rest.trim_end_matches(')').to_owned())
        }
    }
}

impl<'a> Metadata<'a> {
    /// A value of some type; `None` if the key is absent.
    fn get<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| format!("has {key} = {}, expected {expected}", shown(value)))
    }

    /// Turns an absent key into an error.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| format!("lacks the metadata key {key}"))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.get(key, "a text", |v| if let Value::String(text) = v { Some(text.as_str()) } else { None })
    }

    /// A whole number of at least 0. A list of one such number for each layer counts as that number.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, "a whole number, the same for all layers", |v| match v {
            Value::Array(array) => {
                let values = array.integers()?;
                let first = *values.first()?;
                values.iter().all(|v| *v == first).then_some(first)?.try_into().ok()
            }
            other => other.integer()?.try_into().ok(),
        })
    }

    /// A token id.
    pub fn id(&self, key: &str) -> Result<Option<u32>> {
        self.get(key, "a token id", |v| v.integer()?.try_into().ok())
    }

    /// A number.
    pub fn number(&self, key: &str) -> Result<Option<f32>> {
        self.get(key, "a number", Value::number)
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.get(key, "true or false", |v| if let Value::Bool(v) = v { Some(*v) } else { None })
    }

    /// An array.
    pub fn array(&self, key: &str) -> Result<Option<&'a Array>> {
        self.get(key, "an array", |v| if let Value::Array(array) = v { Some(array) } else { None })
    }

    /// Refuses keys that start with `prefix` unless the rest is `known`.
    pub fn only(&self, prefix: &str, known: &[&str]) -> Result<()> {
        let mut keys: Vec<_> = self.0.iter().filter_map(|(k, v)| Some((k.strip_prefix(prefix)?, v))).collect();
        keys.sort_by_key(|(key, _)| *key);
        match keys.into_iter().find(|(key, _)| !known.contains(key)) {
            None => Ok(()),
            Some((key, value)) => Err(format!(
                "has {prefix}{key} = {}, which this version does not know and will not ignore",
                shown(value)
            )),
        }
    }
}
