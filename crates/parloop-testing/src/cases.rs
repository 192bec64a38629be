//! Which cases property tests draw, and where those that failed are kept.
//!
//! Every run draws new cases from one seed. A test that fails prints the seed and the smallest case found, and writes
//! the case to `tests/NAME.regressions` beside its source: committed, it is tried first in every later run.

use proptest::test_runner::{Config, FileFailurePersistence, RngSeed};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::OnceLock;

/// The variable that gives the seed.
const SEED: &str = "PROPTEST_RNG_SEED";

/// The seed of this process: `PROPTEST_RNG_SEED`, or one that is new in every run.
///
/// # Panics
/// The variable is no whole number.
pub fn seed() -> u64 {
    static DRAWN: OnceLock<u64> = OnceLock::new();
    *DRAWN.get_or_init(|| match std::env::var(SEED) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{SEED} is {text:?}, expected a whole number")),
        Err(_) => RandomState::new().build_hasher().finish(),
    })
}

/// `count` cases of a property (`PROPTEST_CASES`, if that is set). What a test prints is shown where it fails.
pub fn cases(count: u32) -> Config {
    println!("{SEED}={} draws these cases again", seed());
    Config {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(count),
        rng_seed: RngSeed::Fixed(seed()),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::{TestError, TestRunner};

    #[test]
    fn a_failing_case_is_kept_beside_the_source_and_tried_first() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("law.rs");
        std::fs::write(&source, "").unwrap();
        let source: &'static str = Box::leak(source.to_str().unwrap().to_owned().into_boxed_str());
        let run = |count: u32| {
            let config = Config { source_file: Some(source), ..cases(count) };
            let mut tried = std::cell::RefCell::new(Vec::new());
            let result = TestRunner::new(config).run(&any::<u32>(), |n| {
                tried.borrow_mut().push(n);
                prop_assert!(n < 1000);
                Ok(())
            });
            assert!(matches!(result, Err(TestError::Fail(_, 1000..))), "{result:?}");
            tried.get_mut()[0]
        };
        run(50);
        assert!(folder.path().join("law.regressions").exists());
        assert!(run(1) >= 1000);
    }
}
