//! Where a chat template comes from.

use crate::tokenizer::token_text;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) const FILE: &str = "chat_template.jinja";

/// The text of a checkpoint's chat template and the special tokens it may name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatSource {
    /// The Jinja program.
    pub template: String,
    /// Another one for conversations with tools.
    pub tool_use: Option<String>,
    /// Texts of the special tokens by the names that templates use: `bos_token`, `eos_token`, ...
    pub tokens: BTreeMap<String, String>,
}

impl ChatSource {
    /// The template of a checkpoint folder: `chat_template.jinja`, or `chat_template` in `tokenizer_config.json`,
    /// whose content is `config`; a text, or a list of named ones. `None` if there is none.
    ///
    /// # Errors
    /// A file cannot be read, or the key holds something else.
    pub(crate) fn read(folder: &Path, config: &Map<String, Value>) -> Result<Option<Self>> {
        let tokens = special_tokens(config);
        let path = folder.join(FILE);
        if path.exists() {
            let template = crate::tokenizer::read_text(&path)?;
            return Ok(Some(Self { template, tool_use: None, tokens }));
        }
        let bad = || {
            let path = folder.join("tokenizer_config.json");
            Error::file(&path, "has a chat_template that is neither a text nor a list with one named \"default\"")
        };
        match config.get("chat_template") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(Self { template: text.clone(), tool_use: None, tokens })),
            Some(Value::Array(list)) => {
                let named = |name| {
                    let entry = list.iter().find(|t| t.get("name").and_then(Value::as_str) == Some(name))?;
                    Some(entry.get("template")?.as_str()?.to_owned())
                };
                let template = named("default").or_else(|| named("tool_use")).ok_or_else(bad)?;
                Ok(Some(Self { template, tool_use: named("tool_use"), tokens }))
            }
            Some(_) => Err(bad()),
        }
    }
}

/// The keys `*_token` of `tokenizer_config.json`: a text, or an object with `content`.
pub(crate) fn special_tokens(config: &Map<String, Value>) -> BTreeMap<String, String> {
    let named = config.iter().filter(|(name, _)| name.ends_with("_token"));
    named.filter_map(|(name, value)| Some((name.clone(), token_text(value)?.to_owned()))).collect()
}

/// `{% generation %}` marks what a model is trained on and changes no text: here it is a block that always runs.
pub(super) fn without_generation_tags(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let name = tag.trim_start_matches("{%").trim_end_matches("%}").trim_matches(['-', '+']).trim();
        match name {
            "generation" | "endgeneration" => {
                out.push_str(&tag.replace(name, if name == "generation" { "if true" } else { "endif" }));
            }
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out + rest
}
