//! Images to registries.

use serde::{Deserialize, Serialize};

use super::Credentials;
use crate::oci::{Digest, Platform, Reference};

/// Which part of an image moves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ImagePart {
    /// What is here.
    #[default]
    Here,
    /// Everything that its index names; refused when not all of it is here.
    All,
    /// The image of one platform, by itself.
    Platform(Platform),
}

/// Pushes an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushRequest {
    /// From which namespace.
    pub namespace: String,
    /// A reference of that namespace, or an image's handle.
    pub source: String,
    /// Under which name; absent: its own.
    #[serde(default)]
    pub target: Option<Reference>,
    /// Which part of it.
    #[serde(default)]
    pub part: ImagePart,
    /// Plain HTTP, also for a host that is not loopback.
    #[serde(default)]
    pub plain_http: bool,
    /// TLS certificates are not checked.
    #[serde(default)]
    pub skip_verify: bool,
    /// User and password, before any `auth.json`.
    #[serde(default)]
    pub credentials: Option<Credentials>,
}

/// What happens during a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum PushEvent {
    /// A blob or a manifest moves on. Not every byte is told.
    Blob(PushedBlob),
    /// The last event: the name points at the image.
    Pushed {
        /// The name.
        reference: Reference,
        /// What it points at.
        digest: Digest,
        /// Bytes of everything that it reaches.
        size: u64,
        /// Bytes of the blobs that were sent.
        sent: u64,
        /// It pointed there before; nothing was sent.
        unchanged: bool,
        /// The source is an index of which this is one image: the others are not here, or were not asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        part_of: Option<Digest>,
    },
}

/// Where a blob or a manifest of a push is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushedBlob {
    /// Which.
    pub digest: Digest,
    /// What is done with it.
    pub state: SendState,
    /// Bytes on their way.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
    /// The repository that it was mounted from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// What is done with a blob that is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SendState {
    /// Its turn has not come.
    Waiting,
    /// Bytes leave.
    Sending,
    /// It was there.
    Existed,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was sent.
    Sent,
}
