//! One blob on its way into the store: hashed while it is written, durable before it has its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use super::error::ImageError;
use super::store::ContentStore;
use crate::oci::Digest;

/// A blob being written. Its file is locked as long as this lives, which tells a sweep that it is in use.
/// Dropped without [`Ingest::commit`], an anonymous one disappears and one with a known digest stays, to
/// be taken up again.
#[derive(Debug)]
pub struct Ingest {
    store: ContentStore,
    path: PathBuf,
    file: File,
    hasher: Sha256,
    written: u64,
    keep: bool,
    placed: bool,
}

static SERIAL: AtomicU64 = AtomicU64::new(0);

fn open_locked(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(None);
    }
    // Between open and lock its writer may have renamed it into place, or a sweep removed it.
    use std::os::unix::fs::MetadataExt;
    let same =
        fs::metadata(path).is_ok_and(|m| file.metadata().is_ok_and(|f| f.ino() == m.ino() && f.dev() == m.dev()));
    Ok(same.then_some(file))
}

impl Ingest {
    pub(super) fn anonymous(store: &ContentStore) -> Result<Self, ImageError> {
        for _ in 0..100 {
            let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
            let path = store.root().join(format!("ingest/{}-{serial}", std::process::id()));
            // A process of an earlier boot may have had our pid: its leftovers are not ours to go on with.
            if path.exists() {
                continue;
            }
            if let Some(file) = open_locked(&path).map_err(ImageError::at("make", &path))? {
                return Ok(Self::over(store, path, file, false));
            }
        }
        Err(ImageError::io("make a temporary file in the content store", io::ErrorKind::AlreadyExists.into()))
    }

    /// `None` while somebody else writes it.
    pub(super) fn named(store: &ContentStore, digest: &Digest) -> Result<Option<Self>, ImageError> {
        let path = store.root().join("ingest").join(digest.hex());
        let Some(file) = open_locked(&path).map_err(ImageError::at("open", &path))? else {
            return Ok(None);
        };
        let mut ingest = Self::over(store, path, file, true);
        ingest.take_up()?;
        Ok(Some(ingest))
    }

    fn over(store: &ContentStore, path: PathBuf, file: File, keep: bool) -> Self {
        Self { store: store.clone(), path, file, hasher: Sha256::new(), written: 0, keep, placed: false }
    }

    /// Hashes what is there already.
    fn take_up(&mut self) -> Result<(), ImageError> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => {
                    self.hasher.update(&buffer[..n]);
                    self.written += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(ImageError::at("read", &self.path)(e)),
            }
        }
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Another handle on the bytes so far, for whoever reads along.
    pub fn reader(&self) -> Result<File, ImageError> {
        File::open(&self.path).map_err(ImageError::at("open", &self.path))
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        // What filled the disk must not keep it full: nobody else could write either.
        self.file.write_all(bytes).inspect_err(|_| self.keep = false).map_err(ImageError::at("write", &self.path))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what was written and begins again.
    pub fn restart(&mut self) -> Result<(), ImageError> {
        use std::io::Seek;
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(ImageError::at("truncate", &self.path))?;
        self.hasher = Sha256::new();
        self.written = 0;
        Ok(())
    }

    /// Checks against what was `expected`, makes the bytes durable and gives them their name. What does not
    /// match is removed.
    pub fn commit(self, expected: Option<(&Digest, u64)>) -> Result<(Digest, u64), ImageError> {
        let store = self.store.clone();
        let done = self.commit_soon(expected)?;
        store.sync_names()?;
        Ok(done)
    }

    /// The same, but for the name, which is durable only after [`ContentStore::sync_names`]: for several blobs
    /// at once, while others write.
    pub(super) fn commit_soon(mut self, expected: Option<(&Digest, u64)>) -> Result<(Digest, u64), ImageError> {
        let actual = Digest::from_sha256(&self.hasher.clone().finalize());
        if let Some((digest, size)) = expected {
            if self.written != size {
                self.keep = false;
                let what = format!("blob {digest}");
                return Err(ImageError::Size { what, expected: size, actual: self.written });
            }
            if actual != *digest {
                self.keep = false;
                return Err(ImageError::Digest { what: format!("blob {digest}"), expected: digest.clone(), actual });
            }
        }
        let target = self.store.path(&actual);
        let size = self.written;
        let (store, path) = (self.store.clone(), self.path.clone());
        self.finish(&target, || store.leases().want(&actual, || fs::rename(&path, &target)))?;
        Ok((actual, size))
    }

    /// Gives the bytes a name outside of the blobs.
    pub(super) fn place(mut self, target: &Path) -> Result<(), ImageError> {
        let path = self.path.clone();
        self.finish(target, || fs::rename(&path, target))?;
        target.parent().map_or(Ok(()), sync_directory)
    }

    fn finish(&mut self, target: &Path, rename: impl FnOnce() -> io::Result<()>) -> Result<(), ImageError> {
        // Young from now on, also when an earlier process wrote the bytes.
        let _ = self.file.set_modified(std::time::SystemTime::now());
        self.file.sync_data().map_err(ImageError::at("sync", &self.path))?;
        rename().map_err(ImageError::at("name blob", target))?;
        self.placed = true;
        Ok(())
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(dir: &Path) -> Result<(), ImageError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(ImageError::at("sync", dir))
}

impl Drop for Ingest {
    fn drop(&mut self) {
        let resumable = self.keep && self.written > 0;
        if !self.placed && !resumable {
            let _ = fs::remove_file(&self.path);
        }
    }
}
