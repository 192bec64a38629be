//! Conversations in files.

use super::super::read_text;
use anyhow::{Context, Result, bail};
use parloop_model::Message;
use parloop_model::chat::Content;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// Writes the messages as JSON, with whatever else is to be found again. What someone else wrote is not replaced.
pub fn save(messages: &[Message], more: Value, path: &Path) -> Result<()> {
    let mut whole = json!({ "messages": messages });
    if let (Some(whole), Value::Object(more)) = (whole.as_object_mut(), more) {
        whole.extend(more);
    }
    let text = serde_json::to_string_pretty(&whole)?;
    let mut options = std::fs::OpenOptions::new();
    match std::fs::read_to_string(path) {
        Ok(held) if parse(&held).is_err() => {
            bail!("{} holds no conversation and is not replaced", path.display())
        }
        Ok(_) => options.write(true).truncate(true),
        Err(_) => options.write(true).create_new(true),
    };
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// The messages of a saved conversation, and what else the file holds.
pub fn load(path: &Path) -> Result<(Vec<Message>, Value)> {
    parse(&read_text(path)?).with_context(|| path.display().to_string())
}

fn parse(text: &str) -> Result<(Vec<Message>, Value)> {
    let whole: Value = serde_json::from_str(text).context("is no conversation: it is not JSON")?;
    let list = whole["messages"].as_array().context("is no conversation: it has no list \"messages\"")?;
    let message = |value: &Value| {
        serde_json::from_value(value.clone()).map_err(|e| anyhow::anyhow!("is no conversation: a message has {e}"))
    };
    Ok((list.iter().map(message).collect::<Result<_>>()?, whole))
}

/// The text of the system message with which a conversation begins.
pub fn system(messages: &[Message]) -> Option<String> {
    match messages.first() {
        Some(Message { role, content: Content::Text(text), .. }) if role == "system" => Some(text.clone()),
        _ => None,
    }
}
