//! Fields that completions and chat have in common.

use crate::app::App;
use crate::error::ApiError;
use axum::http::StatusCode;
use parloop_engine::{Generation, Request, SampleOptions};
use serde_json::{Map, Value};

/// The fields of a request, each looked at by name.
pub(super) struct Fields<'a>(pub &'a Map<String, Value>);

/// Fields that would change the answer if they were honoured, and are not.
const NOT_HONOURED: [&str; 8] = [
    "logit_bias",
    "presence_penalty",
    "frequency_penalty",
    "response_format",
    "tools",
    "tool_choice",
    "functions",
    "best_of",
];

impl<'a> Fields<'a> {
    /// A field that is there and not null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|v| !v.is_null())
    }

    pub fn bool(&self, name: &str) -> Result<bool, ApiError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(b)) => Ok(*b),
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

    /// A string, or some.
    fn strings(&self, name: &str) -> Result<Vec<String>, ApiError> {
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

    /// Refuses another model, and what cannot be honoured.
    pub fn check(&self, app: &App) -> Result<(), ApiError> {
        if let Some(model) = self.get("model") {
            let name = model.as_str().ok_or_else(|| ApiError::field("model", "it is no string"))?;
            if !name.is_empty() && name != app.name {
                let message = format!("the model \"{name}\" is not served here, \"{}\" is", app.name);
                let error = ApiError { param: Some("model".into()), ..ApiError::new(StatusCode::NOT_FOUND, message) };
                return Err(error.code("model_not_found"));
            }
        }
        for name in NOT_HONOURED {
            let harmless = |v: &Value| match v {
                Value::Number(n) => n.as_f64() == Some(if name == "best_of" { 1.0 } else { 0.0 }),
                Value::String(s) => s == "none" || s == "auto" && self.get("tools").is_none(),
                Value::Array(a) => a.is_empty(),
                Value::Object(o) => o.is_empty() || o.get("type").is_some_and(|t| t == "text"),
                _ => false,
            };
            if self.get(name).is_some_and(|v| !harmless(v)) {
                return Err(ApiError::field(name, "this server does not do that yet: leave it out"));
            }
        }
        Ok(())
    }

    /// How many answers.
    pub fn choices(&self) -> Result<usize, ApiError> {
        Ok(self.whole("n", 1, 64)?.unwrap_or(1) as usize)
    }

    /// Whether the answer is streamed, and whether its last chunk tells the usage.
    pub fn stream(&self) -> Result<Option<bool>, ApiError> {
        let usage = match self.get("stream_options") {
            None => false,
            Some(Value::Object(options)) => Fields(options).bool("include_usage")?,
            Some(_) => return Err(ApiError::field("stream_options", "it is no object")),
        };
        Ok(self.bool("stream")?.then_some(usage))
    }

    /// A request that goes on from `prompt`, with the fields that every kind of request has. `limit` tokens are written if
    /// the request does not say.
    pub fn request(&self, app: &App, prompt: Vec<u32>, limit: Option<u64>) -> Result<Request, ApiError> {
        let context = app.model.config().max_position_embeddings;
        let asked = match self.whole("max_completion_tokens", 0, u64::from(u32::MAX))? {
            None => self.whole("max_tokens", 0, u64::from(u32::MAX))?,
            given => given,
        };
        let tokens = asked.or(limit);
        // Agents look for these words and both numbers; nothing of a stream has been sent yet.
        if prompt.len() > context || prompt.len() == context && tokens != Some(0) {
            let message = format!(
                "This model's maximum context length is {context} tokens, the prompt has {} tokens; it exceeds the \
                 available context size: shorten it",
                prompt.len()
            );
            return Err(ApiError::new(StatusCode::BAD_REQUEST, message).code("context_length_exceeded"));
        }
        let defaults = &app.defaults;
        let sampling = SampleOptions {
            temperature: self.number("temperature")?.or(defaults.temperature()).unwrap_or(1.0),
            top_k: self.whole("top_k", 0, u64::from(u32::MAX))?.map(|k| k as usize).or(defaults.top_k).unwrap_or(0),
            top_p: self.number("top_p")?.or(defaults.top_p).unwrap_or(1.0),
            min_p: self.number("min_p")?.or(defaults.min_p).unwrap_or(0.0),
            repetition_penalty: self.number("repetition_penalty")?.or(defaults.repetition_penalty).unwrap_or(1.0),
            seed: self.whole("seed", 0, u64::MAX)?.unwrap_or_else(super::now),
            ..SampleOptions::default()
        };
        sampling.validate()?;
        let options = Generation {
            tokens: tokens.map_or(usize::MAX, |n| n as usize),
            sampling,
            ignore_end: self.bool("ignore_eos")?,
            ..Generation::default()
        };
        let slot = self.whole("id_slot", 0, app.most as u64 - 1)?.map(|n| n as u32);
        Ok(Request { prompt, options, stop: self.strings("stop")?, slot, ..Request::default() })
    }
}

/// A value as it is shown in a message: not all of a long one.
pub(super) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
