//! The fields of a request, each looked at by its name.

use crate::app::App;
use crate::error::ApiError;
use axum::http::StatusCode;
use serde_json::{Map, Value};

/// The fields of a request.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub &'a Map<String, Value>);

/// Values that ask for nothing, whatever the field.
fn asks_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty() || s == "none" || s == "auto",
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

impl<'a> Fields<'a> {
    /// A field that is there and not null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|v| !v.is_null())
    }

    pub fn bool(&self, name: &str) -> Result<bool, ApiError> {
        Ok(self.maybe(name)?.unwrap_or(false))
    }

    /// True, false, or nothing.
    pub fn maybe(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(other) => Err(ApiError::field(name, format!("{} is neither true nor false", short(other)))),
        }
    }

    /// A whole number from `least` to `most`.
    pub fn whole(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64().filter(|n| (least..=most).contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(ApiError::field(name, format!("{} is no whole number from {least} to {most}", short(value)))),
        }
    }

    pub fn number(&self, name: &str) -> Result<Option<f32>, ApiError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64() {
            Some(n) => Ok(Some(n as f32)),
            None => Err(ApiError::field(name, format!("{} is no number", short(value)))),
        }
    }

    /// A number from `least` to `most`.
    pub fn between(&self, name: &str, least: f32, most: f32) -> Result<Option<f32>, ApiError> {
        match self.number(name)? {
            Some(n) if !(least..=most).contains(&n) => {
                Err(ApiError::field(name, format!("{n} is no number from {least} to {most}")))
            }
            n => Ok(n),
        }
    }

    pub fn string(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(ApiError::field(name, format!("{} is no string", short(other)))),
        }
    }

    pub fn list(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Array(all)) => Ok(Some(all)),
            Some(other) => Err(ApiError::field(name, format!("{} is no list", short(other)))),
        }
    }

    pub fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(other) => Err(ApiError::field(name, format!("{} is no object", short(other)))),
        }
    }

    /// A string, or some.
    pub fn strings(&self, name: &str) -> Result<Vec<String>, ApiError> {
        let wrong = |v: &Value| ApiError::field(name, format!("{} is neither a string nor a list of some", short(v)));
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one.clone()]),
            Some(Value::Array(all)) => {
                all.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(|| wrong(v))).collect()
            }
            Some(other) => Err(wrong(other)),
        }
    }

    /// Refuses another model.
    pub fn check_model(&self, app: &App) -> Result<(), ApiError> {
        match self.string("model")? {
            Some(name) if !name.is_empty() && name != app.name => {
                let message = format!("the model \"{name}\" is not served here, \"{}\" is", app.name);
                let error = ApiError { param: Some("model".into()), ..ApiError::new(StatusCode::NOT_FOUND, message) };
                Err(error.code("model_not_found"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses fields that would change the answer if they were honoured, and are not.
    pub fn refuse(&self, names: &[&str]) -> Result<(), ApiError> {
        match names.iter().find(|name| self.get(name).is_some_and(|v| !asks_nothing(v))) {
            Some(name) => Err(ApiError::field(name, "this server does not do that: leave it out")),
            None => Ok(()),
        }
    }
}

/// A value as it is shown in a message: not all of a long one.
pub(crate) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
