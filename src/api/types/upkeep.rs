//! Upkeep of images: pruning, checking, and what is known of them beside their names.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::oci::{Digest, Platform};

/// Takes away what is not needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneRequest {
    /// References of this namespace; `None`: of all.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Also references made by hand that no container uses.
    #[serde(default)]
    pub all: bool,
    /// Only what was last used longer ago than this, in milliseconds.
    #[serde(default)]
    pub older_than_ms: Option<u64>,
    /// Tells, and takes nothing away.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was pruned, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneReport {
    /// References.
    pub references: Vec<PrunedReference>,
    /// Blobs that nothing needs (then).
    pub blobs: Vec<Freed>,
    /// Snapshots that nothing needs (then), by chain ID.
    pub snapshots: Vec<Freed>,
    /// What could not be taken away, and why.
    #[serde(default)]
    pub kept: Vec<String>,
}

impl PruneReport {
    /// Bytes freed in all.
    pub fn bytes(&self) -> u64 {
        self.blobs.iter().chain(&self.snapshots).map(|freed| freed.size).sum()
    }
}

/// A reference that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrunedReference {
    /// In which namespace.
    pub namespace: String,
    /// Its full name.
    pub reference: String,
    /// What it points at.
    pub digest: Digest,
    /// Bytes of its blobs; others may share them.
    pub size: u64,
    /// When it was last pulled, or a container was last made of it or removed.
    pub last_used: Timestamp,
}

/// A blob or a snapshot that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Freed {
    /// Its digest or chain ID.
    pub digest: Digest,
    /// Bytes on disk.
    pub size: u64,
}

/// Examines the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckRequest {
    /// Where names are looked up.
    pub namespace: String,
    /// These images only; empty: everything in the store, of all namespaces.
    #[serde(default)]
    pub names: Vec<String>,
    /// Fetches and unpacks again what is wrong.
    #[serde(default)]
    pub repair: bool,
}

/// What an examination found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// References examined.
    pub references: u64,
    /// Blobs read.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Snapshots examined.
    pub snapshots: u64,
    /// What is wrong, or was.
    pub findings: Vec<Finding>,
}

impl CheckReport {
    /// Whether all is well (again).
    pub fn is_well(&self) -> bool {
        self.findings.iter().all(|finding| finding.repaired)
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What kind of thing.
    pub object: StoredObject,
    /// Its digest, chain ID or directory.
    pub name: String,
    /// What is wrong with it.
    pub fault: FindingKind,
    /// The same for people.
    pub message: String,
    /// References that need it, as `NAMESPACE/REFERENCE`.
    pub images: Vec<String>,
    /// It was wrong, and is not any more.
    #[serde(default)]
    pub repaired: bool,
    /// Why it could not be repaired, and what to do.
    #[serde(default)]
    pub failure: Option<String>,
}

/// Kinds of things in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StoredObject {
    /// A blob.
    Blob,
    /// An unpacked layer.
    Snapshot,
}

/// What can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FindingKind {
    /// It is not there.
    Missing,
    /// Not as long as it should be.
    Truncated,
    /// Its bytes are others.
    Corrupt,
    /// The file system does not give it.
    Unreadable,
    /// An image's layer that has no snapshot.
    NotUnpacked,
    /// What an interrupted unpacking left.
    HalfMade,
    /// Its record is not about it.
    Record,
}

impl std::fmt::Display for FindingKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "missing",
            Self::Truncated => "truncated",
            Self::Corrupt => "corrupt",
            Self::Unreadable => "unreadable",
            Self::NotUnpacked => "not unpacked",
            Self::HalfMade => "half-made",
            Self::Record => "wrong record",
        })
    }
}

/// An image looked into: what `inspect` shows beside its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageDetails {
    /// What the reference points at: an index or the manifest.
    pub target: Digest,
    /// Its media type.
    pub media_type: String,
    /// The manifest of the platform below.
    pub manifest: Digest,
    /// The platform of which configuration and layers are shown.
    pub platform: Platform,
    /// Platforms that are here as a whole.
    pub platforms: Vec<Platform>,
    /// Bytes of all that is here of it.
    pub size: u64,
    /// Bytes of its snapshots; `None` when it is not unpacked.
    pub unpacked_size: Option<u64>,
    /// Lowest first.
    pub layers: Vec<LayerDetails>,
    /// How it was made, oldest first.
    pub history: Vec<HistoryEntry>,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerDetails {
    /// The packed blob.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub size: u64,
    /// The digest of the unpacked stream.
    pub diff_id: Digest,
    /// The snapshot's name.
    pub chain_id: Digest,
    /// Its bytes on disk; `None` when it is not unpacked.
    pub unpacked_size: Option<u64>,
}

/// One line of an image's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// When, as the image says it.
    #[serde(default)]
    pub created: Option<String>,
    /// By which instruction.
    #[serde(default)]
    pub created_by: Option<String>,
    /// What its author says.
    #[serde(default)]
    pub comment: Option<String>,
    /// It made no layer.
    #[serde(default)]
    pub empty_layer: bool,
    /// Bytes of the blob of the layer that it made.
    #[serde(default)]
    pub size: Option<u64>,
}

/// Which layers are whose.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeReport {
    /// Layers that lie on no other, each with those upon it.
    pub roots: Vec<TreeNode>,
    /// Images, with what is theirs alone.
    pub images: Vec<TreeImage>,
    /// Bytes of the blobs of all layers.
    pub size: u64,
    /// Bytes of those that several images have.
    pub shared_size: u64,
    /// Bytes of the snapshots of all layers.
    pub unpacked_size: u64,
    /// Bytes of those that several images have.
    pub shared_unpacked_size: u64,
}

/// A layer in the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeNode {
    /// Its chain ID: what lies below it and itself.
    pub chain_id: Digest,
    /// The packed blob.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Bytes of the snapshot; `None` when it is not unpacked.
    pub unpacked_size: Option<u64>,
    /// How many images have it.
    pub images: u64,
    /// Images that end here, as `NAMESPACE/REFERENCE`.
    pub ends: Vec<String>,
    /// Layers upon it.
    pub children: Vec<TreeNode>,
}

/// An image in the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TreeImage {
    /// What its references point at.
    pub digest: Digest,
    /// Its references, as `NAMESPACE/REFERENCE`.
    pub references: Vec<String>,
    /// How many layers it has.
    pub layers: u64,
    /// Bytes of its layers' blobs.
    pub size: u64,
    /// Bytes of those that no other image has.
    pub unique_size: u64,
}

/// Mounts an image's files at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountRequest {
    /// In which namespace.
    pub namespace: String,
    /// A reference, an image's handle, or a digest.
    pub name: String,
    /// Another platform than the node's.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// An existing directory, by absolute path.
    pub target: PathBuf,
    /// What is written goes with the mount; else it is read-only.
    #[serde(default)]
    pub writable: bool,
}

/// Takes a mounted image down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnmountRequest {
    /// The directory, by absolute path.
    pub target: PathBuf,
}

/// An image mounted at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountedImage {
    /// Where.
    pub target: PathBuf,
    /// The image, as it was asked for.
    pub name: String,
    /// What it points at.
    pub digest: Digest,
    /// For which platform.
    pub platform: Platform,
    /// Whether it can be written to.
    pub writable: bool,
}

/// A snapshot, for people who look inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotInfo {
    /// Its chain ID, or `NAMESPACE/UID` of a container's writable layer.
    pub name: String,
    /// The chain ID below it.
    #[serde(default)]
    pub parent: Option<Digest>,
    /// `committed` or `active`.
    pub kind: String,
    /// Bytes on disk of it alone.
    pub size: u64,
    /// Images or containers that need it, as `NAMESPACE/NAME`.
    pub used_by: Vec<String>,
}
