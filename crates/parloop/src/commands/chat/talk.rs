//! A conversation and the state of the model after it.

use super::super::write::{End, Written, write};
use super::super::{bytes, plural};
use super::Outcome;
use super::command::{Command, HELP};
use super::kept;
use crate::args::machine::Budget;
use crate::args::numbers::{above_zero, at_least, penalty, seed, share, temperature, tokens};
use crate::terminal::flow::Flow;
use crate::terminal::{aside, tell};
use anyhow::{Result, ensure};
use parloop_engine::{Engine, Generation, Sequence};
use parloop_kernels::memory;
use parloop_model::chat::Rendered;
use parloop_model::{ChatTemplate, Conversation, Message, Tokenizer};
use std::io::Write;
use std::path::Path;

/// Tokens below which a conversation makes no sense.
const LEAST: usize = 16;

/// What went through the model, as text and as ids.
struct Held {
    text: String,
    ids: Vec<u32>,
}

/// A conversation and the state of the model after it.
pub struct Talk<'a> {
    pub engine: Engine,
    pub stops: Vec<String>,
    pub quiet: bool,
    /// Answers are printed as JSON objects.
    pub json: bool,
    /// Control tokens in messages are what they are, not text.
    pub parse_special: bool,
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    options: Generation,
    system: Option<String>,
    conversation: Conversation,
    held: Option<Held>,
    sequence: Sequence,
    /// Tokens that may be held: the context, or fewer if memory is short.
    most: usize,
    /// The figures of the last answer.
    last: Option<String>,
}

impl<'a> Talk<'a> {
    pub fn new(
        engine: Engine,
        tokenizer: &'a Tokenizer,
        template: ChatTemplate,
        options: Generation,
        system: Option<String>,
    ) -> Self {
        let mut talk = Self {
            stops: Vec::new(),
            quiet: false,
            json: false,
            parse_special: false,
            tokenizer,
            template,
            options,
            system,
            conversation: Conversation { add_generation_prompt: true, ..Conversation::default() },
            held: None,
            sequence: engine.sequence(),
            most: engine.model().config().max_position_embeddings,
            last: None,
            engine,
        };
        talk.reset();
        talk
    }

    /// Keeps the conversation to as many tokens as memory, or what is allowed of it, has room for. Returns what is to
    /// be said about that.
    pub fn limit(&mut self, budget: &Budget) -> Result<Option<String>> {
        let fits = |tokens: usize| {
            let need = self.engine.need(tokens, &self.options.prefill);
            match (budget.kv_budget, memory::available()) {
                (Some(allowed), _) => need.state <= allowed,
                (None, Some(available)) => need.state.saturating_add(need.scratch) <= available,
                (None, None) => true,
            }
        };
        let context = self.most;
        if fits(context) {
            return Ok(None);
        }
        let (mut least, mut most) = (0, context);
        while most - least > 1 {
            let middle = least + (most - least) / 2;
            *(if fits(middle) { &mut least } else { &mut most }) = middle;
        }
        let source = if budget.kv_budget.is_some() { "--kv-budget" } else { "memory" };
        ensure!(
            least >= LEAST,
            "{source} leaves room for {least} tokens of conversation: allow more, or keep keys and values in fewer bits (--kv)"
        );
        self.most = least;
        Ok(Some(format!("{source} leaves room for {least} of the context's {context} tokens")))
    }

    /// Does what a line asks for.
    pub fn act(&mut self, command: Command) -> Result<Outcome> {
        // What goes wrong with a file or a value is said, and the conversation goes on.
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
        self.conversation.messages = self.system.iter().map(|text| Message::new("system", text)).collect();
        self.forget_state();
    }

    fn forget_state(&mut self) {
        self.held = None;
        self.sequence = self.engine.sequence();
    }

    /// Takes a message and streams the answer. A message that cannot be answered is said to be so and left out.
    fn say(&mut self, message: &str) -> Result<Outcome> {
        self.conversation.messages.push(Message::new("user", message));
        match self.prepare() {
            Ok((text, ids)) => self.answer(text, ids),
            Err(error) => {
                self.conversation.messages.pop();
                Ok(Outcome::failed(&format!("{error:#}; the message is left out, /reset begins anew")))
            }
        }
    }

    /// Writes another answer to the last message.
    fn retry(&mut self) -> Result<Outcome> {
        let answered = self.conversation.messages.pop_if(|last| last.role == "assistant");
        if answered.is_none() {
            return Ok(Outcome::failed("there is no answer to be written anew"));
        }
        // The same seed would write the same.
        self.options.sampling.seed = self.options.sampling.seed.wrapping_add(1);
        self.held = None;
        match self.prepare() {
            Ok((text, ids)) => self.answer(text, ids),
            Err(error) => {
                self.conversation.messages.extend(answered);
                Ok(Outcome::failed(&format!("{error:#}")))
            }
        }
    }

    /// The conversation as text and ids; its oldest turns are left out, and that is said, until an answer has room.
    fn prepare(&mut self) -> Result<(String, Vec<u32>)> {
        let room = self.options.tokens.min(self.most / 4).max(1);
        let mut dropped = 0;
        let prepared = loop {
            let rendered = super::rendered(&self.template, &self.conversation, self.tokenizer, self.parse_special)?;
            let ids = self.ids(&rendered)?;
            let text = rendered.text;
            if ids.len() + room <= self.most {
                break (text, ids);
            }
            if !self.drop_oldest() {
                // Of the last message alone, whatever leaves room for some of an answer is taken.
                ensure!(
                    ids.len() < self.most,
                    "the message takes {} tokens, for which the context of {} has no room",
                    ids.len(),
                    self.most
                );
                break (text, ids);
            }
            dropped += 1;
        };
        if dropped > 0 {
            let turns = plural(dropped, "turn is", "turns are");
            tell(&format!("[the context of {} tokens is full: the oldest {turns} left out]", self.most));
        }
        self.engine.model().config().check_tokens(&prepared.1)?;
        Ok(prepared)
    }

    /// Leaves out the oldest message of the user and what was answered; never the last message.
    fn drop_oldest(&mut self) -> bool {
        let dropped = super::drop_oldest(&mut self.conversation.messages);
        if dropped {
            self.held = None;
        }
        dropped
    }

    fn answer(&mut self, text: String, mut ids: Vec<u32>) -> Result<Outcome> {
        // What the state has in common with the text stays; at least one token must be left to go on from.
        let known = self.sequence.tokens().iter().zip(&ids[..ids.len() - 1]).take_while(|(a, b)| a == b).count();
        self.sequence.truncate(known);
        let new = ids[known..].to_vec();
        let options = Generation { tokens: self.options.tokens.min(self.most - ids.len()), ..self.options.clone() };
        let mut out = std::io::stdout().lock();
        let json = self.json;
        let mut flow = Flow::new();
        let written = write(
            &mut self.engine,
            &mut self.sequence,
            &new,
            &options,
            self.tokenizer.stream(),
            &self.stops,
            |piece| {
                if !json && !piece.is_empty() {
                    out.write_all(flow.push(piece).as_bytes())?;
                    out.flush()?;
                }
                Ok(())
            },
        )?;
        if json {
            let answer = serde_json::json!({
                "role": "assistant",
                "content": written.text,
                "ids": written.ids,
                "finish": written.end.name(),
                "prompt_tokens": new.len(),
                "known_tokens": known,
                "prompt_seconds": written.prompt.as_secs_f64(),
                "tokens_per_second": written.speed(),
            });
            writeln!(out, "{answer}")?;
        } else {
            writeln!(out, "{}", flow.rest())?;
        }
        let figures = self.figures(&written, new.len(), known, options.tokens);
        if !self.quiet {
            aside(&format!("[{figures}]"));
        }
        self.last = Some(figures);
        ids.extend(&written.ids);
        // After a stop string the state holds more than the text.
        self.held = (written.end != End::Stop).then(|| Held { text: text + &written.text, ids });
        self.conversation.messages.push(Message::new("assistant", written.text));
        Ok(Outcome::Done)
    }

    /// The line of figures: decode's speed, and the prompt's beside it.
    fn figures(&self, written: &Written, new: usize, known: usize, allowed: usize) -> String {
        let speed = written.speed().map_or("-".into(), |speed| format!("{speed:.1} tokens/s"));
        let prompt = new as f64 / written.prompt.as_secs_f64().max(1e-9);
        let end = match written.end {
            End::Length if allowed < self.options.tokens => {
                ", the context is full: the next message leaves out the oldest turns"
            }
            end => end.words(),
        };
        let (all, new) = (plural(written.ids.len(), "token", "tokens"), plural(new, "new token", "new tokens"));
        format!("{all} at {speed}; {new} after {known} at {prompt:.0} tokens/s{end}")
    }

    /// Ids of the whole conversation; of its past those that went through the model, where the template still writes
    /// the same past.
    fn ids(&self, rendered: &Rendered) -> Result<Vec<u32>> {
        let whole = rendered.ids(0, self.tokenizer)?;
        let Some(held) = &self.held else { return Ok(whole) };
        if !whole.starts_with(self.sequence.tokens()) && rendered.text.starts_with(&held.text) {
            let new = rendered.ids(held.text.len(), self.tokenizer)?;
            // A special token is a seam across which no token could have formed.
            if new.first().is_some_and(|id| self.tokenizer.is_special(*id)) {
                return Ok([&held.ids[..], &new].concat());
            }
        }
        Ok(whole)
    }

    fn save(&self, path: &Path) -> Result<String> {
        let messages = &self.conversation.messages;
        kept::save(messages, serde_json::Value::Null, path)?;
        Ok(format!("kept {} in {}", plural(messages.len(), "message", "messages"), path.display()))
    }

    /// Goes on with messages that were saved.
    fn load(&mut self, path: &Path) -> Result<String> {
        let (messages, _) = kept::load(path)?;
        self.system = kept::system(&messages);
        let count = messages.len();
        self.conversation.messages = messages;
        self.forget_state();
        Ok(format!("{} of {}", plural(count, "message", "messages"), path.display()))
    }

    fn stats(&self) -> String {
        let turns = self.conversation.messages.iter().filter(|m| m.role == "user").count();
        let state = bytes(self.sequence.bytes());
        let held = self.sequence.len();
        let last = self.last.as_deref().unwrap_or("no answer yet");
        format!("turns: {turns}; {held} of {} tokens held, state of {state}\nlast answer: {last}", self.most)
    }

    fn settings(&self) -> String {
        let s = &self.options.sampling;
        format!(
            "temp {}, top-k {}, top-p {}, min-p {}, repeat-penalty {}, seed {}, tokens {}",
            s.temperature,
            s.top_k,
            s.top_p,
            s.min_p,
            s.repetition_penalty,
            s.seed,
            if self.options.tokens == usize::MAX { "-1".into() } else { self.options.tokens.to_string() }
        )
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let s = &mut self.options.sampling;
        let done = match name {
            "temp" | "temperature" => temperature(value).map(|v| s.temperature = v),
            "top-k" => at_least::<usize, 0>(value).map(|v| s.top_k = v),
            "top-p" => above_zero(value).map(|v| s.top_p = v),
            "min-p" => share(value).map(|v| s.min_p = v),
            "repeat-penalty" => penalty(value).map(|v| s.repetition_penalty = v),
            "seed" => seed(value).map(|v| s.seed = v),
            "tokens" => tokens(value).map(|v| self.options.tokens = v),
            _ => Err("expected temp, top-k, top-p, min-p, repeat-penalty, seed or tokens".into()),
        };
        done.map_err(|what| anyhow::anyhow!("/set {name} {value}: {what}"))
    }
}
