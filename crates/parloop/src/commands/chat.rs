//! `parloop chat`: a conversation through the model's chat template.

use super::{checkpoint, engine, print_profile, tokenizer};
use crate::args::{Chat, ChatOptions};
use anyhow::{Context, Result, bail};
use parloop_engine::generate::Finish;
use parloop_engine::{Engine, Generation, Passes, Prefill, Sequence, continue_from};
use parloop_model::{ChatSource, ChatTemplate, Checkpoint, Conversation, Message, Tokenizer};
use std::io::{BufRead, IsTerminal, Write};
use std::time::Instant;

const HELP: &str = "/reset  forget the conversation\n/help   show this\n/exit   end, as does Ctrl-D";
/// The longest message, in bytes.
const MAX_LINE: u64 = 16 << 20;

pub fn chat(args: &Chat) -> Result<()> {
    let checkpoint = checkpoint(&args.model)?;
    let template = template(&checkpoint, &args.template)?;
    let defaults = &checkpoint.settings().generation;
    let options = Generation {
        tokens: args.tokens.or(defaults.max_new_tokens).unwrap_or(1000),
        sampling: args.sampling.options(defaults),
        prefill: Prefill::default(),
        passes: Passes::Auto,
        ignore_end: false,
    };
    options.sampling.validate()?;
    let engine = engine(&checkpoint, &args.weights, &args.machine)?;
    let mut talk = Talk {
        tokenizer: tokenizer(&checkpoint)?,
        template,
        options,
        system: args.template.system.clone(),
        conversation: Conversation { add_generation_prompt: true, ..Conversation::default() },
        held: None,
        sequence: engine.sequence(),
        engine,
        quiet: args.quiet,
    };
    talk.reset();
    let mut input = std::io::stdin().lock();
    let person = input.is_terminal();
    if person {
        eprintln!("Each line is a message. {}", HELP.replace('\n', "; "));
    }
    loop {
        if person {
            eprint!("> ");
            std::io::stderr().flush()?;
        }
        let Some(line) = read_line(&mut input)? else { break };
        match line.trim() {
            "" => {}
            "/exit" => break,
            "/help" => eprintln!("{HELP}"),
            "/reset" => talk.reset(),
            command if command.starts_with('/') && !command.contains(char::is_whitespace) => {
                eprintln!("{command} is no command:\n{HELP}");
            }
            message => talk.say(message)?,
        }
    }
    print_profile(&talk.engine);
    Ok(())
}

/// The next line, without its end; `None` at the end of input.
fn read_line(input: &mut impl BufRead) -> Result<Option<String>> {
    let mut bytes = Vec::new();
    std::io::Read::take(&mut *input, MAX_LINE).read_until(b'\n', &mut bytes)?;
    if bytes.len() as u64 == MAX_LINE {
        bail!("a message is longer than {MAX_LINE} bytes: cut it into several");
    }
    if bytes.is_empty() { Ok(None) } else { super::utf8(bytes, "standard input").map(Some) }
}

/// The template of `--template`, or else the model's own.
fn template(checkpoint: &Checkpoint, options: &ChatOptions) -> Result<ChatTemplate> {
    let own = checkpoint.settings().chat.clone();
    if let Some(path) = &options.template {
        let source = ChatSource { template: super::read_text(path)?, tool_use: None, ..own.unwrap_or_default() };
        return ChatTemplate::new(&source).with_context(|| path.display().to_string());
    }
    checkpoint.chat_template()?.with_context(|| {
        let name = checkpoint.path().map_or(parloop::builtin::NAME.into(), |p| p.display().to_string());
        format!(
            "{name} has no chat template: add chat_template.jinja to its folder, or \"chat_template\" to its \
             tokenizer_config.json, or give one with --template FILE"
        )
    })
}

/// Ids of a conversation that has only begun.
pub fn one_turn(checkpoint: &Checkpoint, options: &ChatOptions, message: &str) -> Result<Vec<u32>> {
    let mut messages: Vec<Message> = options.system.iter().map(|text| Message::new("system", text)).collect();
    messages.push(Message::new("user", message));
    let conversation = Conversation { messages, add_generation_prompt: true, ..Conversation::default() };
    let text = template(checkpoint, options)?.render(&conversation)?;
    Ok(tokenizer(checkpoint)?.encode_bare(&text)?)
}

/// What went through the model, as text and as ids.
struct Held {
    text: String,
    ids: Vec<u32>,
}

/// A conversation and the state of the model after it.
struct Talk<'a> {
    tokenizer: &'a Tokenizer,
    template: ChatTemplate,
    options: Generation,
    system: Option<String>,
    conversation: Conversation,
    held: Option<Held>,
    sequence: Sequence,
    engine: Engine,
    quiet: bool,
}

impl Talk<'_> {
    fn reset(&mut self) {
        self.conversation.messages = self.system.iter().map(|text| Message::new("system", text)).collect();
        self.held = None;
        self.sequence = self.engine.sequence();
    }

    /// Takes a message and streams the answer. A message that cannot be answered is said to be so and left out.
    fn say(&mut self, message: &str) -> Result<()> {
        self.conversation.messages.push(Message::new("user", message));
        let prepared = self.template.render(&self.conversation).map_err(anyhow::Error::from).and_then(|text| {
            let ids = self.ids(&text)?;
            self.engine.model().config().check_tokens(&ids)?;
            Ok((text, ids))
        });
        let (text, ids) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                self.conversation.messages.pop();
                eprintln!("error: {error:#}; the message is left out, /reset begins anew");
                return Ok(());
            }
        };
        self.answer(text, ids)
    }

    fn answer(&mut self, text: String, mut ids: Vec<u32>) -> Result<()> {
        // What the state has in common with the text stays; at least one token must be left to go on from.
        let same = self.sequence.tokens().iter().zip(&ids[..ids.len() - 1]).take_while(|(a, b)| a == b).count();
        self.sequence.truncate(same);
        let new = ids[same..].to_vec();
        let (known, start) = (same, Instant::now());
        let (prompt, mut answer, mut failed) = (ids.len(), String::new(), None);
        let mut stream = self.tokenizer.stream();
        let mut out = std::io::stdout().lock();
        let finish = continue_from(&mut self.engine, &mut self.sequence, &new, &self.options, |token| {
            ids.push(token);
            let mut show = |text: String| {
                answer += &text;
                write!(out, "{text}").and_then(|()| out.flush())
            };
            failed = stream.push(token).map_err(anyhow::Error::from).and_then(|t| Ok(show(t)?)).err();
            failed.is_none()
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let rest = stream.finish()?;
        writeln!(out, "{rest}")?;
        answer += &rest;
        if !self.quiet {
            let why = if finish == Finish::Context { ", the context is full: /reset" } else { "" };
            let written = ids.len() - prompt;
            let speed = written as f64 / start.elapsed().as_secs_f64();
            eprintln!("[{} new tokens after {known}, {written} tokens at {speed:.1} tokens/s{why}]", prompt - known);
        }
        self.held = Some(Held { text: text + &answer, ids });
        self.conversation.messages.push(Message::new("assistant", answer));
        Ok(())
    }

    /// Ids of the whole conversation; of its past those that went through the model, where the template still writes
    /// the same past.
    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let whole = self.tokenizer.encode_bare(text)?;
        let Some(held) = &self.held else { return Ok(whole) };
        if let (false, Some(new)) = (whole.starts_with(self.sequence.tokens()), text.strip_prefix(&held.text)) {
            let new = self.tokenizer.encode_bare(new)?;
            // A special token is a seam across which no token could have formed.
            if new.first().is_some_and(|id| self.tokenizer.is_special(*id)) {
                return Ok([&held.ids[..], &new].concat());
            }
        }
        Ok(whole)
    }
}
