//! What runs when: a queue keyed by resource. Pure; the caller brings time and randomness and runs the work.
//!
//! Invariants: a key runs at most once at a time; no key waits behind another's back-off; a key whose
//! needs are not done waits without counting as a failure; what changed runs at once, whatever its
//! previous form was waiting for.

use std::collections::BTreeMap;
use std::time::Instant;

use super::backoff::Backoff;

/// What a piece of work costs, and so how many of it run side by side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Fetches an image from this registry host: network and disk for seconds to minutes. Each host has
    /// its own places, so that one that does not answer keeps no other waiting.
    Pull(String),
    /// Everything else: a start, a stop, a row in the database.
    Step,
}

/// How many of each class run side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Of [`Class::Pull`], from each host.
    pub pulls: usize,
    /// Of [`Class::Step`].
    pub steps: usize,
}

impl Limits {
    fn of(&self, class: &Class) -> usize {
        match class {
            Class::Pull(_) => self.pulls,
            Class::Step => self.steps,
        }
    }
}

/// One piece of work for a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work<K> {
    /// Its cost.
    pub class: Class,
    /// Tells this work from another for the same key: a hash of the step. Equal means nothing changed.
    pub fingerprint: u64,
    /// Keys whose work must be done before; those that are not queued count as done.
    pub needs: Vec<K>,
}

/// Where a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It waits for a free place or for what it needs.
    Waiting,
    /// It runs.
    Running,
    /// It failed, and is tried again then.
    BackOff {
        /// When.
        until: Instant,
        /// Failures in a row.
        failures: u32,
    },
}

#[derive(Debug, Clone)]
struct Entry<K> {
    work: Work<K>,
    /// Place in the plan that offered it: ties are broken by it.
    order: u64,
    running: bool,
    /// While running: what came in meanwhile. `Some(None)`: it is no longer wanted.
    next: Option<Option<Work<K>>>,
    failures: u32,
    /// Not before this; `None` unless it failed.
    until: Option<Instant>,
}

/// The queue. `K` is a resource key.
#[derive(Debug, Clone)]
pub struct WorkQueue<K> {
    entries: BTreeMap<K, Entry<K>>,
    limits: Limits,
    backoff: Backoff,
    offered: u64,
}

impl<K: Ord + Clone> WorkQueue<K> {
    /// An empty queue.
    pub fn new(limits: Limits, backoff: Backoff) -> Self {
        Self { entries: BTreeMap::new(), limits, backoff, offered: 0 }
    }

    /// Takes new limits and back-off into use; waits that have begun stay as they are.
    pub fn configure(&mut self, limits: Limits, backoff: Backoff) {
        self.limits = limits;
        self.backoff = backoff;
    }

    /// Wants `work` done for `key`. The same work again changes nothing, not even its back-off; other
    /// work for the key runs as soon as the key is free, its failures forgotten.
    pub fn offer(&mut self, key: K, work: Work<K>) {
        self.offered += 1;
        let order = self.offered;
        match self.entries.get_mut(&key) {
            None => {
                self.entries.insert(key, Entry { work, order, running: false, next: None, failures: 0, until: None });
            }
            Some(entry) if entry.running => {
                entry.order = order;
                entry.next = (work.fingerprint != entry.work.fingerprint).then_some(Some(work));
            }
            Some(entry) => {
                entry.order = order;
                if work.fingerprint != entry.work.fingerprint {
                    (entry.failures, entry.until) = (0, None);
                }
                entry.work = work;
            }
        }
    }

    /// A whole plan: offers every step in order and forgets keys that it does not have.
    pub fn replace(&mut self, plan: impl IntoIterator<Item = (K, Work<K>)>) {
        let before = self.offered;
        for (key, work) in plan {
            self.offer(key, work);
        }
        self.entries.retain(|_, entry| {
            let wanted = entry.order > before;
            if !wanted && entry.running {
                entry.next = Some(None);
            }
            wanted || entry.running
        });
    }

    /// Keys to run now, in plan order, each counted as running from here on until [`WorkQueue::done`].
    pub fn ready(&mut self, now: Instant) -> Vec<K> {
        // A wait that is over must not be given as the next wake-up while the key waits for something else.
        for entry in self.entries.values_mut() {
            entry.until = entry.until.filter(|until| *until > now);
        }
        let mut running: BTreeMap<Class, usize> = BTreeMap::new();
        for entry in self.entries.values().filter(|entry| entry.running) {
            *running.entry(entry.work.class.clone()).or_default() += 1;
        }
        let mut candidates: Vec<(u64, Class, K)> = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.running && entry.until.is_none())
            .filter(|(key, entry)| entry.work.needs.iter().all(|need| need == *key || !self.entries.contains_key(need)))
            .map(|(key, entry)| (entry.order, entry.work.class.clone(), key.clone()))
            .collect();
        candidates.sort_by_key(|(order, ..)| *order);
        candidates.retain(|(_, class, _)| {
            let count = running.entry(class.clone()).or_default();
            let is_free = *count < self.limits.of(class).max(1);
            *count += usize::from(is_free);
            is_free
        });
        candidates
            .into_iter()
            .map(|(.., key)| {
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.running = true;
                }
                key
            })
            .collect()
    }

    /// What was run for `key` ended. After a failure it waits by the back-off, unless other work came in
    /// meanwhile; `random` is uniform in 0 to 1.
    pub fn done(&mut self, key: &K, succeeded: bool, now: Instant, random: f64) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.running) else { return };
        entry.running = false;
        match entry.next.take() {
            Some(Some(work)) => {
                entry.work = work;
                (entry.failures, entry.until) = (0, None);
            }
            None if !succeeded => {
                entry.failures = entry.failures.saturating_add(1);
                entry.until = Some(now + self.backoff.delay(entry.failures, random));
            }
            _ => {
                self.entries.remove(key);
            }
        }
    }

    /// Ends a key's wait: a person asked, or what it waited for came.
    pub fn hurry(&mut self, key: &K) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.until = None;
        }
    }

    /// Ends every wait; failures stay counted.
    pub fn hurry_all(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.until = None);
    }

    /// When the next back-off ends, later than the last [`WorkQueue::ready`]; `None` when only an offer or a [`WorkQueue::done`] can change anything.
    pub fn next_wakeup(&self) -> Option<Instant> {
        self.entries.values().filter(|entry| !entry.running).filter_map(|entry| entry.until).min()
    }

    /// Where a key is; `None` when it is done or was never offered.
    pub fn phase(&self, key: &K) -> Option<Phase> {
        self.entries.get(key).map(|entry| match entry.until {
            _ if entry.running => Phase::Running,
            Some(until) => Phase::BackOff { until, failures: entry.failures },
            None => Phase::Waiting,
        })
    }

    /// Whether other work than what runs for the key is wanted by now.
    pub fn is_overtaken(&self, key: &K) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.running && entry.next.is_some())
    }

    /// Keys that are queued, waiting or running.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.entries.keys()
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.entries.values().filter(|entry| entry.running).count()
    }

    /// Whether nothing is queued and nothing runs.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests;
