//! Garbage collection of blobs by reachability.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use super::Images;
use super::document::Document;
use super::error::ImageError;
use super::pull::stored;
use crate::oci::Digest;

/// What a collection removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Blobs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What could not be read or removed, and why; it stays.
    pub problems: Vec<String>,
}

impl Images {
    /// Removes blobs that no target in `roots` reaches and that nobody fetched or asked for within `grace`.
    /// Blocking. One blob that cannot be read stops nothing: it stays, and is reported.
    pub fn gc(&self, roots: &HashSet<Digest>, grace: Duration) -> Result<GcReport, ImageError> {
        let store = self.store();
        let mut report = GcReport::default();
        // Listed before marking: what comes in between is not looked at.
        let all = store.digests()?;
        let live = self.reachable(roots, &mut report);
        let now = SystemTime::now();
        for digest in all.iter().filter(|d| !live.contains(d)) {
            // Looked at again right before it goes, for a pull that has just found it.
            let young = store
                .modified(digest)
                .is_none_or(|m| now.max(SystemTime::now()).duration_since(m).is_ok_and(|age| age < grace) || m > now);
            if young {
                continue;
            }
            let size = store.size(digest).unwrap_or(0);
            match store.remove(digest) {
                Ok(()) => {
                    report.blobs += 1;
                    report.bytes += size;
                }
                Err(error) => report.problems.push(error.to_string()),
            }
        }
        store.sweep_ingest()?;
        if report.blobs > 0 {
            self.inner.cache.clear();
        }
        Ok(report)
    }

    /// Every digest that the targets reach, whether it is here or not.
    fn reachable(&self, roots: &HashSet<Digest>, report: &mut GcReport) -> HashSet<Digest> {
        let mut live = HashSet::new();
        let mut stack: Vec<Digest> = roots.iter().cloned().collect();
        while let Some(digest) = stack.pop() {
            if !live.insert(digest.clone()) || !self.store().has(&digest) {
                continue;
            }
            match stored(self.store(), &digest) {
                Ok((_, Document::Index(children))) => stack.extend(children.into_iter().map(|c| c.descriptor.digest)),
                Ok((_, Document::Manifest { config, layers })) => {
                    live.insert(config.digest);
                    live.extend(layers.into_iter().map(|l| l.digest));
                }
                // An attached document that is no image keeps itself; what else it reaches we do not know.
                Err(ImageError::Unsupported { .. }) => {}
                Err(error) => report.problems.push(error.to_string()),
            }
        }
        live
    }
}
