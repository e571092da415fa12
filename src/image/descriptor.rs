//! Descriptors, images and layers: what manifests come down to once they are checked.

use serde::{Deserialize, Serialize};

use crate::oci::{Digest, Platform};

/// A pointer to content, as image-spec "Descriptor" defines it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The blob, compressed as its media type says.
    pub descriptor: Descriptor,
    /// The digest of the uncompressed tar stream.
    pub diff_id: Digest,
}

/// An image of one platform whose manifest and configuration were read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// What its reference points at: an index or the manifest.
    pub target: Descriptor,
    /// Its manifest.
    pub manifest: Descriptor,
    /// The platform it is for.
    pub platform: Platform,
    /// Its configuration.
    pub config: oci_spec::image::ImageConfiguration,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// Bytes of its blobs: target, manifest, configuration and layers.
    pub size: u64,
}

impl Image {
    /// Whether this machine runs it.
    pub fn runs_here(&self) -> bool {
        super::index::distance(&Platform::host(), &self.platform).is_some()
    }
}

/// What a descriptor points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An OCI index or a Docker manifest list.
    Index,
    /// An OCI or a Docker schema 2 image manifest.
    Manifest,
    /// A Docker schema 1 manifest, which cannot be verified layer by layer.
    Schema1,
    /// Anything else.
    Other,
}

/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image configuration.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, not compressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker image configuration.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The `Accept` header for manifests: everything that can be used, then schema 1, so that a registry
/// which has nothing else says so and the error can name it.
pub const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.1";

/// What a media type says the content is; parameters such as `; charset=utf-8` are ignored.
pub fn kind(media_type: &str) -> Kind {
    match media_type.split(';').next().unwrap_or_default().trim() {
        OCI_INDEX | DOCKER_LIST => Kind::Index,
        OCI_MANIFEST | DOCKER_MANIFEST => Kind::Manifest,
        "application/vnd.docker.distribution.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v1+prettyjws" => Kind::Schema1,
        _ => Kind::Other,
    }
}
