//! The thread that owns the engine.

use crate::error::ApiError;
use crate::metrics::Times;
use axum::http::StatusCode;
use parloop_engine::scheduler::{Load, Span};
use parloop_engine::{Engine, Event, Limits, Model, Request, RequestId, Scheduler};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What the thread is asked for.
enum Submission {
    /// A request, and where its events go. They end with `Finished` or `Failed`; a receiver that is dropped cancels it.
    Request(Box<Request>, Waiting),
    /// Something that is done with the scheduler between two passes.
    Between(Between),
}

/// Whoever waits for the events of a request.
struct Waiting {
    events: UnboundedSender<Event>,
    since: Instant,
    /// The last token.
    last: Option<Instant>,
}

/// What is done between two passes.
type Between = Box<dyn FnOnce(&mut Scheduler<'_>) + Send>;

/// What the server counts.
#[derive(Default)]
pub(crate) struct Counters {
    /// Requests that were taken and have not ended.
    pub open: AtomicUsize,
    pub requests: AtomicU64,
    pub prompt_tokens: AtomicU64,
    pub cached_tokens: AtomicU64,
    pub written_tokens: AtomicU64,
    pub cancelled: AtomicU64,
    pub failed: AtomicU64,
    /// Requests that came to their end.
    pub done: AtomicU64,
    pub times: Times,
    pub turns: AtomicU64,
    load: Mutex<Load>,
    passes: Mutex<VecDeque<Pass>>,
}

/// A pass over the weights, as the page shows it.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    /// Which one since the start, counted from 1.
    pub number: u64,
    pub micros: u64,
    pub spans: Vec<Span>,
}

/// Passes that are remembered.
const PASSES: usize = 64;

impl Counters {
    /// Counts the times that an event ends.
    fn time(&self, waiting: &mut Waiting, event: &Event) {
        let now = Instant::now();
        match event {
            Event::Token(_) => match waiting.last.replace(now) {
                None => self.times.first.add(now - waiting.since),
                Some(last) => self.times.gap.add(now - last),
            },
            Event::Finished(_) => {
                self.done.fetch_add(1, Ordering::Relaxed);
                self.times.whole.add(now - waiting.since);
            }
            Event::Prompt { .. } | Event::Failed(_) => (),
        }
    }

    /// The last passes after that of a number, oldest first.
    pub fn passes(&self, after: u64) -> Vec<Pass> {
        let passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        passes.iter().filter(|pass| pass.number > after).cloned().collect()
    }

    fn remember(&self, pass: Pass) {
        let mut passes = self.passes.lock().unwrap_or_else(PoisonError::into_inner);
        if passes.len() == PASSES {
            passes.pop_front();
        }
        passes.push_back(pass);
    }

    pub fn load(&self) -> Load {
        *self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine's thread, from outside.
pub(crate) struct Worker {
    submissions: Mutex<Option<Sender<Submission>>>,
    pub counters: Arc<Counters>,
    most: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Worker {
    /// Starts the thread. `most` requests may be open at a time.
    pub fn start(engine: Engine, model: Arc<Model>, limits: Limits, most: usize) -> Result<Self, crate::ServeError> {
        // What cannot be is said before the thread starts.
        let (sender, receiver) = channel();
        let counters = Arc::new(Counters::default());
        let (shared, (ready, started)) = (counters.clone(), channel());
        let thread = std::thread::Builder::new().name("parloop-engine".into()).spawn(move || {
            match Scheduler::new(engine, &model, limits) {
                Ok(scheduler) => {
                    let _ = ready.send(Ok(()));
                    run(scheduler, &receiver, &shared);
                }
                Err(error) => _ = ready.send(Err(error)),
            }
        })?;
        match started.recv() {
            Ok(Ok(())) => (),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(std::io::Error::other("the engine's thread ended").into()),
        }
        Ok(Self { submissions: Mutex::new(Some(sender)), counters, most, thread: Mutex::new(Some(thread)) })
    }

    /// Hands requests to the engine, all of them or none.
    pub fn submit(&self, requests: Vec<Request>) -> Result<Vec<UnboundedReceiver<Event>>, ApiError> {
        let count = requests.len();
        let room = |open: usize| open.checked_add(count).filter(|sum| *sum <= self.most);
        if self.counters.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_err() {
            let message = format!("{} requests are open already, {} may be: try again", self.open(), self.most);
            return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message).code("rate_limit_exceeded"));
        }
        let sender = self.submissions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(sender) = sender else {
            self.counters.open.fetch_sub(count, Ordering::Relaxed);
            return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"));
        };
        let mut receivers = Vec::with_capacity(count);
        for request in requests {
            let (events, receiver) = unbounded_channel();
            self.counters.requests.fetch_add(1, Ordering::Relaxed);
            self.counters.prompt_tokens.fetch_add(request.prompt.len() as u64, Ordering::Relaxed);
            if sender
                .send(Submission::Request(Box::new(request), Waiting { events, since: Instant::now(), last: None }))
                .is_err()
            {
                return Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "the engine has stopped"));
            }
            receivers.push(receiver);
        }
        Ok(receivers)
    }

    /// Does something with the scheduler between two passes, and waits for what comes of it.
    pub async fn between<T: Send + 'static>(
        &self,
        what: impl FnOnce(&mut Scheduler<'_>) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (sender, done) = tokio::sync::oneshot::channel();
        let between: Between = Box::new(move |scheduler| _ = sender.send(what(scheduler)));
        let submissions = self.submissions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let stopping = || ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping");
        submissions.ok_or_else(stopping)?.send(Submission::Between(between)).map_err(|_| stopping())?;
        done.await.map_err(|_| stopping())
    }

    fn open(&self) -> usize {
        self.counters.open.load(Ordering::Relaxed)
    }

    /// Whether every request that was taken has ended.
    pub fn is_idle(&self) -> bool {
        self.open() == 0
    }

    /// Takes no more requests, and waits for the end of those that are open.
    pub fn stop(&self) {
        self.submissions.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

/// Turns until no one can submit any more and everything has ended.
fn run(mut scheduler: Scheduler<'_>, receiver: &Receiver<Submission>, counters: &Counters) {
    let mut open: HashMap<RequestId, Waiting> = HashMap::new();
    let mut closed = false;
    loop {
        while !closed {
            let next = if scheduler.is_idle() {
                receiver.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                receiver.try_recv()
            };
            match next {
                Ok(Submission::Between(what)) => what(&mut scheduler),
                Ok(Submission::Request(request, waiting)) => match scheduler.submit(*request) {
                    Ok(id) => _ = open.insert(id, waiting),
                    Err(error) => {
                        counters.failed.fetch_add(1, Ordering::Relaxed);
                        counters.open.fetch_sub(1, Ordering::Relaxed);
                        let _ = waiting.events.send(Event::Failed(error));
                    }
                },
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => closed = true,
            }
        }
        // Whoever listens no more is forgotten, wherever his request is.
        open.retain(|id, waiting| {
            if waiting.events.is_closed() {
                scheduler.cancel(*id);
                counters.cancelled.fetch_add(1, Ordering::Relaxed);
                counters.open.fetch_sub(1, Ordering::Relaxed);
            }
            !waiting.events.is_closed()
        });
        if scheduler.is_idle() {
            *counters.load.lock().unwrap_or_else(PoisonError::into_inner) = scheduler.load();
            if closed {
                return;
            }
            continue;
        }
        let start = Instant::now();
        let events = scheduler.turn();
        let number = counters.turns.fetch_add(1, Ordering::Relaxed) + 1;
        let micros = start.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
        counters.remember(Pass { number, micros, spans: scheduler.spans().to_vec() });
        *counters.load.lock().unwrap_or_else(PoisonError::into_inner) = scheduler.load();
        for (id, event) in events {
            match &event {
                Event::Token(_) => _ = counters.written_tokens.fetch_add(1, Ordering::Relaxed),
                Event::Finished(answer) => {
                    counters.cached_tokens.fetch_add(answer.cached as u64, Ordering::Relaxed);
                }
                Event::Failed(_) => _ = counters.failed.fetch_add(1, Ordering::Relaxed),
                Event::Prompt { .. } => (),
            }
            let ended = matches!(event, Event::Finished(_) | Event::Failed(_));
            if let Some(waiting) = open.get_mut(&id) {
                counters.time(waiting, &event);
                // One who is gone is noticed above.
                let _ = waiting.events.send(event);
            }
            if ended && open.remove(&id).is_some() {
                counters.open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
