//! What is not needed goes when a person or a full disk asks for it; what is used or declared never does.
//!
//! References made by hand lose their declaration, and the planner, which knows of every container that may want
//! one at this moment, decides whether they go. Blobs and snapshots follow by collection.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::api::{Freed as Told, PruneReport, PruneRequest, PrunedReference};
use crate::engine::{Freed, Freshness, Garbage};
use crate::error::{Class, Fault, Result};
use crate::image::Descriptor;
use crate::manifest::{Kind, ResourceKey, Spec};
use crate::oci::{Digest, Reference};
use crate::plan::{ReferenceRole, Source};
use crate::store::ReferenceRecord;

use super::Node;
use super::reconcile::Scope;

/// A reference in its namespace.
pub(super) type Name = (String, Reference);

impl Node {
    pub(super) async fn prune_images(self: &Arc<Self>, request: PruneRequest) -> Result<PruneReport> {
        let older_than = Duration::from_millis(request.older_than_ms.unwrap_or_default());
        let unused = match request.all {
            true => self.unused(older_than, |record| request.namespace.as_ref().is_none_or(|n| *n == record.namespace)),
            false => Vec::new(),
        };
        let without: BTreeSet<Name> = unused.iter().map(name_of).collect();
        let told = |garbage: Garbage| Garbage { dry_run: true, ..garbage };
        let garbage = Garbage { without: without.clone(), ..Garbage::older_than(older_than) };
        // Measured before it is gone.
        let measured = self.engine.take_out(told(garbage)).await?;
        let mut report = PruneReport {
            references: unused.iter().map(|record| self.pruned(record)).collect(),
            ..PruneReport::default()
        };
        if request.dry_run {
            tell(&mut report, &measured, &measured);
            return Ok(report);
        }
        let kept = self.release(&without).await?;
        report.references.retain(|gone| {
            !kept
                .iter()
                .any(|(namespace, reference)| *namespace == gone.namespace && reference.to_string() == gone.reference)
        });
        report.kept = kept.iter().map(|(namespace, name)| format!("{namespace}/{name}: it is wanted again")).collect();
        let freed = self.engine.take_out(Garbage::older_than(older_than)).await?;
        let images = self.engine.images().clone();
        let swept = tokio::task::spawn_blocking(move || images.store().sweep_ingest(older_than)).await;
        swept.map_err(|error| Fault::new(Class::Bug, format!("sweeping: {error}")))?.map_err(Fault::from)?;
        tell(&mut report, &freed, &measured);
        self.wake.notify_one();
        Ok(report)
    }

    /// References that a person made and nothing uses, least recently used first.
    pub(super) fn unused(
        &self,
        older_than: Duration,
        selects: impl Fn(&ReferenceRecord) -> bool,
    ) -> Vec<ReferenceRecord> {
        let records: Vec<ReferenceRecord> =
            self.engine.memory().read().references.values().filter(|record| selects(record)).cloned().collect();
        let desired = self.desired();
        let mut sources: HashSet<(&str, &Reference)> = HashSet::new();
        for (key, declared) in &desired.resources {
            if let Spec::Tag(tag) = &declared.resource.spec {
                sources.insert((key.namespace.as_str(), &tag.source));
            }
        }
        let now = Timestamp::now();
        let old = |record: &ReferenceRecord| {
            let age = now.duration_since(self.last_used(record));
            Duration::try_from(age).is_ok_and(|age| age >= older_than)
        };
        let mut unused: Vec<ReferenceRecord> = records
            .into_iter()
            .filter(|record| {
                let declared = self.declares(&record.namespace, &record.reference);
                declared.is_none_or(|declared| declared.source == Source::Cli)
                    && !sources.contains(&(record.namespace.as_str(), &record.reference))
                    && self.wanted_by(&record.namespace, &record.reference).is_empty()
                    && (older_than.is_zero() || old(record))
            })
            .collect();
        unused.sort_by_key(|record| (self.last_used(record), record.reference.clone()));
        unused
    }

    /// When an image was last pulled, or a container last made of it or removed.
    pub(super) fn last_used(&self, record: &ReferenceRecord) -> Timestamp {
        let touched = self.engine.images().store().modified(&record.digest);
        touched.and_then(|time| Timestamp::try_from(time).ok()).map_or(record.created, |time| time.max(record.created))
    }

    /// Nobody wants these any more but for containers that may have come meanwhile. Returns those that stay.
    pub(super) async fn release(self: &Arc<Self>, names: &BTreeSet<Name>) -> Result<BTreeSet<Name>> {
        if names.is_empty() {
            return Ok(BTreeSet::new());
        }
        let keys: BTreeSet<ResourceKey> = names
            .iter()
            .flat_map(|(namespace, reference)| {
                [Kind::Image, Kind::Tag].map(|kind| ResourceKey::new(kind, namespace, reference.to_string()))
            })
            .collect();
        let of_cli: Vec<ResourceKey> =
            keys.iter().filter(|key| self.declared(key).is_some_and(|d| d.source == Source::Cli)).cloned().collect();
        self.engine.memory().declare(self.engine.store(), Vec::new(), &of_cli)?;
        // What `run` pulled or `content fetch` brought was never declared, and no plan takes it away; as a name that
        // was declared and is not any more it goes, unless a container names it by then.
        let fetched: Vec<ReferenceRecord> = {
            let records = self.engine.memory().read();
            let by_hand = |r: &&ReferenceRecord| r.role == ReferenceRole::Implied && r.source == Source::Cli;
            names.iter().filter_map(|name| records.references.get(name)).filter(by_hand).cloned().collect()
        };
        for record in fetched {
            let target = Descriptor { media_type: record.media_type, digest: record.digest, size: record.size };
            self.engine.name_target_by_hand(&record.namespace, &record.reference, &target)?;
        }
        self.drive(&Scope::Keys(keys), Freshness::Known, None).await?;
        let records = self.engine.memory().read();
        Ok(names.iter().filter(|name| records.references.contains_key(name)).cloned().collect())
    }

    fn pruned(&self, record: &ReferenceRecord) -> PrunedReference {
        PrunedReference {
            namespace: record.namespace.clone(),
            reference: record.reference.to_string(),
            digest: record.digest.clone(),
            size: self.engine.images().size_on_disk(&record.digest),
            last_used: self.last_used(record),
        }
    }
}

fn name_of(record: &ReferenceRecord) -> Name {
    (record.namespace.clone(), record.reference.clone())
}

/// What was freed, with the sizes that were measured while it was there.
fn tell(report: &mut PruneReport, freed: &Freed, measured: &Freed) {
    let sizes: BTreeMap<&Digest, u64> = measured.snapshots.iter().map(|(chain, size)| (chain, *size)).collect();
    let told = |(digest, size): &(Digest, u64)| Told { digest: digest.clone(), size: *size };
    report.blobs = freed.blobs.iter().map(told).collect();
    report.snapshots = freed.snapshots.iter().map(told).collect();
    for snapshot in &mut report.snapshots {
        snapshot.size = sizes.get(&snapshot.digest).copied().unwrap_or(snapshot.size);
    }
}
