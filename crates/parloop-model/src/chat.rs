//! Chat templates: from a conversation to the text a model was trained on.
//!
//! A template is a Jinja program that comes with a checkpoint. It runs as it does in Hugging Face's `transformers`
//! (`apply_chat_template`): blocks are trimmed, loops may `break`, values have Python's string methods, and
//! `raise_exception`, `strftime_now` and `tojson` exist. It is untrusted: the work it may do and the bytes it may
//! make are bounded, and it reaches no file.

mod functions;
mod guard;
mod literal;
mod python;
mod source;

use crate::{Error, Result};
pub use literal::Rendered;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value as Jinja};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
pub use source::ChatSource;
pub(crate) use source::{FILE, special_tokens};

/// Work a template may do: instructions, with each 64 bytes that it makes counting as one more.
const FUEL: u64 = 2_000_000;
/// Further work for each byte of the conversation.
const FUEL_A_BYTE: u64 = 16;
/// How deep macros and includes may nest.
const DEPTH: usize = 100;
/// The names under which the environment keeps the templates.
const DEFAULT: &str = "chat template";
const TOOL_USE: &str = "chat template for tools";

/// What someone said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// What was said.
    #[serde(default)]
    pub content: Content,
    /// Whatever else belongs to it, such as `tool_calls`.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: &str, text: impl Into<String>) -> Self {
        Self { role: role.into(), content: Content::Text(text.into()), other: Map::new() }
    }
}

/// The content of a message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Parts such as `{"type": "text", "text": "..."}`.
    Parts(Vec<Value>),
    /// Nothing, as with a message that only calls tools.
    #[default]
    Nothing,
}

impl Content {
    /// The text of a list of text parts, in one piece; `None` for anything else.
    fn joined(&self) -> Option<String> {
        let Self::Parts(parts) = self else { return None };
        let text = |part: &Value| match part.get("type").and_then(Value::as_str) {
            Some("text") => part.get("text").and_then(Value::as_str).map(str::to_owned),
            _ => part.as_str().map(str::to_owned),
        };
        parts.iter().map(text).collect()
    }
}

/// A conversation and how it is to be written.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// What was said so far.
    pub messages: Vec<Message>,
    /// Tools that the model may call, as JSON schemas.
    pub tools: Option<Vec<Value>>,
    /// End with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Further variables of the template, such as `enable_thinking`.
    pub variables: Map<String, Value>,
}

/// A compiled chat template.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The special tokens by name, such as `bos_token`.
    tokens: Map<String, Value>,
    has_tool_use: bool,
    /// The program as it was given.
    source: String,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("tokens", &self.tokens).finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles a template.
    ///
    /// # Errors
    /// The template is no Jinja; the message has the line.
    pub fn new(source: &ChatSource) -> Result<Self> {
        let mut environment = Environment::new();
        let fail = |e: minijinja::Error| Error::Input(format!("the chat template cannot be read: {}", describe(&e)));
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(fail)?;
        environment.set_syntax(syntax);
        environment.set_recursion_limit(DEPTH);
        environment.set_unknown_method_callback(python::method);
        functions::add_to(&mut environment);
        python::add_to(&mut environment);
        guard::add_to(&mut environment);
        // It would show everything, whatever its size.
        environment.remove_global("debug");
        for (name, text) in [(DEFAULT, Some(&source.template)), (TOOL_USE, source.tool_use.as_ref())] {
            if let Some(text) = text {
                // Line ends are read as Jinja2 reads them.
                let text = text.replace("\r\n", "\n").replace('\r', "\n");
                let text = guard::guarded(&source::without_generation_tags(&text))
                    .map_err(|what| Error::Input(format!("the chat template cannot be read: {what}")))?;
                environment.add_template_owned(name, text).map_err(fail)?;
            }
        }
        let tokens = source.tokens.iter().map(|(name, token)| (name.clone(), token.as_str().into())).collect();
        Ok(Self { environment, tokens, has_tool_use: source.tool_use.is_some(), source: source.template.clone() })
    }

    /// The Jinja program.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The special tokens by name, such as `bos_token`.
    pub fn tokens(&self) -> &Map<String, Value> {
        &self.tokens
    }

    /// Whether a template holds a text, be it to write it or to look for it.
    pub fn mentions(&self, text: &str) -> bool {
        self.environment.templates().any(|(_, template)| template.source().contains(text))
    }

    /// Writes a conversation. Lists of text parts become plain text where the template cannot take lists.
    ///
    /// # Errors
    /// The template refuses the conversation (its own words are in the message), fails, or does not come to an end
    /// within the work it may do.
    pub fn render(&self, conversation: &Conversation) -> Result<String> {
        let joined: Option<Vec<String>> = conversation
            .messages
            .iter()
            .filter(|m| matches!(m.content, Content::Parts(_)))
            .map(|m| m.content.joined())
            .collect();
        // Whether lists are understood shows in what becomes of one.
        if joined.is_some_and(|texts| !texts.is_empty()) && !self.takes_parts() {
            let mut plain = conversation.clone();
            for message in &mut plain.messages {
                if let Some(text) = message.content.joined() {
                    message.content = Content::Text(text);
                }
            }
            return self.render_as_is(&plain);
        }
        self.render_as_is(conversation)
    }

    fn takes_parts(&self) -> bool {
        let part = serde_json::json!({ "type": "text", "text": "probe" });
        let message = Message { role: "user".into(), content: Content::Parts(vec![part]), other: Map::new() };
        let probe = Conversation { messages: vec![message], ..Conversation::default() };
        self.render_as_is(&probe).is_ok_and(|text| text.contains("probe") && !text.contains("'type'"))
    }

    fn render_as_is(&self, conversation: &Conversation) -> Result<String> {
        let Conversation { messages, tools, add_generation_prompt, variables } = conversation;
        let mut context = self.tokens.clone();
        let json = |e: serde_json::Error| Error::Input(format!("the conversation cannot be passed on: {e}"));
        context.insert("messages".into(), serde_json::to_value(messages).map_err(json)?);
        context.insert("tools".into(), tools.clone().map_or(Value::Null, Value::Array));
        context.insert("documents".into(), Value::Null);
        context.insert("add_generation_prompt".into(), (*add_generation_prompt).into());
        context.extend(variables.clone());
        let size = serde_json::to_string(&context).map_err(json)?.len() as u64;
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(FUEL + FUEL_A_BYTE * size));
        let name = if tools.is_some() && self.has_tool_use { TOOL_USE } else { DEFAULT };
        let template = environment.get_template(name).and_then(|t| t.render(Jinja::from(Serde(&context))));
        template.map_err(|e| {
            Error::Input(match (functions::refusal(&e), out_of_fuel(&e)) {
                (Some(words), _) => format!("the model's chat template refuses the conversation: {words}"),
                (None, true) => "the chat template was stopped: it works without end, or writes far more than the \
                                 conversation; give another one with --template"
                    .into(),
                (None, false) => format!("the chat template fails: {}", describe(&e)),
            })
        })
    }
}

/// Every error in a chain, outermost first.
fn chain<'a>(error: &'a minijinja::Error) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &'a (dyn std::error::Error + 'static)), |e| e.source())
}

fn out_of_fuel(error: &minijinja::Error) -> bool {
    chain(error).filter_map(|e| e.downcast_ref::<minijinja::Error>()).any(|e| e.kind() == ErrorKind::OutOfFuel)
}

/// The innermost reason and the line.
fn describe(error: &minijinja::Error) -> String {
    let innermost = chain(error).filter_map(|e| e.downcast_ref::<minijinja::Error>()).last().unwrap_or(error);
    let what = innermost.detail().map_or_else(|| innermost.kind().to_string(), str::to_owned);
    match innermost.line().or(error.line()) {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

#[cfg(test)]
mod tests;
