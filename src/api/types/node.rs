//! The node as a whole: queries, waiting, the status screen, facts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Phase;
use crate::manifest::{Diagnostic, Kind, ResourceKey};
use crate::plan::{Problem, Step};

/// Selects resources.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Query {
    /// Kinds; empty means every kind.
    #[serde(default)]
    pub kinds: Vec<Kind>,
    /// One namespace; `None` means all.
    #[serde(default)]
    pub namespace: Option<String>,
    /// One name; for images and tags a reference or a handle.
    #[serde(default)]
    pub name: Option<String>,
}

/// Waits for a condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitRequest {
    /// Of which resource; it need not exist yet.
    pub key: ResourceKey,
    /// Which condition.
    pub condition: WaitFor,
    /// Milliseconds at most; `None` waits for ever.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WaitFor {
    /// Its process lives.
    Running,
    /// It is ready (an image or tag: it is here).
    Ready,
    /// It ended for good.
    Exited,
    /// It is not on the node.
    Deleted,
}

impl std::fmt::Display for WaitFor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            WaitFor::Running => "running",
            WaitFor::Ready => "ready",
            WaitFor::Exited => "exited",
            WaitFor::Deleted => "deleted",
        })
    }
}

/// One screen about the node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// Whether everything is as declared: no pending step, no problem, nothing held, no container that its shim
    /// could not keep running.
    pub converged: bool,
    /// Whether a daemon answers (else the command line served itself).
    #[serde(default)]
    pub daemon: bool,
    /// Who declares.
    pub sources: Vec<SourceStatus>,
    /// Containers by phase.
    pub phases: BTreeMap<Phase, u64>,
    /// Images and tags on the node.
    #[serde(default)]
    pub references: u64,
    /// What is not as declared, and why.
    pub not_converged: Vec<NotConverged>,
    /// Steps that the controller would take now.
    pub pending: Vec<Step>,
    /// Wanted, but impossible as things are.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// What is as somebody asked, and yet not as it would be without: containers stopped by hand.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Things that an administrator should know: `limits are best effort: no CAP_SYS_RESOURCE`.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// A source and its health.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// `dir`, `apply:NAME`, `cli`.
    pub name: String,
    /// The directory, for `dir`.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Files read (of a directory).
    #[serde(default)]
    pub files: u64,
    /// Resources declared.
    pub resources: u64,
    /// A removal is held until `bayplan sync --confirm-removal`: why.
    #[serde(default)]
    pub held: Option<String>,
    /// Files that are not taken as they are; their last good resources stay.
    #[serde(default)]
    pub problems: Vec<Diagnostic>,
    /// When it was last read.
    #[serde(default)]
    pub read: Option<Timestamp>,
}

/// A resource that is not as declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NotConverged {
    /// Which.
    pub key: ResourceKey,
    /// Since when.
    pub since: Timestamp,
    /// One CamelCase word: why.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// When it is tried again; `None` when that waits for a change.
    #[serde(default)]
    pub next_try: Option<Timestamp>,
}

/// Paths, drivers and counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// Whether a daemon answers (else the command line served itself).
    pub daemon: bool,
    /// Process id of who answers.
    pub pid: u32,
    /// Kept across reboots.
    pub root: PathBuf,
    /// Lost at reboot.
    pub state: PathBuf,
    /// The manifest directory.
    pub manifests: PathBuf,
    /// The socket.
    pub address: PathBuf,
    /// `v1`, `hybrid` or `v2`.
    pub cgroup_version: String,
    /// `cgroupfs` or `systemd`.
    pub cgroup_driver: String,
    /// Where containers' cgroups are.
    pub cgroup_parent: String,
    /// Containers, running or not.
    pub containers: u64,
    /// Containers that run.
    pub running: u64,
    /// References.
    pub images: u64,
    /// Namespaces.
    pub namespaces: u64,
    /// Things that an administrator should know.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The build, the runtime and the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Of bayplan.
    pub version: String,
    /// The commit it was built from; left out when not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub commit: String,
    /// The manifests' and the API's version.
    pub api_version: String,
    /// `linux/amd64`.
    pub platform: String,
    /// First line of `runc --version`; `None` when it is not installed.
    #[serde(default)]
    pub runtime: Option<String>,
    /// Path of the runtime.
    #[serde(default)]
    pub runtime_path: Option<PathBuf>,
    /// The kernel's release.
    pub kernel: String,
}
