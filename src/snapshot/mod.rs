//! Layers → snapshots shared by chain ID → overlayfs roots.
//!
//! Invariant: a committed snapshot is whole and never written again; extraction never leaves its root
//! (everything is resolved beneath a directory descriptor); an interrupted apply is never mistaken for a
//! finished one. Layer streams flow in, mounts flow out. May use [`crate::image`] and [`crate::oci`].
//!
//! On disk, under `<root>/snapshots` (0700, for layers hold set-id files):
//!
//! | path | is |
//! | --- | --- |
//! | `l/<n>/fs` | one layer as overlayfs wants a lower directory; `n` is short, so that 127 of them fit into mount options |
//! | `l/<n>/usage` | bytes it takes, once somebody asked |
//! | `l/<n>/layer.json` | its chain ID, its parent's, its diff ID |
//! | `chains/<hex>` | link to `../l/<n>`, made last: a layer without one was interrupted |
//! | `w/<key>/{upper,work}` | one writable layer |
//! | `lock` | held shared by who makes a directory, exclusively by a sweep |

mod ahead;
pub(crate) mod beneath;
mod chain;
mod check;
mod compare;
mod error;
mod gc;
mod implied;
mod layer;
mod mounts;
mod remove;
mod store;
#[cfg(test)]
mod tests;
mod unpack;
mod usage;
pub mod view;
mod writeback;
mod xattr;

use std::path::Path;
use std::sync::Arc;

use crate::image::{Lease, Leases};
use crate::oci::Digest;

pub use chain::{chain_id, chain_ids};
pub use check::{SnapshotFault, SnapshotFinding};
pub use compare::{Difference, NAMED};
pub use error::SnapshotError;
pub use gc::{GcReport, Snapshot};
pub use mounts::RootMount;
pub use unpack::LayerSource;

/// The snapshots of a node. Clones share everything.
#[derive(Clone)]
pub struct Snapshots {
    inner: Arc<Inner>,
}

struct Inner {
    store: store::Store,
    claims: unpack::Claims,
    /// Bytes that one layer may unpack to.
    limit: u64,
}

/// Bytes that one layer may unpack to unless the configuration says otherwise.
pub const MAX_LAYER: u64 = 64 << 30;

impl Snapshots {
    /// Opens or makes `<root>/snapshots` and removes what interrupted work left.
    pub fn open(root: &Path) -> Result<Self, SnapshotError> {
        Self::open_limited(root, MAX_LAYER)
    }

    /// The same with another bound of the bytes that one layer unpacks to.
    pub fn open_limited(root: &Path, limit: u64) -> Result<Self, SnapshotError> {
        let store = store::Store::open(root)?;
        let snapshots = Self { inner: Arc::new(Inner { store, claims: unpack::Claims::default(), limit }) };
        snapshots.sweep()?;
        Ok(snapshots)
    }

    /// Begins a lease: chains that are unpacked or found unpacked from now on are not collected as long as it
    /// lives.
    pub fn lease(&self) -> Lease {
        self.inner.store.leases().begin()
    }

    /// Who relies on which chains.
    pub fn leases(&self) -> &Arc<Leases> {
        self.inner.store.leases()
    }

    /// Says that somebody wants these chains now; whether all of them are there.
    pub fn hold(&self, chains: &[Digest]) -> bool {
        // Every one of them, also behind one that is not there.
        chains.iter().filter(|chain| !self.inner.store.touch(chain)).count() == 0
    }
}
