//! Trying again, a bounded number of times.

use anyhow::{Result, anyhow};
use std::time::Duration;

/// How often something is tried before it is given up.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// What a server may ask for at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Why a request brought nothing, or not all.
#[derive(Debug)]
pub enum Failure {
    /// May pass: a broken connection, or a busy server, which may say how long to wait.
    Passing { cause: String, pause: Option<Duration> },
    /// Nobody is there, which may pass if somebody was a moment ago.
    Unreachable(String),
    /// Would be the same the next time.
    Final(anyhow::Error),
}

impl Failure {
    pub fn passing(cause: impl Into<String>) -> Self {
        Self::Passing { cause: cause.into(), pause: None }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Final(error)
    }
}

/// Does `work` until it succeeds or fails for good; `said` hears of each new try. Whether anybody is there at all is tried
/// again only if somebody is `known` to be.
pub fn persistently<T>(known: bool, said: &dyn Fn(&str), mut work: impl FnMut() -> Result<T, Failure>) -> Result<T> {
    let (mut tried, mut doubled) = (0, FIRST_PAUSE);
    loop {
        tried += 1;
        let done = work().map_err(|failure| match failure {
            Failure::Unreachable(cause) if known => Failure::passing(cause),
            other => other,
        });
        match done {
            Ok(value) => return Ok(value),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Unreachable(cause)) => return Err(anyhow!(cause)),
            Err(Failure::Passing { cause, .. }) if tried == TRIES => {
                return Err(anyhow!("{cause} (tried {TRIES} times); run the same command again later to go on"));
            }
            Err(Failure::Passing { cause, pause }) => {
                let pause = pause.unwrap_or(doubled).min(LONGEST_PAUSE);
                said(&format!("{cause}; trying again in {:.1} s", pause.as_secs_f32()));
                std::thread::sleep(pause);
                doubled *= 2;
            }
        }
    }
}
