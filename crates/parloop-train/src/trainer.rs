//! The training run: options, a text and a folder in; checkpoints, a log and samples out.

mod board;
mod evaluate;
mod events;
mod guard;
mod record;
mod report;
mod save;
mod setup;

pub use evaluate::Validation;
pub use events::{Event, Hooks, Observer, Sampler, Snapshot};
pub use report::LogRow;
pub(crate) use setup::optimiser;

use crate::data::{Batch, Feed};
use crate::host::host;
use crate::model::LoopModel;
use crate::optim::{Gradients, Optimiser, Schedule, Shape};
use crate::options::{ScheduleChoice, TrainOptions};
use crate::{Result, sample};
use burn::module::Module;
use guard::{Guard, Reason};
use parloop_model::{Recipe, TextSettings, Tokenizer};
use report::Log;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What to train on, where to, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TrainJob {
    /// A UTF-8 text file or a folder of such files; a file of examples or conversations (`.jsonl`), of which only the
    /// answers count; or a folder that [`crate::data::prepare()`] wrote.
    pub data: PathBuf,
    /// Folder for checkpoints, log and token file; created if needed.
    pub out: PathBuf,
    /// Continue from the newest whole checkpoint in `out`.
    pub resume: bool,
    /// What the run was started with, for its record: the words of a command line.
    pub command: Vec<String>,
    /// Everything else.
    pub options: TrainOptions,
}

impl TrainJob {
    /// A new run.
    pub fn new(data: impl Into<PathBuf>, out: impl Into<PathBuf>, options: TrainOptions) -> Self {
        Self { data: data.into(), out: out.into(), resume: false, command: Vec::new(), options }
    }

    /// The run in `out` from its newest checkpoint on.
    #[must_use]
    pub fn resumed(self) -> Self {
        Self { resume: true, ..self }
    }
}

/// How a run ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Summary {
    /// Steps taken in all, earlier runs included.
    pub step: usize,
    /// Whether the stop flag ended the run before its last step.
    pub stopped: bool,
    /// The last checkpoint.
    pub checkpoint: PathBuf,
    /// Training loss of the last step, in nats per token; NaN if no step was taken.
    pub loss: f64,
    /// The last validation.
    pub validation: Option<Validation>,
    /// Training tokens seen in all.
    pub tokens: u64,
    /// Training tokens a second in this part of the run; 0 if no step was taken.
    pub tokens_per_second: f64,
    /// Steps that were skipped in all.
    pub skipped: usize,
}

/// A run under way.
struct Run<'a> {
    options: &'a TrainOptions,
    /// The recipe that is trained, once its scales are warm.
    recipe: Recipe,
    out: PathBuf,
    tokenizer: Tokenizer,
    /// What else the model says about text.
    settings: TextSettings,
    feed: Feed,
    model: LoopModel,
    optimiser: Optimiser,
    /// Steps taken.
    step: usize,
    saved: Option<(usize, PathBuf)>,
    /// The newest checkpoint from whose weights a step could be taken.
    good: Option<(usize, PathBuf)>,
    guard: Guard,
    log: Log,
    training: Duration,
    /// Held until the run ends.
    _lock: setup::Lock,
}

/// Trains a model to the last step, or until asked to stop.
///
/// # Errors
/// An option, the text, or the folder cannot be used; a checkpoint cannot be written; the loss is no longer a number.
/// Each is one sentence that names the option or file. Checkpoints written before stay.
pub fn train(job: &TrainJob, hooks: &mut Hooks<'_>) -> Result<Summary> {
    setup::prepare(job)?.go(hooks)
}

impl Run<'_> {
    fn go(&mut self, hooks: &mut Hooks<'_>) -> Result<Summary> {
        let options = self.options;
        let (first, mut loss, mut validation) = (self.step, f64::NAN, None);
        let mut stopped = false;
        hooks.tell(&Event::Started {
            config: self.model.config(),
            options,
            train_tokens: self.feed.tokens().0,
            val_tokens: self.feed.tokens().1,
            step: self.step,
        });
        let mut since = (self.step, Duration::ZERO);
        while self.step < options.steps {
            if hooks.stop.load(Ordering::Relaxed) {
                stopped = true;
                break;
            }
            self.set_recipe(options.recipe_of_step(&self.recipe, self.step));
            let loops = self.model.config.recipe.count;
            let rate = self.schedule().rate(self.step + 1);
            let began = Instant::now();
            let norm;
            let skip;
            (loss, norm, skip) = self.one_step(rate)?;
            self.training += began.elapsed();
            self.set_recipe(options.recipe_at(&self.recipe, self.step));
            self.step += 1;
            match skip {
                Some(reason) => {
                    let Reason { what, value, usual } = reason;
                    hooks.tell(&Event::Skipped { step: self.step, what, value, usual });
                    self.guard.skipped(reason, self.step, self.good.clone())?;
                }
                None => self.taken(),
            }

            let (step, last) = (self.step, self.step == options.steps);
            let due = |every: usize| every > 0 && step.is_multiple_of(every);
            let evaluate = last || due(options.eval_every);
            if evaluate {
                validation = evaluate::validate(&self.model.valid(), &self.feed, options.eval_batches)?.or(validation);
            }
            if due(options.log_every) || last || evaluate || self.step == first + 1 {
                let time = (self.training - since.1).as_secs_f64();
                let tokens = (self.step - since.0) * options.tokens_per_step();
                since = (self.step, self.training);
                let row = LogRow {
                    step: self.step,
                    loss,
                    lr: rate,
                    grad_norm: norm,
                    tokens: self.tokens(),
                    tokens_per_second: tokens as f64 / time.max(1e-9),
                    skipped: self.guard.skips.skipped,
                    loops: (loops != self.recipe.count || !options.random_loops.is_empty()).then_some(loops),
                    scales: self.scales(),
                    val_loss: validation.filter(|_| evaluate).map(|v| v.nats_per_token),
                    val_bits_per_byte: validation.filter(|_| evaluate).and_then(|v| v.bits_per_byte),
                };
                self.log.write(&row)?;
                hooks.tell(&Event::Logged(&row));
            }
            if due(options.sample_every) {
                self.sample(hooks)?;
            }
            // Nobody has seen weights work from which steps are skipped.
            if due(options.save_every) && !last && self.guard.skips.in_row == 0 {
                self.save(validation, hooks)?;
            }
        }
        let checkpoint = self.save(validation, hooks)?;
        self.prune();
        hooks.tell(&Event::Ended { step: self.step, validation });
        Ok(Summary {
            step: self.step,
            stopped,
            checkpoint,
            loss,
            validation,
            tokens: self.tokens(),
            tokens_per_second: ((self.step - first) * options.tokens_per_step()) as f64
                / self.training.as_secs_f64().max(1e-9),
            skipped: self.guard.skips.skipped,
        })
    }

    fn schedule(&self) -> Schedule {
        let o = self.options;
        let shape = match o.schedule {
            ScheduleChoice::Cosine => Shape::Cosine,
            ScheduleChoice::Linear => Shape::Linear,
            ScheduleChoice::Wsd => Shape::Wsd { decay: o.decay },
        };
        Schedule { shape, peak: o.lr, warmup: o.warmup, steps: o.steps, floor: o.floor }
    }

    fn tokens(&self) -> u64 {
        self.step as u64 * self.options.tokens_per_step() as u64
    }

    fn set_recipe(&mut self, recipe: Recipe) {
        self.model.config.recipe = recipe;
        self.model.fold_scales();
    }

    /// Learned scales as they are.
    fn scales(&self) -> Option<(f32, Option<f32>)> {
        let recipe = &self.model.config.recipe;
        self.model.scales.as_ref().map(|_| (recipe.hidden_scale, recipe.embedding_scale))
    }

    /// A step was taken from the newest checkpoint's weights or from those that followed: older ones may go.
    fn taken(&mut self) {
        self.guard.taken();
        if self.good != self.saved {
            self.good.clone_from(&self.saved);
            self.prune();
        }
    }

    /// One optimiser step: the mean loss over its batches, the gradient's norm before clipping, and why it was not taken,
    /// if it was not.
    fn one_step(&mut self, rate: f64) -> Result<(f64, f64, Option<Reason>)> {
        let (batches, mut total, mut sum) = (self.options.batches_per_step(), 0.0, None::<Gradients>);
        let first = if self.options.overfit_one_batch { 0 } else { self.step * batches };
        let all: Vec<Batch> = (0..batches).map(|micro| self.feed.train((first + micro) as u64)).collect();
        let asked: usize = all.iter().map(Batch::asked).sum();
        for batch in all {
            let ids = self.model.ids(&batch.ids, batch.batch, batch.time)?;
            let targets = self.model.targets(&batch.targets, batch.batch, batch.time)?;
            let (mut loss, mut aim) = self.model.losses(ids, targets, self.options.loop_loss);
            // The mean over a step is over all that it asks, however it is spread over its batches.
            if batch.asked() * batches != asked {
                let share = (batch.asked() * batches) as f64 / asked.max(1) as f64;
                (loss, aim) = (loss.mul_scalar(share), aim.mul_scalar(share));
            }
            let grads = Gradients::of(&self.model, &aim);
            total += f64::from(host(loss)[0]);
            match &mut sum {
                Some(sum) => sum.add(grads),
                None => sum = Some(grads),
            }
        }
        let loss = total / batches as f64;
        let Some(grads) = sum else { return Ok((loss, 0.0, None)) };
        if let Some(reason) = self.guard.judge(loss, None) {
            return Ok((loss, f64::NAN, Some(reason)));
        }
        let mut grads = self.optimiser.wanted(&self.model, grads)?;
        let norm = grads.norm() / batches as f64;
        if let Some(reason) = self.guard.judge(loss, Some(norm)) {
            return Ok((loss, norm, Some(reason)));
        }
        let clip = self.options.clip;
        let shrink = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        grads.scale(shrink / batches as f64);
        self.model = self.optimiser.step(self.model.clone(), grads, rate);
        Ok((loss, norm, None))
    }

    fn sample(&mut self, hooks: &mut Hooks<'_>) -> Result<()> {
        let options = self.options;
        let prompt = match options.sample_prompt.as_str() {
            "" => self.feed.opening(16),
            text => self.tokenizer.encode(text)?,
        };
        let weights = hooks.sampler.as_ref().map(|_| self.model.to_tensors()).unwrap_or_default();
        let snapshot = Snapshot {
            step: self.step,
            config: self.model.config(),
            weights: &weights,
            tokenizer: &self.tokenizer,
            prompt: &prompt,
            tokens: options.sample_tokens,
            temperature: options.sample_temperature,
            seed: options.seed.wrapping_add(self.step as u64),
        };
        let text = match hooks.sampler.as_mut().and_then(|sampler| sampler(&snapshot)) {
            Some(text) => text,
            None => {
                let (count, temperature, seed) = (snapshot.tokens, snapshot.temperature, snapshot.seed);
                let ids = sample::continue_ids(&self.model.valid(), &prompt, count, temperature, seed)?;
                self.tokenizer.decode(&ids)?
            }
        };
        let prompt = &self.tokenizer.decode(&prompt)?;
        hooks.tell(&Event::Sampled { step: self.step, prompt, text: &text });
        Ok(())
    }
}
