//! What nothing needs goes, beside whatever is under way.
//!
//! Needed is what a reference points at, what a container was made from, the snapshots of a mounted view, and
//! what work under way said it wants (see [`crate::image::lease`]). A collection waits for no pull and no pull
//! waits for it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Class, Fault, Result};
use crate::image::{Image, Lease, Sweep};
use crate::oci::{Digest, Platform, Reference};

use super::Engine;

/// What was freed, or would be.
#[derive(Debug, Clone, Default)]
pub struct Freed {
    /// Blobs with their sizes in bytes.
    pub blobs: Vec<(Digest, u64)>,
    /// Snapshots by chain ID with their sizes in bytes; 0 for one that was never measured.
    pub snapshots: Vec<(Digest, u64)>,
}

impl Freed {
    /// Blobs and snapshots.
    pub fn items(&self) -> usize {
        self.blobs.len() + self.snapshots.len()
    }

    /// Bytes of blobs.
    pub fn blob_bytes(&self) -> u64 {
        self.blobs.iter().map(|(_, size)| size).sum()
    }

    /// Bytes of snapshots.
    pub fn snapshot_bytes(&self) -> u64 {
        self.snapshots.iter().map(|(_, size)| size).sum()
    }
}

/// Keeps blobs and snapshots that are put, found or held from its beginning on.
#[must_use = "it ends when it is dropped"]
pub struct ContentLease {
    _blobs: Lease,
    _chains: Lease,
}

/// What a collection is about.
#[derive(Debug, Clone)]
pub struct Garbage {
    /// What was fetched or asked for more recently stays.
    pub older_than: Duration,
    /// Only what these targets reach.
    pub of: Option<HashSet<Digest>>,
    /// As if these references were gone already.
    pub without: BTreeSet<(String, Reference)>,
    /// Nothing is removed, only told and measured.
    pub dry_run: bool,
}

impl Garbage {
    /// All that is older than this.
    pub fn older_than(older_than: Duration) -> Self {
        Self { older_than, of: None, without: BTreeSet::new(), dry_run: false }
    }
}

/// Blobs and chains that something reaches.
#[derive(Default)]
struct Reach {
    blobs: HashSet<Digest>,
    chains: HashSet<Digest>,
    /// Targets whose configuration cannot be read: their snapshots are not known.
    unknown: Vec<Digest>,
}

impl Engine {
    /// To be held by whoever brings content, from before it looks for any until a record names it.
    pub fn lease(&self) -> ContentLease {
        ContentLease { _blobs: self.images.store().lease(), _chains: self.snapshots.lease() }
    }

    /// Says, under a lease, that all that is here of an image is wanted.
    pub fn hold(&self, target: &Digest) {
        let reach = self.reach([target.clone()].into());
        for digest in &reach.blobs {
            self.images.store().touch(digest);
        }
        let chains: Vec<Digest> = reach.chains.into_iter().collect();
        self.snapshots.hold(&chains);
    }

    /// The same, of one that was read before. This also is what its last use is known by.
    pub(super) fn hold_image(&self, image: &Image) {
        let blobs = [&image.target.digest, &image.manifest.digest].into_iter();
        for digest in blobs.chain(image.layers.iter().map(|layer| &layer.descriptor.digest)) {
            self.images.store().touch(digest);
        }
        self.snapshots.hold(&crate::snapshot::chain_ids(&image.layers));
    }

    /// Removes what no reference and no container needs and is older than `grace`.
    pub async fn collect_garbage(self: &Arc<Self>, grace: Duration) -> Freed {
        self.take_out(Garbage::older_than(grace)).await.unwrap_or_else(|fault| {
            tracing::warn!(%fault, "garbage collection");
            Freed::default()
        })
    }

    /// Removes, or only tells, what nothing needs.
    pub async fn take_out(self: &Arc<Self>, garbage: Garbage) -> Result<Freed> {
        let _one_at_a_time = self.collecting.lock().await;
        let engine = Arc::clone(self);
        tokio::task::spawn_blocking(move || engine.collect_now(&garbage))
            .await
            .map_err(|error| Fault::new(Class::Bug, format!("garbage collection: {error}")))?
    }

    /// Takes one blob away whoever needs it, unless work under way wants it; its bytes.
    pub fn remove_blob(&self, digest: &Digest) -> Result<u64> {
        let store = self.images.store();
        let size = store.size(digest).unwrap_or_default();
        match store.leases().unless_wanted(digest, || store.remove(digest)) {
            None => {
                return Err(Fault::new(Class::Refused, format!("blob {digest} is wanted by work under way"))
                    .help("try again when it has ended"));
            }
            Some(removed) => removed?,
        }
        self.images.forget();
        self.memory.write().complete.clear();
        self.touch();
        Ok(size)
    }

    fn collect_now(&self, garbage: &Garbage) -> Result<Freed> {
        // Before the records are read: work that ends meanwhile is in them, or its wishes are kept.
        let _blobs = self.images.store().leases().begin_over_all();
        let _chains = self.snapshots.leases().begin_over_all();
        let (mut targets, mounted) = self.roots(&garbage.without);
        let known = self.reach(targets.clone());
        let mut chains = known.chains;
        chains.extend(mounted);
        let only = garbage.of.clone().map(|of| self.reach(of));
        let sweep = |only| Sweep { older_than: garbage.older_than, only, dry_run: garbage.dry_run };
        // A manifest keeps what it reaches also where another blob of it is damaged.
        let blobs = self.images.gc(&targets, sweep(only.as_ref().map(|only| &only.blobs))).map_err(Fault::from)?;
        let mut freed = Freed { blobs: blobs.blobs, snapshots: Vec::new() };
        let mut problems = blobs.problems;
        if known.unknown.is_empty() {
            let collected =
                self.snapshots.gc(&chains, sweep(only.as_ref().map(|only| &only.chains))).map_err(Fault::from)?;
            freed.snapshots = collected.snapshots;
            problems.extend(collected.problems);
        } else {
            problems.push(format!(
                "image {} is in use and cannot be read, so no snapshot is collected; bayplan image check --repair",
                known.unknown[0]
            ));
        }
        for problem in problems {
            tracing::warn!("garbage collection: {problem}");
        }
        if !garbage.dry_run && freed.items() > 0 {
            targets.extend(self.roots(&BTreeSet::new()).0);
            self.memory.write().complete.retain(|(digest, _), _| targets.contains(digest));
        }
        Ok(freed)
    }

    /// What records point at, and the chains of mounted views.
    fn roots(&self, without: &BTreeSet<(String, Reference)>) -> (HashSet<Digest>, Vec<Digest>) {
        let mounted = self.mounted_views().into_iter().flat_map(|view| view.chains).collect();
        let records = self.memory.read();
        let named = records
            .references
            .iter()
            .filter(|(key, r)| !without.contains(key) && (r.kept || records.is_used(r)))
            .map(|(_, r)| r.digest.clone());
        let targets = named.chain(records.containers.values().map(|r| r.image.clone())).collect();
        (targets, mounted)
    }

    fn reach(&self, targets: HashSet<Digest>) -> Reach {
        let mut reach = Reach::default();
        for target in &targets {
            let mut known = false;
            for platform in self.images.platforms(target).into_iter().chain([Platform::host()]) {
                if let Ok(image) = self.images.load_image(target, &platform) {
                    reach.chains.extend(crate::snapshot::chain_ids(&image.layers));
                    known = true;
                }
            }
            // Without its configuration its snapshots are not known.
            if !known {
                reach.unknown.push(target.clone());
            }
        }
        // What cannot be read is told by the collection itself.
        reach.blobs = self.images.reachable(&targets, &mut Vec::new());
        reach
    }
}
