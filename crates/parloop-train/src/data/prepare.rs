//! From files to a folder of shards, with a manifest that says what was read and how.

use super::documents::{self, Document, Format, SourceFile};
use super::shard::ShardWriter;
use super::{chat, tokenizer_hash, tokens};
use crate::{Error, Result};
use parloop_eval::Item;
use parloop_model::{ChatTemplate, TextSettings, Tokenizer};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The name of the manifest.
pub(super) const MANIFEST: &str = "manifest.json";

/// What is to be prepared, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PrepareJob {
    /// Files and folders of text, lines of JSON or parquet; `-` is standard input.
    pub inputs: Vec<PathBuf>,
    /// The folder to be written; it must not exist, or be empty, or be replaced.
    pub out: PathBuf,
    /// Replace the folder, if what is in it was prepared too.
    pub replace: bool,
    /// How to read everything, whatever it is called.
    pub format: Option<Format>,
    /// The key of a line's text, the column of a parquet file's.
    pub text_key: String,
    /// Ids of a shard, from which on the next document begins another.
    pub shard_tokens: u64,
    /// Documents of more ids are left out; 0 leaves out none.
    pub longest: usize,
}

impl PrepareJob {
    /// With the usual settings.
    pub fn new(inputs: Vec<PathBuf>, out: impl Into<PathBuf>) -> Self {
        Self {
            inputs,
            out: out.into(),
            replace: false,
            format: None,
            text_key: "text".into(),
            shard_tokens: 1 << 27,
            longest: 0,
        }
    }
}

/// What a folder of shards is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Running text: every next id is asked for.
    Text,
    /// Examples and conversations: only answers are asked for.
    Answers,
}

/// The manifest of a folder of shards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Manifest {
    /// Version of this form.
    pub format: u32,
    /// What the documents are.
    pub kind: Kind,
    /// Hash of the tokenizer's files, in hexadecimal.
    pub tokenizer: String,
    /// Ids of the tokenizer.
    pub vocabulary: usize,
    /// Ids in all.
    pub tokens: u64,
    /// Documents in all.
    pub documents: u64,
    /// Bytes of text in all.
    pub text: u64,
    /// Ids of the longest document.
    pub longest: u64,
    /// Documents that were left out for their length.
    pub left_out: u64,
    /// The files that were read.
    pub sources: Vec<SourceFile>,
    /// The shards.
    pub shards: Vec<ShardEntry>,
}

/// A shard as the manifest has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShardEntry {
    /// Its name in the folder.
    pub file: String,
    /// Its ids.
    pub tokens: u64,
    /// Its documents.
    pub documents: u64,
    /// Hash of its content, in hexadecimal.
    pub hash: String,
}

impl Manifest {
    const FORMAT: u32 = 1;

    /// The manifest of a folder, which says nothing yet about what lies beside it.
    ///
    /// # Errors
    /// It cannot be read, or is none of this version.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let wrong = |message: String| Error::Prepared { path: path.clone(), message };
        let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
        let manifest: Self =
            serde_json::from_str(&text).map_err(|e| wrong(format!("is no manifest of prepared data: {e}")))?;
        if manifest.format != Self::FORMAT {
            return Err(wrong(format!("has format {}, this version knows {}", manifest.format, Self::FORMAT)));
        }
        Ok(manifest)
    }
}

/// A document's ids, which of them are asked for (with answers), the bytes of its text.
struct Encoded {
    ids: Vec<u32>,
    asked: Vec<bool>,
    text: u64,
    first: bool,
    last: bool,
    kind: Kind,
}

/// Reads everything, on all cores, and writes the folder: whole or not at all. `progress` is told bytes read and bytes
/// in all (0 if that is not known). Conversations need a template, which is kept with the tokenizer.
///
/// # Errors
/// An input cannot be read or understood (file and line are named), the folder exists or cannot be written, or there is
/// no document.
pub fn prepare(
    job: &PrepareJob,
    tokenizer: &Tokenizer,
    settings: &TextSettings,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Manifest> {
    let wrong = |path: &Path, message: &str| Error::Prepared { path: path.to_owned(), message: message.into() };
    let files = documents::list(&job.inputs)?;
    let full = fs::read_dir(&job.out).is_ok_and(|mut entries| entries.next().is_some());
    if full && job.replace && !super::Prepared::is_in(&job.out) {
        return Err(wrong(&job.out, "holds no prepared data, so it is not replaced: name another folder"));
    }
    if full && !job.replace || job.out.is_file() {
        return Err(wrong(&job.out, "exists already: name a folder to be made"));
    }
    let name = job.out.file_name().ok_or_else(|| wrong(&job.out, "is no name of a folder"))?.to_string_lossy();
    let aside = Aside(job.out.with_file_name(format!(".{name}.{}.tmp", std::process::id())));
    if aside.0.exists() {
        fs::remove_dir_all(&aside.0).map_err(|e| Error::io("remove", &aside.0, e))?;
    }
    fs::create_dir_all(&aside.0).map_err(|e| Error::io("create", &aside.0, e))?;
    let manifest = Writing::new(job, tokenizer, settings, &aside.0)?.all(&files, progress)?;
    for (name, bytes) in settings.files(Some(tokenizer)) {
        let path = aside.0.join(name);
        fs::write(&path, bytes).map_err(|e| Error::io("write", &path, e))?;
    }
    let path = aside.0.join(MANIFEST);
    let text = serde_json::to_string_pretty(&manifest).unwrap_or_default();
    fs::write(&path, text + "\n").map_err(|e| Error::io("write", &path, e))?;
    if job.out.exists() {
        let remove = if job.replace { fs::remove_dir_all } else { fs::remove_dir };
        remove(&job.out).map_err(|e| Error::io("replace", &job.out, e))?;
    }
    fs::rename(&aside.0, &job.out).map_err(|e| Error::io("write", &job.out, e))?;
    Ok(manifest)
}

/// A folder that goes if it is not renamed.
struct Aside(PathBuf);

impl Drop for Aside {
    fn drop(&mut self) {
        // Half a data set is of no use, and the error that matters is the first one.
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Writing<'a> {
    job: &'a PrepareJob,
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    /// What is put around a document of text.
    around: (Vec<u32>, Vec<u32>),
    folder: &'a Path,
    shard: Option<ShardWriter>,
    /// Ids of the document under way.
    under_way: u64,
    kind: Option<(Kind, String)>,
    manifest: Manifest,
}

impl<'a> Writing<'a> {
    fn new(job: &'a PrepareJob, tokenizer: &'a Tokenizer, settings: &TextSettings, folder: &'a Path) -> Result<Self> {
        let manifest = Manifest {
            format: Manifest::FORMAT,
            kind: Kind::Text,
            tokenizer: format!("{:016x}", tokenizer_hash(tokenizer)),
            vocabulary: tokenizer.vocab_size(),
            tokens: 0,
            documents: 0,
            text: 0,
            longest: 0,
            left_out: 0,
            sources: Vec::new(),
            shards: Vec::new(),
        };
        let template = settings.chat.as_ref().map(ChatTemplate::new).transpose()?;
        let around = tokens::around(tokenizer, settings.eos_token())?;
        Ok(Self { job, tokenizer, template, around, folder, shard: None, under_way: 0, kind: None, manifest })
    }

    fn all(mut self, files: &[PathBuf], progress: &mut dyn FnMut(u64, u64)) -> Result<Manifest> {
        let sizes: Option<Vec<u64>> = files.iter().map(|path| fs::metadata(path).ok().map(|m| m.len())).collect();
        let (all, mut done) = (sizes.map_or(0, |sizes| sizes.iter().sum()), 0);
        for path in files {
            let format = self.job.format.unwrap_or_else(|| Format::of(path));
            let read = documents::read(path, format, &self.job.text_key.clone(), |documents, bytes| {
                let encode = |document| self.encode(path, document);
                let encoded: Result<Vec<Encoded>> = documents.into_par_iter().map(encode).collect();
                encoded?.into_iter().try_for_each(|document| self.add(path, document))?;
                done += bytes;
                progress(done, all);
                Ok(())
            })?;
            self.manifest.sources.push(read);
        }
        self.close()?;
        if self.manifest.documents == 0 {
            let path = self.job.inputs.first().cloned().unwrap_or_default();
            return Err(Error::NoText { path });
        }
        self.manifest.kind = self.kind.map_or(Kind::Text, |(kind, _)| kind);
        Ok(self.manifest)
    }

    /// A document's ids.
    fn encode(&self, path: &Path, document: Document) -> Result<Encoded> {
        let text = |text: &str, first: bool, last: bool| -> Result<Encoded> {
            let mut ids = if first { self.around.0.clone() } else { Vec::new() };
            tokens::encode(self.tokenizer, text, !first, &mut ids)?;
            if last {
                ids.extend(&self.around.1);
            }
            Ok(Encoded { ids, asked: Vec::new(), text: text.len() as u64, first, last, kind: Kind::Text })
        };
        let (value, number) = match document {
            Document::Text { text: part, first, last } => return text(&part, first, last),
            Document::Line { value, number } => (value, number),
        };
        let wrong = |message: String| Error::Line { path: path.to_owned(), line: number, message };
        let row = if chat::is_conversation(&value) {
            let template = self.template.as_ref().ok_or_else(|| {
                wrong("is a conversation: give a tokenizer that comes with a chat template, such as a model's".into())
            })?;
            chat::labelled(&value, template, self.tokenizer).map_err(wrong)?
        } else if let Some(found) = value.get(&self.job.text_key) {
            let found = found.as_str().ok_or_else(|| wrong(format!("has a {} that is no text", self.job.text_key)))?;
            return text(found, true, true);
        } else if value.get("answer").is_some() {
            let item = Item::parse(&value.to_string()).map_err(wrong)?;
            let row = item.labelled(Some(self.tokenizer)).map_err(wrong)?;
            row.ok_or_else(|| wrong("has choices, which are for tests".into()))?
        } else {
            let keys: Vec<&str> = value.as_object().into_iter().flat_map(|o| o.keys().map(String::as_str)).collect();
            let found = if keys.is_empty() { "no keys".into() } else { format!("the keys {}", keys.join(", ")) };
            let expected = format!("{}, messages, or prompt and answer", self.job.text_key);
            return Err(wrong(format!("has {found}, expected {expected}; name the key of the text")));
        };
        // Every target is the next id here, so a document is its ids, the last target among them.
        let last = row.targets.last().copied().flatten();
        let mut asked = vec![false];
        asked.extend(row.targets.iter().map(Option::is_some));
        let mut ids = row.ids;
        ids.extend(last);
        asked.truncate(ids.len());
        let text = bytes_of(&value);
        Ok(Encoded { ids, asked, text, first: true, last: true, kind: Kind::Answers })
    }

    fn add(&mut self, path: &Path, document: Encoded) -> Result<()> {
        let Encoded { ids, asked, text, first, last, kind } = document;
        match &self.kind {
            Some((before, of)) if *before != kind => {
                let message = format!(
                    "holds {}, but {of} {}: prepare them one by one",
                    if kind == Kind::Text { "text" } else { "answers" },
                    if kind == Kind::Text { "answers" } else { "text" },
                );
                return Err(Error::Prepared { path: path.to_owned(), message });
            }
            Some(_) => {}
            None => self.kind = Some((kind, path.display().to_string())),
        }
        if self.job.longest > 0 && first && last && ids.len() > self.job.longest {
            self.manifest.left_out += 1;
            return Ok(());
        }
        if first && self.shard.as_ref().is_some_and(|shard| shard.tokens() >= self.job.shard_tokens) {
            self.close()?;
        }
        let shard = match &mut self.shard {
            Some(shard) => shard,
            None => {
                let width = if self.tokenizer.vocab_size() <= 1 << 16 { 2 } else { 4 };
                let path = self.folder.join(name(self.manifest.shards.len()));
                self.shard.insert(ShardWriter::create(&path, width, kind == Kind::Answers)?)
            }
        };
        shard.add(&ids, &asked, text)?;
        self.under_way += ids.len() as u64;
        if last {
            shard.end();
            self.manifest.longest = self.manifest.longest.max(std::mem::take(&mut self.under_way));
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(shard) = self.shard.take() else { return Ok(()) };
        let [tokens, documents, text, hash] = shard.finish()?;
        let manifest = &mut self.manifest;
        manifest.tokens += tokens;
        manifest.documents += documents;
        manifest.text += text;
        let file = name(manifest.shards.len());
        manifest.shards.push(ShardEntry { file, tokens, documents, hash: format!("{hash:016x}") });
        Ok(())
    }
}

fn name(shard: usize) -> String {
    format!("shard-{shard:05}.bin")
}

/// Bytes of the texts in a value: what of it a reader would see.
fn bytes_of(value: &Value) -> u64 {
    match value {
        Value::String(text) => text.len() as u64,
        Value::Array(list) => list.iter().map(bytes_of).sum(),
        Value::Object(map) => map.values().map(bytes_of).sum(),
        _ => 0,
    }
}

/// The beginning of the text that inputs hold, at most so many bytes, to train a tokenizer on. Of lines of JSON the text
/// or all texts of messages, prompts and answers.
///
/// # Errors
/// As [`prepare`].
pub fn sample_text(inputs: &[PathBuf], format: Option<Format>, text_key: &str, limit: usize) -> Result<String> {
    let mut sample = String::new();
    for path in documents::list(inputs)? {
        let format = format.unwrap_or_else(|| Format::of(&path));
        let taken = documents::read(&path, format, text_key, |documents, _| {
            for document in documents {
                match document {
                    Document::Text { text, .. } => sample.push_str(&text),
                    Document::Line { value, .. } => texts(value.get(text_key).unwrap_or(&value), &mut sample),
                }
            }
            // Enough: the rest need not be read.
            if sample.len() >= limit { Err(Error::NoText { path: PathBuf::new() }) } else { Ok(()) }
        });
        match taken {
            Ok(_) => {}
            Err(_) if sample.len() >= limit => break,
            Err(e) => return Err(e),
        }
    }
    let mut end = limit.min(sample.len());
    while !sample.is_char_boundary(end) {
        end += 1;
    }
    sample.truncate(end);
    Ok(sample)
}

fn texts(value: &Value, out: &mut String) {
    match value {
        Value::String(text) => {
            out.push_str(text);
            out.push('\n');
        }
        Value::Array(list) => list.iter().for_each(|value| texts(value, out)),
        Value::Object(map) => map.iter().filter(|(key, _)| *key != "role").for_each(|(_, value)| texts(value, out)),
        _ => {}
    }
}
