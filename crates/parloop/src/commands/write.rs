//! A text as it is written: pieces that can be shown, until the model, a stop string, Ctrl-C or the context ends it.

use crate::interrupt;
use anyhow::Result;
use parloop_engine::generate::Finish;
use parloop_engine::{Engine, Generation, Generator, Sequence};
use parloop_model::tokenizer::TextStream;
use std::time::{Duration, Instant};

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As many tokens as were asked for.
    Length,
    /// The model.
    Model,
    /// A stop string.
    Stop,
    /// The context is full.
    Context,
    /// Ctrl-C.
    Interrupted,
}

impl From<Finish> for End {
    fn from(finish: Finish) -> Self {
        match finish {
            Finish::Length => Self::Length,
            Finish::End => Self::Model,
            Finish::Context => Self::Context,
            Finish::Stopped => Self::Stop,
        }
    }
}

impl End {
    /// As JSON says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Length => "length",
            Self::Model => "end",
            Self::Stop => "stop",
            Self::Context => "context",
            Self::Interrupted => "interrupted",
        }
    }

    /// For the line of figures.
    pub fn words(self) -> &'static str {
        match self {
            Self::Length => "",
            Self::Model => ", ended by the model",
            Self::Stop => ", ended by --stop",
            Self::Context => ", the context is full",
            Self::Interrupted => ", interrupted",
        }
    }
}

/// What was written.
pub struct Written {
    pub ids: Vec<u32>,
    /// The text of the ids, without a stop string and what came after it.
    pub text: String,
    pub end: End,
    /// From the start of the prompt to the first token.
    pub prompt: Duration,
    /// From the first token to the last.
    pub decode: Duration,
}

impl Written {
    /// Tokens a second after the first one, if there were any.
    pub fn speed(&self) -> Option<f64> {
        (self.ids.len() > 1).then(|| (self.ids.len() - 1) as f64 / self.decode.as_secs_f64().max(1e-9))
    }
}

/// Goes on from a sequence and a prompt; `show` sees each piece of text as soon as it is sure not to be part of a stop
/// string.
pub fn write(
    engine: &mut Engine,
    sequence: &mut Sequence,
    prompt: &[u32],
    options: &Generation,
    stream: TextStream<'_>,
    stops: &[String],
    mut show: impl FnMut(&str) -> Result<()>,
) -> Result<Written> {
    let (mut ids, mut text) = (Vec::new(), String::new());
    let (start, mut first, mut last) = (Instant::now(), None, Duration::ZERO);
    let mut generator = Generator::new(engine, sequence, prompt, options)?.text(stream).stop(stops.to_vec());
    for token in &mut generator {
        let token = token?;
        last = start.elapsed();
        first.get_or_insert(last);
        ids.push(token.id);
        text += &token.text;
        show(&token.text)?;
        if interrupt::asked() {
            break;
        }
    }
    let rest = generator.rest();
    text += &rest;
    show(&rest)?;
    let end = match generator.finish() {
        None => End::Interrupted,
        Some(finish) => finish.into(),
    };
    let prompt = first.unwrap_or_else(|| start.elapsed());
    Ok(Written { ids, text, end, prompt, decode: last.saturating_sub(prompt) })
}
