//! Layer directories on disk: numbered, locked while they are written, published by a link.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, FlockOperation, Timespec, Timestamps, UTIME_NOW, flock, syncfs, utimensat};
use serde::{Deserialize, Serialize};

use super::error::SnapshotError;
use super::remove;
use super::writeback::Writeback;
use crate::image::Leases;
use crate::oci::Digest;

/// `<root>/snapshots`.
pub struct Store {
    root: PathBuf,
    leases: Arc<Leases>,
}

/// What a layer directory is, for people and for garbage collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its chain ID.
    pub chain: Digest,
    /// The chain ID below it; absent for the lowest.
    pub parent: Option<Digest>,
    /// Its diff ID.
    pub diff_id: Digest,
}

/// A layer directory being written. It is locked as long as this lives; dropped without being published, it
/// is removed.
pub struct Draft {
    /// `<root>/snapshots/l/<n>`.
    directory: PathBuf,
    _lock: File,
    published: bool,
}

impl Draft {
    /// Where the layer's files go.
    pub fn fs(&self) -> PathBuf {
        self.directory.join("fs")
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published
            && let (Some(parent), Some(name)) = (self.directory.parent(), self.directory.file_name())
            && let Ok(parent) = File::open(parent)
        {
            // What cannot be removed now is swept later.
            let _ = remove::tree(&parent, name.as_bytes());
        }
    }
}

fn make_dir(path: &Path) -> Result<(), SnapshotError> {
    match fs::DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(SnapshotError::at("make", path)(e)),
        _ => Ok(()),
    }
}

impl Store {
    /// Opens or makes it. The path must be one that mount options can carry.
    pub fn open(root: &Path) -> Result<Self, SnapshotError> {
        let root = root.join("snapshots");
        make_dir(&root)?;
        let root = root.canonicalize().map_err(SnapshotError::at("open", &root))?;
        let shown = root.display().to_string();
        if let Some(character) = shown.chars().find(|c| matches!(c, ':' | ',' | '\\')) {
            return Err(SnapshotError::Root { path: shown, character });
        }
        for dir in ["l", "chains", "w", "empty"] {
            make_dir(&root.join(dir))?;
        }
        Ok(Self { root, leases: Arc::default() })
    }

    /// Who relies on which chains.
    pub fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// A path under `<root>/snapshots`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where the link of a chain ID is, or would be.
    fn link(&self, chain: &Digest) -> PathBuf {
        let mut path = self.path("chains");
        path.push(chain.hex());
        path
    }

    /// The committed layer directory of a chain ID.
    pub fn find(&self, chain: &Digest) -> Option<PathBuf> {
        let mut path = self.path("l");
        path.push(self.name(chain)?);
        path.push("fs");
        Some(path)
    }

    /// The name of a chain's committed layer directory.
    pub fn name(&self, chain: &Digest) -> Option<String> {
        fs::read_link(self.link(chain)).ok()?.file_name()?.to_str().map(str::to_owned)
    }

    /// The lock between who makes directories (shared) and a sweep (exclusive).
    pub fn lock(&self, operation: FlockOperation) -> Result<File, SnapshotError> {
        let path = self.path("lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(SnapshotError::at("open", &path))?;
        loop {
            match flock(&file, operation) {
                Err(rustix::io::Errno::INTR) => {}
                other => {
                    other.map_err(SnapshotError::at("lock", &path))?;
                    return Ok(file);
                }
            }
        }
    }

    /// A new, empty, locked layer directory.
    pub fn draft(&self, record: &Record) -> Result<Draft, SnapshotError> {
        let layers = self.path("l");
        let shared = self.lock(FlockOperation::LockShared)?;
        let mut number = self.first_free(&layers)?;
        let directory = loop {
            let directory = layers.join(base36(number));
            match fs::DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => break directory,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(SnapshotError::at("make", &directory)(e)),
            }
        };
        let open = || {
            let lock = File::open(&directory)?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            io::Result::Ok(lock)
        };
        let lock = open().map_err(SnapshotError::at("lock", &directory))?;
        let draft = Draft { directory, _lock: lock, published: false };
        drop(shared);
        let fs = draft.fs();
        // As a fresh root directory; the image's own description replaces it.
        fs::DirBuilder::new().mode(0o755).create(&fs).map_err(SnapshotError::at("make", &fs))?;
        fs::set_permissions(&fs, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(SnapshotError::at("make", &fs))?;
        let path = draft.directory.join("layer.json");
        let text =
            serde_json::to_vec(record).map_err(|e| SnapshotError::io("write layer.json", io::Error::other(e)))?;
        fs::write(&path, text).map_err(SnapshotError::at("write", &path))?;
        Ok(draft)
    }

    /// One more than the highest number in use: numbers stay short because freed ones at the top come back.
    fn first_free(&self, layers: &Path) -> Result<u64, SnapshotError> {
        let entries = fs::read_dir(layers).map_err(SnapshotError::at("list", layers))?;
        let numbers = entries.filter_map(Result::ok).filter_map(|e| {
            let name = e.file_name();
            u64::from_str_radix(name.to_str()?, 36).ok()
        });
        Ok(numbers.max().map_or(0, |n| n + 1))
    }

    /// A spool file that has no name and goes with its descriptor.
    pub fn spool(&self, draft: &Draft) -> io::Result<File> {
        use rustix::fs::{Mode, OFlags, open};
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match open(&draft.directory, flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => Ok(File::from(fd)),
            // Not every file system has O_TMPFILE.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
                let path = draft.directory.join("spool");
                let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
                fs::remove_file(&path)?;
                Ok(file)
            }
            Err(other) => Err(other.into()),
        }
    }

    /// Makes durable whatever was written beneath the root.
    pub fn sync(&self) -> Result<(), SnapshotError> {
        let root = File::open(&self.root).map_err(SnapshotError::at("open", &self.root))?;
        syncfs(&root).map_err(SnapshotError::at("sync", &self.root))
    }

    /// Lets what is written beneath the root go to the disk meanwhile.
    pub fn writeback(&self) -> Result<Writeback, SnapshotError> {
        File::open(&self.root).and_then(Writeback::over).map_err(SnapshotError::at("sync", &self.root))
    }

    /// Publishes a layer whose bytes are durable. One that another process published first is kept, and
    /// this one removed.
    pub fn publish(&self, chain: &Digest, mut draft: Draft) -> Result<(), SnapshotError> {
        let link = self.link(chain);
        let name = draft.directory.file_name().unwrap_or_default();
        match symlink(Path::new("../l").join(name), &link) {
            Ok(()) => draft.published = true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(SnapshotError::at("publish", &link)(e)),
        }
        Ok(())
    }

    /// Makes published names durable.
    pub fn sync_names(&self) -> Result<(), SnapshotError> {
        let path = self.path("chains");
        File::open(&path).and_then(|dir| dir.sync_all()).map_err(SnapshotError::at("sync", &path))
    }

    /// Every published chain with its layer directory's name.
    pub fn published(&self) -> Result<Vec<(Digest, String)>, SnapshotError> {
        let path = self.path("chains");
        let entries = fs::read_dir(&path).map_err(SnapshotError::at("list", &path))?;
        Ok(entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let chain = format!("sha256:{}", entry.file_name().to_str()?).parse().ok()?;
                let target = fs::read_link(entry.path()).ok()?;
                Some((chain, target.file_name()?.to_str()?.to_owned()))
            })
            .collect())
    }

    /// What a layer directory says of itself.
    pub fn record(&self, name: &str) -> Option<Record> {
        serde_json::from_slice(&fs::read(self.path("l").join(name).join("layer.json")).ok()?).ok()
    }

    /// Takes the name of a published chain back; its files are nobody's from then on.
    pub fn unpublish(&self, chain: &Digest) -> Result<(), SnapshotError> {
        let link = self.link(chain);
        fs::remove_file(&link).map_err(SnapshotError::at("remove", &link))?;
        self.sync_names()
    }

    /// Tells garbage collection that somebody wants this chain now; whether it is there. One that is stays at
    /// least as long as the caller's lease.
    pub fn touch(&self, chain: &Digest) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        let touched = self.leases.want(chain, || utimensat(CWD, self.link(chain), &times, AtFlags::SYMLINK_NOFOLLOW));
        // Best effort where there is no writing: the grace period still counts from the unpacking.
        touched != Err(rustix::io::Errno::NOENT)
    }

    /// When the chain was published, or last asked for by an unpacking.
    pub fn touched(&self, chain: &Digest) -> Option<SystemTime> {
        fs::symlink_metadata(self.link(chain)).and_then(|m| m.modified()).ok()
    }

    /// Removes a tree in one of the directories.
    pub fn remove_tree(&self, directory: &str, name: &[u8]) -> Result<(), SnapshotError> {
        let path = self.path(directory);
        let fd = File::open(&path).map_err(SnapshotError::at("open", &path))?;
        remove::tree(&fd, name).map_err(SnapshotError::at("remove", &path.join(std::ffi::OsStr::from_bytes(name))))
    }
}

/// A number in as few characters as a directory name takes.
fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize]);
        number /= 36;
        if number == 0 {
            break;
        }
    }
    digits.iter().rev().map(|b| char::from(*b)).collect()
}
