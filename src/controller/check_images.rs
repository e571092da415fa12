//! The store examined for a person.

use std::sync::Arc;

use crate::api::{CheckReport, CheckRequest, Finding, FindingKind, StoredObject};
use crate::engine::{Examination, Flaw, Found};
use crate::error::Result;
use crate::image::BlobFault;
use crate::manifest::Spec;
use crate::oci::Platform;
use crate::snapshot::{Difference, NAMED, SnapshotFault};
use crate::store::ReferenceRecord;

use super::Node;

impl Node {
    pub(super) async fn check_images(self: &Arc<Self>, request: CheckRequest) -> Result<CheckReport> {
        let mut records: Vec<ReferenceRecord> = Vec::new();
        for name in &request.names {
            match self.named_images(&request.namespace, name)? {
                none if none.is_empty() => return Err(self.no_image(&request.namespace, name)),
                found => records.extend(found),
            }
        }
        if request.names.is_empty() {
            records = self.engine.memory().read().references.values().cloned().collect();
        }
        let references = records.into_iter().map(|record| (self.wanted_platform(&record), record));
        let examination = Examination {
            references: references.map(|(platform, record)| (record, platform)).collect(),
            everything: request.names.is_empty(),
            repair: request.repair,
        };
        let seen = self.engine.examine(examination).await?;
        Ok(CheckReport {
            references: seen.references,
            blobs: seen.blobs.0,
            bytes: seen.blobs.1,
            snapshots: seen.snapshots,
            findings: seen.found.into_iter().map(told).collect(),
        })
    }

    /// The platform that a reference's declaration names, else the node's.
    pub(super) fn wanted_platform(&self, record: &ReferenceRecord) -> Platform {
        let declared = self.declares(&record.namespace, &record.reference);
        let platform = declared.and_then(|declared| match declared.resource.spec {
            Spec::Image(spec) => spec.platform,
            _ => None,
        });
        platform.unwrap_or_else(Platform::host)
    }
}

/// `etc/passwd is missing; bin/sh has 0 bytes, not 1234; and 3 more`.
fn differing(differences: &[Difference]) -> String {
    /// More than anybody reads.
    const SHOWN: usize = 4;
    let shown = differences.iter().take(SHOWN).map(|one| format!("{} {}", one.path, one.what));
    let mut text = shown.collect::<Vec<_>>().join("; ");
    match differences.len().saturating_sub(SHOWN) {
        0 => {}
        _ if differences.len() >= NAMED => text.push_str("; and more"),
        more => text.push_str(&format!("; and {more} more")),
    }
    text
}

fn told(found: Found) -> Finding {
    let (object, name, fault, message) = match found.flaw {
        Flaw::Blob(digest, fault) => {
            let (kind, message) = match fault {
                BlobFault::Missing => (FindingKind::Missing, "it is not in the store".to_owned()),
                BlobFault::Size { expected, actual } => {
                    (FindingKind::Truncated, format!("it has {actual} bytes, not {expected}"))
                }
                BlobFault::Corrupt { actual } => (FindingKind::Corrupt, format!("its digest is {actual}")),
                BlobFault::Unreadable(why) => (FindingKind::Unreadable, why),
            };
            (StoredObject::Blob, digest.to_string(), kind, message)
        }
        Flaw::NotUnpacked(chain) => {
            let message = "the layer is in the store and not unpacked".to_owned();
            (StoredObject::Snapshot, chain.to_string(), FindingKind::NotUnpacked, message)
        }
        Flaw::Snapshot(snapshot) => {
            let (kind, message) = match snapshot.fault {
                SnapshotFault::HalfMade => (FindingKind::HalfMade, "an interrupted unpacking left it".to_owned()),
                SnapshotFault::Lost => (FindingKind::Missing, format!("its directory {} is gone", snapshot.directory)),
                SnapshotFault::Record(why) => (FindingKind::Record, why),
                SnapshotFault::Files(differences) => (FindingKind::Corrupt, differing(&differences)),
                SnapshotFault::Uncompared(why) => {
                    (FindingKind::Unreadable, format!("its files could not be compared with its blob: {why}"))
                }
                SnapshotFault::NoParent(below) => {
                    (FindingKind::Record, format!("the snapshot below it, {below}, is gone"))
                }
            };
            let name = snapshot.chain.map_or_else(|| format!("l/{}", snapshot.directory), |chain| chain.to_string());
            (StoredObject::Snapshot, name, kind, message)
        }
    };
    let failure = found.failure.map(|fault| match fault.help {
        Some(help) => format!("{}; {help}", fault.message),
        None => fault.message,
    });
    Finding {
        object,
        name,
        fault,
        message,
        images: found.images.into_iter().map(|(namespace, reference)| format!("{namespace}/{reference}")).collect(),
        repaired: found.repaired,
        failure,
    }
}
