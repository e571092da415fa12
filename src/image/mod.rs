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
//! | [`archive`], [`tar`], [`compression`] | images from files, and the formats they and layers are in |
//! | [`load`], [`gc`] | images that are here, and blobs nobody needs |

pub mod archive;
pub mod compression;
pub mod descriptor;
pub mod document;
pub mod error;
pub mod fetch;
mod follow;
mod gc;
pub mod index;
pub mod ingest;
mod load;
mod progress;
mod pull;
mod pull_all;
pub mod registry;
pub mod store;
mod stream;
pub mod tar;
#[cfg(test)]
pub(crate) mod tests;
mod turns;

use std::path::Path;
use std::sync::Arc;

pub use archive::Imported;
pub use descriptor::{Descriptor, Image, Layer};
pub use error::{ImageError, RegistryFailure};
pub use follow::{Following, Packed};
pub use gc::GcReport;
pub use progress::{Progress, ProgressEvent, ProgressState, silent};
pub use pull::Pull;
pub use registry::{PullOptions, RegistryConfig, Timeouts};
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
        store.sweep_ingest()?;
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

    /// The blobs.
    pub fn store(&self) -> &ContentStore {
        &self.inner.store
    }
}
