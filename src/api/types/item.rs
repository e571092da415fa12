//! Listings: one item a resource, in Kubernetes' shape.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::Portion;
use crate::manifest::{API_VERSION, Kind, ResourceKey};
use crate::oci::{Digest, Platform};
use crate::plan::Source;

/// `{"apiVersion": "bayplan.dev/v1", "kind": "List", "items": […]}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List {
    /// Always [`API_VERSION`].
    pub api_version: String,
    /// Always `List`.
    pub kind: String,
    /// Ordered by namespace, kind and name.
    pub items: Vec<Item>,
}

impl List {
    /// The list of these items.
    pub fn of(items: Vec<Item>) -> Self {
        Self { api_version: API_VERSION.into(), kind: "List".into(), items }
    }
}

/// One resource and its state.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Always [`API_VERSION`].
    pub api_version: String,
    /// Its kind; decides which status it has.
    pub kind: Kind,
    /// Name and origin.
    pub metadata: ItemMetadata,
    /// What is wanted, as its manifest says it: the serialised spec of [`crate::manifest::Spec`].
    pub spec: Value,
    /// What is.
    pub status: Status,
}

impl Item {
    /// An item of the kind that `status` says.
    pub fn new(metadata: ItemMetadata, spec: Value, status: Status) -> Self {
        Self { api_version: API_VERSION.into(), kind: status.kind(), metadata, spec, status }
    }

    /// Its key.
    pub fn key(&self) -> ResourceKey {
        ResourceKey::new(self.kind, &self.metadata.namespace, &self.metadata.name)
    }

    /// Its status, if it is a container.
    pub fn container(&self) -> Option<&ContainerStatus> {
        match &self.status {
            Status::Container(status) => Some(status),
            _ => None,
        }
    }
}

/// Name and origin of a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ItemMetadata {
    /// Its namespace; a namespace has its own name here.
    pub namespace: String,
    /// Its name; for an image or tag the full reference.
    pub name: String,
    /// Unique over time: a replacement has another.
    pub uid: String,
    /// Counts changes of the spec, from 1.
    pub revision: u64,
    /// Who declared it.
    pub source: Source,
    /// Since when it is on the node (or declared, where it is not there yet).
    pub created: Timestamp,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// What is, by kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Status {
    /// Of a namespace.
    Namespace(NamespaceStatus),
    /// Of a registry.
    Registry(RegistryStatus),
    /// Of an image.
    Image(ImageStatus),
    /// Of a tag.
    Tag(TagStatus),
    /// Of a container.
    Container(Box<ContainerStatus>),
}

impl Status {
    /// The kind it belongs to.
    pub fn kind(&self) -> Kind {
        match self {
            Status::Namespace(_) => Kind::Namespace,
            Status::Registry(_) => Kind::Registry,
            Status::Image(_) => Kind::Image,
            Status::Tag(_) => Kind::Tag,
            Status::Container(_) => Kind::Container,
        }
    }

    /// Its conditions.
    pub fn conditions(&self) -> &[Condition] {
        match self {
            Status::Namespace(status) => &status.conditions,
            Status::Registry(status) => &status.conditions,
            Status::Image(status) => &status.conditions,
            Status::Tag(status) => &status.conditions,
            Status::Container(status) => &status.conditions,
        }
    }
}

/// The kind says which status follows; serde's untagged guess would take the first that fits.
impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            api_version: String,
            kind: Kind,
            metadata: ItemMetadata,
            spec: Value,
            status: Value,
        }
        let raw = Raw::deserialize(deserializer)?;
        let status = match raw.kind {
            Kind::Namespace => serde_json::from_value(raw.status).map(Status::Namespace),
            Kind::Registry => serde_json::from_value(raw.status).map(Status::Registry),
            Kind::Image => serde_json::from_value(raw.status).map(Status::Image),
            Kind::Tag => serde_json::from_value(raw.status).map(Status::Tag),
            Kind::Container => serde_json::from_value(raw.status).map(Status::Container),
        }
        .map_err(serde::de::Error::custom)?;
        Ok(Self { api_version: raw.api_version, kind: raw.kind, metadata: raw.metadata, spec: raw.spec, status })
    }
}

/// Where a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Declared, nothing done yet.
    Pending,
    /// Its image is on its way.
    Pulling,
    /// Made, not started.
    Created,
    /// Its process lives.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Ended for good, by its restart policy or by hand.
    Exited,
    /// Ended; its shim starts it again soon.
    BackOff,
    /// It cannot be made or started; its conditions say why.
    Failed,
    /// On its way out.
    Removing,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Kubernetes' condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// `Converged`, `Ready`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One CamelCase word: why.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// When `status` last changed.
    pub since: Timestamp,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// Not known (yet).
    Unknown,
}

/// State of a container. What is not known is `null`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Where it is.
    pub phase: Phase,
    /// Running, and (once there are probes) its probes answer.
    pub ready: bool,
    /// Its process, while it lives.
    pub pid: Option<u32>,
    /// Its shim.
    pub shim_pid: Option<u32>,
    /// Status of the last exit; 128 + N for signal N.
    pub exit_code: Option<u32>,
    /// The signal of the last exit.
    #[serde(default)]
    pub signal: Option<i32>,
    /// Whether the last exit was a kill for memory.
    #[serde(default)]
    pub oom_killed: bool,
    /// Restarts since it was made.
    pub restarts: u32,
    /// Number of the current or last attempt; 0 before the first.
    pub attempt: u32,
    /// Start of the current or last attempt.
    pub started: Option<Timestamp>,
    /// End of the last attempt; `null` while one runs.
    pub finished: Option<Timestamp>,
    /// When the next attempt starts, in `BackOff`.
    #[serde(default)]
    pub next_start: Option<Timestamp>,
    /// What its image reference resolved to.
    pub image_digest: Option<Digest>,
    /// Its own address; `null` on the node's network and without one.
    pub address: Option<String>,
    /// The log file of the current attempt.
    pub log_path: Option<String>,
    /// How far its image is, while that is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Portion>,
    /// Why it is where it is.
    pub conditions: Vec<Condition>,
}

impl ContainerStatus {
    /// A container in this phase of which nothing else is known.
    pub fn new(phase: Phase) -> Self {
        Self {
            phase,
            ready: false,
            pid: None,
            shim_pid: None,
            exit_code: None,
            signal: None,
            oom_killed: false,
            restarts: 0,
            attempt: 0,
            started: None,
            finished: None,
            next_start: None,
            image_digest: None,
            address: None,
            log_path: None,
            progress: None,
            conditions: Vec::new(),
        }
    }
}

/// State of an image (also of one that is here only because a container names it).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// What it points at; `null` until it is here.
    pub digest: Option<Digest>,
    /// Bytes of its blobs.
    pub size: Option<u64>,
    /// Platforms of which all blobs are here.
    pub platforms: Vec<Platform>,
    /// Its layers are unpacked.
    pub unpacked: bool,
    /// Bytes of its snapshots on disk, once they were measured.
    #[serde(default)]
    pub unpacked_size: Option<u64>,
    /// How far it is, while it is on its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Portion>,
    /// Names of the containers of its namespace that run it.
    pub used_by: Vec<String>,
    /// Why it is as it is.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// State of a tag.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TagStatus {
    /// What it points at; `null` until it is set.
    pub digest: Option<Digest>,
    /// Bytes of the blobs of what it points at.
    #[serde(default)]
    pub size: Option<u64>,
    /// Platforms of what it points at.
    #[serde(default)]
    pub platforms: Vec<Platform>,
    /// The layers of what it points at are unpacked.
    #[serde(default)]
    pub unpacked: bool,
    /// Bytes of those on disk, once they were measured.
    #[serde(default)]
    pub unpacked_size: Option<u64>,
    /// Names of the containers of its namespace that run it.
    #[serde(default)]
    pub used_by: Vec<String>,
    /// Why it is as it is.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// State of a registry: whether it is reached as declared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistryStatus {
    /// Why it is as it is.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// State of a namespace: what is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceStatus {
    /// Containers.
    pub containers: u64,
    /// Images.
    pub images: u64,
    /// Tags.
    pub tags: u64,
    /// Why it is as it is.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}
