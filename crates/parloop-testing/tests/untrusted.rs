//! Changed and random files of every format: no panic, bounded memory, bounded work.

use parloop_testing::untrusted::FORMATS;
use parloop_testing::{Rng, seed};

/// Runs of each format.
const RUNS: u64 = 20_000;
/// Most that one input of some hundred kilobytes may hold at once, in bytes.
const MOST: u64 = 64 << 20;
/// Most that it may allocate in all, in times and in bytes. Work that allocates nothing shows in a run without end.
const TIMES: u64 = 4_000_000;
const BYTES: u64 = 2 << 30;

#[test]
fn no_file_crashes_or_takes_more_than_it_may() {
    // Half of the inputs are the same in every run, half are new.
    let drawn = seed();
    println!("PROPTEST_RNG_SEED={drawn} makes the same inputs again");
    for format in FORMATS {
        let samples = format.samples();
        let runs = match format.name {
            // These go through a file on disk.
            "index" | "gguf" => RUNS / 20,
            _ => RUNS,
        };
        let mut worst = [0; 3];
        for run in 0..runs {
            let seed = if run % 2 == 0 { run } else { drawn.wrapping_add(run) };
            let data = format.mutated(&samples, &mut Rng(seed));
            let used = allocation_counter::measure(|| (format.one)(&data));
            let found = [used.bytes_max, used.count_total, used.bytes_total];
            for (i, what) in ["bytes at once", "allocations", "bytes in all"].into_iter().enumerate() {
                let most = [MOST, TIMES, BYTES][i];
                assert!(found[i] < most, "{} took {} {what} for Rng({seed})", format.name, found[i]);
                worst[i] = worst[i].max(found[i]);
            }
        }
        let [held, times, bytes] = worst;
        println!("{:16} {runs} runs; at most {held} bytes at once, {times} allocations of {bytes} bytes", format.name);
    }
}
