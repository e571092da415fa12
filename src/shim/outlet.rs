//! Where one stream goes beside the log: to the host, and to whoever is attached.

use std::time::{Duration, Instant};

use super::poll::Poll;
use super::sink::Sink;

/// See the module.
#[derive(Default)]
pub struct Outlet {
    sinks: Vec<Sink>,
}

impl Outlet {
    /// One more gets what comes from now on.
    pub fn add(&mut self, sink: Sink) {
        self.sinks.push(sink);
    }

    /// Whether nobody gets anything.
    pub fn is_empty(&self) -> bool {
        self.sinks.is_empty()
    }

    /// Whether one is waited for.
    pub fn is_full(&self) -> bool {
        self.sinks.iter().any(Sink::is_full)
    }

    /// When a wait ends.
    pub fn deadline(&self, patience: Duration) -> Option<Instant> {
        self.sinks.iter().filter_map(|sink| sink.deadline(patience)).min()
    }

    /// Time has passed: whoever has taken nothing for `patience` is left behind.
    pub fn tick(&mut self, now: Instant, patience: Duration) {
        for sink in &mut self.sinks {
            if sink.deadline(patience).is_some_and(|at| now >= at) {
                sink.leave_behind();
            }
        }
    }

    /// Hands `bytes` to each.
    pub fn put(&mut self, bytes: &[u8], poll: &mut Poll) {
        for sink in &mut self.sinks {
            sink.put(bytes, poll);
        }
        self.tidy();
    }

    /// Handles an event; false if the token is somebody else's.
    pub fn event(&mut self, token: u64, poll: &mut Poll) -> bool {
        let Some(sink) = self.sinks.iter_mut().find(|sink| sink.owns(token)) else { return false };
        sink.flush(poll);
        self.tidy();
        true
    }

    fn tidy(&mut self) {
        self.sinks.retain(|sink| !sink.is_over());
    }

    /// Nothing follows: who has all is done with.
    pub fn finish(&mut self) {
        self.sinks.retain_mut(Sink::finish);
    }
}
