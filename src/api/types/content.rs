//! Blobs, for people who look inside.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// A blob, for people who look inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// When it came, or was last asked for.
    #[serde(default)]
    pub touched: Option<Timestamp>,
    /// References that reach it, as `NAMESPACE/REFERENCE`.
    pub used_by: Vec<String>,
}

/// Asks for the bytes of a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobRequest {
    /// Its digest, or the beginning of it.
    pub digest: String,
}

/// Takes a blob away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveBlobRequest {
    /// Its digest, or the beginning of it.
    pub digest: String,
    /// Also one that images or containers need.
    #[serde(default)]
    pub force: bool,
}

/// A blob that is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovedBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Images (`NAMESPACE/REFERENCE`) and containers (`container NAMESPACE/NAME`) that are not whole without it.
    #[serde(default)]
    pub needed_by: Vec<String>,
}
