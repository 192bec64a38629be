//! One request on its way.

use super::slots::Slot;
use super::{Answer, Event, Logprob, PromptLogprob, Request, RequestId};
use crate::turn::Work;
use crate::{Continuation, Engine, Finish, Model, PrefixCache, Prompt, Result, Sequence, Want};

pub(super) struct Job<'m> {
    pub id: RequestId,
    request: Request,
    context: usize,
    /// The prompt and what was written.
    text: Vec<u32>,
    sequence: Sequence,
    prompt: Prompt,
    continuation: Continuation<'m>,
    cached: usize,
    logprobs: Vec<PromptLogprob>,
    /// The outputs of each loop at the last position.
    loops: Vec<Vec<f32>>,
    /// The state after the prompt.
    state: Vec<f32>,
}

impl<'m> Job<'m> {
    pub fn new(id: RequestId, model: &'m Model, request: Request) -> Result<Self> {
        let config = model.config();
        let prompt = Prompt::new(request.prompt.clone(), Want::Last);
        let sequence = Sequence::new(config, Default::default());
        prompt.check(config, &sequence)?;
        let mut continuation = Continuation::new(model, request.prompt.iter(), &request.options)?;
        if let Some(tokenizer) = model.tokenizer() {
            let stream = if request.apart { tokenizer.stream() } else { tokenizer.stream_after(&request.prompt)? };
            continuation = continuation.text(stream).stop(request.stop.clone());
        }
        continuation = continuation.ends(request.ends.clone());
        for filter in request.filters.make() {
            continuation = continuation.filter(filter);
        }
        if let Some(top) = request.logprobs {
            continuation = continuation.logprobs(top);
        }
        let logprobs = if request.prompt_logprobs.is_some() { vec![None; request.prompt.len()] } else { Vec::new() };
        Ok(Self {
            id,
            context: config.max_position_embeddings,
            text: request.prompt.clone(),
            request,
            sequence,
            prompt,
            continuation,
            cached: 0,
            logprobs,
            loops: Vec::new(),
            state: Vec::new(),
        })
    }

    /// Whether a prompt is on its way, rather than a token that was written.
    pub fn is_prompt(&self) -> bool {
        self.prompt.tokens().len() != 1 || self.sequence.is_empty()
    }

    pub fn work(&mut self) -> Work<'_> {
        Work { sequence: &mut self.sequence, prompt: &mut self.prompt }
    }

    /// The tokens whose log-probabilities are wanted, and how many of the most likely ones.
    pub fn wants_scores(&self) -> Option<(Vec<u32>, usize)> {
        let top = self.request.prompt_logprobs.filter(|_| self.prompt.want() == Want::All)?;
        Some((self.request.prompt.clone(), top))
    }

    /// The position whose outputs of each loop are wanted.
    pub fn wants_states(&self) -> Option<usize> {
        self.request.loops.map(|_| self.text.len() - 1)
    }

    pub fn saw(&mut self, r: usize, output: Vec<f32>) {
        self.loops.resize(self.loops.len().max(r + 1), Vec::new());
        self.loops[r] = output;
    }

    pub fn scored(&mut self, position: usize, score: Logprob) {
        if let Some(place) = self.logprobs.get_mut(position) {
            *place = Some(score);
        }
    }

    /// Takes what the cache has of the text; the rest is the prompt.
    pub fn begin(&mut self, engine: &Engine, cache: Option<&mut PrefixCache>) {
        self.sequence = engine.sequence();
        // A prompt whose own log-probabilities are wanted is computed whole, once.
        let scored = self.request.prompt_logprobs.is_some() && self.continuation.written() == 0;
        if let Some(cache) = cache.filter(|_| !scored && !self.request.uncached)
            && let Some((sequence, held)) = cache.lookup_for(self.request.owner, &self.text[..self.text.len() - 1])
        {
            self.sequence = sequence;
            if self.continuation.written() == 0 {
                self.cached = held;
            }
        }
        let rest = self.text[self.sequence.len()..].to_vec();
        let options = self.request.options.prefill;
        self.prompt = Prompt::new(rest, if scored { Want::All } else { Want::Last }).options(options);
    }

    /// Gives up the state, to be computed again.
    pub fn put_back(&mut self) {
        let text = self.text.clone();
        self.prompt = Prompt::new(text, Want::Last);
        self.sequence.clear();
    }

    pub fn progress(&self) -> Option<Event> {
        let (done, total) = self.prompt.progress();
        (self.is_prompt() && self.prompt.is_between_pieces()).then_some(Event::Prompt { done, total })
    }

    /// After the last row of a prompt or token: the next token, or the end.
    pub fn went_on(&mut self, engine: &mut Engine, logits: Option<usize>) -> Result<Option<Event>> {
        let token = match logits {
            Some(i) => self.continuation.take(engine.turn_logits(i))?,
            None => self.continuation.take(engine.logits(&mut self.sequence)?)?,
        };
        if self.request.state && self.state.is_empty() {
            self.state = engine.last_state(&self.sequence);
        }
        let loops = std::mem::take(&mut self.loops);
        let Some(mut token) = token else { return Ok(self.answer().map(Event::Finished)) };
        if let Some(top) = self.request.loops {
            let likely = |output: Vec<f32>| crate::generate::logprobs(&engine.logits_of(&output), token.id, top).1;
            token.loops = loops.into_iter().map(likely).collect();
        }
        self.text.push(token.id);
        if self.continuation.finish().is_none() && self.sequence.len() >= self.context {
            self.continuation.end(Finish::Context)?;
        }
        self.prompt = Prompt::new(vec![token.id], Want::Last).passes(self.request.options.passes);
        Ok(Some(Event::Token(token)))
    }

    /// How it ended, if it has.
    pub fn answer(&mut self) -> Option<Answer> {
        Some(Answer {
            finish: self.continuation.finish()?,
            rest: self.continuation.rest(),
            stop: self.continuation.stopped_by().map(str::to_owned),
            cached: self.cached,
            written: self.continuation.written(),
            prompt_logprobs: std::mem::take(&mut self.logprobs),
            state: std::mem::take(&mut self.state),
        })
    }

    /// The slot in which its text is to be remembered.
    pub fn slot(&self) -> Option<(u32, Slot)> {
        let slot = Slot { owner: self.request.owner, tokens: self.sequence.tokens().to_vec() };
        Some((self.request.slot.filter(|_| !self.request.uncached)?, slot))
    }

    /// Leaves its prefix to those who come later.
    pub fn leave(&mut self, cache: Option<&mut PrefixCache>) {
        if let Some(cache) = cache.filter(|_| !self.request.uncached) {
            cache.insert_for(self.request.owner, &self.sequence);
        }
    }
}
