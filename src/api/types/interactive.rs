//! What is done to running containers by hand: further processes, terminals, the freezer.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::Stdio;
use crate::shim::protocol::Exit;

/// Runs a further process in a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecRequest {
    /// In which namespace.
    pub namespace: String,
    /// Which container.
    pub name: String,
    /// Its id, unique in the container; absent: one is made up.
    #[serde(default)]
    pub exec_id: Option<String>,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Laid over the container's own environment.
    #[serde(default)]
    pub env: IndexMap<String, String>,
    /// Absolute path inside; absent: the container's own.
    #[serde(default)]
    pub cwd: Option<String>,
    /// `user[:group]`, by id or by the names of the container's own files; absent: the container's own.
    #[serde(default)]
    pub user: Option<String>,
    /// Further supplementary groups, by id or name.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Every capability of the node, and what `privileged` means for a process.
    #[serde(default)]
    pub privileged: bool,
    /// Capabilities beside those of the container.
    #[serde(default)]
    pub cap_add: Vec<String>,
    /// Capabilities of the container that this process does not get.
    #[serde(default)]
    pub cap_drop: Vec<String>,
    /// Its streams; absent: it reads nothing, and what it writes is discarded.
    #[serde(default)]
    pub stdio: Option<Stdio>,
    /// Asked a second time, because a daemon went away in the middle: one of this id is the one that is meant.
    #[serde(default)]
    pub again: bool,
    /// Milliseconds after which the node kills it. For those that nobody waits for.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// A further process that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Executed {
    /// Its id in the container.
    pub exec_id: String,
    /// Its process id on the node.
    pub pid: u32,
    /// What is not as asked for, each a sentence.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Names a further process, to wait for its exit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitExecRequest {
    /// In which namespace.
    pub namespace: String,
    /// In which container.
    pub name: String,
    /// Which.
    pub exec_id: String,
}

/// The exit of a further process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecEnded {
    /// How it ended.
    pub exit: Exit,
}

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// Changes the size of a process's terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResizeRequest {
    /// In which namespace.
    pub namespace: String,
    /// Which container.
    pub name: String,
    /// A further process of it; absent: its task's own.
    #[serde(default)]
    pub exec_id: Option<String>,
    /// The new size.
    pub size: TerminalSize,
}

/// Connects further streams to a running task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachRequest {
    /// In which namespace.
    pub namespace: String,
    /// Which container.
    pub name: String,
    /// A further process of it; absent: its task's own.
    #[serde(default)]
    pub exec_id: Option<String>,
    /// FIFOs that exist already.
    pub stdio: Stdio,
}

/// What one is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    /// The container's unique id.
    pub uid: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// The task's process.
    pub pid: Option<u32>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether it has an input.
    #[serde(default)]
    pub stdin: bool,
}

/// Names a task, to freeze it or let it go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskRequest {
    /// In which namespace.
    pub namespace: String,
    /// Which container.
    pub name: String,
}

/// Says that no more input comes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CloseInputRequest {
    /// In which namespace.
    pub namespace: String,
    /// Which container.
    pub name: String,
    /// A further process of it; absent: its task's own.
    #[serde(default)]
    pub exec_id: Option<String>,
}
