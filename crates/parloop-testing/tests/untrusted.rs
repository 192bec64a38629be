//! Changed and random files of every format: no panic, bounded memory, bounded time.

use parloop_testing::Rng;
use parloop_testing::untrusted::FORMATS;
use peak_alloc::PeakAlloc;
use std::time::{Duration, Instant};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Runs of each format.
const RUNS: usize = 3000;
/// Most that one input of some hundred kilobytes may allocate.
const LIMIT_MB: f32 = 64.0;
/// Longest that one input may take.
const LONGEST: Duration = Duration::from_secs(5);

#[test]
fn no_file_crashes_or_takes_more_than_it_may() {
    for format in FORMATS {
        let samples = format.samples();
        let start = Instant::now();
        let mut worst = (0.0f32, Duration::ZERO);
        // A template is run, and the other two are files on disk.
        let is_slow = ["chat_template", "index", "gguf"].contains(&format.name);
        let runs = if is_slow { RUNS / 3 } else { RUNS };
        for seed in 0..runs {
            let data = format.mutated(&samples, &mut Rng(seed as u64));
            let before = MEMORY.current_usage_as_mb();
            MEMORY.reset_peak_usage();
            let begun = Instant::now();
            (format.one)(&data);
            let (used, took) = (MEMORY.peak_usage_as_mb() - before, begun.elapsed());
            assert!(used < LIMIT_MB, "{} allocated {used} MB for seed {seed}", format.name);
            assert!(took < LONGEST, "{} took {took:?} for seed {seed}", format.name);
            worst = (worst.0.max(used), worst.1.max(took));
        }
        println!("{:16} {runs} runs in {:?}; at most {:.1} MB, {:?}", format.name, start.elapsed(), worst.0, worst.1);
    }
}
