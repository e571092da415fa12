//! What work under way relies on, kept from collections that go on beside it.
//!
//! Whoever brings or names content begins a [`Lease`] first, says of each digest that it wants it (which
//! everything that puts or finds one does by itself), and lets go once a record names the content. A collection
//! removes nothing that was wanted since the oldest lease began. Looking, wanting and removing happen under one
//! lock, so what was found stays. One process at a time works on a store, hence this lives in memory: a crash
//! ends every lease, and what was brought so far is young enough for the grace period.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::oci::Digest;

/// The leases of one store.
#[derive(Debug, Default)]
pub struct Leases(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Counts beginnings and wishes; no wall clock can set it back.
    clock: u64,
    /// Leases by serial, each with the time from which on it protects.
    alive: BTreeMap<u64, u64>,
    /// When each digest was last wanted. Empty without leases.
    wanted: HashMap<Digest, u64>,
}

impl Table {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn floor(&self) -> Option<u64> {
        self.alive.values().min().copied()
    }
}

/// Protects what is wanted while it lives.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Lease {
    leases: Arc<Leases>,
    serial: u64,
}

impl Leases {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a lease: what is wanted from now on stays.
    pub fn begin(self: &Arc<Self>) -> Lease {
        let mut table = self.table();
        let serial = table.tick();
        table.alive.insert(serial, serial);
        Lease { leases: Arc::clone(self), serial }
    }

    /// Begins a lease over all that is protected now, for a collection: work that ends beside it had its record
    /// written after the collection read the records.
    pub fn begin_over_all(self: &Arc<Self>) -> Lease {
        let mut table = self.table();
        let serial = table.tick();
        let since = table.floor().unwrap_or(serial);
        table.alive.insert(serial, since);
        Lease { leases: Arc::clone(self), serial }
    }

    /// Says that somebody wants this, and looks at it: what `look` finds stays as long as the oldest lease.
    pub fn want<T>(&self, digest: &Digest, look: impl FnOnce() -> T) -> T {
        let mut table = self.table();
        if !table.alive.is_empty() {
            let now = table.tick();
            table.wanted.insert(digest.clone(), now);
        }
        look()
    }

    /// Does something to what nobody wants and nobody begins to want meanwhile; `None` when somebody does.
    pub fn unless_wanted<T>(&self, digest: &Digest, act: impl FnOnce() -> T) -> Option<T> {
        let table = self.table();
        let wanted = table.wanted.get(digest).zip(table.floor()).is_some_and(|(at, floor)| *at >= floor);
        (!wanted).then(act)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut table = self.leases.table();
        table.alive.remove(&self.serial);
        match table.floor() {
            Some(floor) => table.wanted.retain(|_, at| *at >= floor),
            None => table.wanted.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_stays_as_long_as_the_oldest_lease_or_a_collection_that_saw_it() {
        let leases = Arc::new(Leases::default());
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let goes = |digest: &Digest| leases.unless_wanted(digest, || ()).is_some();
        leases.want(&a, || ());
        assert!(goes(&a), "without a lease nothing is kept");
        let pull = leases.begin();
        leases.want(&a, || ());
        assert!(!goes(&a) && goes(&b));
        let collection = leases.begin_over_all();
        drop(pull);
        assert!(!goes(&a), "the collection read the records before the pull wrote its own");
        let later = leases.begin();
        drop(collection);
        assert!(goes(&a), "a later lease does not protect what came before it");
        leases.want(&b, || ());
        assert!(!goes(&b));
        drop(later);
        assert!(goes(&b) && leases.table().wanted.is_empty());
    }
}
