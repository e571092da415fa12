//! What is done by hand: images, containers, tasks, namespaces.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ImageDetails, Item, TerminalSize, Transfer};
use crate::manifest::{ContainerSpec, ResourceKey};
use crate::oci::{Digest, Platform, Reference};
use crate::shim::protocol::Exit;

/// Pulls an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PullRequest {
    /// Into which namespace.
    pub namespace: String,
    /// Which image.
    pub reference: Reference,
    /// Another platform than the node's.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// The images of every platform, and what is attached to them.
    #[serde(default)]
    pub all_platforms: bool,
    /// Brings the blobs and names the image; nothing is unpacked before a container needs it.
    #[serde(default)]
    pub blobs_only: bool,
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

/// User and password; never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password or token.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials(…)")
    }
}

/// What happens during a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum PullEvent {
    /// The reference was resolved.
    Resolved {
        /// To this.
        digest: Digest,
    },
    /// A registry is waited for.
    Waiting {
        /// Whom.
        host: String,
        /// The try that comes.
        attempt: u32,
        /// Of how many.
        of: u32,
        /// What the last one ended with.
        why: String,
    },
    /// A blob moves on. Not every byte is told.
    Blob {
        /// Which.
        digest: Digest,
        /// What is done with it.
        state: BlobState,
        /// Bytes done.
        done: u64,
        /// Bytes in all; 0 where they are not known.
        total: u64,
        /// Bytes of it came over the wire; of a blob that was here, none.
        #[serde(default)]
        fetched: bool,
    },
    /// The last event: the image is here and unpacked.
    Pulled {
        /// The reference.
        reference: Reference,
        /// What it points at.
        digest: Digest,
        /// Bytes of its blobs.
        size: u64,
        /// Whether it was here already.
        unchanged: bool,
    },
}

/// What is done with a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum BlobState {
    /// Its turn has not come.
    Waiting,
    /// Bytes arrive.
    Downloading,
    /// It is here, verified.
    Done,
    /// It is being unpacked.
    Unpacking,
}

/// Gives an image a further name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TagRequest {
    /// In which namespace.
    pub namespace: String,
    /// An existing reference.
    pub source: Reference,
    /// The new one.
    pub target: Reference,
    /// Moves a target that exists and points elsewhere.
    #[serde(default)]
    pub force: bool,
}

/// Takes a reference away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveImageRequest {
    /// In which namespace.
    pub namespace: String,
    /// A reference, or an image's handle.
    pub name: String,
    /// Also while a container uses it or a source declares it.
    #[serde(default)]
    pub force: bool,
}

/// What became of a reference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovedImage {
    /// The full reference that is gone.
    pub reference: String,
    /// Bytes freed at once.
    #[serde(default)]
    pub freed: u64,
    /// Who still declares it and will bring it back (`dir:shop.yaml`).
    #[serde(default)]
    pub declared_by: Option<String>,
    /// Containers that were made of it, and for which it comes back.
    #[serde(default)]
    pub used_by: Vec<String>,
    /// Further references that went with it: those of the digest that was named.
    #[serde(default)]
    pub also: Vec<String>,
}

/// Imports an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadRequest {
    /// Into which namespace.
    pub namespace: String,
    /// Repository for images that the archive does not name in full.
    #[serde(default)]
    pub base_name: Option<String>,
    /// The platform that must be there and is unpacked; absent: the node's, where it is there.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// Every image that an index names must be there.
    #[serde(default)]
    pub all_platforms: bool,
    /// Each image also gets its digest as a name.
    #[serde(default)]
    pub digests: bool,
}

/// One image of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadedImage {
    /// Its name; absent when neither the archive nor the request names it.
    pub reference: Option<Reference>,
    /// What it points at.
    pub digest: Digest,
}

/// What happens while an archive is imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum LoadEvent {
    /// So much of the archive was read.
    Archive {
        /// Bytes, as they come.
        done: u64,
        /// In all; absent where that is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    },
    /// A file of the archive moves on. Not every byte is told.
    Blob(LoadedBlob),
    /// The last event: what it held is here, and unpacked where it is for this machine.
    Loaded {
        /// Its images, each by each of its names.
        images: Vec<LoadedImage>,
    },
}

/// Where a file of an archive is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadedBlob {
    /// Its name in the archive; absent for one that is in the store and not in the archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its digest, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What is done with it.
    pub state: LoadState,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What is done with a file of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LoadState {
    /// It is being read.
    Reading,
    /// It was read.
    Read,
    /// It was read, and was in the store before.
    Existed,
    /// It is a layer that is being unpacked.
    Unpacking,
}

/// Makes a container by hand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CreateRequest {
    /// In which namespace.
    pub namespace: String,
    /// Its name.
    pub id: String,
    /// What it is.
    pub spec: ContainerSpec,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Starts it as well (`run`).
    #[serde(default)]
    pub start: bool,
    /// The node removes it once its task has ended for good.
    #[serde(default)]
    pub remove_after_exit: bool,
    /// Where its output goes beside (or instead of) the log.
    #[serde(default)]
    pub stdio: Option<Stdio>,
}

/// The streams of a foreground task: FIFOs that exist already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stdio {
    /// Absolute path; absent: `/dev/null`.
    #[serde(default)]
    pub stdin: Option<PathBuf>,
    /// Absolute path; absent: discarded.
    #[serde(default)]
    pub stdout: Option<PathBuf>,
    /// Absolute path; absent: discarded.
    #[serde(default)]
    pub stderr: Option<PathBuf>,
    /// The process gets a terminal.
    #[serde(default)]
    pub terminal: bool,
    /// The terminal's size at the start; absent: unknown.
    #[serde(default)]
    pub size: Option<TerminalSize>,
}

/// A container that was made or started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Created {
    /// Its unique id.
    pub uid: String,
    /// Number of the attempt; 0 when it was not started.
    pub attempt: u32,
    /// Its process; absent when it was not started or has ended already.
    pub pid: Option<u32>,
}

/// Starts a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartRequest {
    /// In which namespace.
    pub namespace: String,
    /// Which container.
    pub name: String,
    /// As in [`CreateRequest`].
    #[serde(default)]
    pub stdio: Option<Stdio>,
}

/// Stops (or restarts) a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StopRequest {
    /// In which namespace.
    pub namespace: String,
    /// Which container.
    pub name: String,
    /// Milliseconds until SIGKILL; absent: the container's own grace period.
    #[serde(default)]
    pub grace_ms: Option<u64>,
}

/// Sends a signal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KillRequest {
    /// In which namespace.
    pub namespace: String,
    /// Which container.
    pub name: String,
    /// The signal's number.
    pub signal: i32,
    /// To every process of the container; of a further process: to its process group.
    #[serde(default)]
    pub all: bool,
    /// To a further process; absent: to the task's own.
    #[serde(default)]
    pub exec_id: Option<String>,
}

/// Takes a container away.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveContainerRequest {
    /// In which namespace.
    pub namespace: String,
    /// Which container.
    pub name: String,
    /// Kills a running task first.
    #[serde(default)]
    pub force: bool,
}

/// What became of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemovedContainer {
    /// Who still declares it and will bring it back (`dir:shop.yaml`).
    #[serde(default)]
    pub declared_by: Option<String>,
}

/// Waits for an exit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitExitRequest {
    /// In which namespace.
    pub namespace: String,
    /// Which container.
    pub name: String,
    /// The container's unique id, for names are given again; absent: whichever has the name.
    #[serde(default)]
    pub uid: Option<String>,
    /// Of which attempt; absent: the current one.
    #[serde(default)]
    pub attempt: Option<u32>,
    /// Answer only when it is gone, if it is one that removes itself.
    #[serde(default)]
    pub removed: bool,
}

/// What happens while a container is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum CreateEvent {
    /// A blob of its image moves on. Not every byte is told.
    Progress {
        /// Where it is.
        transfer: Transfer,
    },
    /// The last event: it is made, and started if that was asked for.
    Created(Created),
}

/// An exit that was waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// How it ended.
    pub exit: Exit,
    /// Whether the container is gone.
    #[serde(default)]
    pub removed: bool,
}

/// Everything about one object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    /// As listings show it.
    pub item: Item,
    /// What the database holds.
    #[serde(default)]
    pub record: Value,
    /// The OCI runtime spec in force; containers only.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub runtime_spec: Value,
    /// The OCI image configuration; images and tags only.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub config: Value,
    /// What an image is made of; absent for other kinds, and while it is not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageDetails>,
}

/// Names a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceRequest {
    /// Its name.
    pub name: String,
    /// Labels of a new one.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Changes labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelRequest {
    /// Of which resource.
    pub key: ResourceKey,
    /// New values; `None` takes a label away.
    pub labels: BTreeMap<String, Option<String>>,
}
