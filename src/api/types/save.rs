//! Images into archives.

use serde::{Deserialize, Serialize};

use super::ImagePart;

/// Writes images into an archive, whose bytes are the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SaveRequest {
    /// From which namespace.
    pub namespace: String,
    /// References of that namespace, or handles of images.
    pub names: Vec<String>,
    /// Which part of each.
    #[serde(default)]
    pub part: ImagePart,
    /// The kind of archive.
    #[serde(default)]
    pub format: ArchiveFormat,
    /// What is around it.
    #[serde(default)]
    pub packing: ArchivePacking,
}

/// Kinds of archives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ArchiveFormat {
    /// An OCI layout, with what Docker needs beside it.
    #[default]
    Oci,
    /// A Docker archive with unpacked layers.
    Docker,
}

/// How an archive is packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ArchivePacking {
    /// Not at all.
    #[default]
    Plain,
    /// By gzip.
    Gzip,
    /// By zstd.
    Zstd,
}
