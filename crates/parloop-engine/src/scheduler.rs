//! Many requests through shared turns: continuous batching by rows.
//!
//! Every turn takes the rows of all texts that are being written first, then pieces of prompts, until its row budget is
//! filled. What a request gets does not depend on its company, to the last bit: that is the engine's law, and the
//! scheduler only decides when rows are computed.
//!
//! Keys and values are drawn from the engine's budget ([`Engine::set_kv_pool`]). Where it is spent, cached prefixes are
//! given up, then the youngest other request goes back to the queue with the text it has so far, to be computed again; its
//! answer is the same. A request fails only if the budget does not hold it alone.

mod job;
mod slots;

use crate::turn::{Observer, Outcome, Work};
use crate::{Engine, Error, Filters, Finish, Generation, Model, PrefixCache, Result, Token};
use job::Job;
use slots::Slot;
use std::collections::{HashMap, VecDeque};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The text to go on from, at least one token.
    pub prompt: Vec<u32>,
    /// How it goes on, and for how many tokens.
    pub options: Generation,
    /// Strings before which it ends.
    pub stop: Vec<String>,
    /// Tokens that end it beside the model's own.
    pub ends: Vec<u32>,
    /// What changes the logits before a token is chosen.
    pub filters: Filters,
    /// Log-probabilities of written tokens, with so many of the most likely ones.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt. All loops then run over all of its positions.
    pub prompt_logprobs: Option<usize>,
    /// Whose cached prefixes may serve, and who is served by what this leaves.
    pub owner: u64,
    /// For each written token, so many of the most likely ones after each loop. All loops then run over all positions.
    pub loops: Option<usize>,
    /// The state after the last token of the prompt is wanted.
    pub state: bool,
    /// Leave nothing in the cache and take nothing from it.
    pub uncached: bool,
    /// Remember its text under this number when it is done, for [`Scheduler::save_slot`].
    pub slot: Option<u32>,
    /// The text of the answer begins a text of its own (a chat's turn) instead of following the prompt's.
    pub apart: bool,
}

/// A request that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u64);

impl RequestId {
    /// Which request of its scheduler it is, counted from 0.
    pub fn number(self) -> u64 {
        self.0
    }
}

/// The log-probability of a token, and the most likely ones in its place with theirs.
pub type Logprob = (f32, Vec<(u32, f32)>);

/// That of a token of a prompt; the first has none.
pub type PromptLogprob = Option<Logprob>;

/// What became of a request in a turn.
#[derive(Debug)]
pub enum Event {
    /// A part of its prompt is computed.
    Prompt {
        /// Positions done.
        done: usize,
        /// Positions in all.
        total: usize,
    },
    /// A token was written.
    Token(Token),
    /// It is done.
    Finished(Answer),
    /// It cannot be done.
    Failed(Error),
}

/// How a request ended.
#[derive(Debug)]
pub struct Answer {
    /// Why.
    pub finish: Finish,
    /// Text that was held back with the last token.
    pub rest: String,
    /// The stop string that came.
    pub stop: Option<String>,
    /// Tokens of the prompt that came from the cache.
    pub cached: usize,
    /// Tokens written.
    pub written: usize,
    /// One for each token of the prompt, if asked for.
    pub prompt_logprobs: Vec<PromptLogprob>,
    /// The normed state `[d]` of the last loop after the prompt, if asked for.
    pub state: Vec<f32>,
}

/// Limits of a scheduler.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rows of a turn at most; what decodes goes first.
    pub rows: usize,
    /// Requests that are computed at a time.
    pub running: usize,
    /// Bytes of cached prefixes; 0 keeps none.
    pub cache: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows: 256, running: 64, cache: 256 << 20 }
    }
}

/// What the last turn was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that are being computed.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Bytes of keys and values in use, cached ones included.
    pub kv_bytes: usize,
    /// Bytes of cached prefixes.
    pub cache_bytes: usize,
    /// Requests that went back to the queue so far because memory was short.
    pub put_back: u64,
}

/// Rows of a turn that stand side by side: one request, one loop, positions one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Whose rows.
    pub request: RequestId,
    /// The loop, counted from 0.
    pub r: usize,
    /// The first position.
    pub first: usize,
    /// How many.
    pub rows: usize,
}

/// Requests on their way through one engine.
pub struct Scheduler<'m> {
    engine: Engine,
    model: &'m Model,
    limits: Limits,
    cache: Option<PrefixCache>,
    waiting: VecDeque<Job<'m>>,
    running: Vec<Job<'m>>,
    next: u64,
    turns: usize,
    put_back: u64,
    spans: Vec<Span>,
    slots: HashMap<u32, Slot>,
    /// Whether somebody was put back and nobody has ended since: who begins now would only be put back again.
    full: bool,
}

impl<'m> Scheduler<'m> {
    /// A scheduler over an engine of `model`.
    ///
    /// # Errors
    /// The limits do not let a single row or request through, or the cache does not hold a token.
    pub fn new(engine: Engine, model: &'m Model, limits: Limits) -> Result<Self> {
        if limits.rows == 0 || limits.running == 0 {
            return Err(Error::Input(format!(
                "{} rows a turn and {} requests at a time were asked for; give at least 1 of each",
                limits.rows, limits.running
            )));
        }
        let cache = match limits.cache {
            0 => None,
            bytes => Some(PrefixCache::new(model.config(), engine.kv_type(), bytes)?),
        };
        Ok(Self {
            engine,
            model,
            limits,
            cache,
            waiting: VecDeque::new(),
            running: Vec::new(),
            next: 0,
            turns: 0,
            put_back: 0,
            spans: Vec::new(),
            slots: HashMap::new(),
            full: false,
        })
    }

    /// Takes a request; it is computed in the turns that follow.
    ///
    /// # Errors
    /// An option is out of range, the prompt is empty, longer than the context, or holds an id outside the vocabulary.
    pub fn submit(&mut self, request: Request) -> Result<RequestId> {
        let id = RequestId(self.next);
        self.waiting.push_back(Job::new(id, self.model, request)?);
        self.next += 1;
        Ok(id)
    }

    /// Forgets a request, wherever it is; its memory is free at once. Returns whether it was there.
    pub fn cancel(&mut self, id: RequestId) -> bool {
        let before = self.waiting.len() + self.running.len();
        self.waiting.retain(|job| job.id != id);
        self.running.retain(|job| job.id != id);
        self.full = false;
        self.waiting.len() + self.running.len() < before
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// What there is to do, and what memory is in use.
    pub fn load(&self) -> Load {
        Load {
            running: self.running.len(),
            waiting: self.waiting.len(),
            kv_bytes: self.engine.kv_pool().used(),
            cache_bytes: self.cache.as_ref().map_or(0, PrefixCache::bytes),
            put_back: self.put_back,
        }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// One pass over the weights, and what became of whom in it.
    pub fn turn(&mut self) -> Vec<(RequestId, Event)> {
        self.admit();
        // Those who write first; among prompts each is first in its turn.
        self.running.sort_by_key(|job| (job.is_prompt(), job.id));
        let writing = self.running.iter().filter(|job| !job.is_prompt()).count();
        if let Some(shift) = self.turns.checked_rem(self.running.len() - writing) {
            self.running[writing..].rotate_left(shift);
        }
        self.turns += 1;
        let mut scores = Scores {
            jobs: self.running.iter().map(Job::wants_scores).collect(),
            states: self.running.iter().map(Job::wants_states).collect(),
            taken: Vec::new(),
            seen: Vec::new(),
        };
        let mut work: Vec<Work<'_>> = self.running.iter_mut().map(Job::work).collect();
        let outcomes = self.engine.turn(&mut work, self.limits.rows, Some(&mut scores));
        self.keep_spans(outcomes.iter().any(|o| matches!(o, Outcome::Goes | Outcome::Done(_))));
        for (i, r, output) in scores.seen {
            self.running[i].saw(r, output);
        }
        for (i, position, score) in scores.taken {
            self.running[i].scored(position, score);
        }
        let (mut events, mut short) = (Vec::new(), None);
        let mut ended = Vec::new();
        // Those whose last logits must be computed anew come last: that takes the place of the turn's logits.
        let mut outcomes: Vec<(usize, Outcome)> = outcomes.into_iter().enumerate().collect();
        outcomes.sort_by_key(|(_, outcome)| matches!(outcome, Outcome::Done(None)));
        for (i, outcome) in outcomes {
            let job = &mut self.running[i];
            let event = match outcome {
                Outcome::Waits => None,
                Outcome::Goes => job.progress(),
                Outcome::Done(logits) => match job.went_on(&mut self.engine, logits) {
                    Ok(event) => event,
                    Err(error) => Some(Event::Failed(error)),
                },
                Outcome::Refused(Error::Spent(spent)) => {
                    short = Some((job.id, spent));
                    None
                }
                Outcome::Refused(error) => Some(Event::Failed(error)),
            };
            let Some(event) = event else { continue };
            // A token may be the last one.
            let answer = if matches!(event, Event::Token(_)) { job.answer() } else { None };
            if answer.is_some() || matches!(event, Event::Finished(_) | Event::Failed(_)) {
                ended.push(job.id);
            }
            if answer.is_some() || matches!(event, Event::Finished(_)) {
                job.leave(self.cache.as_mut());
                self.slots.extend(job.slot());
            }
            events.push((job.id, event));
            events.extend(answer.map(|answer| (job.id, Event::Finished(answer))));
        }
        self.running.retain(|job| !ended.contains(&job.id));
        self.full = self.full && ended.is_empty();
        if let Some((id, spent)) = short {
            events.extend(self.make_room(id, spent));
        }
        events
    }

    /// What the last turn computed, ordered by loop and request.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    fn keep_spans(&mut self, any: bool) {
        self.spans.clear();
        for (work, r, position) in self.engine.turn_rows().filter(|_| any) {
            let request = self.running[work].id;
            match self.spans.last_mut() {
                Some(span) if (span.request, span.r, span.first + span.rows) == (request, r, position) => {
                    span.rows += 1
                }
                _ => self.spans.push(Span { request, r, first: position, rows: 1 }),
            }
        }
    }

    /// Lets requests that wait begin.
    fn admit(&mut self) {
        while self.running.len() < self.limits.running && (!self.full || self.running.is_empty()) {
            let Some(mut job) = self.waiting.pop_front() else { return };
            job.begin(&self.engine, self.cache.as_mut());
            self.running.push(job);
        }
    }

    /// Finds memory for a request that was refused some.
    fn make_room(&mut self, id: RequestId, spent: parloop_kernels::kv::Spent) -> Option<(RequestId, Event)> {
        let pool = self.engine.kv_pool().clone();
        // At least one: what was refused is a part of what the request needs.
        if let Some(cache) = &mut self.cache
            && cache.give_up()
        {
            while pool.used().saturating_add(spent.needed) > pool.budget() && cache.give_up() {}
            return None;
        }
        // The youngest gives way, unless there is only the one.
        let youngest = self.running.iter().enumerate().filter(|(_, job)| job.id != id).max_by_key(|(_, job)| job.id);
        if let Some((i, _)) = youngest {
            let mut job = self.running.swap_remove(i);
            job.put_back();
            self.waiting.push_front(job);
            self.put_back += 1;
            self.full = true;
            return None;
        }
        self.running.retain(|job| job.id != id);
        self.full = false;
        Some((id, Event::Failed(Error::Spent(spent))))
    }
}

/// Takes the log-probabilities of prompts as their logits come, and outputs of loops.
struct Scores {
    /// For each piece of work, the tokens whose log-probabilities are wanted, and how many of the most likely.
    jobs: Vec<Option<(Vec<u32>, usize)>>,
    /// For each piece of work, the position whose outputs of each loop are wanted.
    states: Vec<Option<usize>>,
    /// Work, position, and what the token there got.
    taken: Vec<(usize, usize, Logprob)>,
    /// Work, loop, and its output.
    seen: Vec<(usize, usize, Vec<f32>)>,
}

impl Observer for Scores {
    fn wants_states(&self) -> bool {
        self.states.iter().any(Option::is_some)
    }

    fn wants_states_of(&self, work: usize) -> bool {
        self.states.get(work).is_some_and(Option::is_some)
    }

    fn output(&mut self, work: usize, r: usize, position: usize, output: &[f32]) {
        if self.states.get(work) == Some(&Some(position)) {
            self.seen.push((work, r, output.to_vec()));
        }
    }

    fn logits(&mut self, work: usize, position: usize, logits: &[f32]) {
        let Some(Some((tokens, top))) = self.jobs.get(work) else { return };
        let Some(next) = tokens.get(position + 1) else { return };
        if let (Some(own), best) = crate::generate::logprobs(logits, *next, *top) {
            self.taken.push((work, position + 1, (own, best)));
        }
    }
}
