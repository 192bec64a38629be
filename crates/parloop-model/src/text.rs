//! What a model says about text, beyond how it is cut into tokens: special tokens by name, chat templates and defaults
//! of generation. Every form of a checkpoint is read into this one description, and written from it.

use crate::chat::{self, ChatSource};
use crate::tokenizer::{self, read_object};
use crate::{GenerationDefaults, ModelConfig, Result, Tokenizer, generation};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// What a checkpoint says about text beyond its tokenizer.
#[derive(Clone, Debug, Default)]
pub struct TextSettings {
    /// Texts of the special tokens by the names that templates use: `bos_token`, `eos_token`, ...
    pub tokens: BTreeMap<String, String>,
    /// The chat templates.
    pub chat: Option<ChatSource>,
    /// How text is to be generated.
    pub generation: GenerationDefaults,
    /// A folder's `tokenizer_config.json` as it stands, so that what nothing here needs is not lost.
    pub tokenizer_config: Map<String, Value>,
    /// A folder's `generation_config.json` as it stands.
    pub generation_config: Map<String, Value>,
}

impl TextSettings {
    /// What the files of a folder say.
    ///
    /// # Errors
    /// A file cannot be read, or a value in it is not usable.
    pub fn read(folder: &Path, config: &ModelConfig) -> Result<Self> {
        let object = |name: &str| {
            let path = folder.join(name);
            if path.exists() { read_object(&path) } else { Ok(Map::new()) }
        };
        let tokenizer_config = object(tokenizer::CONFIG)?;
        let mut tokens = chat::special_tokens(&object(tokenizer::SPECIAL)?);
        tokens.extend(chat::special_tokens(&tokenizer_config));
        let chat =
            ChatSource::read(folder, &tokenizer_config)?.map(|chat| ChatSource { tokens: tokens.clone(), ..chat });
        let generation = GenerationDefaults::read(folder, config)?;
        Ok(Self { tokens, chat, generation, tokenizer_config, generation_config: object(generation::FILE)? })
    }

    /// The text of the token that ends a text.
    pub fn eos_token(&self) -> Option<&str> {
        self.tokens.get("eos_token").map(String::as_str)
    }

    /// The files of a folder that say all this, those of the tokenizer among them: name and content.
    pub fn files(&self, tokenizer: Option<&Tokenizer>) -> Vec<(&'static str, Vec<u8>)> {
        let json = |object: Map<String, Value>| format!("{:#}\n", Value::Object(object)).into_bytes();
        let mut files = Vec::new();
        if let Some(tokenizer) = tokenizer {
            let mut config = self.tokenizer_config.clone();
            config.remove("chat_template");
            for (name, bytes) in tokenizer.files() {
                match name {
                    tokenizer::CONFIG => config.extend(serde_json::from_slice::<Map<_, _>>(&bytes).unwrap_or_default()),
                    _ => files.push((name, bytes)),
                }
            }
            if matches!(tokenizer, Tokenizer::HuggingFace(_)) {
                config.entry("tokenizer_class").or_insert_with(|| "PreTrainedTokenizerFast".into());
            }
            let said = chat::special_tokens(&config);
            let unsaid = self.tokens.iter().filter(|(name, text)| said.get(*name) != Some(text));
            config.extend(unsaid.map(|(name, text)| (name.clone(), text.as_str().into())));
            if let Some(ChatSource { template, tool_use: Some(tool_use), .. }) = &self.chat {
                config.insert(
                    "chat_template".into(),
                    serde_json::json!([
                        { "name": "default", "template": template }, { "name": "tool_use", "template": tool_use },
                    ]),
                );
            }
            files.push((tokenizer::CONFIG, json(config)));
        }
        if let Some(ChatSource { template, tool_use: None, .. }) = &self.chat {
            files.push((chat::FILE, template.clone().into_bytes()));
        }
        let mut generation = self.generation_config.clone();
        generation.extend(self.generation.to_json());
        if !generation.is_empty() {
            files.push((generation::FILE, json(generation)));
        }
        files
    }
}
