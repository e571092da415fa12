//! Images on their way to the node.

use serde::{Deserialize, Serialize};

use super::BlobState;
use crate::manifest::ResourceKey;
use crate::oci::{Digest, Reference};

/// Asks for what is on its way, and for every move of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgressRequest {
    /// Into one namespace; `None` means all.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Only what this reference (or the tag of this name) comes down to.
    #[serde(default)]
    pub reference: Option<Reference>,
}

/// Where a blob of an image is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transfer {
    /// The image.
    pub key: ResourceKey,
    /// The blob.
    pub digest: Digest,
    /// What is done with it.
    pub state: BlobState,
    /// Bytes of it that are here.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// Bytes of it came over the wire; of a blob that was here, none.
    #[serde(default)]
    pub fetched: bool,
}

/// How far an image is; absent where nothing is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Portion {
    /// Bytes here.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

impl Portion {
    /// Of a hundred, rounded down: 100 means all of it.
    pub fn percent(self) -> u64 {
        match self.total {
            0 => 0,
            total => u64::try_from(u128::from(self.done.min(total)) * 100 / u128::from(total)).unwrap_or(100),
        }
    }
}
