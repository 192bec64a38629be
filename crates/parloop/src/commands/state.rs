//! What `parloop run` keeps in files from one run to the next.

use super::{bytes, output, plural};
use crate::args::machine::Budget;
use crate::args::state::State;
use anyhow::{Result, bail};
use parloop_engine::{Engine, Prefill, PrefixCache, Sequence};
use parloop_kernels::memory;

/// Where a run begins.
pub struct Start {
    /// What was computed before.
    pub sequence: Sequence,
    /// What of the prompt is still to be computed.
    pub rest: Vec<u32>,
    /// Tokens of the prompt that a file held already.
    pub cached: usize,
}

/// The sequence of `--load-state`, or an empty one; and whether the state can be saved where it is to be.
pub fn load(engine: &Engine, args: &State) -> Result<Sequence> {
    for path in [&args.save_state, &args.prompt_cache].into_iter().flatten() {
        output::parent(path)?;
        Engine::check_state_path(path)?;
    }
    Ok(match &args.load_state {
        Some(path) => engine.load_state(path)?,
        None => engine.sequence(),
    })
}

/// Refuses a text that may need more memory than there is, or than is allowed. What is allowed counts keys, values and
/// what else is kept of the text; what there is must hold the space to work in too.
pub fn check_budget(engine: &Engine, args: &Budget, tokens: usize, prefill: &Prefill) -> Result<()> {
    let need = engine.need(tokens, prefill);
    let tokens = tokens.min(engine.model().config().max_position_embeddings);
    let advice = "shorten the text, ask for fewer tokens, or keep keys and values in fewer bits (--kv)";
    if let Some(allowed) = args.kv_budget.filter(|allowed| need.state > *allowed) {
        bail!(
            "the state of {} takes {}, {} are allowed by --kv-budget: {advice}, or allow more",
            plural(tokens, "token", "tokens"),
            bytes(need.state),
            bytes(allowed)
        );
    }
    let all = need.state.saturating_add(need.scratch);
    match memory::available().filter(|available| all > *available && args.kv_budget.is_none()) {
        Some(available) => {
            let tokens = plural(tokens, "token", "tokens");
            bail!("{tokens} need {} of memory, {} are available: {advice}", bytes(all), bytes(available))
        }
        None => Ok(()),
    }
}

/// Takes of the prompt what `--prompt-cache` holds, and keeps in it what the prompt adds.
pub fn begin(
    engine: &mut Engine,
    args: &State,
    allowed: &Budget,
    loaded: Sequence,
    ids: Vec<u32>,
    prefill: &Prefill,
) -> Result<Start> {
    let Some(path) = &args.prompt_cache else { return Ok(Start { sequence: loaded, rest: ids, cached: 0 }) };
    let budget = allowed.kv_budget.unwrap_or(usize::MAX);
    let mut cache = PrefixCache::new(engine.model().config(), engine.kv_type(), budget)?;
    if path.exists() {
        cache.insert(&engine.load_state(path)?);
    }
    let (sequence, cached) = cache.prefill(engine, &ids, prefill)?;
    if cached < ids.len() {
        engine.save_state(&sequence, path)?;
    }
    Ok(Start { sequence, rest: Vec::new(), cached })
}

/// Keeps the state after the whole text, of which the sequence may lack the last token.
pub fn save(engine: &mut Engine, args: &State, sequence: &mut Sequence, missing: Option<u32>) -> Result<()> {
    let Some(path) = &args.save_state else { return Ok(()) };
    // In a full context there is no place for it, and nothing can follow.
    let room = sequence.len() < engine.model().config().max_position_embeddings;
    if let Some(last) = missing.filter(|_| room) {
        engine.prefill(sequence, &[last], &Prefill::default())?;
    }
    Ok(engine.save_state(sequence, path)?)
}
