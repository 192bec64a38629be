//! The engine: everything it computes is a **row**.
//!
//! A row is one (sequence, loop r, position t). A *pass* takes a batch of rows and pushes it through the N
//! shared layers once; what the rows share is the weights. In each layer every row is normed and projected, rows that
//! have keys of their own write them, every row attends, and the feed-forward follows. So decode, prefill, batching
//! and scoring are one code path, and "parallel" is not a mode but the shape of the batch:
//!
//! | job | rows of one pass |
//! |---|---|
//! | [decode](step) one token of a PLT-R | R rows: loops 1..R of the same position |
//! | decode a loop model without shift | 1 row a pass, R passes |
//! | a [prompt] | its positions of one loop, R passes, later loops truncated |
//! | several sequences | the above for each, mixed |
//!
//! [`Engine::turn`] is the one driver: a pass for any mix of this work. Everything else plans turns.
//!
//! [`Sequence`] is what is remembered between passes: the shared cache, the rings of later loops, and the carried
//! vectors. It can be forked, rolled back, saved and loaded; [`PrefixCache`] keeps many of them for prompts that begin
//! alike.
#![forbid(unsafe_code)]

pub mod budget;
pub mod device;
pub mod error;
mod exit;
mod files;
pub mod filter;
pub mod generate;
pub mod model;
pub mod packed;
mod pass;
pub mod passes;
mod prefill;
pub mod prefix;
pub mod prompt;
pub mod sample;
pub mod scheduler;
pub mod score;
pub mod sequence;
mod starts;
mod state;
pub mod step;
mod stored;
pub mod turn;

pub use budget::Need;
pub use device::{Cpu, Device};
pub use error::{Error, Result};
pub use filter::{Filter, Filters};
pub use generate::{Continuation, Finish, Generation, Generator, Token};
pub use model::Model;
pub use passes::Passes;
pub use prefix::PrefixCache;
pub use prompt::{Prefill, Prompt, Want};
pub use sample::{SampleOptions, Sampler};
pub use scheduler::{Event, Limits, Request, RequestId, Scheduler};
pub use score::{Score, score};
pub use sequence::Sequence;
pub use turn::{Observer, Outcome, Work};

use parloop_kernels::{Isa, KvPool, KvType, Machine, Projector, Spares};
use std::sync::Arc;

/// Sees how far a prompt has come: positions done, positions in all.
pub type PromptProgress = Box<dyn FnMut(usize, usize) + Send>;

/// A model and the threads and scratch space to run it.
pub struct Engine {
    model: Arc<Model>,
    on: Projector,
    /// What computes passes.
    device: Box<dyn Device>,
    kv_type: KvType,
    /// What keys and values are drawn from.
    pool: KvPool,
    /// Blocks set aside for the pass to come.
    spares: Spares,
    /// The rows of a pass.
    rows: Vec<device::Row>,
    /// `[rows][d]`, their residual stream.
    x: Vec<f32>,
    /// Rows that layers have computed so far.
    layer_rows: u64,
    /// Experts whose weights passes have read so far, each layer counted.
    experts_read: u64,
    made_up: Option<device::MadeUp>,
    /// `[sequences][V]`, logits of the last step.
    logits: Vec<f32>,
    progress: Option<PromptProgress>,
}

impl Engine {
    /// An engine with `threads` threads (the machine's physical cores, or `PARLOOP_THREADS`, if `None`) on the best
    /// instruction set of the machine, or the one `PARLOOP_ISA` names.
    ///
    /// # Errors
    /// One of the two variables holds something that cannot be used.
    pub fn new(model: Arc<Model>, threads: Option<usize>) -> Result<Self> {
        let machine = Machine::chosen(threads).map_err(Error::Machine)?;
        Ok(Self::over(model, Projector::on(machine)))
    }

    /// An engine on a given instruction set.
    ///
    /// # Panics
    /// If this machine lacks `isa`; take it from [`Isa::available`].
    pub fn with_isa(model: Arc<Model>, threads: usize, isa: Isa) -> Self {
        Self::over(model, Projector::new(isa, threads))
    }

    /// An engine over threads that exist, such as those that loaded the model.
    pub fn over(model: Arc<Model>, on: Projector) -> Self {
        let pool = KvPool::unlimited();
        Self {
            model,
            spares: Spares::new(&pool),
            pool,
            rows: Vec::new(),
            layer_rows: 0,
            experts_read: 0,
            made_up: None,
            on,
            device: Box::<Cpu>::default(),
            kv_type: KvType::default(),
            x: Vec::new(),
            logits: Vec::new(),
            progress: None,
        }
    }

    /// Has passes computed by another device from now on; the threads go on doing the host's share.
    pub fn on_device(mut self, device: Box<dyn Device>) -> Self {
        self.device = device;
        self
    }

    /// Has every chunk of a prompt reported from now on.
    pub fn on_progress(&mut self, progress: PromptProgress) {
        self.progress = Some(progress);
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.on.pool.threads()
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.on.isa()
    }

    /// The threads, for other work such as measurements.
    pub fn projector(&mut self) -> &mut Projector {
        &mut self.on
    }

    /// Where the time went, if `PARLOOP_PROFILE` is set.
    pub fn profile(&self) -> Option<String> {
        self.on.profile.is_on().then(|| self.on.profile.table())
    }

    /// Goes on with another model; threads and scratch space stay.
    pub fn set_model(&mut self, model: Arc<Model>) {
        self.model = model;
    }

    /// Sets the type in which new sequences keep keys and values.
    pub fn set_kv_type(&mut self, kind: KvType) {
        self.kv_type = kind;
    }

    /// The type in which new sequences keep keys and values.
    pub fn kv_type(&self) -> KvType {
        self.kv_type
    }

    /// Draws keys and values of all sequences from `pool` from now on.
    pub fn set_kv_pool(&mut self, pool: KvPool) {
        self.spares = Spares::new(&pool);
        self.pool = pool;
    }

    /// What keys and values are drawn from.
    pub fn kv_pool(&self) -> &KvPool {
        &self.pool
    }

    /// Rows that layers have computed since the engine was made, each layer counted.
    pub fn layer_rows(&self) -> u64 {
        self.layer_rows
    }

    /// Has rows routed to experts that are made up from now on, for measurements; `None`: as the model says.
    pub fn make_up_routing(&mut self, made_up: Option<device::MadeUp>) {
        self.made_up = made_up;
    }

    /// Experts whose weights have been read since the engine was made: in each pass, of each layer those that any row took.
    pub fn experts_read(&self) -> u64 {
        self.experts_read
    }

    /// An empty sequence of this model.
    pub fn sequence(&self) -> Sequence {
        Sequence::new(self.model.config(), self.kv_type)
    }
}
