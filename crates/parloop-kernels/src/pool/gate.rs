//! The protocol by which a caller and its workers share a call: the part of the pool that `loom` checks.
//!
//! A gate is open while a call runs. Workers *join* an open gate and *leave* when no task is left; the caller *closes*
//! the gate when no task is left and waits only for workers that have joined. A worker that was asleep, or had its
//! core taken away, finds the gate closed and is not waited for.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// Set while workers may join.
const OPEN: u64 = 1 << 31;
/// Workers that have joined and not left.
const ACTIVE: u64 = OPEN - 1;

/// Number of the call (upper half), whether it is open, and how many workers take part.
pub(super) struct Gate(AtomicU64);

impl Gate {
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Opens the gate for the next call. What the caller wrote before is visible to whoever joins. Only the caller
    /// may call this, on a closed gate without workers.
    pub fn open(&self) {
        let number = self.number().wrapping_add(1) & u64::from(u32::MAX);
        // SeqCst: with the workers' parked flags, see `Pool::run`.
        self.0.store(number << 32 | OPEN, Ordering::SeqCst);
    }

    /// The number of the current or last call.
    pub fn number(&self) -> u64 {
        self.0.load(Ordering::SeqCst) >> 32
    }

    /// Joins the current call unless it is over or was served already; notes its number in `served`.
    pub fn join(&self, served: &mut u64) -> bool {
        let mut state = self.0.load(Ordering::Acquire);
        loop {
            if state >> 32 == *served {
                return false;
            }
            if state & OPEN == 0 {
                *served = state >> 32;
                return false;
            }
            // Acquire: the call was written before the gate opened.
            match self.0.compare_exchange_weak(state, state + 1, Ordering::Acquire, Ordering::Acquire) {
                Ok(_) => {
                    *served = state >> 32;
                    return true;
                }
                Err(now) => state = now,
            }
        }
    }

    /// Leaves the call. What the worker wrote is visible to the caller once the gate is [`Gate::idle`].
    pub fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Release);
    }

    /// Lets nobody join any more.
    pub fn close(&self) {
        self.0.fetch_and(!OPEN, Ordering::AcqRel);
    }

    /// Whether every worker that joined has left.
    pub fn idle(&self) -> bool {
        self.0.load(Ordering::Acquire) & ACTIVE == 0
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::Gate;
    use loom::cell::UnsafeCell;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::thread;

    struct Shared {
        gate: Gate,
        next: AtomicUsize,
        /// Stands for the description of the call, rewritten for each.
        call: UnsafeCell<usize>,
        done: [UnsafeCell<usize>; 2],
    }

    fn take(shared: &Shared) {
        loop {
            let i = shared.next.fetch_add(1, Ordering::Relaxed);
            if i >= shared.done.len() {
                return;
            }
            // loom fails the test if these accesses race.
            let call = shared.call.with(|c| unsafe { *c });
            shared.done[i].with_mut(|d| unsafe { *d = call });
        }
    }

    /// Two calls, one worker that may come early, late or never: every task runs once, nothing races.
    #[test]
    fn calls_do_not_race_and_every_task_runs() {
        loom::model(|| {
            let shared = Arc::new(Shared {
                gate: Gate::new(),
                next: AtomicUsize::new(0),
                call: UnsafeCell::new(0),
                done: [UnsafeCell::new(0), UnsafeCell::new(0)],
            });
            let worker = {
                let shared = shared.clone();
                thread::spawn(move || {
                    let mut served = 0;
                    for _ in 0..2 {
                        if shared.gate.join(&mut served) {
                            take(&shared);
                            shared.gate.leave();
                        }
                    }
                })
            };
            for call in 1..=2 {
                shared.call.with_mut(|c| unsafe { *c = call });
                shared.next.store(0, Ordering::Relaxed);
                shared.gate.open();
                take(&shared);
                shared.gate.close();
                while !shared.gate.idle() {
                    thread::yield_now();
                }
                for done in &shared.done {
                    assert_eq!(done.with(|d| unsafe { *d }), call);
                }
            }
            worker.join().unwrap();
        });
    }
}
