//! Persistent worker threads that share the tasks of a call.
//!
//! A decode step makes dozens of calls of a few microseconds each, so starting a call must cost well under one:
//! workers spin for the next call for a while and only then park. Tasks are taken from a shared counter; the caller
//! takes part, and returns when the tasks are done and every worker that joined has left (`gate`). A worker whose
//! core was taken away before it joined is not waited for.

mod gate;

use crate::isa::Isa;
use gate::Gate;
use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, Thread};

/// Rounds of spinning before a worker parks; some tens of microseconds to a millisecond, depending on the machine.
const SPINS: usize = 20_000;

type Task<'a> = &'a (dyn Fn(usize) + Sync);

struct Shared {
    gate: Gate,
    /// The next task to take.
    next: AtomicUsize,
    /// Set when the pool is dropped.
    stop: AtomicBool,
    /// Set by a worker whose task panicked.
    failed: AtomicBool,
    /// The current call. Written only while the gate is closed and idle, read only by workers that have joined.
    call: UnsafeCell<Option<(Task<'static>, usize)>>,
    parked: Vec<AtomicBool>,
}

// SAFETY: `call` is the only member that is not Sync by itself; the gate orders every access to it: the caller's write
// happens before a worker joins, a worker's reads happen before it leaves, and the caller writes again only when the
// gate is closed and idle (model-checked in `gate`).
unsafe impl Sync for Shared {}
// SAFETY: the tasks it refers to are Sync.
unsafe impl Send for Shared {}

/// A fixed set of worker threads, and the instructions that they use: for loading, quantising and computing alike.
pub struct Pool {
    isa: Isa,
    shared: Arc<Shared>,
    workers: Vec<(Thread, Option<JoinHandle<()>>)>,
}

impl Pool {
    /// A pool of `threads` threads, the caller's included (0 counts as 1), that use all instructions of the machine.
    /// If the system refuses a thread, the pool works with those it got.
    pub fn new(threads: usize) -> Self {
        Self::on(Isa::best(), threads)
    }

    /// A pool of `threads` threads that use these instructions.
    ///
    /// # Panics
    /// If `isa` is not available on this machine: kernels would be unsound.
    pub fn on(isa: Isa, threads: usize) -> Self {
        assert!(Isa::found().has(isa), "{} is not available on this machine", isa.name());
        let extra = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            gate: Gate::new(),
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            call: UnsafeCell::new(None),
            parked: (0..extra).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut workers = Vec::with_capacity(extra);
        for i in 0..extra {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name(format!("parloop-{}", i + 1));
            match builder.spawn(move || work(&shared, i)) {
                Ok(handle) => workers.push((handle.thread().clone(), Some(handle))),
                Err(_) => break,
            }
        }
        Self { isa, shared, workers }
    }

    /// Physical cores that this process may use (by affinity, and by a container's quota), or `PARLOOP_THREADS`.
    ///
    /// # Errors
    /// The variable is not a number from 1 to 1024.
    pub fn default_threads() -> Result<usize, String> {
        match std::env::var("PARLOOP_THREADS").unwrap_or_default().as_str() {
            "" => Ok(physical_cores()),
            text => match text.parse() {
                Ok(n) if (1..=1024).contains(&n) => Ok(n),
                _ => Err(format!("PARLOOP_THREADS is \"{text}\", expected a number from 1 to 1024")),
            },
        }
    }

    /// The instructions in use; guaranteed to be available.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `task(0)`, ..., `task(tasks - 1)`, each once, on the pool's threads, and returns when all have ended.
    /// Which thread runs which task is undefined.
    ///
    /// # Panics
    /// If a task panics.
    pub fn run(&mut self, tasks: usize, task: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() {
            (0..tasks).for_each(task);
            return;
        }
        let shared = &*self.shared;
        let task: Task<'_> = &task;
        // SAFETY: the reference is used by workers only until they leave, and this function does not return or unwind
        // before all that joined have left (see `Wait`); so the task outlives every use.
        let task: Task<'static> = unsafe { std::mem::transmute::<Task<'_>, Task<'static>>(task) };
        // SAFETY: no call is running (`&mut self`, and `run` waits for its workers), so nobody else reads `call`.
        unsafe { *shared.call.get() = Some((task, tasks)) };
        shared.next.store(0, Ordering::Relaxed);
        // SeqCst on both sides: either the worker sees the gate open before it parks, or we see its flag and wake it.
        shared.gate.open();
        for (i, (thread, _)) in self.workers.iter().enumerate() {
            if shared.parked[i].load(Ordering::SeqCst) {
                thread.unpark();
            }
        }
        let wait = Wait(shared);
        take_tasks(shared, task, tasks);
        drop(wait);
        assert!(!shared.failed.swap(false, Ordering::Relaxed), "a worker's task panicked");
    }
}

/// Closes the gate and waits for the workers, even if the caller's own task panics.
struct Wait<'a>(&'a Shared);

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.0.gate.close();
        let mut spins = 0;
        while !self.0.gate.idle() {
            spins += 1;
            if spins < SPINS {
                std::hint::spin_loop();
            } else {
                // More threads than cores: let the worker have this one.
                std::thread::yield_now();
            }
        }
    }
}

fn take_tasks(shared: &Shared, task: Task<'_>, tasks: usize) {
    loop {
        let i = shared.next.fetch_add(1, Ordering::Relaxed);
        if i >= tasks {
            return;
        }
        task(i);
    }
}

fn work(shared: &Shared, index: usize) {
    let mut served = 0;
    let mut spins = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        if shared.gate.join(&mut served) {
            // SAFETY: this worker has joined, so the call is not written before it leaves.
            if let Some((task, tasks)) = unsafe { *shared.call.get() } {
                let run = std::panic::AssertUnwindSafe(|| take_tasks(shared, task, tasks));
                if std::panic::catch_unwind(run).is_err() {
                    shared.failed.store(true, Ordering::Relaxed);
                }
            }
            shared.gate.leave();
            spins = 0;
        } else if spins < SPINS {
            spins += 1;
            std::hint::spin_loop();
        } else {
            shared.parked[index].store(true, Ordering::SeqCst);
            if shared.gate.number() == served && !shared.stop.load(Ordering::SeqCst) {
                std::thread::park();
            }
            shared.parked[index].store(false, Ordering::Relaxed);
            spins = 0;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for (thread, handle) in &mut self.workers {
            thread.unpark();
            if let Some(handle) = handle.take() {
                let _ = handle.join();
            }
        }
    }
}

/// Physical cores among the processors that this process may use, as Linux lists them, but no more than its share of
/// time (a container's quota, below one core counting as one); elsewhere, and where a list is missing, the threads
/// that the system offers.
fn physical_cores() -> usize {
    // The library looks at the affinity and at the quotas of control groups.
    let offered = std::thread::available_parallelism().map_or(1, usize::from);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let Some(allowed) = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).and_then(numbers) else {
        return offered;
    };
    let mut cores = std::collections::BTreeSet::new();
    for cpu in allowed {
        let read = |what: &str| std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/{what}"));
        match (read("physical_package_id"), read("core_id")) {
            (Ok(package), Ok(core)) => cores.insert((package, core)),
            _ => return offered,
        };
    }
    cores.len().clamp(1, offered)
}

/// The numbers of a list such as `0-3,8`; none if it is anything else, or absurdly long.
fn numbers(list: &str) -> Option<Vec<usize>> {
    let mut all = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= 1 << 16 || first > last {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_number_of_threads() {
        for threads in [0, 1, 2, 3, 9] {
            let mut pool = Pool::new(threads);
            for tasks in [0, 1, 2, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    pool.run(tasks, |i| {
                        counts[i].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 50), "{threads} threads, {tasks} tasks");
            }
        }
    }

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(numbers("\t0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(numbers("5"), Some(vec![5]));
        for odd in ["", "a", "3-1", "0-99999999999", "1,,2"] {
            assert_eq!(numbers(odd), None, "{odd}");
        }
        let offered = std::thread::available_parallelism().map_or(1, usize::from);
        assert!((1..=offered).contains(&physical_cores()));
    }

    #[test]
    fn a_pool_wakes_after_its_workers_have_parked() {
        let mut pool = Pool::new(3);
        for pause in [0, 1, 30] {
            std::thread::sleep(std::time::Duration::from_millis(pause));
            let sum = AtomicUsize::new(0);
            pool.run(10, |i| {
                sum.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(sum.load(Ordering::Relaxed), 45);
        }
    }

    #[test]
    fn a_panicking_task_reaches_the_caller_and_the_pool_survives() {
        let mut pool = Pool::new(2);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(20, |i| assert!(i != 13, "on purpose"));
        }));
        assert!(result.is_err());
        let ran = AtomicUsize::new(0);
        pool.run(5, |_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(ran.load(Ordering::Relaxed), 5);
    }
}
