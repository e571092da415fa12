//! Garbage collection of blobs by reachability.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use super::Images;
use super::closure::Named;
use super::document::{Document, MAX_MANIFEST};
use super::error::ImageError;
use super::pull::stored;
use crate::oci::Digest;

/// Which of what nothing needs is taken.
#[derive(Debug, Clone, Copy)]
pub struct Sweep<'a> {
    /// What was fetched or asked for more recently stays.
    pub older_than: Duration,
    /// Only these; `None` for all.
    pub only: Option<&'a HashSet<Digest>>,
    /// Nothing is removed, only told.
    pub dry_run: bool,
}

impl Sweep<'_> {
    /// All that is older than this.
    pub fn older_than(older_than: Duration) -> Self {
        Self { older_than, only: None, dry_run: false }
    }

    /// Whether it may go, by its name and its age.
    pub fn takes(&self, digest: &Digest, touched: Option<SystemTime>) -> bool {
        let old = || {
            let Some(touched) = touched else { return false };
            // A time to come is a clock that was set: nothing is known of its age.
            touched.elapsed().is_ok_and(|age| age >= self.older_than)
        };
        self.only.is_none_or(|only| only.contains(digest)) && (self.older_than.is_zero() || old())
    }
}

/// What a collection removed, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Blobs with their sizes in bytes.
    pub blobs: Vec<(Digest, u64)>,
    /// What could not be read or removed, and why; it stays.
    pub problems: Vec<String>,
}

impl GcReport {
    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().map(|(_, size)| size).sum()
    }
}

impl Images {
    /// Removes blobs that no target in `roots` reaches, as far as `sweep` takes them and nobody's lease keeps
    /// them. Blocking. One blob that cannot be read stops nothing: it stays, and is reported.
    pub fn gc(&self, roots: &HashSet<Digest>, sweep: Sweep<'_>) -> Result<GcReport, ImageError> {
        let store = self.store();
        let mut report = GcReport::default();
        // Listed before marking: what comes in between is not looked at.
        let mut all = store.digests()?;
        all.sort();
        let live = self.reachable(roots, &mut report.problems);
        for digest in all.into_iter().filter(|d| !live.contains(d)) {
            let result = store.leases().unless_wanted(&digest, || {
                if !sweep.takes(&digest, store.modified(&digest)) {
                    return Ok(None);
                }
                let size = store.size(&digest);
                if !sweep.dry_run {
                    store.remove(&digest)?;
                }
                Ok(size)
            });
            match result {
                Some(Ok(Some(size))) => report.blobs.push((digest, size)),
                Some(Ok(None)) | None => {}
                Some(Err(error)) => {
                    let error: ImageError = error;
                    report.problems.push(error.to_string());
                }
            }
        }
        if !sweep.dry_run {
            store.sweep_ingest(super::store::INGEST_KEPT)?;
            if !report.blobs.is_empty() {
                self.forget();
            }
        }
        Ok(report)
    }

    /// Forgets what it knows of images: blobs may have gone.
    pub fn forget(&self) {
        self.inner.cache.clear();
    }

    /// Every digest that the targets reach, whether it is here or not. What cannot be read is told in `problems`.
    pub fn reachable(&self, roots: &HashSet<Digest>, problems: &mut Vec<String>) -> HashSet<Digest> {
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
                // Attached to an image and none itself, such as an attestation: it keeps what it names.
                Err(ImageError::Unsupported { .. }) => {
                    let bytes = self.store().read(&digest, MAX_MANIFEST);
                    if let Some(named) = bytes.ok().and_then(|bytes| Named::by(&bytes).ok()) {
                        stack.extend(named.documents.into_iter().map(|d| d.digest));
                        live.extend(named.blobs.into_iter().map(|d| d.digest));
                    }
                }
                Err(error) => problems.push(error.to_string()),
            }
        }
        live
    }
}
