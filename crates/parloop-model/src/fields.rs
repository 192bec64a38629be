//! Reading a JSON object key by key, with errors in plain words: which key, what was found, what was expected.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One id or several, as configuration files have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIds {
    /// A single id.
    One(u32),
    /// A list of ids.
    Many(Vec<u32>),
}

impl TokenIds {
    /// The ids as a slice.
    pub fn as_slice(&self) -> &[u32] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

/// A JSON object of which each key is taken once; what is left over is for the caller to judge.
pub(crate) struct Fields {
    map: Map<String, Value>,
    /// Stands before each key in messages: "" or for example "loop.".
    path: String,
}

/// A type that a key may have.
pub(crate) trait Field: Sized {
    /// What a message says was expected.
    const EXPECTED: &'static str;
    /// The value, if it is of this type.
    fn read(value: &Value) -> Option<Self>;
}

impl Field for usize {
    const EXPECTED: &'static str = "a whole number of at least 0";
    fn read(value: &Value) -> Option<Self> {
        value.as_u64()?.try_into().ok()
    }
}

impl Field for u32 {
    const EXPECTED: &'static str = "a whole number from 0 to 4294967295";
    fn read(value: &Value) -> Option<Self> {
        value.as_u64()?.try_into().ok()
    }
}

impl Field for f32 {
    const EXPECTED: &'static str = "a number";
    fn read(value: &Value) -> Option<Self> {
        Some(value.as_f64()? as f32)
    }
}

impl Field for bool {
    const EXPECTED: &'static str = "true or false";
    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl Field for String {
    const EXPECTED: &'static str = "a text";
    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl Field for Vec<String> {
    const EXPECTED: &'static str = "a list of texts";
    fn read(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(String::read).collect()
    }
}

impl Field for Vec<usize> {
    const EXPECTED: &'static str = "a list of whole numbers";
    fn read(value: &Value) -> Option<Self> {
        value.as_array()?.iter().map(usize::read).collect()
    }
}

impl Field for TokenIds {
    const EXPECTED: &'static str = "a token id or a list of token ids";
    fn read(value: &Value) -> Option<Self> {
        match value.as_array() {
            Some(ids) => ids.iter().map(u32::read).collect::<Option<_>>().map(Self::Many),
            None => u32::read(value).map(Self::One),
        }
    }
}

impl Fields {
    /// The fields of the whole file.
    pub fn of_file(value: Value) -> Result<Self> {
        Self::new(value, "").map_err(|_| Error::Config("is not a JSON object, expected a configuration in { }".into()))
    }

    fn new(value: Value, key: &str) -> Result<Self> {
        match value {
            Value::Object(map) => {
                Ok(Self { map, path: if key.is_empty() { String::new() } else { format!("{key}.") } })
            }
            other => Err(Error::Config(format!("{key} is {}, expected an object in {{ }}", shown(&other)))),
        }
    }

    /// Fields that are known to be an object.
    pub fn of_map(map: Map<String, Value>, key: &str) -> Self {
        Self { map, path: format!("{key}.") }
    }

    /// The key as messages name it.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// An error that names a key of this object, what was found, and what was expected.
    pub fn error<T>(&self, key: &str, found: impl std::fmt::Display, expected: &str) -> Result<T> {
        Err(Error::Config(format!("{} is {found}, expected {expected}", self.name(key))))
    }

    /// Refuses keys other than these.
    pub fn known(&self, keys: &[&str]) -> Result<()> {
        match self.map.iter().find(|(key, _)| !keys.contains(&key.as_str())) {
            Some((key, value)) => Err(unknown(&self.name(key), value)),
            None => Ok(()),
        }
    }

    /// Whether the key is there and not null.
    pub fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|v| !v.is_null())
    }

    /// Whether the key is there, null included.
    pub fn names(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Whether a key holds an object that has another key, which is not null.
    pub fn has_inside(&self, key: &str, inner: &str) -> bool {
        self.map.get(key).and_then(|v| v.get(inner)).is_some_and(|v| !v.is_null())
    }

    /// Refuses the absence of keys for which nothing is to be guessed.
    pub fn needs(&self, keys: &[&str]) -> Result<()> {
        match keys.iter().find(|key| !self.has(key)) {
            Some(key) => Err(Error::Config(format!("has no {}, expected a whole number", self.name(key)))),
            None => Ok(()),
        }
    }

    /// Sets a key that is absent or null.
    pub fn set_default(&mut self, key: &str, value: Value) {
        if !self.has(key) {
            self.map.insert(key.into(), value);
        }
    }

    /// Takes a key; absent and null are the same.
    pub fn optional<T: Field>(&mut self, key: &str) -> Result<Option<T>> {
        match self.map.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match T::read(&value) {
                Some(found) => Ok(Some(found)),
                None => self.error(key, shown(&value), T::EXPECTED),
            },
        }
    }

    /// Refuses an object that lacks some of these keys, which must be there, and names all that it lacks.
    pub fn need(&self, keys: &[(&str, &str)]) -> Result<()> {
        let lacks: Vec<_> = keys.iter().filter(|(key, _)| !self.has(key)).collect();
        // One alone is named by whoever takes it.
        let [first @ .., (last, expected)] = &lacks[..] else { return Ok(()) };
        if first.is_empty() {
            return Ok(());
        }
        let first: Vec<String> =
            first.iter().map(|(key, expected)| format!("{} ({expected})", self.name(key))).collect();
        Err(Error::Config(format!("has no {} and no {} ({expected})", first.join(", no "), self.name(last))))
    }

    /// Looks at a key that must be there, which another reader takes.
    pub fn peek<T: Field>(&self, key: &str) -> Result<T> {
        match self.map.get(key).filter(|value| !value.is_null()) {
            None => Err(Error::Config(format!("has no {}, expected {}", self.name(key), T::EXPECTED))),
            Some(value) => match T::read(value) {
                Some(found) => Ok(found),
                None => self.error(key, shown(value), T::EXPECTED),
            },
        }
    }

    /// Takes a key of an object that a key holds, if both are there.
    pub fn inside<T: Field>(&mut self, key: &str, inner: &str) -> Result<Option<T>> {
        let found = self.map.get_mut(key).and_then(Value::as_object_mut).and_then(|map| map.shift_remove(inner));
        match found {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match T::read(&value) {
                Some(found) => Ok(Some(found)),
                None => self.error(&format!("{key}.{inner}"), shown(&value), T::EXPECTED),
            },
        }
    }

    /// Takes a key that must be there.
    pub fn required<T: Field>(&mut self, key: &str) -> Result<T> {
        match self.optional(key)? {
            Some(value) => Ok(value),
            None => Err(Error::Config(format!("has no {}, expected {}", self.name(key), T::EXPECTED))),
        }
    }

    /// Takes a key that is one of a few words.
    pub fn word<T: Copy>(&mut self, key: &str, words: &[(&str, T)]) -> Result<T> {
        let found: String = self.required(key)?;
        match words.iter().find(|(word, _)| *word == found) {
            Some((_, meaning)) => Ok(*meaning),
            None => {
                let list: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                self.error(key, format!("\"{found}\""), &list.join(" or "))
            }
        }
    }

    /// Takes a key that holds an object, if it is there and not null.
    pub fn object(&mut self, key: &str) -> Result<Option<Self>> {
        match self.map.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => Self::new(value, &self.name(key)).map(Some),
        }
    }

    /// Takes away keys that change nothing here.
    pub fn ignore(&mut self, keys: &[&str]) {
        keys.iter().for_each(|key| drop(self.map.remove(*key)));
    }

    /// Takes away keys that must be absent, null, false or an empty list, and refuses any other value by name.
    pub fn switched_off(&mut self, keys: &[&str]) -> Result<()> {
        for key in keys {
            let Some(value) = self.map.remove(*key) else { continue };
            if !is_off(&value) {
                return Err(Error::Config(format!(
                    "has {} = {}, a switch that is not implemented here; expected it absent, null or false",
                    self.name(key),
                    shown(&value)
                )));
            }
        }
        Ok(())
    }

    /// What nobody has taken.
    pub fn rest(self) -> Map<String, Value> {
        self.map
    }
}

/// Whether a switch's value says that it is off: null, false, or an empty list or object.
pub(crate) fn is_off(value: &Value) -> bool {
    value.is_null()
        || value == &Value::Bool(false)
        || value.as_array().is_some_and(Vec::is_empty)
        || value.as_object().is_some_and(Map::is_empty)
}

/// The error for a key that nobody knows.
pub(crate) fn unknown(key: &str, value: &Value) -> Error {
    Error::UnknownKey { key: key.into(), value: shown(value) }
}

/// A value as a message shows it: at most some sixty characters.
fn shown(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
