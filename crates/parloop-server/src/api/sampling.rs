//! How a text is to be continued: the fields that every interface has in common.

use super::fields::{Fields, short};
use super::now;
use crate::app::App;
use crate::error::ApiError;
use axum::http::StatusCode;
use parloop_engine::filter::{Bias, Filters, Penalties};
use parloop_engine::{Generation, Request, SampleOptions};
use serde_json::Value;
use std::hash::{BuildHasher, Hasher};

/// Bytes of all stop strings together, at most: every token is looked at for each.
const STOPS: usize = 16 << 10;
/// Entries of a bias at most.
const BIASES: usize = 4096;

/// Ways of sampling that other servers know and this one does not, each with the number that asks for nothing.
const UNKNOWN: [(&str, f64); 16] = [
    ("best_of", 1.0),
    ("use_beam_search", 0.0),
    ("length_penalty", 1.0),
    ("typical_p", 1.0),
    ("tfs_z", 1.0),
    ("mirostat", 0.0),
    ("dry_multiplier", 0.0),
    ("xtc_probability", 0.0),
    ("dynatemp_range", 0.0),
    ("top_n_sigma", -1.0),
    ("grammar", 0.0),
    ("guided_grammar", 0.0),
    ("guided_regex", 0.0),
    ("guided_choice", 0.0),
    ("structured_outputs", 0.0),
    ("bad_words", 0.0),
];

/// What an interface has its own names for.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked {
    /// Tokens to write at most.
    pub tokens: Option<u64>,
    /// Strings before which the text ends.
    pub stop: Vec<String>,
}

impl Asked {
    /// What OpenAI's completions and chat call them. `limit` tokens are written if the request does not say.
    pub fn read(fields: &Fields<'_>, limit: Option<u64>) -> Result<Self, ApiError> {
        let most = u64::from(u32::MAX);
        let mut tokens = None;
        for name in ["max_completion_tokens", "max_tokens", "n_predict"] {
            // llama.cpp says -1 for no limit.
            if fields.get(name).and_then(Value::as_i64) == Some(-1) && name == "n_predict" {
                tokens = tokens.or(Some(most));
            } else {
                tokens = tokens.or(fields.whole(name, 0, most)?);
            }
        }
        Ok(Self { tokens: tokens.or(limit), stop: fields.strings("stop")? })
    }
}

/// A request that goes on from `prompt`.
pub(super) fn request(app: &App, fields: &Fields<'_>, asked: &Asked, prompt: Vec<u32>) -> Result<Request, ApiError> {
    fits(app, prompt.len(), asked.tokens)?;
    for (name, neutral) in UNKNOWN {
        if fields.get(name).and_then(Value::as_f64) != Some(neutral) {
            fields.refuse(&[name])?;
        }
    }
    let defaults = &app.defaults;
    let repetition = match fields.number("repetition_penalty")? {
        None => fields.number("repeat_penalty")?,
        given => given,
    };
    let usual = SampleOptions::default();
    let context = app.model.config().max_position_embeddings as u64;
    let window = match fields.get("repeat_last_n").and_then(Value::as_i64) {
        Some(-1) => Some(context),
        _ => fields.whole("repeat_last_n", 0, context)?,
    };
    let sampling = SampleOptions {
        temperature: fields.number("temperature")?.or(defaults.temperature()).unwrap_or(1.0),
        top_k: top_k(fields)?.or(defaults.top_k).unwrap_or(0),
        top_p: fields.number("top_p")?.or(defaults.top_p).unwrap_or(1.0),
        min_p: fields.number("min_p")?.or(defaults.min_p).unwrap_or(0.0),
        repetition_penalty: repetition.or(defaults.repetition_penalty).unwrap_or(1.0),
        repetition_window: window.map_or(usual.repetition_window, |n| n as usize),
        seed: seed(fields)?,
    };
    sampling.validate()?;
    if asked.stop.iter().map(String::len).sum::<usize>() > STOPS {
        return Err(ApiError::field("stop", format!("the strings have more than {STOPS} bytes together")));
    }
    let options = Generation {
        tokens: asked.tokens.map_or(usize::MAX, |n| n as usize),
        sampling,
        ignore_end: fields.bool("ignore_eos")?,
        ..Generation::default()
    };
    Ok(Request {
        prompt,
        options,
        stop: asked.stop.clone(),
        filters: filters(app, fields)?,
        owner: owner(fields)?,
        slot: slot(app, fields)?,
        uncached: fields.maybe("cache_prompt")? == Some(false),
        ..Request::default()
    })
}

/// Refuses a prompt that leaves no room in the context, before anything of a stream is sent. Agents look for these words
/// and both numbers.
pub(super) fn fits(app: &App, prompt: usize, tokens: Option<u64>) -> Result<(), ApiError> {
    let context = app.model.config().max_position_embeddings;
    if prompt < context || prompt == context && tokens == Some(0) {
        return Ok(());
    }
    let message = format!(
        "This model's maximum context length is {context} tokens, the prompt has {prompt} tokens; it exceeds the \
         available context size: shorten it (context_length_exceeded)"
    );
    let error = ApiError::new(StatusCode::BAD_REQUEST, message).code("context_length_exceeded");
    Err(ApiError { numbers: Some((prompt, context)), ..error })
}

/// How many answers.
pub(super) fn choices(fields: &Fields<'_>) -> Result<usize, ApiError> {
    Ok(fields.whole("n", 1, 64)?.unwrap_or(1) as usize)
}

/// The same request `n` times, each with a seed of its own.
pub(super) fn times(request: &Request, n: usize) -> impl Iterator<Item = Request> {
    (0..n as u64).map(|i| {
        let mut request = request.clone();
        request.options.sampling.seed = request.options.sampling.seed.wrapping_add(i);
        request
    })
}

/// The slot that remembers what was computed; -1 asks for none.
fn slot(app: &App, fields: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    if fields.get("id_slot").and_then(Value::as_i64) == Some(-1) {
        return Ok(None);
    }
    Ok(fields.whole("id_slot", 0, app.most as u64 - 1)?.map(|n| n as u32))
}

/// 0 and -1 keep all tokens.
fn top_k(fields: &Fields<'_>) -> Result<Option<usize>, ApiError> {
    if fields.get("top_k").and_then(Value::as_i64) == Some(-1) {
        return Ok(Some(0));
    }
    Ok(fields.whole("top_k", 0, u64::from(u32::MAX))?.map(|k| k as usize))
}

/// A seed that is not given, or is -1, is another one each time.
fn seed(fields: &Fields<'_>) -> Result<u64, ApiError> {
    match fields.get("seed") {
        None => Ok(std::hash::RandomState::new().build_hasher().finish() ^ now()),
        Some(value) => match value.as_i64() {
            Some(-1) => Ok(std::hash::RandomState::new().build_hasher().finish()),
            // Negative seeds are seeds too.
            Some(n) => Ok(n as u64),
            None => Ok(fields.whole("seed", 0, u64::MAX)?.unwrap_or_default()),
        },
    }
}

/// Whose cached prefixes may serve.
fn owner(fields: &Fields<'_>) -> Result<u64, ApiError> {
    let Some(salt) = fields.string("cache_salt")? else { return Ok(0) };
    // FNV-1a: the same in every process, so that states can move between servers.
    let hash = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    Ok(salt.bytes().fold(0xcbf2_9ce4_8422_2325, hash).max(1))
}

fn filters(app: &App, fields: &Fields<'_>) -> Result<Filters, ApiError> {
    let mut filters = Filters::default();
    let presence = fields.between("presence_penalty", -2.0, 2.0)?.unwrap_or(0.0);
    let frequency = fields.between("frequency_penalty", -2.0, 2.0)?.unwrap_or(0.0);
    if presence != 0.0 || frequency != 0.0 {
        filters.push(move || Box::new(Penalties::new(presence, frequency)));
    }
    if let Some(bias) = bias(app, fields)? {
        filters.push(move || Box::new(bias.clone()));
    }
    Ok(filters)
}

/// `logit_bias`: an object from ids to numbers; `false` forbids a token (llama.cpp's way of saying so).
fn bias(app: &App, fields: &Fields<'_>) -> Result<Option<Bias>, ApiError> {
    const NAME: &str = "logit_bias";
    let Some(object) = fields.object(NAME)? else { return Ok(None) };
    if object.len() > BIASES {
        return Err(ApiError::field(NAME, format!("it has {} entries, at most {BIASES} are taken", object.len())));
    }
    let size = app.model.config().vocab_size;
    let mut entries = Vec::with_capacity(object.len());
    for (key, value) in object {
        let id = key.parse::<u32>().ok().filter(|id| (*id as usize) < size).ok_or_else(|| {
            ApiError::field(
                NAME,
                format!("\"{}\" is no token id below {size}", key.chars().take(30).collect::<String>()),
            )
        })?;
        let bias = match value {
            Value::Bool(false) => f32::NEG_INFINITY,
            other => other.as_f64().filter(|n| (-100.0..=100.0).contains(n)).ok_or_else(|| {
                ApiError::field(NAME, format!("{} of token {id} is no number from -100 to 100", short(other)))
            })? as f32,
        };
        entries.push((id, bias));
    }
    Ok((!entries.is_empty()).then_some(Bias(entries)))
}
