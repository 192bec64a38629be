//! A conversation with a server that speaks OpenAI's interface.

use super::super::plural;
use super::command::{Command, HELP};
use super::{Chat, Outcome, kept};
use crate::args::numbers::{above_zero, at_least, penalty, seed, share, temperature, tokens};
use crate::client::Server;
use crate::interrupt;
use crate::terminal::flow::Flow;
use crate::terminal::{aside, tell};
use anyhow::Result;
use parloop_model::Message;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a server may be silent: a long prompt takes its time.
const PATIENCE: Duration = Duration::from_secs(600);
/// Words with which servers say that a conversation is longer than their context.
const FULL: [&str; 3] = ["context_length_exceeded", "maximum context length", "exceeds the available context size"];
/// Settings by the names of `/set`, with their fields.
const SETTINGS: [(&str, &str); 7] = [
    ("temp", "temperature"),
    ("top-k", "top_k"),
    ("top-p", "top_p"),
    ("min-p", "min_p"),
    ("repeat-penalty", "repetition_penalty"),
    ("seed", "seed"),
    ("tokens", "max_tokens"),
];

/// A conversation with a server.
pub struct Remote {
    server: Server,
    model: String,
    /// The slot of ours, if the server has some.
    slot: Option<u64>,
    messages: Vec<Message>,
    system: Option<String>,
    /// Fields of a request that were asked for; the others are the server's affair.
    fields: Map<String, Value>,
    quiet: bool,
    json: bool,
    last: Option<String>,
}

/// What came of a request.
struct Answer {
    text: String,
    finish: String,
    usage: Option<Value>,
    pieces: u64,
    first: Duration,
    whole: Duration,
}

impl Remote {
    /// Asks the server of `--url` what it is.
    pub fn new(args: &Chat, url: &str) -> Result<Self> {
        let server = Server::new(url, args.api_key.as_deref().filter(|key| !key.is_empty()), PATIENCE)?;
        let model = match &args.model.model {
            Some(name) => name.to_string_lossy().into_owned(),
            None => server.model()?,
        };
        // Slots are an extension that some servers have.
        let slots = server.get("/props").ok().and_then(|props| props["total_slots"].as_u64()).filter(|n| *n > 0);
        let (s, w) = (&args.sampling, &args.writing);
        let mut fields = Map::new();
        let mut set = |name: &str, value: Option<Value>| _ = value.map(|value| fields.insert(name.into(), value));
        set("temperature", s.temp.map(|v| json!(v)));
        set("top_k", s.top_k.map(|v| json!(v)));
        set("top_p", s.top_p.map(|v| json!(v)));
        set("min_p", s.min_p.map(|v| json!(v)));
        set("repetition_penalty", s.repeat_penalty.map(|v| json!(v)));
        set("seed", Some(json!(s.seed)));
        set("max_tokens", w.tokens.filter(|n| *n != usize::MAX).map(|v| json!(v)));
        set("stop", (!w.stop.is_empty()).then(|| json!(w.stop)));
        set("ignore_eos", w.ignore_eos.then_some(json!(true)));
        let mut remote = Self {
            server,
            model,
            slot: slots.map(|n| u64::from(std::process::id()) % n),
            messages: Vec::new(),
            system: args.template.system.clone(),
            fields,
            quiet: w.quiet,
            json: w.json,
            last: None,
        };
        remote.reset();
        Ok(remote)
    }

    /// What is to be said at the beginning.
    pub fn about(&self) -> String {
        format!("{} at {}", self.model, self.server.address())
    }

    /// Does what a line asks for.
    pub fn act(&mut self, command: Command) -> Result<Outcome> {
        // What goes wrong with a file, a value or the server is said, and the conversation goes on.
        let said = match command {
            Command::Nothing | Command::Bye => Ok(None),
            Command::Say(message) => return self.say(&message),
            Command::Retry => return self.retry(),
            Command::Help => Ok(Some(HELP.to_owned())),
            Command::Wrong(what) => return Ok(Outcome::failed(&what)),
            Command::Reset => {
                self.reset();
                Ok(Some("the conversation is forgotten".into()))
            }
            Command::System(None) => Ok(Some(self.system.clone().unwrap_or_else(|| "no system message".into()))),
            Command::System(text) => {
                self.system = text;
                self.reset();
                Ok(Some("the conversation begins anew after this".into()))
            }
            Command::Save(path) => self.save(&path).map(Some),
            Command::Load(path) => self.load(&path).map(Some),
            Command::Stats => Ok(Some(self.stats())),
            Command::Set(None) => Ok(Some(self.settings())),
            Command::Set(Some((name, value))) => self.set(&name, &value).map(|()| Some(self.settings())),
        };
        Ok(Outcome::told(said))
    }

    fn reset(&mut self) {
        self.messages = self.system.iter().map(|text| Message::new("system", text)).collect();
    }

    fn say(&mut self, message: &str) -> Result<Outcome> {
        self.messages.push(Message::new("user", message));
        if let Err(error) = self.answer()? {
            self.messages.pop();
            return Ok(Outcome::failed(&format!("{error:#}; the message is left out, /reset begins anew")));
        }
        Ok(Outcome::Done)
    }

    fn retry(&mut self) -> Result<Outcome> {
        let Some(answered) = self.messages.pop_if(|last| last.role == "assistant") else {
            return Ok(Outcome::failed("there is no answer to be written anew"));
        };
        // The same seed would write the same.
        let seed = self.fields["seed"].as_u64().unwrap_or(0).wrapping_add(1);
        self.fields.insert("seed".into(), json!(seed));
        if let Err(error) = self.answer()? {
            self.messages.push(answered);
            return Ok(Outcome::failed(&format!("{error:#}")));
        }
        Ok(Outcome::Done)
    }

    /// Streams an answer to the messages. The outer error is that nothing can be printed, the inner one the server's.
    fn answer(&mut self) -> Result<Result<()>> {
        let mut dropped = 0;
        let answer = loop {
            match self.ask() {
                Ok(answer) => break answer,
                Err(error) if error.is::<std::io::Error>() => return Err(error),
                // The oldest turns are left out until the rest has room.
                Err(error) => match FULL.iter().any(|words| error.to_string().contains(words)) && self.drop_oldest() {
                    true => dropped += 1,
                    false => return Ok(Err(error)),
                },
            }
        };
        if dropped > 0 {
            let turns = plural(dropped, "turn is", "turns are");
            tell(&format!("[the server's context is full: the oldest {turns} left out]"));
        }
        let mut out = std::io::stdout().lock();
        if self.json {
            let line = json!({
                "role": "assistant",
                "content": answer.text,
                "finish": answer.finish,
                "usage": answer.usage,
                "first_seconds": answer.first.as_secs_f64(),
                "seconds": answer.whole.as_secs_f64(),
            });
            writeln!(out, "{line}")?;
        } else {
            writeln!(out)?;
        }
        let figures = figures(&answer);
        if !self.quiet {
            aside(&format!("[{figures}]"));
        }
        self.last = Some(figures);
        self.messages.push(Message::new("assistant", &answer.text));
        Ok(Ok(()))
    }

    fn ask(&self) -> Result<Answer> {
        let mut body = json!({
            "model": self.model,
            "messages": self.messages,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        if let Some(body) = body.as_object_mut() {
            body.extend(self.fields.clone());
            body.extend(self.slot.map(|slot| ("id_slot".to_owned(), json!(slot))));
        }
        let start = Instant::now();
        let zero = Duration::ZERO;
        let mut answer =
            Answer { text: String::new(), finish: String::new(), usage: None, pieces: 0, first: zero, whole: zero };
        let mut out = std::io::stdout().lock();
        let mut flow = Flow::new();
        self.server.stream("/v1/chat/completions", &body, |event| {
            if let Some(usage) = event.get("usage").filter(|u| u.is_object()) {
                answer.usage = Some(usage.clone());
            }
            let choice = &event["choices"][0];
            if let Some(reason) = choice["finish_reason"].as_str() {
                answer.finish = reason.to_owned();
            }
            let piece = choice["delta"]["content"].as_str().unwrap_or_default();
            if !piece.is_empty() {
                if answer.pieces == 0 {
                    answer.first = start.elapsed();
                }
                answer.pieces += 1;
                answer.text += piece;
                if !self.json {
                    out.write_all(flow.push(piece).as_bytes())?;
                    out.flush()?;
                }
            }
            if interrupt::asked() {
                answer.finish = "interrupted".into();
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        answer.whole = start.elapsed();
        if !self.json {
            out.write_all(flow.rest().as_bytes())?;
        }
        Ok(answer)
    }

    /// Leaves out the oldest message of the user and what was answered; never the last message.
    fn drop_oldest(&mut self) -> bool {
        super::drop_oldest(&mut self.messages)
    }

    /// Keeps the messages here, and what was computed for them where the server is.
    fn save(&self, path: &Path) -> Result<String> {
        let mut said = format!("kept {} in {}", plural(self.messages.len(), "message", "messages"), path.display());
        let name = format!("chat-{:016x}.state", hash(&serde_json::to_string(&self.messages)?));
        let state = self
            .slot
            .filter(|_| self.last.is_some())
            .map(|slot| self.server.post(&format!("/slots/{slot}?action=save"), &json!({ "filename": name })));
        let mut more = Value::Null;
        match state {
            Some(Ok(saved)) => {
                said += &format!("; the server keeps the state of {} tokens", saved["n_saved"]);
                more = json!({ "state": { "filename": name } });
            }
            Some(Err(error)) => said += &format!("; the server keeps no state: {error:#}"),
            None => {}
        }
        kept::save(&self.messages, more, path)?;
        Ok(said)
    }

    fn load(&mut self, path: &Path) -> Result<String> {
        let (messages, whole) = kept::load(path)?;
        self.system = kept::system(&messages);
        let mut said = format!("{} of {}", plural(messages.len(), "message", "messages"), path.display());
        self.messages = messages;
        if let (Some(slot), Some(name)) = (self.slot, whole["state"]["filename"].as_str()) {
            match self.server.post(&format!("/slots/{slot}?action=restore"), &json!({ "filename": name })) {
                Ok(found) => said += &format!("; the server has the state of {} tokens", found["n_restored"]),
                Err(error) => said += &format!("; what was computed is computed again: {error:#}"),
            }
        }
        Ok(said)
    }

    fn stats(&self) -> String {
        let turns = self.messages.iter().filter(|m| m.role == "user").count();
        let last = self.last.as_deref().unwrap_or("no answer yet");
        format!("{}; turns: {turns}\nlast answer: {last}", self.about())
    }

    fn settings(&self) -> String {
        let of = |(name, field): &(&str, &str)| {
            let value = self.fields.get(*field).map_or_else(|| "the server's".into(), Value::to_string);
            format!("{name} {value}")
        };
        SETTINGS.iter().map(of).collect::<Vec<_>>().join(", ")
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let name = if name == "temperature" { "temp" } else { name };
        let parsed = match name {
            "temp" => temperature(value).map(|v| json!(v)),
            "top-k" => at_least::<usize, 0>(value).map(|v| json!(v)),
            "top-p" => above_zero(value).map(|v| json!(v)),
            "min-p" => share(value).map(|v| json!(v)),
            "repeat-penalty" => penalty(value).map(|v| json!(v)),
            "seed" => seed(value).map(|v| json!(v)),
            "tokens" => tokens(value).map(|v| if v == usize::MAX { Value::Null } else { json!(v) }),
            _ => Err("expected temp, top-k, top-p, min-p, repeat-penalty, seed or tokens".into()),
        };
        let parsed = parsed.map_err(|what| anyhow::anyhow!("/set {name} {value}: {what}"))?;
        if let Some((_, field)) = SETTINGS.iter().find(|(known, _)| *known == name) {
            match parsed {
                Value::Null => _ = self.fields.remove(*field),
                parsed => _ = self.fields.insert((*field).into(), parsed),
            }
        }
        Ok(())
    }
}

fn figures(answer: &Answer) -> String {
    let count = |name: &str| answer.usage.as_ref().and_then(|usage| usage[name].as_u64());
    let written = count("completion_tokens").unwrap_or(answer.pieces);
    let after = (answer.whole - answer.first).as_secs_f64();
    let speed = if written > 1 && after > 0.0 { format!("{:.1}", (written - 1) as f64 / after) } else { "-".into() };
    let all = plural(written as usize, "token", "tokens");
    let mut text = format!("{all} at {speed} tokens/s; the first after {:.2} s", answer.first.as_secs_f64());
    if let Some(prompt) = count("prompt_tokens") {
        let cached = answer.usage.as_ref().and_then(|u| u["prompt_tokens_details"]["cached_tokens"].as_u64());
        text += &format!("; prompt of {prompt}, {} of them kept", cached.unwrap_or(0));
    }
    match answer.finish.as_str() {
        "length" => text += ", cut at the limit",
        "interrupted" => text += ", interrupted",
        _ => {}
    }
    text
}

/// A name for a text (FNV-1a).
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3))
}
