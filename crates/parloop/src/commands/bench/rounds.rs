//! Rounds in which everything compared takes its turn.

use anyhow::Result;
use parloop_engine::device::MadeUp;
use parloop_engine::{Engine, Model, Passes, Prefill, Sequence};
use parloop_kernels::KvType;
use parloop_kernels::measure::ReadTest;
use std::sync::Arc;
use std::time::Instant;

/// Bytes of the bandwidth test's buffer at most: beyond a gigabyte nothing changes.
pub const READ_BYTES: usize = 1 << 30;

/// What one measurement does.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Sequences decoded together.
    pub batch: usize,
    /// Tokens already in the cache.
    pub depth: usize,
    /// Tokens of a prompt; 0 for decode alone.
    pub prompt: usize,
    /// Tokens decoded.
    pub steps: usize,
    /// How the prompt is processed.
    pub prefill: Prefill,
}

impl Work {
    /// The name in tables: `tg1 @ d512`, `pp512`, `pp512+tg128`.
    pub fn name(&self) -> String {
        match (self.prompt, self.steps) {
            (0, steps) => format!("tg{steps} @ d{}", self.depth),
            (prompt, 0) => format!("pp{prompt}"),
            (prompt, steps) => format!("pp{prompt}+tg{steps}"),
        }
    }

    /// Tokens that a measurement processes.
    pub fn tokens(&self) -> usize {
        self.batch * (self.prompt + self.steps)
    }
}

/// Weights below this many bytes may stay in a cache from step to step. What ran before a measurement has thrown them
/// out, so a step that is not counted brings them back.
pub const CACHED: usize = 256 << 20;

/// Tokens by which the depth may grow over the rounds: keys are read in tiles of as many, so that fewer make no
/// difference.
const DRIFT: usize = 16;

/// One of the things compared.
pub struct Side {
    pub model: Arc<Model>,
    pub passes: Passes,
    pub kv: KvType,
    pub work: Work,
    /// Empty until the first measurement.
    sequences: Vec<Sequence>,
    /// How rows are routed to experts, for random weights.
    pub made_up: Option<MadeUp>,
    /// Seconds of each round.
    pub times: Vec<f64>,
    /// Experts that all measurements read, each layer and pass counted.
    pub experts: u64,
}

impl Side {
    pub fn new(model: Arc<Model>, passes: Passes, kv: KvType, work: Work, made_up: Option<MadeUp>) -> Self {
        Self { sequences: Vec::new(), model, passes, kv, work, made_up, times: Vec::new(), experts: 0 }
    }

    /// Brings the sequences back to the depth that is measured, if earlier rounds have led them too far from it.
    /// Returns whether they are new.
    fn set_depth(&mut self) -> Result<bool> {
        let context = self.model.config().max_position_embeddings;
        let last = (self.work.depth + DRIFT).min(context - self.work.steps - 1);
        if self.sequences.first().is_some_and(|s| s.len() <= last) {
            return Ok(false);
        }
        // Given back before the new ones are made.
        self.sequences.clear();
        // One by one: clones would share their keys and values, and a batch would read them once.
        let one = |_| Sequence::for_measurement(self.model.config(), self.kv, self.work.depth);
        self.sequences = (0..self.work.batch).map(one).collect::<parloop_engine::Result<_>>()?;
        Ok(true)
    }

    /// One measurement; seconds.
    fn measure(&mut self, engine: &mut Engine) -> Result<f64> {
        engine.set_model(self.model.clone());
        engine.make_up_routing(self.made_up);
        let vocabulary = self.model.config().vocab_size as u32;
        let prompt: Vec<u32> =
            (0..self.work.prompt as u32).map(|t| t.wrapping_mul(2_654_435_761) % vocabulary).collect();
        let tokens: Vec<u32> = (0..self.work.batch as u32).map(|i| (i * 7 + 1) % vocabulary).collect();
        if !prompt.is_empty() {
            self.sequences = vec![engine.sequence()];
        }
        let new = self.work.prompt == 0 && self.set_depth()?;
        // The memory of new sequences is first written in a step that does not count.
        if new || (self.work.prompt == 0 && self.model.bytes_per_pass() < CACHED) {
            let mut sequences: Vec<&mut Sequence> = self.sequences.iter_mut().collect();
            engine.step(&mut sequences, &tokens, self.passes)?;
        }
        let before = engine.experts_read();
        let start = Instant::now();
        if !prompt.is_empty() {
            engine.prefill(&mut self.sequences[0], &prompt, &self.work.prefill)?;
        }
        for _ in 0..self.work.steps {
            let mut sequences: Vec<&mut Sequence> = self.sequences.iter_mut().collect();
            engine.step(&mut sequences, &tokens, self.passes)?;
        }
        let seconds = start.elapsed().as_secs_f64();
        self.experts += engine.experts_read() - before;
        Ok(seconds)
    }
}

/// Measures every side once a round, and the read bandwidth (bytes a second) before and after them. What else a machine
/// does can only make a reading slower, so the better of the two is the round's.
pub fn run(engine: &mut Engine, sides: &mut [Side], bytes: usize, rounds: usize) -> Result<Vec<f64>> {
    let read = ReadTest::new(bytes.clamp(64 << 20, READ_BYTES))?;
    let mut reads = Vec::new();
    // The first round warms up and does not count.
    for round in 0..=rounds {
        if round > 0 {
            reads.push(read.run(engine.projector()));
        }
        for side in sides.iter_mut() {
            side.experts = if round == 1 { 0 } else { side.experts };
            let seconds = side.measure(engine)?;
            if round > 0 {
                side.times.push(seconds);
            }
        }
    }
    reads.push(read.run(engine.projector()));
    Ok(reads.windows(2).map(|pair| pair[0].max(pair[1])).collect())
}
