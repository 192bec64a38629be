//! Conversations as ids of which only the answers are asked for.

use parloop_eval::Labelled;
use parloop_model::chat::{Conversation, Message};
use parloop_model::{ChatTemplate, Tokenizer};
use serde_json::Value;

/// Whether a line of JSON is a conversation.
pub(super) fn is_conversation(line: &Value) -> bool {
    line.get("messages").is_some()
}

/// A conversation, `{"messages": [{"role", "content"}, ...], "tools": [...]}`, as the template writes it. Asked for is
/// what the template adds with each message of the assistant to the text that asks for one: the answer and the mark
/// that ends it.
///
/// # Errors
/// What is wrong with it, as a phrase.
pub(super) fn labelled(line: &Value, template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<Labelled, String> {
    let messages: Vec<Message> = serde_json::from_value(line["messages"].clone())
        .map_err(|e| format!("has messages that are none: {e}; expected objects with role and content"))?;
    let tools = match line.get("tools") {
        None | Some(Value::Null) => None,
        Some(Value::Array(tools)) => Some(tools.clone()),
        Some(_) => return Err("has tools that are no list".into()),
    };
    let written = |count: usize, add_generation_prompt: bool| {
        let conversation = Conversation {
            messages: messages[..count].to_vec(),
            tools: tools.clone(),
            add_generation_prompt,
            ..Conversation::default()
        };
        template.render_literal(&conversation, tokenizer).map_err(|e| e.to_string())
    };
    let (mut ids, mut asked, mut done) = (Vec::new(), Vec::new(), 0);
    for n in (0..messages.len()).filter(|n| messages[*n].role == "assistant") {
        let (before, after) = (written(n, true)?, written(n + 1, false)?);
        if !after.text.starts_with(&before.text) || before.text.len() < done {
            return Err(format!(
                "cannot be cut into questions and answers: the template writes message {} otherwise once it is answered",
                n + 1
            ));
        }
        for (text, from, ask) in [(&before, done, false), (&after, before.text.len(), true)] {
            let new = text.ids(from, tokenizer).map_err(|e| e.to_string())?;
            asked.resize(asked.len() + new.len(), ask);
            ids.extend(new);
        }
        done = after.text.len();
    }
    if !asked.iter().skip(1).any(|asked| *asked) {
        return Err("has no message of the assistant: nothing is asked".into());
    }
    let targets = (1..ids.len()).map(|at| asked[at].then_some(ids[at])).collect();
    ids.pop();
    Ok(Labelled { ids, targets, levels: Vec::new() })
}
