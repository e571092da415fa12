//! What a pull tells while it works.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::oci::{Digest, Reference};

/// Hears events; called from many threads, must not block.
pub type Progress = Arc<dyn Fn(ProgressEvent) + Send + Sync>;

/// Something happened to one blob of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgressEvent {
    /// The image.
    pub reference: Reference,
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes; 0 where it is not known any more.
    pub size: u64,
    /// What.
    pub state: ProgressState,
}

/// Where a blob is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProgressState {
    /// For a free stream, or for another pull that fetches it.
    Waiting,
    /// Bytes.
    Downloading {
        /// So far.
        done: u64,
        /// In all.
        total: u64,
    },
    /// In the store.
    Done,
    /// Being applied to a snapshot.
    Unpacking,
}

/// For those who do not care.
pub fn silent() -> Progress {
    Arc::new(|_| {})
}
