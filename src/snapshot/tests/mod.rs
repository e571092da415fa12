//! Layers on disk, told by what stands there afterwards.

mod along;
mod apply;
mod bounds;
mod compare;
mod hostile;
mod peers;
mod shared;

use std::path::{Path, PathBuf};

use crate::image::descriptor::OCI_LAYER;
use crate::image::tests::fixture::Blobs;
use crate::image::{ContentStore, Image, Images, RegistryConfig};
use crate::oci::Digest;
use crate::snapshot::{SnapshotError, Snapshots};

/// A store and snapshots over a temporary root.
pub struct Node {
    pub images: Images,
    pub snapshots: Snapshots,
    pub root: tempfile::TempDir,
}

impl Node {
    pub fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    pub fn at(root: tempfile::TempDir) -> Self {
        let images =
            Images::open(root.path(), RegistryConfig { auth_files: Vec::new(), ..Default::default() }).unwrap();
        Self { images, snapshots: Snapshots::open(root.path()).unwrap(), root }
    }

    pub fn store(&self) -> &ContentStore {
        self.images.store()
    }

    /// An image of these layers, in the store.
    pub fn image(&self, tars: &[Vec<u8>]) -> Image {
        let mut blobs = Blobs::default();
        let target = blobs.image("amd64", tars);
        for bytes in blobs.0.values() {
            self.store().put(bytes).unwrap();
        }
        self.images.load_image(&target.digest, &"linux/amd64".parse().unwrap()).unwrap()
    }

    /// An image of one layer whose blob and diff ID are these, right or wrong.
    pub fn image_of(&self, blob: Vec<u8>, diff_id: &Digest) -> Image {
        let mut blobs = Blobs::default();
        let layer = blobs.add(&format!("{OCI_LAYER}+gzip"), blob);
        let target = blobs.image_of("amd64", vec![layer], std::slice::from_ref(diff_id));
        for bytes in blobs.0.values() {
            self.store().put(bytes).unwrap();
        }
        self.images.load_image(&target.digest, &"linux/amd64".parse().unwrap()).unwrap()
    }

    pub fn unpack(&self, image: &Image) -> Result<(), SnapshotError> {
        self.snapshots.unpack(image, self.store(), &|_| {})
    }

    /// Unpacks an image of these layers; its layer directories, uppermost first.
    pub fn layers(&self, tars: &[Vec<u8>]) -> Vec<PathBuf> {
        let image = self.image(tars);
        self.unpack(&image).unwrap();
        self.snapshots.lower_dirs(&image).unwrap()
    }

    /// What `l/`, `chains/` and `w/` hold.
    pub fn names(&self, dir: &str) -> Vec<String> {
        let path = self.root.path().join("snapshots").join(dir);
        let entries = std::fs::read_dir(path).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0u8; 4096];
    let n = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(n);
    Some(value)
}

pub fn is_whiteout(path: &Path) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    path.symlink_metadata().is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}
