//! The task format: JSON lines, each one item in one of three forms.
//!
//! | form | keys | scored by |
//! |---|---|---|
//! | labelled ids | `ids`, `targets` (as many, `null` where nothing is asked), `levels` (optional, as many) | whether the most likely id after a position is its target |
//! | answer | `prompt`, `answer` | whether the answer would be written greedily |
//! | choices | `prompt`, `choices`, `label` (index of the right one) | whether the right choice is the most likely |
//!
//! The two forms of text may have a `level` (difficulty). A training run reads the first two: only what is asked counts.

use crate::{Error, Result, json_error};
use parloop_model::Tokenizer;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Bytes of a line at most: no item is longer than what a context holds.
const MOST_LINE: u64 = 16 << 20;

/// One item of a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Item {
    /// Ids, and what the model is to say at some of them.
    Labelled(Labelled),
    /// A prompt, texts that may follow it, and which of them is right.
    Choices(Choices),
    /// A prompt and the text that follows it.
    Answer(Answer),
}

/// Ids with targets. A target belongs to the logits *after* its position, and need not be the next id: an answer can be
/// asked for without being shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labelled {
    /// T ids.
    pub ids: Vec<u32>,
    /// What is asked after each id, if anything.
    pub targets: Vec<Option<u32>>,
    /// The difficulty of each target (operations, hops, position); empty if all are alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub levels: Vec<u32>,
}

/// A prompt with its answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The text before.
    pub prompt: String,
    /// The text that is to follow.
    pub answer: String,
    /// Difficulty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u32>,
}

/// A prompt with several continuations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choices {
    /// The text before.
    pub prompt: String,
    /// Texts that may follow; at least two.
    pub choices: Vec<String>,
    /// Index of the right one.
    pub label: usize,
    /// Difficulty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<u32>,
}

impl Item {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it, as a phrase.
    pub fn parse(line: &str) -> std::result::Result<Self, String> {
        let value: serde_json::Value =
            serde_json::from_str(line).map_err(|e| format!("is not JSON: {}", json_error(&e)))?;
        let object = value.as_object().ok_or("is not a JSON object")?;
        let has = |key| object.contains_key(key);
        let told = |e: serde_json::Error| e.to_string();
        let item = match (has("ids"), has("choices"), has("answer")) {
            (true, false, false) => Self::Labelled(serde_json::from_value(value).map_err(told)?),
            (false, true, false) => Self::Choices(serde_json::from_value(value).map_err(told)?),
            (false, false, true) => Self::Answer(serde_json::from_value(value).map_err(told)?),
            _ => {
                return Err("is no item: expected ids with targets, prompt with answer, or prompt with choices and \
                            label"
                    .into());
            }
        };
        item.check()?;
        Ok(item)
    }

    fn check(&self) -> std::result::Result<(), String> {
        match self {
            Self::Labelled(Labelled { ids, targets, levels }) => {
                if ids.is_empty() || ids.len() != targets.len() {
                    return Err(format!(
                        "has {} ids and {} targets, expected as many, at least 1",
                        ids.len(),
                        targets.len()
                    ));
                }
                if !levels.is_empty() && levels.len() != ids.len() {
                    return Err(format!("has {} ids and {} levels, expected as many or none", ids.len(), levels.len()));
                }
                if targets.iter().all(Option::is_none) {
                    return Err("asks nothing: every target is null".into());
                }
            }
            Self::Choices(Choices { choices, label, .. }) => {
                if choices.len() < 2 || choices.iter().any(String::is_empty) {
                    return Err("needs at least two choices, none of them empty".into());
                }
                if *label >= choices.len() {
                    return Err(format!("has label {label}, expected an index below its {} choices", choices.len()));
                }
            }
            Self::Answer(Answer { answer, .. }) => {
                if answer.is_empty() {
                    return Err("has an empty answer".into());
                }
            }
        }
        Ok(())
    }

    /// The item as ids and targets for a tokenizer; `None` for choices, which are several such.
    ///
    /// # Errors
    /// The tokenizer refuses the text, or the prompt and what the tokenizer puts before it are empty, so that nothing
    /// precedes the answer.
    pub fn labelled(&self, tokenizer: Option<&Tokenizer>) -> std::result::Result<Option<Labelled>, String> {
        match self {
            Self::Labelled(item) => Ok(Some(item.clone())),
            Self::Choices(_) => Ok(None),
            Self::Answer(Answer { prompt, answer, level }) => {
                let mut item = continued(tokenizer, prompt, answer)?;
                if let Some(level) = level {
                    item.levels = vec![*level; item.ids.len()];
                }
                Ok(Some(item))
            }
        }
    }
}

/// A prompt and a text after it as ids; the text's ids are the targets.
pub(crate) fn continued(
    tokenizer: Option<&Tokenizer>,
    prompt: &str,
    text: &str,
) -> std::result::Result<Labelled, String> {
    let tokenizer = tokenizer.ok_or("is text, but the model has no tokenizer: give ids and targets")?;
    let told = |e: parloop_model::Error| e.to_string();
    let (mut ids, _) = tokenizer.around().map_err(told)?;
    ids.extend(tokenizer.encode_bare(prompt).map_err(told)?);
    let asked = tokenizer.encode_bare(text).map_err(told)?;
    if ids.is_empty() || asked.is_empty() {
        return Err("gives no token before, or none after, the end of its prompt".into());
    }
    let mut targets = vec![None; ids.len() - 1];
    targets.extend(asked.iter().copied().map(Some));
    ids.extend(&asked[..asked.len() - 1]);
    Ok(Labelled { ids, targets, levels: Vec::new() })
}

/// Reads a task file whole.
///
/// # Errors
/// The file cannot be read, a line is no item (it is named), or there is none.
pub fn read(path: &Path) -> Result<Vec<Item>> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let mut reader = BufReader::new(file);
    let (mut items, mut bytes) = (Vec::new(), Vec::new());
    for number in 1.. {
        bytes.clear();
        let got = reader.by_ref().take(MOST_LINE + 1).read_until(b'\n', &mut bytes);
        if got.map_err(|e| Error::io("read", path, e))? == 0 {
            break;
        }
        if bytes.len() as u64 > MOST_LINE {
            return Err(Error::line(path, number, format!("is longer than {MOST_LINE} bytes")));
        }
        let line = std::str::from_utf8(&bytes).map_err(|_| Error::line(path, number, "is not UTF-8 text"))?;
        if !line.trim().is_empty() {
            items.push(Item::parse(line.trim()).map_err(|message| Error::line(path, number, message))?);
        }
    }
    if items.is_empty() {
        return Err(Error::file(path, "holds no item; expected JSON lines"));
    }
    Ok(items)
}

/// Items as JSON lines.
///
/// # Errors
/// They cannot be written.
pub fn write(items: &[Item], out: &mut dyn std::io::Write) -> std::io::Result<()> {
    for item in items {
        serde_json::to_writer(&mut *out, item)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_are_read_and_written() {
        for line in [
            r#"{"ids":[1,2],"targets":[null,3],"levels":[0,1]}"#,
            r#"{"ids":[1],"targets":[3]}"#,
            r#"{"prompt":"2+2=","answer":"4"}"#,
            r#"{"prompt":"The sky is","choices":[" blue"," green"],"label":0,"level":2}"#,
        ] {
            let item = Item::parse(line).unwrap();
            let mut again = Vec::new();
            write(std::slice::from_ref(&item), &mut again).unwrap();
            assert_eq!(std::str::from_utf8(&again).unwrap().trim(), line);
        }
    }

    #[test]
    fn what_is_no_item_is_told() {
        for (line, words) in [
            ("{", "not JSON"),
            ("3", "not a JSON object"),
            ("{}", "no item"),
            (r#"{"ids":[1],"targets":[]}"#, "1 ids and 0 targets"),
            (r#"{"ids":[1],"targets":[null]}"#, "asks nothing"),
            (r#"{"ids":[1],"targets":[1],"levels":[1,2]}"#, "2 levels"),
            (r#"{"ids":[-1],"targets":[1]}"#, "invalid value"),
            (r#"{"ids":[1],"targets":[1],"label":2}"#, "label"),
            (r#"{"prompt":"a","answer":""}"#, "empty answer"),
            (r#"{"prompt":"a","choices":["b"],"label":0}"#, "two choices"),
            (r#"{"prompt":"a","choices":["b","c"],"label":2}"#, "label 2"),
            (r#"{"prompt":"a","choices":["b","c"],"answer":"b"}"#, "no item"),
        ] {
            let message = Item::parse(line).unwrap_err();
            assert!(message.contains(words), "{line}: {message}");
        }
    }

    #[test]
    fn a_malformed_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("task.jsonl");
        std::fs::write(&path, "{\"prompt\":\"a\",\"answer\":\"b\"}\n\n{\"prompt\":\"a\"}\n").unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("line 3") && message.contains("task.jsonl"), "{message}");
        std::fs::write(&path, "\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("no item"));
    }

    #[test]
    fn an_answer_is_asked_for_token_by_token() {
        let item = Item::parse(r#"{"prompt":"ab","answer":"cd","level":3}"#).unwrap();
        let labelled = item.labelled(Some(&Tokenizer::Bytes)).unwrap().unwrap();
        assert_eq!(labelled.ids, [97, 98, 99]);
        assert_eq!(labelled.targets, [None, Some(99), Some(100)]);
        assert_eq!(labelled.levels, [3; 3]);
        assert!(continued(Some(&Tokenizer::Bytes), "", "a").is_err());
        assert!(continued(None, "a", "a").unwrap_err().contains("tokenizer"));
    }
}
