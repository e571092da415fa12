//! What committed snapshots take on disk: measured once, for they never change, and kept beside each.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Snapshots;
use super::error::SnapshotError;
use super::store::Store;
use crate::oci::Digest;

impl Store {
    /// Bytes that a layer directory takes, if that was measured before.
    pub fn known_usage(&self, name: &str) -> Option<u64> {
        fs::read_to_string(self.path("l").join(name).join("usage")).ok()?.trim().parse().ok()
    }

    /// The same, measured now if need be. Blocking.
    pub fn usage(&self, name: &str) -> u64 {
        self.known_usage(name).unwrap_or_else(|| {
            let directory = self.path("l").join(name);
            let bytes = disk_usage(&directory.join("fs"));
            let aside = directory.join("usage.new");
            // What cannot be kept is measured again.
            let _ = fs::write(&aside, bytes.to_string()).and_then(|()| fs::rename(&aside, directory.join("usage")));
            bytes
        })
    }
}

impl Snapshots {
    /// Bytes on disk of a committed snapshot alone, without those below it; `None` when it is not there.
    /// Blocking at the first call for each.
    pub fn usage(&self, chain: &Digest) -> Option<u64> {
        self.inner.store.name(chain).map(|name| self.inner.store.usage(&name))
    }

    /// Bytes on disk of a chain of snapshots, if all of them are there and were measured before.
    pub fn known_usage(&self, chains: &[Digest]) -> Option<u64> {
        let store = &self.inner.store;
        chains.iter().map(|chain| store.known_usage(&store.name(chain)?)).sum()
    }

    /// Bytes on disk of a writable layer. Blocking.
    pub fn writable_usage(&self, key: &str) -> Result<u64, SnapshotError> {
        Ok(disk_usage(&self.writable(key)?.join("upper")))
    }
}

/// Bytes on disk of a tree, each inode once. What vanishes or has a name too long to be looked at is not counted.
fn disk_usage(root: &Path) -> u64 {
    let mut bytes = 0;
    let mut linked = HashSet::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        // 512-byte units, whatever the file system's blocks are, stat(2).
        bytes += fs::symlink_metadata(&directory).map_or(0, |m| m.blocks() * 512);
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                todo.push(entry.path());
            } else if metadata.nlink() == 1 || linked.insert((metadata.dev(), metadata.ino())) {
                bytes += metadata.blocks() * 512;
            }
        }
    }
    bytes
}
