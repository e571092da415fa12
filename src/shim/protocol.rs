//! What the engine and its shim say to each other beside containerd's Task API.
//!
//! Two files in the bundle and one ttrpc service. The files are the truth and survive both sides; the
//! service only saves the other side a poll. Version 1 of it: fields are added, never changed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// File in the bundle, written by the engine before the task is created: [`Supervision`] as JSON. A shim
/// that finds none behaves as containerd expects of a plain shim v2.
pub const SUPERVISION_FILE: &str = "bayplan.json";
/// File in the bundle, replaced by rename at each transition by the shim: [`TaskState`] as JSON.
pub const STATE_FILE: &str = "state.json";
/// File in the bundle on which a living shim holds an exclusive `flock`.
pub const LOCK_FILE: &str = "shim.lock";
/// The shim's socket in the bundle, mode 0600.
pub const SOCKET_FILE: &str = "shim.sock";
/// The ttrpc service beside `containerd.task.v2.Task`. Payloads are JSON.
pub const SERVICE: &str = "bayplan.shim.v1.Supervisor";
/// `Watch`: [`WatchRequest`] → [`TaskState`] as soon as `seq` is greater than `since`.
pub const WATCH: &str = "Watch";
/// `Reload`: `{}` → `{}`; reads [`SUPERVISION_FILE`] again.
pub const RELOAD: &str = "Reload";
/// `Stop`: [`StopRequest`] → [`TaskState`] once the process is gone; no restart follows. Durable before the signal is sent.
pub const STOP: &str = "Stop";
/// `Attach`: [`AttachRequest`] → [`AttachResponse`]; the client gets the output from then on and may write input.
pub const ATTACH: &str = "Attach";
/// `Expire`: [`ExpireRequest`] → `{}`; the further process is killed, with its process group, when its time is over.
pub const EXPIRE: &str = "Expire";

/// How the shim looks after its container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Supervision {
    /// 1.
    pub version: u32,
    /// Path of the OCI runtime binary.
    pub runtime: PathBuf,
    /// Its `--root`.
    pub runtime_root: PathBuf,
    /// Pass `--systemd-cgroup`.
    pub systemd_cgroup: bool,
    /// What to do after an exit.
    pub restart: Restart,
    /// Directory of the log files `<attempt>.log`; `None` discards output.
    pub log_dir: Option<PathBuf>,
    /// Rotate past this many bytes.
    pub log_max_size: u64,
    /// Files kept of one attempt, the current one included.
    pub log_max_files: u32,
    /// Number of this task's first attempt; the engine counts on from the task before.
    pub first_attempt: u32,
    /// Restarts counted so far, by tasks before this one of the same container.
    pub restarts: u32,
    /// `oom_score_adj` that the shim gives itself, best effort. What it starts inherits it: the runtime spec should
    /// always say `process.oomScoreAdj`.
    pub oom_score_adj: Option<i32>,
    /// Milliseconds after which an execution of the runtime is ended; `None` is a minute.
    #[serde(default)]
    pub runtime_timeout_ms: Option<u64>,
    /// Number of the signal that a stop sends first, where nobody is there to say it: when the machine goes down.
    /// `None` is SIGTERM.
    #[serde(default)]
    pub stop_signal: Option<i32>,
    /// Milliseconds that it then has; `None` is ten seconds.
    #[serde(default)]
    pub grace_ms: Option<u64>,
    /// Standard input is there, and stays open for whoever attaches, whether or not somebody writes to it now.
    #[serde(default)]
    pub stdin: bool,
    /// Milliseconds that the process waits for the host's reader of its output when that takes nothing; then it goes on
    /// without it. `None` is a minute.
    #[serde(default)]
    pub reader_patience_ms: Option<u64>,
}

/// The restart policy, as the shim carries it out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restart {
    /// When.
    pub policy: Policy,
    /// At most so many restarts in a row.
    pub limit: Option<u32>,
    /// Milliseconds before the first restart.
    pub initial_ms: u64,
    /// Milliseconds at most.
    pub max_ms: u64,
}

/// Restart when?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// After every exit.
    Always,
    /// After a status other than 0.
    OnFailure,
    /// Never.
    Never,
}

/// Where a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskPhase {
    /// Made, not started.
    Created,
    /// Its process lives.
    Running,
    /// Its process ended; the shim starts it again at `next_start`.
    BackOff,
    /// Ended for good by its restart policy (or limit).
    Exited,
    /// Ended because somebody asked for it.
    Stopped,
    /// The runtime could not start it (again); `reason` says why, and `next_start` when it is tried once more, if ever.
    Failed,
}

/// One exit of the container's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// Exit status; 128 + N for signal N.
    pub code: u32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed it for its memory limit.
    pub oom_killed: bool,
    /// When.
    pub at: jiff::Timestamp,
}

/// Exits of attempts that are kept: the last so many.
pub const KEPT_EXITS: usize = 16;

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptExit {
    /// Its number.
    pub attempt: u32,
    /// Its end.
    #[serde(flatten)]
    pub exit: Exit,
}

/// Adds an exit to those that are kept, in the order of attempts; a later word on the same attempt is the one that counts.
pub fn keep_exit(exits: &mut Vec<AttemptExit>, new: AttemptExit) {
    exits.retain(|kept| kept.attempt != new.attempt);
    let at = exits.partition_point(|kept| kept.attempt < new.attempt);
    exits.insert(at, new);
    let excess = exits.len().saturating_sub(KEPT_EXITS);
    exits.drain(..excess);
}

/// All that is known of a task; each write has a higher `seq`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskState {
    /// Counts writes, from 1.
    pub seq: u64,
    /// Where it is.
    pub phase: TaskPhase,
    /// The shim's own process id.
    pub shim_pid: u32,
    /// The container's process, while it lives.
    pub pid: Option<u32>,
    /// Number of the current or last attempt; its log is `<attempt>.log`.
    pub attempt: u32,
    /// Restarts since the container was made.
    pub restarts: u32,
    /// When the current or last attempt started.
    pub started: Option<jiff::Timestamp>,
    /// How the last attempt ended.
    pub exit: Option<Exit>,
    /// How this one and the attempts before it ended, the oldest first, as many as [`KEPT_EXITS`]: whoever waits for one
    /// is told by its number, however far the task has gone on since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exits: Vec<AttemptExit>,
    /// When the next attempt starts, in `BackOff`.
    pub next_start: Option<jiff::Timestamp>,
    /// Why it is where it is, for people.
    pub reason: Option<String>,
    /// Somebody asked for its end: on the disk before the first signal, so that whoever finds this state without
    /// its shim does not start it again.
    #[serde(default)]
    pub stop_requested: bool,
    /// Its processes are frozen; the phase stays `Running`, as shims and engines before this field know it.
    #[serde(default)]
    pub paused: bool,
    /// Log lines of this task that could not be written: the log says where and why, as soon as it can.
    #[serde(default)]
    pub dropped_lines: u64,
    /// Processes of this attempt that the kernel killed at the container's memory limit, so far.
    #[serde(default)]
    pub oom_kills: u64,
}

impl TaskState {
    /// The current attempt has ended so.
    pub fn ended(&mut self, exit: Exit) {
        keep_exit(&mut self.exits, AttemptExit { attempt: self.attempt, exit: exit.clone() });
        self.exit = Some(exit);
    }

    /// How its attempts ended, as far as that is kept. A shim of an older release tells the last exit only.
    pub fn known_exits(&self) -> Vec<AttemptExit> {
        let of_old = || {
            let attempt = match self.phase {
                TaskPhase::BackOff | TaskPhase::Exited | TaskPhase::Stopped => self.attempt,
                // Of the attempt before.
                TaskPhase::Created | TaskPhase::Running => self.attempt.checked_sub(1).filter(|before| *before > 0)?,
                TaskPhase::Failed => return None,
            };
            Some(AttemptExit { attempt, exit: self.exit.clone()? })
        };
        if self.exits.is_empty() { of_old().into_iter().collect() } else { self.exits.clone() }
    }
}

/// Asks for the first state after this one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WatchRequest {
    /// The `seq` already known; 0 gives the current state at once.
    pub since: u64,
}

/// Asks for the end.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StopRequest {
    /// Signal number sent first.
    pub signal: i32,
    /// Milliseconds until SIGKILL to every process of the container.
    pub grace_ms: u64,
}

/// Gives a further process a time, from its start or, when it runs already, from now on.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExpireRequest {
    /// Which execution.
    pub exec_id: String,
    /// Milliseconds.
    pub after_ms: u64,
}

/// Asks to be attached to a living process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AttachRequest {
    /// Which execution; empty is the task itself.
    pub exec_id: String,
    /// FIFO that the client writes; empty is none. Its end is not the end of input: `CloseIO` is.
    pub stdin: String,
    /// FIFO that the client has open for reading; empty is none. A terminal's output comes here.
    pub stdout: String,
    /// The same for standard error.
    pub stderr: String,
}

/// What the client has been attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachResponse {
    /// The process has a terminal.
    pub terminal: bool,
    /// The process has an input that can be written to.
    pub stdin: bool,
}
