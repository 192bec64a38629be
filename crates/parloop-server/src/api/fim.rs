//! Filling in the middle: `suffix` of completions, `POST /v1/fim/completions` and `POST /infill`.

use super::fields::{Fields, short};
use super::job::{Job, Part, Usage};
use super::reading::{Piece, Reading};
use super::sampling::{Asked, request};
use super::stream::{self, Chunk, Render};
use super::{Shown, chat, identifier, now, object};
use crate::app::App;
use crate::error::ApiError;
use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use parloop_engine::Request;
use parloop_model::Tokenizer;
use serde_json::{Value, json};
use std::sync::Arc;

/// How a family of models marks what stands before and after a gap.
struct Marks {
    prefix: &'static str,
    suffix: &'static str,
    /// Where the model begins to write; nothing where that is behind the second part.
    middle: Option<&'static str>,
    /// The suffix comes first.
    suffix_first: bool,
    /// Before the name of another file.
    file: Option<&'static str>,
}

const KNOWN: [Marks; 7] = [
    row("<|fim_prefix|>", "<|fim_suffix|>", Some("<|fim_middle|>"), false, Some("<|file_sep|>")),
    row("<fim_prefix>", "<fim_suffix>", Some("<fim_middle>"), false, Some("<file_sep>")),
    row("<fim-prefix>", "<fim-suffix>", Some("<fim-middle>"), false, None),
    row("<｜fim▁begin｜>", "<｜fim▁hole｜>", Some("<｜fim▁end｜>"), false, None),
    row("▁<PRE>", "▁<SUF>", Some("▁<MID>"), false, None),
    row("<[fim-prefix]>", "<[fim-suffix]>", Some("<[fim-middle]>"), true, None),
    row("[PREFIX]", "[SUFFIX]", None, true, None),
];

/// What such models write at the end of a gap beside the end of a text.
const ENDS: [&str; 9] = [
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<fim_pad>",
    "<fim-pad>",
    "<file_sep>",
    "<repo_name>",
    "▁<EOT>",
    "<|EOT|>",
];

const fn row(
    prefix: &'static str,
    suffix: &'static str,
    middle: Option<&'static str>,
    suffix_first: bool,
    file: Option<&'static str>,
) -> Marks {
    Marks { prefix, suffix, middle, suffix_first, file }
}

/// Marks that a model's tokenizer has, by their ids.
struct Gap<'a> {
    tokenizer: &'a Tokenizer,
    prefix: u32,
    suffix: u32,
    middle: Option<u32>,
    suffix_first: bool,
    file: Option<u32>,
    /// Texts of the marks, which no one's text may spell.
    texts: Vec<&'static str>,
    ends: Vec<u32>,
}

impl<'a> Gap<'a> {
    fn of(app: &'a App, field: &str) -> Result<Self, ApiError> {
        let missing = || ApiError::field(field, "the model has no tokens for filling in the middle: leave it out");
        let tokenizer = app.model.tokenizer().ok_or_else(missing)?;
        KNOWN.iter().find_map(|marks| Self::with(tokenizer, marks)).ok_or_else(missing)
    }

    fn with(tokenizer: &'a Tokenizer, marks: &Marks) -> Option<Self> {
        let id = |text: &str| tokenizer.id(text);
        let (prefix, suffix) = (id(marks.prefix)?, id(marks.suffix)?);
        let middle = match marks.middle {
            Some(text) => Some(id(text)?),
            None => None,
        };
        let mut texts = vec![marks.prefix, marks.suffix];
        texts.extend(marks.middle);
        let mut ends = vec![prefix, suffix];
        ends.extend(middle);
        for text in ENDS {
            ends.extend(id(text).inspect(|_| texts.push(text)));
        }
        Some(Self {
            tokenizer,
            prefix,
            suffix,
            middle,
            suffix_first: marks.suffix_first,
            file: marks.file.and_then(id),
            texts,
            ends,
        })
    }

    /// Ids of a text in which nothing is a mark or a special token, whatever it spells.
    fn plain(&self, text: &str) -> Result<Vec<u32>, ApiError> {
        let mut ids = Vec::new();
        let mut from = 0;
        // Marks need not be special tokens: a cut behind their first letter keeps them text.
        for (at, c) in text.char_indices() {
            if self.texts.iter().any(|mark| text[at..].starts_with(mark)) {
                let cut = at + c.len_utf8();
                ids.extend(self.literal(&text[from..cut])?);
                from = cut;
            }
        }
        ids.extend(self.literal(&text[from..])?);
        Ok(ids)
    }

    fn literal(&self, text: &str) -> Result<Vec<u32>, ApiError> {
        let special = text.char_indices().map(|(at, _)| at).filter(|at| self.tokenizer.begins_special(&text[*at..]));
        Ok(self.tokenizer.encode_literal(text, &special.collect::<Vec<_>>())?)
    }

    /// The prompt whose continuation stands between two texts.
    fn prompt(&self, before: &str, after: &str, files: &[(String, String)]) -> Result<Vec<u32>, ApiError> {
        let mut ids = self.tokenizer.around()?.0;
        for (name, text) in files {
            match self.file {
                Some(mark) => {
                    ids.push(mark);
                    ids.extend(self.plain(&format!("{name}\n{text}\n"))?);
                }
                None => ids.extend(self.plain(&format!("{text}\n\n"))?),
            }
        }
        if let (Some(mark), false) = (self.file, files.is_empty()) {
            ids.push(mark);
            ids.extend(self.plain("filename\n")?);
        }
        let mut parts = [(self.prefix, before), (self.suffix, after)];
        if self.suffix_first {
            parts.reverse();
        }
        for (mark, text) in parts {
            ids.push(mark);
            ids.extend(self.plain(text)?);
        }
        ids.extend(self.middle);
        Ok(ids)
    }
}

/// A request for what stands between two texts.
pub(super) fn gap(
    app: &App,
    fields: &Fields<'_>,
    asked: &Asked,
    before: &str,
    after: &str,
    field: &str,
) -> Result<Request, ApiError> {
    with_files(app, fields, asked, before, after, &[], field)
}

fn with_files(
    app: &App,
    fields: &Fields<'_>,
    asked: &Asked,
    before: &str,
    after: &str,
    files: &[(String, String)],
    field: &str,
) -> Result<Request, ApiError> {
    let gap = Gap::of(app, field)?;
    let context = app.model.config().max_position_embeddings;
    // The first of the other files matter least; what stands around the gap is never cut.
    let mut prompt = gap.prompt(before, after, files)?;
    let mut files = files;
    while let (true, [_, rest @ ..]) = (prompt.len() >= context, files) {
        prompt = gap.prompt(before, after, rest)?;
        files = rest;
    }
    let mut request = request(app, fields, asked, prompt)?;
    (request.ends, request.apart) = (gap.ends, true);
    Ok(request)
}

/// `POST /v1/fim/completions`: a gap, answered in the shape of chat.
pub(crate) async fn fim(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let body = object(&headers, &body)?;
    let fields = Fields(&body);
    fields.check_model(&app)?;
    let before = fields.string("prompt")?.ok_or_else(|| ApiError::field("prompt", "it is missing"))?;
    let after = fields.string("suffix")?.unwrap_or_default();
    let request = gap(&app, &fields, &Asked::read(&fields, None)?, before, after, "suffix")?;
    chat::answer(app, &fields, Job { requests: vec![request], reading: Reading::default() }, None).await
}

/// `POST /infill`, as llama.cpp has it.
pub(crate) async fn infill(State(app): State<Arc<App>>, headers: HeaderMap, body: Bytes) -> Result<Response, ApiError> {
    let body = object(&headers, &body)?;
    let fields = Fields(&body);
    fields.check_model(&app)?;
    let before = fields.string("input_prefix")?.unwrap_or_default();
    let after = fields.string("input_suffix")?.unwrap_or_default();
    // What is being typed behind the prefix.
    let before = format!("{before}{}", fields.string("prompt")?.unwrap_or_default());
    let mut files = Vec::new();
    for (i, file) in fields.list("input_extra")?.unwrap_or_default().iter().enumerate() {
        let part = |name: &str| file.get(name).and_then(Value::as_str);
        match (part("filename"), part("text")) {
            (name, Some(text)) => files.push((name.unwrap_or("file").to_owned(), text.to_owned())),
            _ => {
                let what = format!("{} is no file with a text", short(file));
                return Err(ApiError::field(&format!("input_extra[{i}]"), what));
            }
        }
    }
    let request = with_files(&app, &fields, &Asked::read(&fields, None)?, &before, after, &files, "input_suffix")?;
    let shown = Shown::read(&fields)?;
    let running = Job { requests: vec![request], reading: Reading::default() }.start(&app)?;
    if shown.stream {
        let model = app.name.clone();
        return Ok(stream::answer(app, running, Contents { model }));
    }
    let (mut answers, usage) = running.whole().await?;
    let Some(one) = answers.pop() else { return Ok(Json(json!({})).into_response()) };
    let mut last = content(&app.name, one.text, true);
    finish(&mut last, &usage, one.reason == super::job::Reason::Length, one.timings.json());
    Ok(Json(last).into_response())
}

fn content(model: &str, text: String, stop: bool) -> Value {
    json!({ "index": 0, "content": text, "stop": stop, "model": model, "id": identifier("infill"), "created": now() })
}

fn finish(last: &mut Value, usage: &Usage, cut: bool, timings: Value) {
    last["tokens_evaluated"] = usage.prompt.into();
    last["tokens_cached"] = usage.cached.into();
    last["tokens_predicted"] = usage.written.into();
    last["stop_type"] = if cut { "limit" } else { "eos" }.into();
    last["timings"] = timings;
}

/// llama.cpp's stream: an object for each token, the last with `stop`.
struct Contents {
    model: String,
}

fn text(pieces: Vec<Piece>) -> String {
    let text = |piece| if let Piece::Text(text) = piece { text } else { String::new() };
    pieces.into_iter().map(text).collect()
}

impl Render for Contents {
    fn begin(&mut self, _usage: &Usage) -> Vec<Chunk> {
        Vec::new()
    }

    fn part(&mut self, _choice: usize, part: Part, usage: &Usage) -> Vec<Chunk> {
        match part {
            Part::Token { pieces, .. } => vec![Chunk::data(&content(&self.model, text(pieces), false))],
            Part::End(end) => {
                let mut last = content(&self.model, text(end.pieces), true);
                finish(&mut last, usage, end.reason == super::job::Reason::Length, end.timings.json());
                vec![Chunk::data(&last)]
            }
            Part::Prompt { .. } => Vec::new(),
            Part::Failed(error) => self.failed(&error),
        }
    }

    fn end(&mut self, _usage: &Usage) -> Vec<Chunk> {
        Vec::new()
    }

    fn failed(&mut self, error: &ApiError) -> Vec<Chunk> {
        vec![Chunk::data(&error.body())]
    }
}
