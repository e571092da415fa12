//! Snapshots that nobody needs, and what interrupted work left.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{FlockOperation, flock};

use super::Snapshots;
use super::error::SnapshotError;
use super::unpack::Unused;
use crate::image::Sweep;
use crate::oci::Digest;

/// Times that a collection begins anew because an image was unpacked beside it.
const MAX_ROUNDS: usize = 8;

/// What a collection removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Chain IDs with the bytes of their layers, as far as those were measured.
    pub snapshots: Vec<(Digest, u64)>,
    /// What could not be removed, and why; it stays.
    pub problems: Vec<String>,
}

/// A committed snapshot, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its chain ID.
    pub chain: Digest,
    /// The chain ID below it; `None` for the lowest.
    pub parent: Option<Digest>,
    /// Its diff ID; `None` when its record cannot be read.
    pub diff_id: Option<Digest>,
}

impl Snapshots {
    /// Every committed snapshot, sorted by chain ID.
    pub fn list(&self) -> Result<Vec<Snapshot>, SnapshotError> {
        let store = &self.inner.store;
        let mut all: Vec<_> = store
            .published()?
            .into_iter()
            .map(|(chain, name)| {
                let record = store.record(&name);
                let (parent, diff_id) = record.map_or((None, None), |r| (r.parent, Some(r.diff_id)));
                Snapshot { chain, parent, diff_id }
            })
            .collect();
        all.sort_by(|a, b| a.chain.cmp(&b.chain));
        Ok(all)
    }

    /// Removes committed snapshots that are neither in `keep` nor below one that is, nor being unpacked for
    /// somebody. Blocking. Keep what containers were made from, too: an overlay whose lower directory goes is
    /// broken. One that cannot be removed stops nothing.
    /// Of the others those go that `sweep` takes and nobody's lease keeps.
    pub fn gc(&self, keep: &HashSet<Digest>, sweep: Sweep<'_>) -> Result<GcReport, SnapshotError> {
        let mut report = GcReport::default();
        // Each round ends early when an image was unpacked meanwhile; under a storm of them the rest waits
        // for the next collection.
        for _ in 0..MAX_ROUNDS {
            if self.collect(keep, sweep, &mut report)? {
                break;
            }
        }
        Ok(report)
    }

    /// One round; whether it came to its end.
    fn collect(&self, keep: &HashSet<Digest>, sweep: Sweep<'_>, report: &mut GcReport) -> Result<bool, SnapshotError> {
        let store = &self.inner.store;
        let generation = self.inner.claims.generation();
        let published: HashMap<Digest, String> = store.published()?.into_iter().collect();
        let mut live = HashSet::new();
        for chain in keep {
            self.keep_with_those_below(chain, &published, &mut live);
        }
        let mut dead: Vec<_> = published.iter().filter(|(chain, _)| !live.contains(chain)).collect();
        // From the uppermost down: a chain that is found implies all below it.
        dead.sort_by_key(|(chain, _)| std::cmp::Reverse(self.height(chain, &published)));
        for (chain, name) in dead {
            if live.contains(chain) {
                continue;
            }
            let unpublish = || {
                let taken = store.leases().unless_wanted(chain, || match sweep.takes(chain, store.touched(chain)) {
                    true if sweep.dry_run => Ok(true),
                    true => store.unpublish(chain).map(|()| true),
                    false => Ok(false),
                });
                taken.unwrap_or(Ok(false))
            };
            // A name and its directory go in one breath for whoever holds the other half of this lock.
            let _shared = store.lock(FlockOperation::LockShared)?;
            match self.inner.claims.if_unused(chain, generation, unpublish) {
                Unused::Done(Ok(true)) => {
                    let bytes = if sweep.dry_run { store.usage(name) } else { store.known_usage(name).unwrap_or(0) };
                    report.snapshots.push((chain.clone(), bytes));
                    if !sweep.dry_run
                        && let Err(error) = store.remove_tree("l", name.as_bytes())
                    {
                        report.problems.push(error.to_string());
                    }
                }
                Unused::Done(Ok(false)) | Unused::InUse => {
                    self.keep_with_those_below(chain, &published, &mut live);
                }
                Unused::Done(Err(error)) => report.problems.push(error.to_string()),
                Unused::Outdated => return Ok(false),
            }
        }
        Ok(true)
    }

    fn keep_with_those_below(&self, chain: &Digest, published: &HashMap<Digest, String>, live: &mut HashSet<Digest>) {
        let mut at = Some(chain.clone());
        while let Some(chain) = at {
            at = published.get(&chain).and_then(|name| self.inner.store.record(name)).and_then(|r| r.parent);
            if !live.insert(chain) {
                return;
            }
        }
    }

    fn height(&self, chain: &Digest, published: &HashMap<Digest, String>) -> usize {
        let mut height = 0;
        let mut at = Some(chain.clone());
        // Bounded by the number of snapshots, whatever their records say.
        while let Some(record) = at.and_then(|c| published.get(&c)).and_then(|n| self.inner.store.record(n)) {
            height += 1;
            at = record.parent.filter(|_| height <= published.len());
        }
        height
    }

    /// Removes what interrupted work left: layers that were never published and that nobody is writing,
    /// names whose layer is gone, and half-made or half-removed writable layers. Returns how many went.
    pub fn sweep(&self) -> Result<usize, SnapshotError> {
        let store = &self.inner.store;
        // Nobody makes a directory between the listing and the look at its lock.
        let _exclusive = store.lock(FlockOperation::LockExclusive)?;
        let mut removed = 0;
        let layers = store.path("l");
        let mut published = HashSet::new();
        for (chain, name) in store.published()? {
            if layers.join(&name).join("fs").is_dir() {
                published.insert(name);
            } else {
                store.unpublish(&chain)?;
                store.remove_tree("l", name.as_bytes())?;
                removed += 1;
            }
        }
        for entry in fs::read_dir(&layers).map_err(SnapshotError::at("list", &layers))?.filter_map(Result::ok) {
            let name = entry.file_name();
            if name.to_str().is_some_and(|n| published.contains(n)) {
                continue;
            }
            let free =
                File::open(entry.path()).is_ok_and(|dir| flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok());
            // Published after we listed the names: whoever publishes holds the directory's lock until then.
            let fresh = store.published()?.iter().any(|(_, n)| n.as_bytes() == name.as_bytes());
            if free && !fresh {
                store.remove_tree("l", name.as_bytes())?;
                removed += 1;
            }
        }
        let writable = store.path("w");
        for entry in fs::read_dir(&writable).map_err(SnapshotError::at("list", &writable))?.filter_map(Result::ok) {
            let name = entry.file_name();
            if name.as_bytes().starts_with(b".") && !ours_and_alive(name.as_bytes()) {
                store.remove_tree("w", name.as_bytes())?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// Whether a temporary name, `.new-<pid>-<n>` or `.rm-<pid>-<n>`, is of this very process, which may be
/// busy with it on another thread. There is one engine for a root at a time, so no other can be.
fn ours_and_alive(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name);
    name.split('-').any(|part| part == std::process::id().to_string())
}
