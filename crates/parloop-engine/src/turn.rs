//! The one driver of rows: a turn is one pass over the weights for any mix of work.
//!
//! Decode, prefill, rebuilding and scoring are planners that fill turns ([`step`](crate::step), `prefill`);
//! none of them pushes rows itself.

use crate::device::Row;
use crate::prompt::Next;
use crate::{Engine, Error, Prompt, Result, Sequence, Want};
use std::ops::Range;

/// A sequence and what it is to take in.
pub struct Work<'a> {
    /// The sequence that goes on.
    pub sequence: &'a mut Sequence,
    /// The tokens that it takes in.
    pub prompt: &'a mut Prompt,
}

/// What a turn did for one piece of work.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing: the turn's rows went to those before it.
    Waits,
    /// A piece was computed; more is to come.
    Goes,
    /// The prompt is in the sequence. If its last logits were wanted, they are [`Engine::turn_logits`] of this index.
    Done(Option<usize>),
    /// It cannot go on; the sequence holds what it held. Others are not affected.
    Refused(Error),
}

/// Sees what passes compute.
pub trait Observer {
    /// Whether [`Observer::state`] is to be called. It makes all loops run over all positions.
    fn wants_states(&self) -> bool {
        true
    }

    /// The same for one piece of work, where not all are looked at.
    fn wants_states_of(&self, _work: usize) -> bool {
        self.wants_states()
    }

    /// The normed output `[d]` of loop `r` (0-based) at a position of the sequence of work `work`.
    fn state(&mut self, _work: usize, _r: usize, _position: usize, _state: &[f32]) {}

    /// The same before the norm.
    fn output(&mut self, _work: usize, _r: usize, _position: usize, _output: &[f32]) {}

    /// The logits `[V]` after a position of the sequence of work `work`, where all are wanted.
    fn logits(&mut self, _work: usize, _position: usize, _logits: &[f32]) {}
}

/// Rows whose logits are computed at a time where all are wanted; bounds memory for large vocabularies.
const HEAD_ROWS: usize = 64;

/// The rows that a turn takes of one piece of work.
struct Run {
    work: usize,
    next: Next,
}

impl Engine {
    /// One pass over the weights. Work is taken in its order until `row_budget` rows are found; the first that has any
    /// left is taken even if its least piece is larger, and a piece that has begun goes on in every turn, so that rows may be
    /// up to twice the budget where it shrinks.
    ///
    /// Every sequence gets the bits that it would get alone.
    pub fn turn(
        &mut self,
        work: &mut [Work<'_>],
        row_budget: usize,
        observer: Option<&mut dyn Observer>,
    ) -> Vec<Outcome> {
        let mut room = row_budget;
        let mut runs: Vec<Run> = Vec::with_capacity(work.len());
        let mut outcomes = Vec::with_capacity(work.len());
        for (i, one) in work.iter_mut().enumerate() {
            let states = observer.as_ref().is_some_and(|o| o.wants_states_of(i));
            outcomes.push(match self.plan(one, room, runs.is_empty(), states) {
                Ok(None) => Outcome::Waits,
                Ok(Some(next)) => {
                    room = room.saturating_sub(next.rows());
                    runs.push(Run { work: i, next });
                    Outcome::Goes
                }
                Err(error) => Outcome::Refused(error),
            });
        }
        if !runs.is_empty() {
            self.push(work, &runs, &mut outcomes, observer);
        }
        outcomes
    }

    /// The rows of the last pass: index of the work, loop (0-based), position. Ordered by loop, work and position.
    pub fn turn_rows(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        self.rows.iter().map(|row| (row.sequence, row.r, row.position))
    }

    /// The logits `[V]` of index `i` of the last turn.
    ///
    /// # Panics
    /// If it had no such index.
    pub fn turn_logits(&self, i: usize) -> &[f32] {
        let v = self.model.config().vocab_size;
        &self.logits[i * v..(i + 1) * v]
    }

    /// Turns until every prompt is done, for those who want all of them or none.
    ///
    /// # Errors
    /// As [`Outcome::Refused`], of the first that is. If it is refused before its first row, nothing has changed for
    /// any.
    pub(crate) fn finish(&mut self, work: &mut [Work<'_>], mut observer: Option<&mut dyn Observer>) -> Result<()> {
        let states = observer.as_ref().is_some_and(|o| o.wants_states());
        let mut outcomes: Vec<Outcome> = work.iter().map(|_| Outcome::Waits).collect();
        let mut earlier = 0;
        while !outcomes.iter().all(|o| matches!(o, Outcome::Done(_))) {
            earlier = outcomes.iter().filter(|o| matches!(o, Outcome::Done(_))).count();
            let mut runs = Vec::with_capacity(work.len());
            for (i, one) in work.iter_mut().enumerate().filter(|(i, _)| !matches!(outcomes[*i], Outcome::Done(_))) {
                match self.plan(one, usize::MAX, true, states) {
                    Ok(next) => runs.extend(next.map(|next| Run { work: i, next })),
                    Err(error) => {
                        work.iter_mut().for_each(|w| w.sequence.trim());
                        self.spares.clear();
                        return Err(error);
                    }
                }
            }
            // The explicit reborrow gives each turn its own, shorter borrow of the observer.
            let observer = observer.as_mut().map(|o| &mut **o as &mut dyn Observer);
            self.push(work, &runs, &mut outcomes, observer);
            if let (Some(progress), [one]) = (&mut self.progress, &*work)
                && one.prompt.is_between_pieces()
                && one.prompt.tokens().len() > 1
            {
                let (now, all) = one.prompt.progress();
                progress(now, all);
            }
        }
        // Some took more turns than others, such as those that were cut and had to be rebuilt: all logits together again.
        if earlier > 0 {
            self.last_logits(work.iter().filter(|w| w.prompt.want() == Want::Last).map(|w| &*w.sequence));
        }
        Ok(())
    }

    /// The logits that follow the last outputs of some sequences, in their order.
    pub(crate) fn last_logits<'a>(&mut self, sequences: impl Iterator<Item = &'a Sequence>) {
        self.x.clear();
        let mut count = 0;
        for sequence in sequences {
            self.x.extend_from_slice(&sequence.last);
            count += 1;
        }
        if count > 0 {
            self.head(0..count);
        }
    }

    /// The next rows of some work, with room made for their keys and values.
    fn plan(&mut self, work: &mut Work<'_>, room: usize, whatever: bool, states: bool) -> Result<Option<Next>> {
        let model = self.model.clone();
        let config = model.config();
        let Work { sequence, prompt } = work;
        if prompt.stamp().is_none() {
            sequence.check_shape(config, self.kv_type)?;
            prompt.check(config, sequence)?;
            sequence.settle();
            prompt.begin(config, sequence, states);
        } else if sequence.in_flight != prompt.stamp() {
            return Err(Error::Input("a prompt was begun with another sequence, or is done: make a new one".into()));
        }
        let Some(next) = prompt.next(config.recipe.count, room, whatever) else { return Ok(None) };
        if let Some((_, progress)) = prompt.parts() {
            sequence.reserve(&next, &progress.starts, &mut self.spares)?;
        }
        Ok(Some(next))
    }

    /// Pushes the rows of some runs through the model and hands out what they give.
    fn push(
        &mut self,
        work: &mut [Work<'_>],
        runs: &[Run],
        outcomes: &mut [Outcome],
        mut observer: Option<&mut dyn Observer>,
    ) {
        let model = self.model.clone();
        let loops = model.config().recipe.count;
        self.inputs(work, runs);
        let mut sequences: Vec<&mut Sequence> = work.iter_mut().map(|w| &mut *w.sequence).collect();
        self.pass(&mut sequences);
        self.spares.clear();
        let mut finished = Vec::new();
        for r in 0..loops {
            for run in runs.iter().filter(|run| run.next.loops.contains(&r)) {
                let key = (r, run.work);
                let start = self.rows.partition_point(|row| (row.r, row.sequence) < key);
                let end = self.rows.partition_point(|row| (row.r, row.sequence) <= key);
                let one = &mut work[run.work];
                // The explicit reborrow gives each run its own, shorter borrow of the observer.
                let observer = observer.as_mut().map(|o| &mut **o as &mut dyn Observer);
                self.outputs(run, r, start..end, one, observer);
                if r + 1 == run.next.loops.end && one.went_on(r + 1, loops) {
                    finished.push(run.work);
                }
            }
        }
        finished.sort_unstable();
        let mut count = 0;
        for i in &finished {
            let wanted = work[*i].prompt.want() == Want::Last;
            outcomes[*i] = Outcome::Done(wanted.then_some(count));
            count += usize::from(wanted);
        }
        let wanted = finished.iter().filter(|i| work[**i].prompt.want() == Want::Last);
        self.last_logits(wanted.map(|i| &*work[*i].sequence));
    }

    /// The rows of some runs and their inputs, ordered by loop, work and position.
    fn inputs(&mut self, work: &mut [Work<'_>], runs: &[Run]) {
        let model = self.model.clone();
        let (d, shift) = (model.config().hidden_size, model.config().recipe.shift);
        self.rows.clear();
        self.x.resize(runs.iter().map(|run| run.next.rows()).sum::<usize>() * d, 0.0);
        for r in 0..model.config().recipe.count {
            for Run { work: i, next } in runs.iter().filter(|run| run.next.loops.contains(&r)) {
                let Work { sequence, prompt } = &mut work[*i];
                let Some((tokens, progress)) = prompt.parts() else { continue };
                if r == 0 {
                    sequence.choices.begin(model.config(), next.first..next.end);
                }
                // All loops of one position together read what the last position carried.
                let before = if next.loops.len() > 1 { &[] } else { &progress.before[..] };
                for position in next.first..next.end {
                    let row = self.rows.len();
                    let token = sequence.tokens.get(position).copied();
                    let token = token.unwrap_or_else(|| tokens[position - progress.held]);
                    model.embed(token as usize, &mut self.x[row * d..][..d]);
                    if r > 0 {
                        let source = (position - usize::from(shift && position > 0)).checked_sub(progress.before_from);
                        let source =
                            source.filter(|_| position > 0 || !shift).and_then(|i| before.get(i * d..(i + 1) * d));
                        self.loop_input(row, source.unwrap_or(&sequence.carried[r - 1]));
                    }
                    let depth = progress.starts.depth(r, position);
                    self.rows.push(Row { sequence: *i, r, position, depth });
                }
                if r > 0 && !before.is_empty() {
                    sequence.carried[r - 1].copy_from_slice(&before[before.len() - d..]);
                }
            }
        }
    }

    /// Takes what one loop of a run gives: rows `rows` of `self.x`, those whose outputs are needed.
    fn outputs(
        &mut self,
        run: &Run,
        r: usize,
        rows: Range<usize>,
        work: &mut Work<'_>,
        mut observer: Option<&mut dyn Observer>,
    ) {
        let model = self.model.clone();
        let config = model.config();
        let (d, loops) = (config.hidden_size, config.recipe.count);
        let all = work.prompt.want() == Want::All;
        let Work { sequence, prompt } = work;
        let Some((_, progress)) = prompt.parts() else { return };
        let first = self.rows.get(rows.start).filter(|_| !rows.is_empty()).map_or(run.next.end, |row| row.position);
        let new = rows.start + progress.held.saturating_sub(first).min(rows.len());
        if r == 0 {
            progress.exits = self.exits(run.next.end - progress.from);
        }
        if let Some(exits) = &mut progress.exits {
            for i in rows.clone() {
                let position = self.rows[i].position;
                if all || position + 1 == progress.end {
                    self.judge(exits, position - progress.from, i);
                }
            }
        }
        if let Some(observer) = observer.as_deref_mut().filter(|o| o.wants_states_of(run.work)) {
            let mut state = vec![0.0; d];
            for i in new..rows.end {
                self.normed(i, &mut state);
                observer.state(run.work, r, self.rows[i].position, &state);
                observer.output(run.work, r, self.rows[i].position, &self.x[i * d..][..d]);
            }
        }
        if r + 1 < loops {
            if run.next.loops.len() > 1 {
                // Every loop has read what was carried; this takes its place.
                self.handed_on(rows.start, &mut sequence.carried[r]);
                return;
            }
            progress.before_from = first;
            progress.before.resize(rows.len() * d, 0.0);
            for (i, h) in rows.zip(progress.before.chunks_exact_mut(d)) {
                self.handed_on(i, h);
            }
            return;
        }
        if let Some(exits) = &progress.exits {
            for i in rows.clone() {
                let position = self.rows[i].position;
                if all || position + 1 == progress.end {
                    exits.put(position - progress.from, &mut self.x[i * d..][..d]);
                }
            }
        }
        if run.next.end == progress.end {
            sequence.last.clear();
            sequence.last.extend_from_slice(&self.x[(rows.end - 1) * d..rows.end * d]);
        }
        if let (true, Some(observer)) = (all, observer) {
            let mut i = new;
            while i < rows.end {
                let n = HEAD_ROWS.min(rows.end - i);
                self.head(i..i + n);
                for (j, logits) in self.logits.chunks_exact(config.vocab_size).take(n).enumerate() {
                    observer.logits(run.work, self.rows[i + j].position, logits);
                }
                i += n;
            }
        }
    }
}

impl Work<'_> {
    /// After a run whose last loop was the one before `r`: what comes next. Returns whether the prompt is done.
    fn went_on(&mut self, r: usize, loops: usize) -> bool {
        let Self { sequence, prompt } = self;
        let Some((tokens, progress)) = prompt.parts() else { return false };
        progress.turns += 1;
        let goes_on = r < loops && !progress.before.is_empty();
        let done = if goes_on && progress.starts.at(r, 0).max(progress.from) < progress.to {
            progress.r = r;
            false
        } else {
            if goes_on {
                // A later loop that starts in a later piece finds its first input here.
                let d = sequence.carried[r - 1].len();
                sequence.carried[r - 1].copy_from_slice(&progress.before[progress.before.len() - d..]);
            }
            let new = sequence.len().max(progress.held)..progress.to.max(progress.held);
            sequence.tokens.extend_from_slice(&tokens[new.start - progress.held..new.end - progress.held]);
            progress.before.clear();
            sequence.choices.clear();
            progress.exits = None;
            (progress.from, progress.r) = (progress.to, 0);
            progress.to == progress.end
        };
        if !done {
            // A part of it: there is no last output until all is done.
            sequence.last.clear();
        }
        sequence.in_flight = if done { None } else { prompt.stamp() };
        done
    }
}
