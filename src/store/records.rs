//! What the rows hold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::manifest::{Place, Resource, ResourceKey};
use crate::oci::{Digest, Reference};
use crate::plan::{ReferenceRole, Source};
use crate::shim::protocol::{AttemptExit, TaskState, keep_exit};

/// A resource declared by `apply` or by hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeclaredRecord {
    /// What.
    pub resource: Resource,
    /// Who.
    pub source: Source,
    /// Where it was written.
    #[serde(default)]
    pub place: Option<Place>,
    /// When it was first declared.
    pub created: jiff::Timestamp,
}

impl DeclaredRecord {
    /// Its key.
    pub fn key(&self) -> ResourceKey {
        self.resource.key()
    }
}

/// A container: metadata and resources, apart from its task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Made anew with each creation; names its writable snapshot.
    pub uid: String,
    /// Counts the changes of its resource, from 1.
    pub revision: u64,
    /// What it was made from, last in-place update included.
    pub resource: Resource,
    /// Who declared it.
    pub source: Source,
    /// What its image reference resolved to.
    pub image: Digest,
    /// When it was made.
    pub created: jiff::Timestamp,
    /// A person stopped it.
    #[serde(default)]
    pub stopped_by_hand: bool,
    /// A task of it was started at least once.
    #[serde(default)]
    pub started: bool,
    /// Removed by itself when its task ends (`run --rm`).
    #[serde(default)]
    pub auto_remove: bool,
    /// The last state of its last collected task.
    #[serde(default)]
    pub last: Option<TaskState>,
    /// How attempts of the tasks before the current one ended, the oldest first, as many as [`KEPT_EXITS`].
    ///
    /// [`KEPT_EXITS`]: crate::shim::protocol::KEPT_EXITS
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exits: Vec<AttemptExit>,
}

impl ContainerRecord {
    /// Keeps the exits that a state of its task tells.
    pub fn keep_exits(&mut self, state: &TaskState) {
        for exit in state.known_exits() {
            keep_exit(&mut self.exits, exit);
        }
    }

    /// Its task has ended, or is lost.
    pub fn ended(&mut self, state: TaskState) {
        self.keep_exits(&state);
        self.last = Some(state);
    }

    /// It has a task from now on.
    pub fn begun(&mut self) {
        self.started = true;
        if let Some(last) = self.last.take() {
            self.keep_exits(&last);
        }
    }
}

/// A reference in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferenceRecord {
    /// Its namespace.
    pub namespace: String,
    /// The name.
    pub reference: Reference,
    /// What it points at.
    pub digest: Digest,
    /// That blob's media type.
    pub media_type: String,
    /// That blob's size in bytes.
    pub size: u64,
    /// Why it is here.
    pub role: ReferenceRole,
    /// Who declared it.
    pub source: Source,
    /// Labels of its `Image` or `Tag`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Annotations of its `Image` or `Tag`.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Made anew with each creation.
    pub uid: String,
    /// Garbage collection spares it though nothing uses it.
    #[serde(default = "kept", skip_serializing_if = "is_kept")]
    pub kept: bool,
    /// Counts its moves, from 1.
    pub revision: u64,
    /// When it was made.
    pub created: jiff::Timestamp,
}

fn kept() -> bool {
    true
}

fn is_kept(kept: &bool) -> bool {
    *kept
}

/// A namespace's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamespaceRecord {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub resource: Resource,
    /// Who declared it.
    pub source: Source,
    /// Made anew with each creation.
    pub uid: String,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// When it was made.
    pub created: jiff::Timestamp,
}

/// How a host is reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistryRecord {
    /// The host.
    pub host: String,
    /// Its policy.
    pub resource: Resource,
    /// Who declared it.
    pub source: Source,
    /// Made anew with each creation.
    pub uid: String,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// When it was made.
    pub created: jiff::Timestamp,
}

/// The last version of a manifest file that parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Relative to the manifest directory.
    pub path: String,
    /// Hash of its content.
    pub hash: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// Whether an event is worth a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventType {
    /// As expected.
    Normal,
    /// Not as wanted.
    Warning,
}

/// Something that happened to a resource. Equal ones in a row are counted, not repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Counts up.
    pub id: i64,
    /// When it last happened.
    pub time: jiff::Timestamp,
    /// When it first happened.
    pub first: jiff::Timestamp,
    /// To what.
    pub key: ResourceKey,
    /// Whether it is worth a look.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// One word in CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
    /// How often in a row.
    pub count: u32,
}
