//! `parloop chat`: a conversation through the model's chat template.

mod command;
mod input;
mod kept;
#[cfg(feature = "client")]
mod remote;
mod talk;

use super::{engine, plural, print_profile, tokenizer};
use crate::args::machine::{Budget, Machine, Weights};
use crate::args::model::{ChatOptions, Model};
use crate::args::sampling::Sampling;
use crate::args::writing::Writing;
use crate::interrupt;
use crate::terminal::tell;
use anyhow::{Context, Result};
use clap::Args;
use command::Command;
use input::{Input, Line};
use parloop_model::chat::Rendered;
use parloop_model::{ChatSource, ChatTemplate, Checkpoint, Conversation, Message, Tokenizer};
use talk::Talk;

/// Talk with a model through its chat template, or with a server
///
/// Each line is a message; the answer is streamed. What was said stays in memory, so only new text is processed. Lines
/// between """ and """, and lines that end in a backslash, go on as one message. Ctrl-C stops an answer and keeps the
/// conversation. Where the context is full, the oldest turns are left out, and that is said.
///
/// /help lists what else can be typed: /reset, /system, /retry, /save, /load, /stats, /set, /bye.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  parloop chat models/instruct --system 'Answer in one sentence.'
  parloop chat OWNER/NAME                      a model that `parloop pull OWNER/NAME` fetched
  printf 'Hello\\nWho are you?\\n' | parloop chat models/instruct --temp 0
  parloop chat out/plt2 --template chatml.jinja
  parloop chat --url http://localhost:8080     a server that speaks OpenAI's interface; MODEL is then a name that it knows

Sampling works in this order: penalty, top-k, top-p, min-p, temperature. What is left out comes from the model's
generation_config.json, or else has the default named.

PARLOOP_HISTORY names a file in which the lines typed are kept from one conversation to the next.")]
pub struct Chat {
    #[command(flatten)]
    model: Model,
    /// Talk with a server that speaks OpenAI's interface; of the options, those of the answer, of sampling and --system
    /// are sent with what is said, and /save and /load use the server's slots where it keeps states
    #[cfg(feature = "client")]
    #[arg(long, value_name = "URL", conflicts_with_all = ["template", "weights", "threads", "kv_budget"])]
    url: Option<String>,
    /// What is sent to the server as "Authorization: Bearer KEY"
    #[cfg(feature = "client")]
    #[arg(long, value_name = "KEY", env = "PARLOOP_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    #[command(flatten)]
    template: ChatOptions,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    weights: Weights,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    budget: Budget,
}

pub fn chat(args: &Chat) -> Result<()> {
    #[cfg(feature = "client")]
    if let Some(url) = &args.url {
        let mut remote = remote::Remote::new(args, url)?;
        return converse(&remote.about(), |command| remote.act(command));
    }
    let checkpoint = args.model.open()?;
    let template = template(&checkpoint, &args.template)?;
    let options = args.writing.generation(&args.sampling, &checkpoint.settings().generation, 1000);
    options.sampling.validate()?;
    super::in_one_pass(options.passes, &checkpoint.config().recipe)?;
    let engine = engine(&checkpoint, &args.weights, &args.machine)?;
    let mut talk = Talk::new(engine, tokenizer(&checkpoint)?, template, options, args.template.system.clone());
    talk.stops = args.writing.stop.clone();
    talk.quiet = args.writing.quiet;
    talk.json = args.writing.json;
    talk.parse_special = args.template.parse_special;
    if let Some(notice) = talk.limit(&args.budget)? {
        tell(&notice);
    }
    converse("", |command| talk.act(command))?;
    print_profile(&talk.engine);
    Ok(())
}

/// What became of a line of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    /// It went wrong, which was said; the conversation goes on.
    Failed,
}

impl Outcome {
    /// Says what is to be said.
    fn told(said: Result<Option<String>>) -> Self {
        match said {
            Ok(said) => {
                said.iter().for_each(|said| tell(said));
                Self::Done
            }
            Err(error) => Self::failed(&format!("{error:#}")),
        }
    }

    /// Says what went wrong.
    fn failed(what: &str) -> Self {
        tell(&format!("error: {what}"));
        Self::Failed
    }
}

/// Takes lines until there are no more, or they ask for the end. Who is no person cannot have read that a line went
/// wrong, so that is said by the exit code.
fn converse(with: &str, mut act: impl FnMut(Command) -> Result<Outcome>) -> Result<()> {
    interrupt::watch()?;
    let mut input = Input::open()?;
    if input.is_person() {
        let with = if with.is_empty() { String::new() } else { format!("{with}. ") };
        tell(&format!("{with}Type a message, or /help; Ctrl-C stops an answer, Ctrl-D ends."));
    }
    let mut failed = 0;
    loop {
        let line = match input.next()? {
            Line::Text(line) => line,
            Line::Wrong(why) => {
                failed += usize::from(Outcome::failed(&why) == Outcome::Failed);
                continue;
            }
            Line::Dropped => {
                tell("(/bye or Ctrl-D ends)");
                continue;
            }
            Line::End => break,
        };
        if interrupt::asked() {
            // Nobody is there who could go on.
            return Err(super::Interrupted.into());
        }
        match Command::parse(&line) {
            Command::Nothing => {}
            Command::Bye => break,
            command => failed += usize::from(act(command)? == Outcome::Failed),
        }
        if input.is_person() {
            interrupt::forget();
        }
    }
    if failed > 0 && !input.is_person() {
        anyhow::bail!("{} of the conversation went wrong, see above", plural(failed, "line", "lines"));
    }
    Ok(())
}

/// Leaves out the oldest message of the user and what was answered; never the last message.
fn drop_oldest(messages: &mut Vec<Message>) -> bool {
    let is_user = |m: &Message| m.role == "user";
    let Some(first) = messages.iter().position(is_user) else { return false };
    let Some(length) = messages[first + 1..].iter().position(is_user) else { return false };
    messages.drain(first..=first + length);
    true
}

/// The template of `--template`, or else the model's own.
fn template(checkpoint: &Checkpoint, options: &ChatOptions) -> Result<ChatTemplate> {
    if let Some(path) = &options.template {
        let tokens = checkpoint.settings().tokens.clone();
        let source = ChatSource { template: super::read_text(path)?, tool_use: None, tokens };
        return ChatTemplate::new(&source).with_context(|| path.display().to_string());
    }
    checkpoint.chat_template()?.with_context(|| match checkpoint.path() {
        Some(path) => format!(
            "{} has no chat template: add chat_template.jinja to its folder, or \"chat_template\" to its \
             tokenizer_config.json, or give one with --template FILE",
            path.display()
        ),
        None => format!(
            "the {} has no chat template, it only continues texts: name a model that was trained to chat, such as \
             `parloop chat OWNER/NAME`, or one whose folder has a chat_template.jinja, or give --template FILE",
            parloop::builtin::NAME
        ),
    })
}

/// Ids of a conversation that has only begun.
pub fn one_turn(checkpoint: &Checkpoint, options: &ChatOptions, message: &str) -> Result<Vec<u32>> {
    let mut messages: Vec<Message> = options.system.iter().map(|text| Message::new("system", text)).collect();
    messages.push(Message::new("user", message));
    let conversation = Conversation { messages, add_generation_prompt: true, ..Conversation::default() };
    let (template, tokenizer) = (template(checkpoint, options)?, tokenizer(checkpoint)?);
    Ok(rendered(&template, &conversation, tokenizer, options.parse_special)?.ids(0, tokenizer)?)
}

/// A conversation as the template writes it. What a message spells is text, unless its control tokens are asked for.
fn rendered(
    template: &ChatTemplate,
    conversation: &Conversation,
    tokenizer: &Tokenizer,
    parse_special: bool,
) -> Result<Rendered> {
    Ok(match parse_special {
        true => Rendered { text: template.render(conversation)?, ..Rendered::default() },
        false => template.render_literal(conversation, tokenizer)?,
    })
}
