//! The content store: an OCI image layout under `<root>/content`.
//!
//! `blobs/sha256/<hex>` holds what was verified and is durable; `ingest/` what is on its way. Skopeo and
//! umoci can read it while we run.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};

use super::descriptor::Descriptor;
use super::error::ImageError;
use super::ingest::Ingest;
use super::lease::{Lease, Leases};
use crate::oci::{Digest, Reference};

/// How long what is left of an interrupted download is kept, to be taken up again.
pub(super) const INGEST_KEPT: Duration = Duration::from_secs(3600);

/// The store. Clones share it.
#[derive(Debug, Clone)]
pub struct ContentStore {
    root: Arc<Path>,
    leases: Arc<Leases>,
}

impl ContentStore {
    /// Opens or makes the store at `<root>/content`.
    pub fn open(root: &Path) -> Result<Self, ImageError> {
        let root = root.join("content");
        // Images may be private, and nobody else may write here, whatever the umask.
        let closed = fs::Permissions::from_mode(0o700);
        fs::create_dir_all(&root)
            .and_then(|()| fs::set_permissions(&root, closed))
            .map_err(ImageError::at("make", &root))?;
        for dir in ["blobs/sha256", "ingest"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(ImageError::at("make", &dir))?;
        }
        let store = Self { root: root.into(), leases: Arc::default() };
        if !store.root.join("oci-layout").exists() {
            store.replace("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        if !store.root.join("index.json").exists() {
            store.write_index(&[])?;
        }
        Ok(store)
    }

    /// Begins a lease: what is put, found or touched from now on is not collected as long as it lives.
    pub fn lease(&self) -> Lease {
        self.leases.begin()
    }

    /// Who relies on which blobs.
    pub fn leases(&self) -> &Arc<Leases> {
        &self.leases
    }

    /// The layout's directory, as `skopeo … oci:DIR` takes it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let mut path = PathBuf::with_capacity(self.root.as_os_str().len() + 80);
        path.push(&self.root);
        path.push("blobs/sha256");
        path.push(digest.hex());
        path
    }

    /// Whether the blob is here, whole and verified.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// Its size in bytes, if it is here.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest)).ok().map(|m| m.len())
    }

    /// When the blob came, or was last asked for by a pull.
    pub fn modified(&self, digest: &Digest) -> Option<SystemTime> {
        fs::metadata(self.path(digest)).and_then(|m| m.modified()).ok()
    }

    /// The blob, opened for reading.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, ImageError> {
        let path = self.path(digest);
        File::open(&path).map_err(ImageError::at("open blob", &path))
    }

    /// A small blob, read and verified again; `max` bounds it in bytes.
    pub fn read(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let file = self.open_blob(digest)?;
        let path = self.path(digest);
        file.take(max + 1).read_to_end(&mut bytes).map_err(ImageError::at("read blob", &path))?;
        if bytes.len() as u64 > max {
            return Err(ImageError::TooLarge { what: format!("blob {digest}"), limit: max });
        }
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(ImageError::Digest { what: format!("blob {digest}"), expected: digest.clone(), actual });
        }
        Ok(bytes)
    }

    /// Stores bytes whose digest is computed here. Nothing is written when they are there already.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(bytes);
        if self.size(&digest) == Some(bytes.len() as u64) && self.touch(&digest) {
            return Ok(digest);
        }
        let mut ingest = self.ingest()?;
        ingest.write(bytes)?;
        Ok(ingest.commit(None)?.0)
    }

    /// Begins a blob whose digest is not known yet.
    pub fn ingest(&self) -> Result<Ingest, ImageError> {
        Ingest::anonymous(self)
    }

    /// Begins a blob, or takes up what an interrupted fetch left of it; `None` while somebody else writes it.
    pub fn resume(&self, digest: &Digest) -> Result<Option<Ingest>, ImageError> {
        Ingest::named(self, digest)
    }

    /// Bytes that are here of a blob on its way.
    pub fn coming(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.root.join("ingest").join(digest.hex())).ok().map(|m| m.len())
    }

    /// Makes the names of blobs durable.
    pub fn sync_names(&self) -> Result<(), ImageError> {
        super::ingest::sync_directory(&self.root.join("blobs/sha256"))
    }

    /// Tells garbage collection that somebody wants this blob now; whether it is here. One that is stays at
    /// least as long as the caller's lease.
    pub fn touch(&self, digest: &Digest) -> bool {
        let file = self.leases.want(digest, || File::open(self.path(digest)));
        if let Ok(file) = &file {
            // Best effort: the grace period still counts from the fetch.
            let _ = file.set_modified(SystemTime::now());
        }
        file.is_ok()
    }

    /// Every blob here.
    pub fn digests(&self) -> Result<Vec<Digest>, ImageError> {
        let dir = self.root.join("blobs/sha256");
        let entries = fs::read_dir(&dir).map_err(ImageError::at("list", &dir))?;
        Ok(entries
            .filter_map(Result::ok)
            .filter_map(|entry| format!("sha256:{}", entry.file_name().to_string_lossy()).parse().ok())
            .collect())
    }

    /// Removes a blob; one that is not here is no error.
    pub fn remove(&self, digest: &Digest) -> Result<(), ImageError> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ImageError::at("remove blob", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Removes what interrupted fetches and imports of dead processes left. What a later fetch can take up
    /// again stays for `kept`. Returns how many files went.
    pub fn sweep_ingest(&self, kept: Duration) -> Result<usize, ImageError> {
        let dir = self.root.join("ingest");
        let mut removed = 0;
        for entry in fs::read_dir(&dir).map_err(ImageError::at("list", &dir))?.filter_map(Result::ok) {
            let path = entry.path();
            let Ok(file) = File::open(&path) else { continue };
            // A living writer holds the lock, in this process or another.
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            let age =
                file.metadata().and_then(|m| m.modified()).ok().and_then(|m| m.elapsed().ok()).unwrap_or_default();
            let resumable = entry.file_name().len() == 64;
            // Nobody takes up the others; who makes one notices when it goes before it is locked.
            let is_directory = file.metadata().is_ok_and(|m| m.is_dir());
            let remove = || if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if (!resumable || age >= kept) && remove().is_ok() {
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Replaces `index.json`, the names under which other tools see the images here, with their namespaces. A
    /// name that several namespaces have is a `ref.name` once, for other tools know no namespaces: the first
    /// entry's.
    pub fn write_index(&self, entries: &[(String, Reference, Descriptor)]) -> Result<(), ImageError> {
        let mut seen = HashSet::new();
        let manifests: Vec<_> = entries
            .iter()
            .map(|(namespace, reference, descriptor)| {
                let mut annotations = serde_json::json!({
                    "io.containerd.image.name": reference,
                    "dev.bayplan.namespace": namespace,
                });
                if seen.insert(reference) {
                    annotations["org.opencontainers.image.ref.name"] = serde_json::json!(reference);
                }
                serde_json::json!({
                    "mediaType": descriptor.media_type,
                    "digest": descriptor.digest,
                    "size": descriptor.size,
                    "annotations": annotations,
                })
            })
            .collect();
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": super::descriptor::OCI_INDEX,
            "manifests": manifests,
        });
        let text = index.to_string();
        let path = self.root.join("index.json");
        if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        self.replace("index.json", text.as_bytes())
    }

    /// Replaces a file of the layout by rename.
    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let mut ingest = self.ingest()?;
        ingest.write(bytes)?;
        ingest.place(&self.root.join(name))
    }
}
