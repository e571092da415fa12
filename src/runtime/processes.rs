//! What a shim is asked about running containers: further processes, terminals, the freezer, further streams.
//!
//! The other half of [`super::client`]; containerd's Task API but for `Attach`, which is our own shim's.

use std::path::PathBuf;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use oci_spec::runtime::Process;

use super::client::{QUICK, SLOW};
use crate::shim::protocol::{ATTACH, AttachRequest, AttachResponse, EXPIRE, ExpireRequest};

use super::{ExitRecord, RuntimeError, ShimClient, Stdio, TaskInfo, TaskStatus};

/// What containerd calls a process in a message (typeurl of runtime-spec's `Process`, JSON inside).
const PROCESS: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
fn shown(path: &Option<PathBuf>) -> String {
    path.as_deref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
}

impl ShimClient {
    /// Prepares a further process; [`Self::start_exec`] starts it.
    pub async fn exec(&self, exec_id: &str, process: &Process, stdio: &Stdio) -> Result<(), RuntimeError> {
        let what = || format!("process {exec_id} of {}", self.object());
        let value = serde_json::to_vec(process).map_err(|source| RuntimeError::Json { what: what(), source })?;
        let spec = Any { type_url: PROCESS.to_owned(), value, ..Any::default() };
        let request = api::ExecProcessRequest {
            id: self.id(),
            exec_id: exec_id.to_owned(),
            terminal: stdio.terminal,
            stdin: shown(&stdio.stdin),
            stdout: shown(&stdio.stdout),
            stderr: shown(&stdio.stderr),
            spec: MessageField::some(spec),
            ..Default::default()
        };
        self.call::<api::Empty>("Exec", &request, Some(SLOW)).await.map(drop)
    }

    /// Starts a prepared process. Its process id.
    pub async fn start_exec(&self, exec_id: &str) -> Result<u32, RuntimeError> {
        let request = api::StartRequest { id: self.id(), exec_id: exec_id.to_owned(), ..Default::default() };
        Ok(self.call::<api::StartResponse>("Start", &request, Some(SLOW)).await?.pid)
    }

    /// Waits, for as long as it takes, until a further process has ended.
    pub async fn wait_exec(&self, exec_id: &str) -> Result<ExitRecord, RuntimeError> {
        let request = api::WaitRequest { id: self.id(), exec_id: exec_id.to_owned(), ..Default::default() };
        let answer: api::WaitResponse = self.call("Wait", &request, None).await?;
        Ok(ExitRecord::from_wire(answer.exit_status, answer.exited_at.as_ref()))
    }

    /// What a further process does.
    pub async fn exec_state(&self, exec_id: &str) -> Result<TaskInfo, RuntimeError> {
        let request = api::StateRequest { id: self.id(), exec_id: exec_id.to_owned(), ..Default::default() };
        let answer: api::StateResponse = self.call("State", &request, Some(QUICK)).await?;
        let status = TaskStatus::from_wire(answer.status.enum_value_or_default());
        let exit = (status == TaskStatus::Stopped)
            .then(|| ExitRecord::from_wire(answer.exit_status, answer.exited_at.as_ref()));
        Ok(TaskInfo { pid: answer.pid, status, exit })
    }

    /// Sends a signal to a further process; `group`: to its process group, by shims that know that.
    pub async fn kill_exec(&self, exec_id: &str, signal: i32, group: bool) -> Result<(), RuntimeError> {
        let (signal, exec_id) = (u32::try_from(signal).unwrap_or_default(), exec_id.to_owned());
        let request = api::KillRequest { id: self.id(), exec_id, signal, all: group, ..Default::default() };
        self.call::<api::Empty>("Kill", &request, Some(QUICK)).await.map(drop)
    }

    /// Has the shim kill a further process, with its process group, when so much time has passed. Our shim only.
    pub async fn expire_exec(&self, exec_id: &str, after: Duration) -> Result<(), RuntimeError> {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let request = ExpireRequest { exec_id: exec_id.to_owned(), after_ms };
        self.own_call::<serde_json::Value>(EXPIRE, &request, Some(QUICK)).await.map(drop)
    }

    /// Forgets a further process that has ended, so that its id is free.
    pub async fn delete_exec(&self, exec_id: &str) -> Result<(), RuntimeError> {
        let request = api::DeleteRequest { id: self.id(), exec_id: exec_id.to_owned(), ..Default::default() };
        self.call::<api::DeleteResponse>("Delete", &request, Some(SLOW)).await.map(drop)
    }

    /// Gives a terminal another size; `exec_id` empty is the task's own.
    pub async fn resize(&self, exec_id: &str, width: u16, height: u16) -> Result<(), RuntimeError> {
        let request = api::ResizePtyRequest {
            id: self.id(),
            exec_id: exec_id.to_owned(),
            width: u32::from(width),
            height: u32::from(height),
            ..Default::default()
        };
        self.call::<api::Empty>("ResizePty", &request, Some(QUICK)).await.map(drop)
    }

    /// Closes standard input; `exec_id` empty is the task's own.
    pub async fn close_stdin(&self, exec_id: &str) -> Result<(), RuntimeError> {
        let request =
            api::CloseIORequest { id: self.id(), exec_id: exec_id.to_owned(), stdin: true, ..Default::default() };
        self.call::<api::Empty>("CloseIO", &request, Some(QUICK)).await.map(drop)
    }

    /// Freezes every process of the container.
    pub async fn pause(&self) -> Result<(), RuntimeError> {
        let request = api::PauseRequest { id: self.id(), ..Default::default() };
        self.call::<api::Empty>("Pause", &request, Some(FREEZE)).await.map(drop)
    }

    /// Lets them go on.
    pub async fn resume(&self) -> Result<(), RuntimeError> {
        let request = api::ResumeRequest { id: self.id(), ..Default::default() };
        self.call::<api::Empty>("Resume", &request, Some(FREEZE)).await.map(drop)
    }

    /// Connects further streams to the task, or to one of its processes. What it has. Our shim only.
    pub async fn attach(&self, exec_id: Option<&str>, stdio: &Stdio) -> Result<AttachResponse, RuntimeError> {
        let request = AttachRequest {
            exec_id: exec_id.unwrap_or_default().to_owned(),
            stdin: shown(&stdio.stdin),
            stdout: shown(&stdio.stdout),
            stderr: shown(&stdio.stderr),
        };
        self.own_call(ATTACH, &request, Some(QUICK)).await
    }
}

/// A process that does not let itself be frozen is a disk's or a server's; nobody waits long for it.
const FREEZE: Duration = Duration::from_secs(30);
