//! The store examined against the records, and repaired: what is wrong is fetched and unpacked again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::error::{Class, Fault, Result};
use crate::image::{BlobFault, CheckedPart as Part, Image, PullOptions, Verdicts, silent};
use crate::oci::{Digest, Platform, Reference};
use crate::plan::ReferenceRole;
use crate::snapshot::{SnapshotFault, SnapshotFinding, chain_ids};
use crate::store::ReferenceRecord;

use super::{Engine, lock_of};

/// Something that is wrong, ordered so that causes come before what follows from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// With a blob.
    Blob(Digest, BlobFault),
    /// With a snapshot.
    Snapshot(SnapshotFinding),
    /// An image's layer has no snapshot.
    NotUnpacked(Digest),
}

impl Flaw {
    /// What it is about: the same before and after a repair.
    fn object(&self) -> (bool, String) {
        match self {
            Self::Blob(digest, _) => (true, digest.to_string()),
            Self::NotUnpacked(chain) => (false, chain.to_string()),
            Self::Snapshot(found) => {
                (false, found.chain.as_ref().map_or_else(|| found.directory.clone(), ToString::to_string))
            }
        }
    }
}

/// A flaw, with what needs the thing.
#[derive(Debug, Clone)]
pub struct Found {
    /// What is wrong.
    pub flaw: Flaw,
    /// References that need it.
    pub images: BTreeSet<(String, Reference)>,
    /// It was wrong, and is not any more.
    pub repaired: bool,
    /// Why it could not be repaired.
    pub failure: Option<Fault>,
}

/// What an examination saw.
#[derive(Debug, Clone, Default)]
pub struct Examined {
    /// References.
    pub references: u64,
    /// Blobs read, and their bytes.
    pub blobs: (u64, u64),
    /// Snapshots.
    pub snapshots: u64,
    /// What is wrong, or was.
    pub found: Vec<Found>,
}

/// What is to be examined.
#[derive(Debug, Clone)]
pub struct Examination {
    /// These references, each with the platform that it is wanted for.
    pub references: Vec<(ReferenceRecord, Platform)>,
    /// And whatever else is in the store.
    pub everything: bool,
    /// What is wrong is repaired.
    pub repair: bool,
}

impl Engine {
    /// Examines, and repairs if asked. What is found stays found: it says whether it was repaired.
    pub async fn examine(self: &Arc<Self>, examination: Examination) -> Result<Examined> {
        // Nothing that is looked at goes meanwhile.
        let _lease = self.lease();
        let mut first = self.look(&examination).await?;
        if !examination.repair || first.found.is_empty() {
            return Ok(first);
        }
        let mut failures = self.repair(&first.found, &examination).await;
        let mut second = self.look(&examination).await?;
        // What a wrong blob hid: the layers of its image are compared only now.
        let known: HashSet<(bool, String)> = first.found.iter().map(|found| found.flaw.object()).collect();
        let hidden: Vec<Found> = second.found.iter().filter(|f| !known.contains(&f.flaw.object())).cloned().collect();
        if !hidden.is_empty() {
            let more = self.repair(&hidden, &examination).await;
            failures.objects.extend(more.objects);
            failures.images.extend(more.images);
            second = self.look(&examination).await?;
            first.found.extend(hidden);
        }
        let still: HashSet<(bool, String)> = second.found.iter().map(|found| found.flaw.object()).collect();
        for found in &mut first.found {
            found.repaired = !still.contains(&found.flaw.object());
            if !found.repaired {
                let of_image = found.images.iter().find_map(|image| failures.images.get(image).cloned());
                found.failure = failures.objects.remove(&found.flaw.object()).or(of_image);
            }
        }
        Ok(first)
    }

    async fn look(self: &Arc<Self>, examination: &Examination) -> Result<Examined> {
        let (engine, examination) = (Arc::clone(self), examination.clone());
        tokio::task::spawn_blocking(move || engine.look_now(&examination))
            .await
            .map_err(|error| Fault::new(Class::Bug, format!("the examination: {error}")))?
    }

    fn look_now(&self, examination: &Examination) -> Result<Examined> {
        let store = self.images.store();
        let mut verdicts = Verdicts::default();
        let mut flaws: BTreeMap<(bool, String), Found> = BTreeMap::new();
        let mut note = |flaw: Flaw, image: Option<(String, Reference)>| {
            let entry = flaws.entry(flaw.object()).or_insert_with(|| Found {
                flaw,
                images: BTreeSet::new(),
                repaired: false,
                failure: None,
            });
            entry.images.extend(image);
        };
        let mut users: HashMap<Digest, BTreeSet<(String, Reference)>> = HashMap::new();
        // Each layer that is unpacked, with an image whose blobs are whole.
        let mut layers: BTreeMap<Digest, (Image, usize)> = BTreeMap::new();
        for (record, platform) in &examination.references {
            let image = (record.namespace.clone(), record.reference.clone());
            let mut whole = true;
            for part in self.images.parts(&record.digest, Some(record.size), platform) {
                if let Some(fault) = verdicts.of(store, &part) {
                    whole &= !part.needed;
                    note(Flaw::Blob(part.digest, fault), Some(image.clone()));
                }
            }
            // An image for other machines only is kept, and unpacked nowhere.
            let Some(found) = whole.then(|| self.images.whole(&record.digest, platform).ok()).flatten() else {
                continue;
            };
            // One that was only fetched is unpacked once something needs it.
            let is_unpacked = record.role != ReferenceRole::Implied || self.memory.read().is_used(record);
            for (at, chain) in chain_ids(&found.layers).into_iter().enumerate() {
                if self.snapshots.usable(&chain) {
                    layers.entry(chain.clone()).or_insert_with(|| (found.clone(), at));
                    users.entry(chain).or_default().insert(image.clone());
                } else if is_unpacked {
                    note(Flaw::NotUnpacked(chain), Some(image.clone()));
                }
            }
        }
        if examination.everything {
            for digest in store.digests().map_err(Fault::from)? {
                let part = Part { digest, size: None, needed: false };
                if let Some(fault) = verdicts.of(store, &part) {
                    note(Flaw::Blob(part.digest, fault), None);
                }
            }
        }
        let mut snapshots = self.snapshots.check().map_err(Fault::from)?;
        for found in &snapshots {
            found.chain.as_ref().and_then(|chain| layers.remove(chain));
        }
        for (chain, (image, at)) in &layers {
            let fault = match self.snapshots.compare(image, *at, store) {
                Ok(same) if same.is_empty() => continue,
                Ok(differences) => SnapshotFault::Files(differences),
                Err(error) => SnapshotFault::Uncompared(error.to_string()),
            };
            snapshots.push(SnapshotFinding { chain: Some(chain.clone()), directory: chain.short().to_owned(), fault });
        }
        for found in snapshots {
            let images = found.chain.as_ref().and_then(|chain| users.get(chain)).cloned().unwrap_or_default();
            if examination.everything || !images.is_empty() {
                note(Flaw::Snapshot(found.clone()), None);
                for image in images {
                    note(Flaw::Snapshot(found.clone()), Some(image));
                }
            }
        }
        let snapshots = match examination.everything {
            true => self.snapshots.list().map_err(Fault::from)?.len(),
            false => users.len(),
        };
        let mut found: Vec<Found> = flaws.into_values().collect();
        // What was taken away meanwhile took its bytes with it.
        let records = self.memory.read();
        let same = |image: &(String, Reference)| {
            let now = records.references.get(image).map(|record| &record.digest);
            examination
                .references
                .iter()
                .any(|(then, _)| then.namespace == image.0 && then.reference == image.1 && Some(&then.digest) == now)
        };
        found.retain_mut(|one| {
            let needed = !one.images.is_empty();
            one.images.retain(&same);
            !needed || !one.images.is_empty()
        });
        drop(records);
        found.sort_by_key(|found| !found.flaw.object().0);
        Ok(Examined {
            references: examination.references.len() as u64,
            blobs: verdicts.read(),
            snapshots: snapshots as u64,
            found,
        })
    }

    async fn repair(self: &Arc<Self>, found: &[Found], examination: &Examination) -> Failures {
        let mut failures = Failures::default();
        let mut pulls: BTreeSet<(String, Reference)> = BTreeSet::new();
        let mut unpacks: BTreeSet<(String, Reference)> = BTreeSet::new();
        let mut discards: HashSet<Digest> = HashSet::new();
        for one in found {
            match &one.flaw {
                Flaw::Blob(digest, fault) => {
                    // One that is not what it should be is worse than none: it would be taken for whole.
                    if *fault != BlobFault::Missing
                        && let Err(error) = self.images.store().remove(digest)
                    {
                        failures.objects.insert(one.flaw.object(), error.into());
                    }
                    pulls.extend(one.images.iter().cloned());
                }
                Flaw::NotUnpacked(_) => unpacks.extend(one.images.iter().cloned()),
                Flaw::Snapshot(SnapshotFinding { fault: SnapshotFault::Uncompared(why), .. }) => {
                    let fault = Fault::new(Class::Runtime, format!("nothing is known of its files: {why}"));
                    failures.objects.insert(one.flaw.object(), fault);
                }
                Flaw::Snapshot(SnapshotFinding { chain: Some(chain), fault, .. }) => {
                    match self.user_of_chain(chain) {
                        Some(user) if *fault != SnapshotFault::Lost => {
                            let fault = Fault::new(Class::Refused, format!("{user} runs on it"))
                                .help("stop or unmount that first, and repair again");
                            failures.objects.insert(one.flaw.object(), fault);
                        }
                        _ => drop(discards.insert(chain.clone())),
                    }
                    unpacks.extend(one.images.iter().cloned());
                }
                Flaw::Snapshot(_) => {}
            }
        }
        self.images.forget();
        let engine = Arc::clone(self);
        let cleared = tokio::task::spawn_blocking(move || {
            engine.snapshots.discard(&discards)?;
            engine.snapshots.sweep()
        });
        match cleared.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "damaged snapshots could not be cleared"),
            Err(error) => tracing::error!(%error, "clearing damaged snapshots"),
        }
        let mut done: HashMap<(Digest, Platform), Result<()>> = HashMap::new();
        for (record, platform) in &examination.references {
            let image = (record.namespace.clone(), record.reference.clone());
            if !pulls.contains(&image) && !unpacks.contains(&image) {
                continue;
            }
            let key = (record.digest.clone(), platform.clone());
            let result = match done.get(&key) {
                Some(result) => result.clone(),
                None => {
                    let result = self.bring_back(&record.digest, platform, pulls.contains(&image)).await;
                    done.insert(key, result.clone());
                    result
                }
            };
            if let Err(fault) = result {
                failures.images.insert(image, fault);
            }
        }
        self.memory.write().complete.clear();
        self.touch();
        failures
    }

    /// Fetches what is missing of an image by whichever of its names a registry knows, and unpacks it.
    async fn bring_back(self: &Arc<Self>, digest: &Digest, platform: &Platform, fetch: bool) -> Result<()> {
        let mut last = Ok(());
        if fetch {
            let mut names: Vec<(bool, Reference)> = {
                let records = self.memory.read();
                let same = records.references.values().filter(|record| record.digest == *digest);
                same.map(|record| (record.role == ReferenceRole::Tag, record.reference.clone())).collect()
            };
            // A tag is a name of this node's own; the image behind it may have one that a registry knows.
            names.sort();
            names.dedup();
            let mut platforms = self.images.held_platforms(digest);
            platforms.retain(|other| other != platform);
            platforms.insert(0, platform.clone());
            for (_, reference) in names {
                last = Ok(());
                for platform in &platforms {
                    let options = PullOptions {
                        platform: platform.clone(),
                        digest: Some(digest.clone()),
                        ..PullOptions::default()
                    };
                    if let Err(error) = self.images.pull(&reference, &options, silent()).await {
                        last = Err(Fault::from(error));
                        break;
                    }
                }
                if last.is_ok() {
                    break;
                }
            }
        }
        last?;
        let image = self.images.whole(digest, platform).map_err(Fault::from)?;
        self.unpack(&image, None).await
    }

    /// A container whose task lives on a snapshot, or a path that shows it.
    fn user_of_chain(&self, chain: &Digest) -> Option<String> {
        let view = self.mounted_views().into_iter().find(|view| view.chains.contains(chain));
        if let Some(view) = view {
            return Some(format!("the image mounted at {}", view.target.display()));
        }
        let alive: Vec<_> = lock_of(&self.tasks).keys().cloned().collect();
        let records = self.memory.read();
        let runs_on = |id: &&(String, String)| {
            let image = records.containers.get(*id).and_then(|r| self.images.whole(&r.image, &Platform::host()).ok());
            // What it runs on cannot be told: better not to pull it away.
            image.is_none_or(|image| chain_ids(&image.layers).contains(chain))
        };
        alive.iter().find(runs_on).map(|(namespace, name)| format!("container {namespace}/{name}"))
    }
}

/// Why things could not be repaired.
#[derive(Default)]
struct Failures {
    objects: HashMap<(bool, String), Fault>,
    images: HashMap<(String, Reference), Fault>,
}
