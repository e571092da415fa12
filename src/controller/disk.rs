//! The disk under the root directory: above the high watermark, unused images go until it is below the low one.
//!
//! Looked at after pulls and when garbage is collected, never by polling. Least recently used goes first; what a
//! container uses, a source declares, or no registry can give again stays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::Garbage;
use crate::manifest::{Kind, PullPolicy, ResourceKey, Spec};
use crate::oci::Digest;
use crate::store::{EventType, ReferenceRecord};

use super::Node;
use super::prune::Name;

/// How full a file system is in percent, as df(1) counts: of what others than root can use.
fn used_percent(path: &Path) -> Option<u8> {
    let fs = rustix::fs::statvfs(path).ok()?;
    let used = fs.f_blocks.saturating_sub(fs.f_bfree);
    let all = used + fs.f_bavail;
    // Rounded up, as df does: a full one is 100.
    u8::try_from((used * 100).div_ceil(all.max(1))).ok()
}

impl Node {
    /// Frees space if the disk is too full.
    pub(super) async fn relieve_disk(self: &Arc<Self>) {
        let (config, root) = (&self.engine.config().gc, &self.engine.config().root);
        let (high, low) = (config.high_watermark, config.low_watermark);
        let used = || used_percent(root).unwrap_or(0);
        if !config.enabled || high == 0 || used() < high {
            return;
        }
        // One at a time; who comes second has nothing to add.
        let Ok(_alone) = self.relieving.try_lock() else { return };
        let before = used();
        let mut freed = 0;
        let mut take = async |garbage: Garbage| match self.engine.take_out(garbage).await {
            Ok(taken) => freed += taken.blob_bytes(),
            Err(fault) => tracing::warn!(%fault, "the disk is full, and collecting failed"),
        };
        take(Garbage::older_than(config.grace.duration())).await;
        for (digest, group) in self.collectable() {
            if used() < low {
                break;
            }
            let names: BTreeSet<Name> =
                group.iter().map(|record| (record.namespace.clone(), record.reference.clone())).collect();
            match self.release(&names).await {
                Ok(kept) if kept.is_empty() => {}
                Ok(_) => continue,
                Err(fault) => {
                    tracing::warn!(%fault, "the disk is full, and an unused image could not be removed");
                    continue;
                }
            }
            for record in &group {
                let key = ResourceKey::new(Kind::Image, &record.namespace, record.reference.to_string());
                let why = format!("unused, and the disk was {} % full", used());
                self.engine.event(&key, EventType::Normal, "Collected", why);
            }
            take(Garbage { of: Some([digest].into()), ..Garbage::older_than(Duration::ZERO) }).await;
        }
        if used() >= low {
            // What broken-off pulls could be taken up from goes last.
            take(Garbage::older_than(Duration::ZERO)).await;
        }
        tracing::info!(before, after = used(), bytes = freed, "the disk was too full");
        if used() >= low {
            let key = ResourceKey::new(Kind::Namespace, "default", "default");
            self.engine.event(&key, EventType::Warning, "DiskPressure", self.pressure(used(), low));
        }
        self.wake.notify_one();
    }

    /// What to tell about a disk that stays too full.
    fn pressure(&self, used: u8, mark: u8) -> String {
        format!(
            "the file system of {} is {used} % full, not below {mark} %, and no unused image is left to collect",
            self.engine.config().root.display()
        )
    }

    /// Said in `status` as long as it is so.
    pub(super) fn disk_warning(&self) -> Option<String> {
        let (config, root) = (&self.engine.config().gc, &self.engine.config().root);
        let used = used_percent(root).filter(|used| config.high_watermark > 0 && *used >= config.high_watermark)?;
        Some(match self.collectable().is_empty() {
            true => self.pressure(used, config.high_watermark),
            false => format!(
                "the file system of {} is {used} % full, above gc.high_watermark; unused images go with the next pull, or by bayplan image prune --all",
                root.display()
            ),
        })
    }

    /// Images of which every name was pulled by hand and is unused, least recently used first.
    fn collectable(&self) -> Vec<(Digest, Vec<ReferenceRecord>)> {
        let mut names: BTreeMap<Digest, usize> = BTreeMap::new();
        for record in self.engine.memory().read().references.values() {
            *names.entry(record.digest.clone()).or_default() += 1;
        }
        let mut groups: Vec<(Digest, Vec<ReferenceRecord>)> = Vec::new();
        // What was pulled a moment ago is about to be used.
        let grace = self.engine.config().gc.grace.duration();
        for record in self.unused(grace, |_| true) {
            // What was loaded or tagged here is nowhere else: only a person takes it away.
            let declared = self.declares(&record.namespace, &record.reference);
            let is_local = declared.is_some_and(|declared| {
                matches!(&declared.resource.spec, Spec::Image(spec) if spec.pull_policy == Some(PullPolicy::Never))
            });
            if is_local {
                continue;
            }
            match groups.iter_mut().find(|(digest, _)| *digest == record.digest) {
                Some((_, group)) => group.push(record),
                None => groups.push((record.digest.clone(), vec![record])),
            }
        }
        // A name that stays keeps the bytes: taking the others away would free nothing.
        groups.retain(|(digest, group)| names.get(digest) == Some(&group.len()));
        groups
    }
}
