//! From a prompt to a stream of tokens.

use crate::{Engine, Mode, Prefill, PrefixCache, Result, SampleOptions, Sampler, Sequence};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Tokens to generate at most; the end of the context may come earlier.
    pub tokens: usize,
    /// How the next token is chosen.
    pub sampling: SampleOptions,
    /// How the prompt is processed.
    pub prefill: Prefill,
    /// How the loops of a token are computed; `None` takes one pass where the recipe allows it.
    pub mode: Option<Mode>,
    /// Go on past the model's end tokens.
    pub ignore_end: bool,
}

/// Why generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// All tokens asked for were generated.
    Length,
    /// The model ended the text.
    End,
    /// The context is full.
    Context,
    /// The caller asked to stop.
    Stopped,
}

/// Generates from a prompt; `each(token)` sees every token as it comes and returns whether to go on.
///
/// # Errors
/// The prompt cannot be processed, or an option is out of range.
pub fn generate(
    engine: &mut Engine,
    prompt: &[u32],
    options: &Generation,
    each: impl FnMut(u32) -> bool,
) -> Result<Finish> {
    let mut sequence = engine.sequence();
    write(engine, &mut sequence, prompt, options, false, each)
}

/// [`generate`], going on from a sequence: one that was kept, forked or loaded. Unless the context is full, it holds
/// the prompt and every token that `each` saw afterwards. The prompt may be empty if the sequence is not.
///
/// # Errors
/// As [`generate`].
pub fn continue_from(
    engine: &mut Engine,
    sequence: &mut Sequence,
    prompt: &[u32],
    options: &Generation,
    each: impl FnMut(u32) -> bool,
) -> Result<Finish> {
    write(engine, sequence, prompt, options, true, each)
}

/// [`generate`], taking from a cache what it has of the prompt. The cache then knows the prompt, and the prompt with
/// its continuation.
///
/// # Errors
/// As [`generate`].
pub fn generate_cached(
    engine: &mut Engine,
    cache: &mut PrefixCache,
    prompt: &[u32],
    options: &Generation,
    each: impl FnMut(u32) -> bool,
) -> Result<Finish> {
    options.sampling.validate()?;
    engine.model().config().check_tokens(prompt)?;
    let (mut sequence, held) = cache.lookup(prompt).unwrap_or_else(|| (engine.sequence(), 0));
    match &prompt[held..] {
        [] => engine.logits(&mut sequence)?,
        rest => engine.prefill(&mut sequence, rest, &options.prefill)?,
    };
    cache.insert(&sequence);
    let finish = write(engine, &mut sequence, &[], options, true, each)?;
    cache.insert(&sequence);
    Ok(finish)
}

/// Writes a continuation; with `keep`, the sequence takes in the last token too, for whoever goes on from it.
fn write(
    engine: &mut Engine,
    sequence: &mut Sequence,
    prompt: &[u32],
    options: &Generation,
    keep: bool,
    mut each: impl FnMut(u32) -> bool,
) -> Result<Finish> {
    let model = engine.model().clone();
    let config = model.config();
    let known = model.tokenizer().map_or(config.vocab_size, |t| t.vocab_size());
    let mut sampler = Sampler::new(options.sampling.clone(), known)?;
    sequence.tokens().iter().chain(prompt).for_each(|t| sampler.accept(*t));
    let mode = options.mode.unwrap_or(Mode::best(config));
    let mut next = sampler.sample(match prompt {
        [] => engine.logits(sequence)?,
        prompt => engine.prefill(sequence, prompt, &options.prefill)?,
    })?;
    for i in 0..options.tokens {
        if config.eos_ids().contains(&next) && !options.ignore_end {
            return Ok(Finish::End);
        }
        sampler.accept(next);
        let full = sequence.len() >= config.max_position_embeddings;
        let finish = match each(next) {
            false => Some(Finish::Stopped),
            true if i + 1 == options.tokens => Some(Finish::Length),
            true => full.then_some(Finish::Context),
        };
        if finish.is_none() || keep && !full {
            let logits = engine.step(&mut [&mut *sequence], &[next], mode)?;
            next = if finish.is_none() { sampler.sample(logits)? } else { next };
        }
        if let Some(finish) = finish {
            return Ok(finish);
        }
    }
    Ok(Finish::Length)
}
