//! Waiting for a condition, with a deadline; and lending the machine out.

use std::fs::File;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// How many times longer than usual things may take here.
pub fn patience() -> u32 {
    std::env::var("BAYPLAN_TEST_PATIENCE").ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// Polls until `check` gives a value. Panics, saying what did not come about, after `seconds` × patience.
#[track_caller]
pub fn eventually<T>(what: &str, seconds: u32, mut check: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    let limit = Duration::from_secs(seconds.into()) * patience();
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Holds the machine for one test, which measures, or shares it with the others.
pub struct Turn(#[allow(dead_code)] File);

impl Turn {
    /// Together with others.
    pub fn shared() -> Self {
        Self::take(FlockOperation::LockShared)
    }

    /// Alone, so that what is timed is not another test's load.
    pub fn alone() -> Self {
        Self::take(FlockOperation::LockExclusive)
    }

    fn take(operation: FlockOperation) -> Self {
        let file = File::create(std::env::temp_dir().join("bayplan-e2e.lock")).unwrap();
        flock(&file, operation).unwrap();
        Self(file)
    }
}
