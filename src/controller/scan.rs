//! Reads the manifest tree into a snapshot.
//!
//! Invariants: nothing outside the tree is read, whatever links say (every open resolves beneath the
//! root's descriptor without following links, `openat2(2)`); nothing that is not a regular file is waited
//! on; what could not be seen is said to be unseen, so that it is never taken for removed; a file that
//! somebody has open for writing is not read as if it were whole.
//!
//! In: the directory's path, and what events told about open files. Out: [`Scan`]. Decides nothing.

mod lease;
mod walk;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// A manifest holds at most this many bytes; larger files are reported without being read.
pub const MAX_BYTES: u64 = 4 << 20;
/// Directories below the root are read this deep.
pub const MAX_DEPTH: usize = 16;
/// Manifests read in one tree.
pub const MAX_FILES: usize = 10_000;
/// Where leases cannot tell whether a file is open for writing, one that changed less than this ago is
/// waited for.
pub const SETTLE: Duration = Duration::from_secs(1);
/// A file that changed less than this before it was read may change again without its times showing it
/// (their granularity is a clock tick on disk file systems, up to 2 s on others): it is read again.
const GRANULARITY: Duration = Duration::from_secs(2);

/// Which directory this is; a replaced, mounted-over or unmounted one has another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootIdentity {
    /// The device number.
    pub dev: u64,
    /// The inode number.
    pub ino: u64,
}

/// The state of the directory itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootState {
    /// It was read.
    Present(RootIdentity),
    /// It does not exist.
    Missing,
    /// It cannot be read, or is no directory; why.
    Unreadable(String),
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// It was read, now or earlier.
    Read {
        /// The SHA-256 of its bytes.
        hash: Digest,
        /// Its bytes; absent when the scan before this one had the same for this name.
        text: Option<Vec<u8>>,
    },
    /// It is being written: to be left alone until its writer closes it.
    Writing,
    /// It is no manifest or cannot be read; why, to be put behind its name.
    Bad(String),
}

/// One file of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScannedFile {
    /// Its absolute path, by the name it was found under.
    pub path: PathBuf,
    /// What it holds.
    pub content: Content,
}

/// A part of the tree that could not be seen. Nothing in it counts as removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blind {
    /// The directory, relative to the root; empty for the whole tree.
    pub dir: String,
    /// Why, to be put behind its name.
    pub reason: String,
}

/// A snapshot of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The directory itself.
    pub root: RootState,
    /// Manifests and would-be manifests, by path relative to the root (`/` between names).
    pub files: BTreeMap<String, ScannedFile>,
    /// What could not be seen.
    pub blind: BTreeSet<Blind>,
    /// Look again after this long although no event may come.
    pub recheck: Option<Duration>,
}

/// Times and size by which an unchanged file is known without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

#[derive(Debug, Clone)]
struct Cached {
    stamp: Stamp,
    hash: Digest,
    /// The stamp was old enough when the file was read: equal stamps mean equal bytes.
    trusted: bool,
}

/// Reads one tree again and again. Every snapshot must reach the directory source, because what has not
/// changed is not handed out twice; after dropping one, [`Scanner::forget`].
#[derive(Debug)]
pub struct Scanner {
    root: PathBuf,
    cache: HashMap<String, Cached>,
}

impl Scanner {
    /// A scanner of this directory (absolute) that has read nothing.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), cache: HashMap::new() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Forgets what was read: the next scan hands out every text again.
    pub fn forget(&mut self) {
        self.cache.clear();
    }

    /// Reads the tree; blocking. `writing`: files (relative) that events say are open for writing, asked
    /// only where the file system cannot tell.
    pub fn scan(&mut self, writing: &BTreeSet<PathBuf>) -> Scan {
        let before = std::mem::take(&mut self.cache);
        let (scan, cache) = walk::walk(&self.root, before, writing, SystemTime::now());
        self.cache = cache;
        scan
    }
}

/// Whether a file of this name is a manifest: `*.yaml`, `*.yml` and `*.json`, but no dot-file (`.x.yaml`,
/// `.#x.yaml`). Droppings and backups of editors (`x.yaml~`, `#x.yaml#`, `x.yaml.swp`, `4913`,
/// `x.yaml.bak`, `x.yaml.orig`) end otherwise.
pub fn is_manifest(name: &[u8]) -> bool {
    !name.starts_with(b".")
        && !name.starts_with(b"#")
        && [&b".yaml"[..], b".yml", b".json"].iter().any(|ending| name.ends_with(ending))
}

#[cfg(test)]
mod tests;
