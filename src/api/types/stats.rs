//! What tasks use, and the processes in them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Asks what tasks use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatsRequest {
    /// In which namespace; `None` means all.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Which containers; none means all that run.
    #[serde(default)]
    pub names: Vec<String>,
    /// Everything that is counted, too.
    #[serde(default)]
    pub all: bool,
}

/// One sample of one task. Sums since its control group was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskStats {
    /// In which namespace.
    pub namespace: String,
    /// Its container.
    pub name: String,
    /// Its first process.
    pub pid: Option<u32>,
    /// When it was taken.
    pub time: Timestamp,
    /// Nanoseconds of processors.
    pub cpu: u64,
    /// Bytes, without file pages that nobody used lately.
    pub memory: u64,
    /// Bytes; absent without a limit.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// At most so many; absent without a limit.
    pub pids_limit: Option<u64>,
    /// Bytes read from block devices; absent where the kernel does not count them.
    pub block_read: Option<u64>,
    /// Bytes written to them.
    pub block_written: Option<u64>,
    /// Bytes that came over the network; absent where it is the node's.
    pub network_received: Option<u64>,
    /// Bytes that went.
    pub network_sent: Option<u64>,
    /// Everything that is counted, by the kernel's names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub all: BTreeMap<String, u64>,
}

/// Asks for the processes of a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopRequest {
    /// In which namespace.
    pub namespace: String,
    /// Which container.
    pub name: String,
}

/// One process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessInfo {
    /// Number on the node.
    pub pid: u32,
    /// Its number inside of the container.
    pub inner_pid: u32,
    /// Its parent, on the node.
    pub parent: u32,
    /// User ID.
    pub uid: u32,
    /// The user's name in the container, if it has one there.
    pub user: Option<String>,
    /// `R`, `S`, `D`, `T`, `Z`.
    pub state: String,
    /// Milliseconds since it began.
    pub age_ms: u64,
    /// Milliseconds of processors.
    pub cpu_ms: u64,
    /// Resident bytes.
    pub resident: u64,
    /// Bytes of its address space.
    pub virtual_size: u64,
    /// Threads.
    pub threads: u32,
    /// `pts/0`; absent without a terminal.
    pub terminal: Option<String>,
    /// The name of its program.
    pub program: String,
    /// Its command line.
    pub command: String,
    /// Which further process of the container it is; absent for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec_id: Option<String>,
}
