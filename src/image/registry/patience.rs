//! How long a registry is waited for: attempts, the pauses between them, and the pace of a body. Bounded, and
//! told: a host that says nothing costs three tries and some 45 seconds, each of them with a word.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Response;
use tokio::time::timeout;

use super::Timeouts;
use super::transport;
use crate::image::error::RegistryFailure;

/// Attempts without progress at a host that says nothing.
const SILENT_TRIES: u32 = 3;
/// Attempts without progress at one that says something, if only that it is busy.
const TRIES: u32 = 5;
/// The longest `Retry-After` that is waited for; longer ones are an answer.
const MAX_ASKED: Duration = Duration::from_secs(30);
/// Least bytes a second over each stretch of [`Timeouts::stall`] spent waiting, so that a body that drips ends.
const LEAST: u64 = 1 << 10;

/// That a host is waited for and why. Shown to whoever waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Whom.
    pub host: String,
    /// The try that comes.
    pub attempt: u32,
    /// Of how many.
    pub of: u32,
    /// What the last one ended with.
    pub why: String,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "waiting for {}, try {} of {}: it {}", self.host, self.attempt, self.of, self.why)
    }
}

/// Hears of waits; called from many threads, must not block.
pub type OnWait = Arc<dyn Fn(Wait) + Send + Sync>;

/// Attempts at one thing, and the pauses between them.
pub struct Tries {
    count: u32,
    host: String,
    patience: Duration,
    since: Instant,
    told: Option<OnWait>,
}

impl Tries {
    /// For something that `host` is asked for. After `patience` without progress no try follows.
    pub fn new(host: String, patience: Duration, told: Option<OnWait>) -> Self {
        Self { count: 0, host, patience, since: Instant::now(), told }
    }

    /// Progress was made: what broke before does not count any more.
    pub fn forgive(&mut self) {
        self.count = 0;
        self.since = Instant::now();
    }

    /// Waits before the next attempt; gives the failure back when it will not pass by itself or there were
    /// attempts enough.
    pub async fn pause(&mut self, why: RegistryFailure) -> Result<(), RegistryFailure> {
        self.count += 1;
        let Some(pause) = pause(self.count, self.since.elapsed(), self.patience, &why) else { return Err(why) };
        let host = why.host().unwrap_or(&self.host).to_owned();
        let wait = Wait { host, attempt: self.count + 1, of: tries_for(&why), why: why.to_string() };
        tracing::info!("{wait}");
        if let Some(told) = &self.told {
            told(wait);
        }
        tokio::time::sleep(pause + jitter(pause)).await;
        Ok(())
    }
}

/// The pause before the next try: 0.2 s doubling, or what `Retry-After` asked for. `None` for no other try.
fn pause(tries: u32, elapsed: Duration, patience: Duration, why: &RegistryFailure) -> Option<Duration> {
    let asked = why.transient()?;
    let pause = asked.unwrap_or(Duration::from_millis(200 << tries.saturating_sub(1).min(5)));
    (tries < tries_for(why) && pause <= MAX_ASKED && elapsed < patience).then_some(pause)
}

fn tries_for(why: &RegistryFailure) -> u32 {
    match why {
        RegistryFailure::Stalled(_) | RegistryFailure::Slow { .. } => SILENT_TRIES,
        RegistryFailure::At { why, .. } => tries_for(why),
        _ => TRIES,
    }
}

/// Up to half of the pause, at random, so that many nodes do not come back at once.
fn jitter(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, Hasher};
    // The seed of a hash map is as random as jitter needs.
    let noise = std::collections::hash_map::RandomState::new().build_hasher().finish() % 512;
    pause * (noise as u32) / 1024
}

/// Whether a body comes fast enough. Counts only the time spent waiting for it, so that a slow disk here is
/// not blamed on the host.
#[derive(Debug)]
struct Pace {
    window: Duration,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn new(window: Duration) -> Self {
        Self { window, waited: Duration::ZERO, bytes: 0 }
    }

    fn add(&mut self, waited: Duration, bytes: usize) -> Result<(), RegistryFailure> {
        self.waited += waited;
        self.bytes += bytes as u64;
        if self.waited < self.window {
            return Ok(());
        }
        let came = std::mem::take(&mut self.bytes);
        let over = std::mem::take(&mut self.waited);
        let least = u128::from(LEAST) * over.as_millis() / 1000;
        if u128::from(came) < least { Err(RegistryFailure::Slow { came, over }) } else { Ok(()) }
    }
}

/// A body that is read with a deadline for every piece and a least pace for all of them.
pub struct Body {
    response: Response,
    pace: Pace,
    /// Named in failures where it is not the host that the reference names.
    host: Option<String>,
}

impl Body {
    /// The body of a response.
    pub fn new(response: Response, timeouts: Timeouts, host: Option<String>) -> Self {
        Self { response, pace: Pace::new(timeouts.stall), host }
    }

    /// `Content-Length`.
    pub fn content_length(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// The next piece; `None` at the end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryFailure> {
        let result = self.next().await;
        result.map_err(|why| match &self.host {
            Some(host) => why.of(host.clone()),
            None => why,
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, RegistryFailure> {
        let begun = Instant::now();
        let stall = self.pace.window;
        let chunk = timeout(stall, self.response.chunk())
            .await
            .map_err(|_| RegistryFailure::Stalled(stall))?
            .map_err(|e| transport::classify(&e))?;
        if let Some(chunk) = &chunk {
            self.pace.add(begun.elapsed(), chunk.len())?;
        }
        Ok(chunk)
    }

    /// All of it, when it is no longer than `limit` bytes; `None` when it is.
    pub async fn whole(mut self, limit: u64) -> Result<Option<Vec<u8>>, RegistryFailure> {
        if self.content_length().is_some_and(|n| n > limit) {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len() as u64 + chunk.len() as u64 > limit {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<u64>) -> RegistryFailure {
        let retry_after = retry_after.map(Duration::from_secs);
        RegistryFailure::Status { status, message: "x".into(), retry_after }
    }

    #[test]
    fn pauses_grow_follow_retry_after_and_end() {
        let at = |tries, elapsed, why: &RegistryFailure| {
            pause(tries, Duration::from_secs(elapsed), Duration::from_secs(45), why).map(|d| d.as_millis())
        };
        let busy = status(503, None);
        assert_eq!(
            [at(1, 0, &busy), at(2, 0, &busy), at(4, 0, &busy), at(5, 0, &busy)],
            [Some(200), Some(400), Some(1600), None]
        );
        let silent = RegistryFailure::Stalled(Duration::from_secs(15));
        assert_eq!([at(2, 31, &silent), at(3, 31, &silent)], [Some(400), None]);
        assert_eq!(at(1, 45, &busy), None);
        assert_eq!(at(1, 0, &status(429, Some(7))), Some(7000));
        assert_eq!(at(1, 0, &status(429, Some(600))), None);
        assert_eq!(at(1, 0, &status(404, None)), None);
        assert_eq!(at(1, 0, &RegistryFailure::Unreachable("refused".into())), None);
    }

    #[test]
    fn a_body_that_drips_ends_and_a_slow_reader_is_not_blamed_on_the_host() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(15 * second);
        let slow = (0..15).map(|_| pace.add(second, 100)).find_map(Result::err).unwrap();
        assert_eq!(slow.to_string(), "sent only 1500 bytes in 15 s");
        let mut pace = Pace::new(15 * second);
        assert!((0..100).all(|_| pace.add(second, 2000).is_ok()));
        // Between two pieces we may take as long as we like: that is not waiting.
        assert!((0..100).all(|_| pace.add(Duration::ZERO, 1).is_ok()));
    }
}
