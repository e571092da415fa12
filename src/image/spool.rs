//! Files of one import that are not blobs yet: in a directory of their own beneath `ingest/`, hashed while they are
//! written. Those that an image turns out to need become blobs; all others go with the directory, and so nothing is
//! left of an archive that is none.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest as _, Sha256};

use super::error::ImageError;
use super::store::ContentStore;
use crate::oci::Digest;

/// The directory. It is locked as long as this lives, which tells a sweep that it is in use.
pub(super) struct Spool {
    store: ContentStore,
    directory: PathBuf,
    _lock: File,
    files: u64,
}

/// A file being written.
pub(super) struct Writing {
    spool: PathBuf,
    path: PathBuf,
    file: File,
    hasher: Sha256,
}

/// A file that was written.
#[derive(Debug, Clone)]
pub(super) struct Aside {
    path: PathBuf,
}

impl Spool {
    pub(super) fn new(store: &ContentStore) -> Result<Self, ImageError> {
        let ingest = store.root().join("ingest");
        for serial in 0..1000 {
            let directory = ingest.join(format!("{}-import-{serial}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(ImageError::at("make", &directory)(error)),
            }
            let lock = File::open(&directory).map_err(ImageError::at("open", &directory))?;
            // A sweep may have found it before it was locked.
            let ours = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
                && fs::metadata(&directory).is_ok_and(|m| lock.metadata().is_ok_and(|own| own.ino() == m.ino()));
            if ours {
                return Ok(Self { store: store.clone(), directory, _lock: lock, files: 0 });
            }
        }
        Err(ImageError::io("make a directory for an import", io::ErrorKind::AlreadyExists.into()))
    }

    /// Begins a file.
    pub(super) fn file(&mut self) -> Result<Writing, ImageError> {
        let path = self.directory.join(self.files.to_string());
        self.files += 1;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
        let file = file.map_err(ImageError::at("make", &path))?;
        Ok(Writing { spool: self.directory.clone(), path, file, hasher: Sha256::new() })
    }

    /// Makes a file a blob. Its name is durable only after [`ContentStore::sync_names`].
    pub(super) fn keep(&self, aside: &Aside, digest: &Digest) -> Result<(), ImageError> {
        let target = self.store.path(digest);
        let file = File::open(&aside.path).map_err(ImageError::at("open", &aside.path))?;
        file.sync_data().map_err(ImageError::at("sync", &aside.path))?;
        let rename = || fs::rename(&aside.path, &target);
        self.store.leases().want(digest, rename).map_err(ImageError::at("name blob", &target))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // What cannot be removed now is swept later.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Writing {
    /// Adds bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        // The directory, which is gone when this is read, says less than where it was.
        self.file.write_all(bytes).map_err(ImageError::at("write", &self.spool))?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// The end of it, and its digest.
    pub(super) fn done(self) -> (Aside, Digest) {
        (Aside { path: self.path }, Digest::from_sha256(&self.hasher.finalize()))
    }
}
