//! The client of a shim: containerd's Task API over ttrpc, and our own service beside it.
//!
//! Every call has a time-out but those that wait for something to happen. A call that fails says whether the
//! shim refused, is slow, or is gone ([`RuntimeError::shim_is_gone`]): only the last is a reason to clean up.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{Message, MessageField};
use containerd_shim_protos::shim::oci::{Options, ProcessDetails};
use oci_spec::runtime::LinuxResources;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;
use ttrpc::asynchronous::Client;
use ttrpc::asynchronous::transport::Socket;

use super::launch::{Bootstrap, Protocol};
use super::{ExitRecord, RootMount, RuncOptions, RuntimeError, Stdio, TaskInfo, TaskStatus};
use crate::shim::protocol::{
    LOCK_FILE, RELOAD, SERVICE, SOCKET_FILE, STATE_FILE, STOP, StopRequest, TaskState, WATCH, WatchRequest,
};

/// Time allowed to a call that answers from memory, to one that runs `runc`, and to a connect.
pub(super) const QUICK: Duration = Duration::from_secs(10);
pub(super) const SLOW: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(5);
/// What containerd calls limits in a message (typeurl of runtime-spec's `LinuxResources`, JSON inside).
const RESOURCES: &str = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";
/// `sun_path` holds 108 bytes, the last of which is NUL.
const MAX_SOCKET_PATH: usize = 107;

/// A connection to a shim; clones share it.
#[derive(Clone)]
pub struct ShimClient {
    client: Client,
    task: Arc<Task>,
}

/// Whose shim it is and how it is spoken to.
struct Task {
    id: String,
    /// `namespace/id`, for messages.
    object: String,
    bundle: PathBuf,
    service: &'static str,
}

impl ShimClient {
    /// Connects to the shim of a bundle: ours by its socket, another by the address it gave when launched.
    pub async fn connect(bundle: &Path) -> Result<Self, RuntimeError> {
        let own = bundle.join(SOCKET_FILE);
        let bootstrap = match Bootstrap::read(bundle)? {
            Some(bootstrap) if !own.exists() => bootstrap,
            _ => Bootstrap { address: own, protocol: Protocol::V2 },
        };
        Self::connect_to(bundle, &bootstrap).await
    }

    pub(super) async fn connect_to(bundle: &Path, bootstrap: &Bootstrap) -> Result<Self, RuntimeError> {
        let (namespace, id) = names(bundle);
        let object = format!("{namespace}/{id}");
        let socket = &bootstrap.address;
        let stream = match timeout(CONNECT, dial(socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(RuntimeError::Connect { object, socket: socket.clone(), source }),
            Err(_) => return Err(RuntimeError::TimedOut { object, what: "connecting to the shim", after: CONNECT }),
        };
        let service = bootstrap.protocol.service();
        let task = Arc::new(Task { id, object, bundle: bundle.to_owned(), service });
        Ok(Self { client: Client::new(Socket::new(stream)), task })
    }

    /// Creates the task from the bundle: mounts its root, runs `runc create`. Its process's id.
    pub async fn create(&self, mounts: &[RootMount], stdio: &Stdio) -> Result<u32, RuntimeError> {
        self.create_with(mounts, stdio, None).await
    }

    /// The same with options for a shim that is not ours.
    pub async fn create_with(
        &self,
        mounts: &[RootMount],
        stdio: &Stdio,
        runc: Option<&RuncOptions>,
    ) -> Result<u32, RuntimeError> {
        let text = |path: &Option<PathBuf>| path.as_deref().map(shown).unwrap_or_default();
        let mut request = api::CreateTaskRequest::new();
        request.id.clone_from(&self.task.id);
        request.bundle = shown(&self.task.bundle);
        request.terminal = stdio.terminal;
        request.stdin = text(&stdio.stdin);
        request.stdout = text(&stdio.stdout);
        request.stderr = text(&stdio.stderr);
        request.rootfs = mounts.iter().map(wire_mount).collect();
        if let Some(options) = runc {
            request.options = MessageField::some(wire_options(options)?);
        }
        Ok(self.call::<api::CreateTaskResponse>("Create", &request, Some(SLOW)).await?.pid)
    }

    /// Creates the task and starts it; its process's id. Our shim only: both are asked for at once, which saves the way
    /// back and forth between them.
    pub async fn create_started(&self, mounts: &[RootMount], stdio: &Stdio) -> Result<u32, RuntimeError> {
        let (created, started) = tokio::join!(self.create(mounts, stdio), self.start());
        let pid = created?;
        match started {
            // One of an older release wants them one after the other.
            Err(error) if error.is_precondition() => self.start().await.map(|_| pid),
            started => started.map(|_| pid),
        }
    }

    /// Starts the created process. Its id.
    pub async fn start(&self) -> Result<u32, RuntimeError> {
        let mut request = api::StartRequest::new();
        request.id.clone_from(&self.task.id);
        Ok(self.call::<api::StartResponse>("Start", &request, Some(SLOW)).await?.pid)
    }

    /// What the process does.
    pub async fn state(&self) -> Result<TaskInfo, RuntimeError> {
        let mut request = api::StateRequest::new();
        request.id.clone_from(&self.task.id);
        let answer: api::StateResponse = self.call("State", &request, Some(QUICK)).await?;
        let status = TaskStatus::from_wire(answer.status.enum_value_or_default());
        let exit = (status == TaskStatus::Stopped)
            .then(|| ExitRecord::from_wire(answer.exit_status, answer.exited_at.as_ref()));
        Ok(TaskInfo { pid: answer.pid, status, exit })
    }

    /// Waits, for as long as it takes, until the process has ended (for good, with our shim).
    pub async fn wait(&self) -> Result<ExitRecord, RuntimeError> {
        let mut request = api::WaitRequest::new();
        request.id.clone_from(&self.task.id);
        let answer: api::WaitResponse = self.call("Wait", &request, None).await?;
        Ok(ExitRecord::from_wire(answer.exit_status, answer.exited_at.as_ref()))
    }

    /// Sends a signal to the process, or to every process of the container.
    pub async fn kill(&self, signal: i32, all: bool) -> Result<(), RuntimeError> {
        let mut request = api::KillRequest::new();
        request.id.clone_from(&self.task.id);
        request.signal = u32::try_from(signal).unwrap_or_default();
        request.all = all;
        self.call::<api::Empty>("Kill", &request, Some(QUICK)).await.map(drop)
    }

    /// Deletes the ended task: runc's state, its cgroup, its mounts.
    pub async fn delete(&self) -> Result<ExitRecord, RuntimeError> {
        let mut request = api::DeleteRequest::new();
        request.id.clone_from(&self.task.id);
        let answer: api::DeleteResponse = self.call("Delete", &request, Some(SLOW)).await?;
        Ok(ExitRecord::from_wire(answer.exit_status, answer.exited_at.as_ref()))
    }

    /// Changes the limits of the container while it runs.
    pub async fn update(&self, limits: &LinuxResources) -> Result<(), RuntimeError> {
        let value = serde_json::to_vec(limits)
            .map_err(|source| RuntimeError::Json { what: format!("limits of {}", self.task.object), source })?;
        let mut request = api::UpdateTaskRequest::new();
        request.id.clone_from(&self.task.id);
        request.resources = MessageField::some(Any { type_url: RESOURCES.to_owned(), value, ..Any::default() });
        self.call::<api::Empty>("Update", &request, Some(SLOW)).await.map(drop)
    }

    /// Ends the shim, if it has no task any more. A shim that ends before it answers has done as told.
    pub async fn shutdown(&self) -> Result<(), RuntimeError> {
        let mut request = api::ShutdownRequest::new();
        request.id.clone_from(&self.task.id);
        match self.call::<api::Empty>("Shutdown", &request, Some(QUICK)).await {
            Ok(_) => Ok(()),
            Err(error) if error.shim_is_gone() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Every process of the container, with the id of the execution that began it, where one did.
    pub async fn pids(&self) -> Result<Vec<(u32, Option<String>)>, RuntimeError> {
        let mut request = api::PidsRequest::new();
        request.id.clone_from(&self.task.id);
        let answer: api::PidsResponse = self.call("Pids", &request, Some(QUICK)).await?;
        let exec_id = |process: &api::ProcessInfo| {
            let details = ProcessDetails::parse_from_bytes(&process.info.as_ref()?.value).ok()?;
            Some(details.exec_id).filter(|id| !id.is_empty())
        };
        Ok(answer.processes.iter().map(|process| (process.pid, exec_id(process))).collect())
    }

    /// What the container uses, as [`super::metrics::read`] takes it.
    pub async fn stats(&self) -> Result<Any, RuntimeError> {
        let mut request = api::StatsRequest::new();
        request.id.clone_from(&self.task.id);
        let answer: api::StatsResponse = self.call("Stats", &request, Some(QUICK)).await?;
        Ok(answer.stats.unwrap_or_default())
    }

    /// The shim's own process id.
    pub async fn shim_pid(&self) -> Result<u32, RuntimeError> {
        let mut request = api::ConnectRequest::new();
        request.id.clone_from(&self.task.id);
        Ok(self.call::<api::ConnectResponse>("Connect", &request, Some(QUICK)).await?.shim_pid)
    }

    /// The first state later than `since` (a `seq`), waited for as long as it takes. Our shim only.
    pub async fn watch(&self, since: u64) -> Result<TaskState, RuntimeError> {
        self.own_call(WATCH, &WatchRequest { since }, None).await
    }

    /// Has the shim read its supervision file again. Our shim only.
    pub async fn reload(&self) -> Result<(), RuntimeError> {
        self.own_call::<serde_json::Value>(RELOAD, &serde_json::json!({}), Some(QUICK)).await.map(drop)
    }

    /// Ends the container for good: `signal`, after `grace` SIGKILL to everything. The state after. Our shim only.
    pub async fn stop(&self, signal: i32, grace: Duration) -> Result<TaskState, RuntimeError> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.own_call(STOP, &StopRequest { signal, grace_ms }, Some(grace.saturating_add(SLOW))).await
    }

    /// The container's name.
    pub(super) fn id(&self) -> String {
        self.task.id.clone()
    }

    /// `namespace/id`, for messages.
    pub(super) fn object(&self) -> &str {
        &self.task.object
    }

    pub(super) async fn call<A: Message>(
        &self,
        method: &'static str,
        request: &impl Message,
        allowed: Option<Duration>,
    ) -> Result<A, RuntimeError> {
        let unreadable = |error: containerd_shim_protos::protobuf::Error| {
            self.refused(method, ttrpc::Code::INTERNAL, error.to_string())
        };
        let payload = request.write_to_bytes().map_err(unreadable)?;
        let answer = self.request(self.task.service, method, payload, allowed).await?;
        A::parse_from_bytes(&answer).map_err(unreadable)
    }

    pub(super) async fn own_call<A: DeserializeOwned>(
        &self,
        method: &'static str,
        request: &impl Serialize,
        allowed: Option<Duration>,
    ) -> Result<A, RuntimeError> {
        let json = |source| RuntimeError::Json { what: format!("{method} of {}", self.task.object), source };
        let payload = serde_json::to_vec(request).map_err(json)?;
        let answer = self.request(SERVICE, method, payload, allowed).await?;
        serde_json::from_slice(&answer).map_err(json)
    }

    async fn request(
        &self,
        service: &str,
        method: &'static str,
        payload: Vec<u8>,
        allowed: Option<Duration>,
    ) -> Result<Vec<u8>, RuntimeError> {
        let mut request = ttrpc::Request::new();
        request.service = service.to_owned();
        request.method = method.to_owned();
        request.payload = payload;
        // Told to the shim as well, a little longer, so that the time-out is always ours to report.
        request.timeout_nano =
            allowed.and_then(|time| i64::try_from((time + Duration::from_secs(1)).as_nanos()).ok()).unwrap_or(0);
        let call = self.client.request(request);
        let answer = match allowed {
            Some(after) => timeout(after, call).await.map_err(|_| RuntimeError::TimedOut {
                object: self.task.object.clone(),
                what: method,
                after,
            })?,
            None => call.await,
        };
        match answer {
            Ok(answer) => Ok(answer.payload),
            Err(ttrpc::Error::RpcStatus(status)) => {
                Err(self.refused(method, status.code.enum_value_or(ttrpc::Code::UNKNOWN), status.message))
            }
            Err(error) => {
                Err(RuntimeError::Gone { object: self.task.object.clone(), call: method, reason: error.to_string() })
            }
        }
    }

    fn refused(&self, call: &'static str, code: ttrpc::Code, message: String) -> RuntimeError {
        RuntimeError::Refused { object: self.task.object.clone(), call, code, message }
    }
}

impl std::fmt::Debug for ShimClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShimClient").field("task", &self.task.object).finish_non_exhaustive()
    }
}

/// Connects to a path of any length: a longer one is reached through a descriptor of its directory.
async fn dial(socket: &Path) -> std::io::Result<UnixStream> {
    if socket.as_os_str().len() <= MAX_SOCKET_PATH {
        return UnixStream::connect(socket).await;
    }
    let (Some(directory), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let directory = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&directory);
    UnixStream::connect(Path::new("/proc/self/fd").join(descriptor.to_string()).join(name)).await
}

/// The state a shim last wrote, read without asking it; `None` when there is none or it is not whole.
pub fn read_state(bundle: &Path) -> Option<TaskState> {
    serde_json::from_slice(&std::fs::read(bundle.join(STATE_FILE)).ok()?).ok()
}

/// Whether a shim of ours lives: it holds the lock on its lock file until it ends, however it ends.
pub fn shim_alive(bundle: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(bundle.join(LOCK_FILE), flags, Mode::empty()) else { return false };
    // Shared, so that two probes do not see each other. The lock goes with the descriptor.
    rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// Namespace and id of a bundle, which are the last two parts of its path.
pub(super) fn names(bundle: &Path) -> (String, String) {
    let mut parts =
        bundle.components().rev().map(|part| String::from_utf8_lossy(part.as_os_str().as_bytes()).into_owned());
    let id = parts.next().unwrap_or_default();
    (parts.next().unwrap_or_default(), id)
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn wire_mount(mount: &RootMount) -> api::Mount {
    let mut wire = api::Mount::new();
    wire.type_.clone_from(&mount.kind);
    wire.source.clone_from(&mount.source);
    wire.options.clone_from(&mount.options);
    wire
}

fn wire_options(options: &RuncOptions) -> Result<Any, RuntimeError> {
    let mut wire = Options::new();
    wire.binary_name = shown(&options.binary);
    wire.root = shown(&options.root);
    wire.systemd_cgroup = options.systemd_cgroup;
    let mut any = Any::new();
    any.type_url = "containerd.runc.v1.Options".to_owned();
    any.value = wire
        .write_to_bytes()
        .map_err(|error| RuntimeError::io("encoding options for", &options.binary, std::io::Error::other(error)))?;
    Ok(any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::Instant;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixListener;

    // What is closed here may stay open for a moment in a child that another test forks and that has not reached
    // `execve` yet: so these look until it is closed.

    fn bundle() -> (tempfile::TempDir, PathBuf) {
        let state = tempfile::tempdir().unwrap();
        let bundle = state.path().join("tasks/shop/web");
        std::fs::create_dir_all(&bundle).unwrap();
        (state, bundle)
    }

    #[tokio::test]
    async fn a_silent_shim_is_late_and_a_closing_one_is_gone() {
        let (_state, bundle) = bundle();
        let listener = UnixListener::bind(bundle.join(SOCKET_FILE)).unwrap();
        let client = ShimClient::connect(&bundle).await.unwrap();
        let (mut silent, _) = listener.accept().await.unwrap();
        let after = Duration::from_millis(20);
        let error = client.request("x", "State", vec![], Some(after)).await.unwrap_err();
        assert_eq!(error.to_string(), "State of shop/web took longer than 20ms");
        assert!(!error.shim_is_gone());
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.wait().await }
        });
        // Both requests arrive before the shim goes.
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("Wait") {
            silent.read_buf(&mut seen).await.unwrap();
        }
        drop(silent);
        assert!(waiting.await.unwrap().unwrap_err().shim_is_gone());
        assert!(client.state().await.unwrap_err().shim_is_gone());
        drop(listener);
        // The socket of a dead shim is still there, and nobody behind it.
        let deadline = Instant::now() + Duration::from_secs(5);
        let error = loop {
            match ShimClient::connect(&bundle).await {
                Err(error) => break error,
                Ok(_) => assert!(Instant::now() < deadline),
            }
        };
        assert!(error.shim_is_gone());
    }

    #[test]
    fn the_lock_tells_whether_a_shim_lives() {
        let (_state, bundle) = bundle();
        assert!(!shim_alive(&bundle));
        let file = File::create(bundle.join(LOCK_FILE)).unwrap();
        assert!(!shim_alive(&bundle));
        rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
        assert!(shim_alive(&bundle));
        assert!(shim_alive(&bundle));
        drop(file);
        let deadline = Instant::now() + Duration::from_secs(5);
        while shim_alive(&bundle) {
            assert!(Instant::now() < deadline);
        }
    }

    #[test]
    fn a_state_that_is_not_whole_is_none() {
        let (_state, bundle) = bundle();
        assert_eq!(read_state(&bundle), None);
        std::fs::write(bundle.join(STATE_FILE), "{\"seq\": 1").unwrap();
        assert_eq!(read_state(&bundle), None);
    }
}
