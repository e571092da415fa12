//! Values of containerd's Task API, in our own words.

use std::path::PathBuf;

use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp as WireTime;
use containerd_shim_protos::types::task::Status;
use serde::{Deserialize, Serialize};

pub use crate::snapshot::RootMount;

/// Where the process's streams go. Paths of fifos, or URIs such as `file:///x`; all `None`: the shim's own
/// log (or nowhere, in another runtime's shim).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<PathBuf>,
    /// Standard output.
    pub stdout: Option<PathBuf>,
    /// Standard error.
    pub stderr: Option<PathBuf>,
    /// A terminal in place of three streams.
    pub terminal: bool,
}

/// What another runtime's runc-like shim (`io.containerd.runc.v2`) is told; ours reads `bayplan.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuncOptions {
    /// The OCI runtime binary.
    pub binary: PathBuf,
    /// Its `--root`; the shim adds the namespace.
    pub root: PathBuf,
    /// Pass `--systemd-cgroup`.
    pub systemd_cgroup: bool,
}

/// What a task's process does, to the Task API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskStatus {
    /// Made, not started.
    Created,
    /// It runs.
    Running,
    /// It ended.
    Stopped,
    /// It is frozen, or about to be.
    Paused,
    /// The shim does not say.
    Unknown,
}

/// A task as its shim sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskInfo {
    /// The container's process; 0 before it is made.
    pub pid: u32,
    /// What it does.
    pub status: TaskStatus,
    /// How it ended, in `Stopped`.
    pub exit: Option<ExitRecord>,
}

/// An exit as the Task API tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitRecord {
    /// Exit status; 128 + N for signal N.
    pub code: u32,
    /// When, where the shim knows.
    pub at: Option<jiff::Timestamp>,
}

impl ExitRecord {
    pub(super) fn from_wire(code: u32, at: Option<&WireTime>) -> Self {
        // Go's zero time, year 1, means "not yet".
        let at = at.filter(|at| at.seconds > 0).and_then(|at| jiff::Timestamp::new(at.seconds, at.nanos).ok());
        Self { code, at }
    }
}

impl TaskStatus {
    pub(super) fn from_wire(status: Status) -> Self {
        match status {
            Status::CREATED => Self::Created,
            Status::RUNNING => Self::Running,
            Status::STOPPED => Self::Stopped,
            Status::PAUSED | Status::PAUSING => Self::Paused,
            Status::UNKNOWN => Self::Unknown,
        }
    }
}
