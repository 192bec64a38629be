//! Control tokens in what people say are text.
//!
//! A template writes its control tokens and people's words into one text. To tell them apart, a mark is put into every
//! control token that a message happens to spell; where it comes out, the token is text.

use super::{ChatTemplate, Content, Conversation, Message};
use crate::{Result, Tokenizer};
use serde_json::Value;

/// Characters that Unicode keeps free for uses like this. One that no message holds is taken.
const MARKS: std::ops::RangeInclusive<char> = '\u{FDD0}'..='\u{FDEF}';

/// A conversation as a template writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Offsets in the text, in ascending order, at which no special token begins though it reads like one.
    pub literal: Vec<usize>,
}

impl Rendered {
    /// The ids of the text from an offset on.
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn ids(&self, from: usize, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let text = self.text.get(from..).unwrap_or_default();
        let literal: Vec<usize> = self.literal.iter().filter_map(|at| at.checked_sub(from)).collect();
        tokenizer.encode_literal(text, &literal)
    }
}

impl ChatTemplate {
    /// [`ChatTemplate::render`], where control tokens in the messages are text. Those in answers of the model are its
    /// own, and stay what they are.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_literal(&self, conversation: &Conversation, tokenizer: &Tokenizer) -> Result<Rendered> {
        let spelled = |message: &Message| serde_json::to_string(message).unwrap_or_default();
        let said: String = conversation.messages.iter().map(spelled).collect();
        let Some(mark) = MARKS.into_iter().find(|mark| !said.contains(*mark)) else {
            // Nobody writes all of them but to break this.
            return Err(crate::Error::Input(format!(
                "the messages hold all of the characters {MARKS:?}, expected text"
            )));
        };
        let marked = |text: &str| {
            let mut out = String::with_capacity(text.len());
            for (at, c) in text.char_indices() {
                out.push(c);
                if tokenizer.begins_special(&text[at..]) {
                    out.push(mark);
                }
            }
            out
        };
        let mut conversation = conversation.clone();
        for message in conversation.messages.iter_mut().filter(|m| m.role != "assistant") {
            match &mut message.content {
                Content::Text(text) => *text = marked(text),
                Content::Parts(parts) => parts.iter_mut().for_each(|part| each_text(part, &marked)),
                Content::Nothing => {}
            }
            message.other.values_mut().for_each(|value| each_text(value, &marked));
        }
        let written = self.render(&conversation)?;
        let mut rendered = Rendered::default();
        for c in written.chars() {
            if c == mark {
                let before = rendered.text.chars().next_back().map_or(0, char::len_utf8);
                rendered.literal.push(rendered.text.len() - before);
            } else {
                rendered.text.push(c);
            }
        }
        rendered.literal.dedup();
        Ok(rendered)
    }
}

/// Changes every text in a value.
fn each_text(value: &mut Value, change: &impl Fn(&str) -> String) {
    match value {
        Value::String(text) => *text = change(text),
        Value::Array(list) => list.iter_mut().for_each(|value| each_text(value, change)),
        Value::Object(map) => map.values_mut().for_each(|value| each_text(value, change)),
        _ => {}
    }
}
