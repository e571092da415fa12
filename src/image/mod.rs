//! References resolved, blobs fetched or imported into the content store (an OCI image layout).
//!
//! Invariant: a blob has its name only after its digest matched and its bytes are durable; each blob is
//! fetched once however many images want it. References and archives flow in, descriptors and blobs out.
//! Knows nothing of namespaces, containers or manifests; depends on [`crate::oci`] only.
//!
//! | file | owns |
//! | --- | --- |
//! | [`store`], [`ingest`] | blobs on disk, and blobs on their way there |
//! | [`registry`] | the distribution protocol |
//! | [`fetch`], [`stream`], [`follow`], [`pull`] | blobs and images from registries |
//! | [`document`], [`index`] | manifests, indexes, configurations: pure |
//! | [`archive`], [`rootfs`], [`spool`], [`reading`] | images from files and into them |
//! | [`tar`], [`compression`] | the formats that archives and layers are in |
//! | [`push`], [`closure`] | images to registries, and what moves with an image |
//! | [`load`], [`check`] | images that are here, and whether they are whole |
//! | [`gc`], [`lease`] | blobs nobody needs, and those that work under way needs |

pub mod archive;
mod check;
pub mod closure;
pub mod compression;
pub mod descriptor;
pub mod document;
pub mod error;
pub mod fetch;
mod follow;
mod gc;
pub mod index;
pub mod ingest;
pub mod lease;
mod load;
mod progress;
mod pull;
mod pull_all;
pub mod push;
mod reading;
pub mod registry;
mod rootfs;
mod spool;
pub mod store;
mod stream;
pub mod tar;
#[cfg(test)]
pub(crate) mod tests;
mod turns;

use std::path::Path;
use std::sync::Arc;

pub use archive::{Export, ExportOptions, Format, Imported};
pub use check::{BlobFault, Part as CheckedPart, Verdicts};
pub use closure::Part;
pub use compression::Packing;
pub use descriptor::{Descriptor, Image, Layer};
pub(crate) use error::MAKE_ROOM;
pub use error::{ImageError, RegistryFailure};
pub use follow::{Following, Packed};
pub use gc::{GcReport, Sweep};
pub use lease::{Lease, Leases};
pub use progress::{Progress, ProgressEvent, ProgressState, silent};
pub use pull::Pull;
pub use push::{PushOptions, PushProgress, PushState, Pushed};
pub use reading::{Counted, Reading, Telling};
pub use registry::declared::{DeclaredCapabilities, DeclaredHost, DeclaredRegistry};
pub use registry::{OnWait, PullOptions, PullSecret, RegistryConfig, Sent, Timeouts, Wait};
pub use rootfs::RootfsConfig;
pub use store::ContentStore;

/// The image side of a node. Clones share everything.
#[derive(Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

struct Inner {
    store: ContentStore,
    registries: Arc<registry::Registries>,
    fetcher: fetch::Fetcher,
    manifests: turns::Turns,
    cache: load::Cache,
    archives: archive::Cache,
}

impl Images {
    /// Opens the content store under `root` and sweeps what dead processes left in it.
    pub fn open(root: &Path, registry: RegistryConfig) -> Result<Self, ImageError> {
        let store = ContentStore::open(root)?;
        store.sweep_ingest(store::INGEST_KEPT)?;
        let fetcher = fetch::Fetcher::new(store.clone(), registry.concurrency, registry.per_host);
        let inner = Inner {
            store,
            registries: Arc::new(registry::Registries::new(registry)),
            fetcher,
            manifests: turns::Turns::default(),
            cache: load::Cache::default(),
            archives: archive::Cache::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Speaks to registries in another way from the next request on; deadlines stay those of the start.
    pub fn configure(&self, registry: RegistryConfig) {
        self.inner.fetcher.set_concurrency(registry.concurrency, registry.per_host);
        self.inner.registries.configure(registry);
    }

    /// Reaches these hosts in this way from now on, whatever files say of them, and all others as files say.
    pub fn set_declared_registries(&self, declared: Vec<DeclaredRegistry>) {
        self.inner.registries.declare(declared);
    }

    /// The blobs.
    pub fn store(&self) -> &ContentStore {
        &self.inner.store
    }
}
