//! From a prompt to a stream of tokens.

use crate::{Engine, Passes, Prefill, PrefixCache, Result, SampleOptions, Sampler, Sequence};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Tokens to generate at most; the end of the context may come earlier.
    pub tokens: usize,
    /// How the next token is chosen.
    pub sampling: SampleOptions,
    /// How the prompt is processed.
    pub prefill: Prefill,
    /// How the loops of a token are computed.
    pub passes: Passes,
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
    continue_from(engine, &mut sequence, prompt, options, each)
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
    let (mut sequence, _) = cache.prefill(engine, prompt, &options.prefill)?;
    let finish = continue_from(engine, &mut sequence, &[], options, each)?;
    cache.insert(&sequence);
    Ok(finish)
}

/// [`generate`], going on from a sequence: one that was kept, forked or loaded. The prompt may be empty if the
/// sequence is not.
///
/// Afterwards the sequence holds the prompt and the tokens that `each` saw; without the last of them, which is the
/// first of whatever follows, unless the model ended the text.
///
/// # Errors
/// As [`generate`].
pub fn continue_from(
    engine: &mut Engine,
    sequence: &mut Sequence,
    prompt: &[u32],
    options: &Generation,
    mut each: impl FnMut(u32) -> bool,
) -> Result<Finish> {
    let model = engine.model().clone();
    let config = model.config();
    let known = model.tokenizer().map_or(config.vocab_size, |t| t.vocab_size());
    let mut sampler = Sampler::new(options.sampling.clone(), known)?;
    sequence.tokens().iter().chain(prompt).for_each(|t| sampler.accept(*t));
    let logits = match prompt {
        [] => engine.logits(sequence)?,
        prompt => engine.prefill(sequence, prompt, &options.prefill)?,
    };
    let mut next = sampler.sample(logits)?;
    for i in 0..options.tokens {
        if model.stops().contains(next) && !options.ignore_end {
            return Ok(Finish::End);
        }
        sampler.accept(next);
        if !each(next) {
            return Ok(Finish::Stopped);
        }
        if i + 1 == options.tokens {
            break;
        }
        if sequence.len() >= config.max_position_embeddings {
            return Ok(Finish::Context);
        }
        next = sampler.sample(engine.step(&mut [&mut *sequence], &[next], options.passes)?)?;
    }
    Ok(Finish::Length)
}
