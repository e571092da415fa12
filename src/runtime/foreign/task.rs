//! The handle of a task that the daemon looks after: it answers what our own shim would.

use std::path::Path;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::supervise::Supervisor;
use super::{ForeignShim, finish};
use crate::runtime::{Bundle, RuntimeError, ShimClient, TaskStatus, read_state};
use crate::shim::protocol::{Supervision, TaskPhase, TaskState};

/// What is known of a task, and who answers the Task API for it.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) state: TaskState,
    pub(super) client: Option<ShimClient>,
}

/// What is wanted of it.
pub(super) enum Wish {
    /// Read the supervision file again.
    Reload(oneshot::Sender<Result<(), RuntimeError>>),
    /// Freeze its processes, or let them go on.
    Freeze(bool, oneshot::Sender<Result<(), RuntimeError>>),
    /// The end for good: signal, grace.
    Stop(i32, Duration, oneshot::Sender<TaskState>),
}

/// See the module. Clones share the task; when the last one goes, nobody looks after it any more, and it runs on.
#[derive(Clone)]
pub struct ForeignTask {
    object: String,
    seen: watch::Receiver<Seen>,
    wishes: mpsc::Sender<Wish>,
}

impl ForeignTask {
    /// Starts the task of a bundle in which everything is written: the shim, its process, its program. Given up halfway,
    /// it leaves what [`super::clear`] takes away.
    pub async fn start(bundle: &Bundle) -> Result<Self, RuntimeError> {
        let (shim, supervision) = read(bundle)?;
        let path = bundle.path();
        let attempt = supervision.first_attempt;
        let (client, pid) = shim.create(path, &supervision, attempt).await?;
        let state = TaskState {
            seq: read_state(path).map_or(0, |before| before.seq),
            phase: TaskPhase::Created,
            shim_pid: client.shim_pid().await.unwrap_or_default(),
            pid: Some(pid),
            attempt,
            restarts: supervision.restarts,
            started: None,
            exit: None,
            exits: Vec::new(),
            next_start: None,
            reason: None,
            stop_requested: false,
            paused: false,
            oom_kills: 0,
            dropped_lines: 0,
        };
        let mut supervisor = Supervisor::new(bundle, shim, supervision, state);
        supervisor.keep(false);
        client.start().await?;
        supervisor.runs(client);
        Ok(Self::spawn(bundle, supervisor))
    }

    /// Goes on with the task of a bundle. `None`: it ran, and its shim is dead.
    pub async fn adopt(bundle: &Bundle, state: TaskState) -> Result<Option<Self>, RuntimeError> {
        let (shim, supervision) = read(bundle)?;
        let path = bundle.path();
        let phase = state.phase;
        let mut supervisor = Supervisor::new(bundle, shim.clone(), supervision, state);
        let lives = match phase {
            TaskPhase::Created | TaskPhase::Running => true,
            // Its restart was under way.
            TaskPhase::BackOff | TaskPhase::Failed => supervisor.is_restarting(),
            TaskPhase::Exited | TaskPhase::Stopped => false,
        };
        if !lives {
            // It has ended, but perhaps not its shim.
            settle(path, &shim).await;
            return Ok(Some(Self::spawn(bundle, supervisor)));
        }
        let found = match ShimClient::connect(path).await {
            Ok(client) => client.state().await.map(|info| (client, info)),
            Err(error) => Err(error),
        };
        match found {
            Ok((client, info)) => match info.status {
                TaskStatus::Running | TaskStatus::Paused if phase == TaskPhase::Running => {
                    supervisor.goes_on(client, &info)
                }
                TaskStatus::Running | TaskStatus::Paused => supervisor.runs_as(client, info.pid),
                TaskStatus::Created if phase == TaskPhase::Created => supervisor.goes_on(client, &info),
                TaskStatus::Stopped if phase == TaskPhase::Running => {
                    supervisor.goes_on(client, &info);
                    supervisor.exited(info.exit).await;
                }
                _ if phase == TaskPhase::Running || phase == TaskPhase::Created => return Ok(None),
                _ => supervisor.begins_again(path).await?,
            },
            Err(error) if error.is_late() => return Err(error),
            Err(_) if phase == TaskPhase::Running || phase == TaskPhase::Created => return Ok(None),
            Err(_) => supervisor.begins_again(path).await?,
        }
        Ok(Some(Self::spawn(bundle, supervisor)))
    }

    fn spawn(bundle: &Bundle, mut supervisor: Supervisor) -> Self {
        let object = format!("{}/{}", bundle.namespace(), bundle.id());
        let (seen, wishes) = supervisor.open();
        tokio::spawn(supervisor.run());
        Self { object, seen, wishes }
    }

    /// The first state later than `since`, waited for as long as it takes.
    ///
    /// # Errors
    /// [`RuntimeError::Gone`] when the task's shim has died.
    pub async fn watch(&self, since: u64) -> Result<TaskState, RuntimeError> {
        let mut seen = self.seen.clone();
        let later = seen.wait_for(|seen| seen.state.seq > since).await;
        later.map(|seen| seen.state.clone()).map_err(|_| self.gone("Wait"))
    }

    /// Has the supervision file read again.
    pub async fn reload(&self) -> Result<(), RuntimeError> {
        self.ask("Reload", Wish::Reload).await?
    }

    /// Freezes every process of the container (`true`), or lets them go on.
    pub async fn freeze(&self, freeze: bool) -> Result<(), RuntimeError> {
        self.ask("Pause", |reply| Wish::Freeze(freeze, reply)).await?
    }

    /// Ends the container for good: `signal`, after `grace` SIGKILL to everything; deletes its task and ends its shim.
    pub async fn stop(&self, signal: i32, grace: Duration) -> Result<TaskState, RuntimeError> {
        self.ask("Stop", |reply| Wish::Stop(signal, grace, reply)).await
    }

    /// The container's process, while it lives.
    pub fn pid(&self) -> Option<u32> {
        self.seen.borrow().state.pid
    }

    /// Who answers the Task API, while there is a shim.
    pub fn client(&self) -> Option<ShimClient> {
        self.seen.borrow().client.clone()
    }

    async fn ask<A>(
        &self,
        what: &'static str,
        wish: impl FnOnce(oneshot::Sender<A>) -> Wish,
    ) -> Result<A, RuntimeError> {
        let (reply, answer) = oneshot::channel();
        self.wishes.send(wish(reply)).await.map_err(|_| self.gone(what))?;
        answer.await.map_err(|_| self.gone(what))
    }

    fn gone(&self, call: &'static str) -> RuntimeError {
        RuntimeError::Gone { object: self.object.clone(), call, reason: "the connection ended".to_owned() }
    }
}

/// A shim whose task has ended is ended, if it is still there.
async fn settle(path: &Path, shim: &ForeignShim) {
    if let Ok(client) = ShimClient::connect(path).await {
        finish(path, shim, &client).await;
    }
}

fn read(bundle: &Bundle) -> Result<(ForeignShim, Supervision), RuntimeError> {
    let missing = |file: &str| {
        RuntimeError::io("reading", bundle.path().join(file), std::io::Error::from(std::io::ErrorKind::NotFound))
    };
    let shim = ForeignShim::read(bundle.path())?.ok_or_else(|| missing(super::FOREIGN_FILE))?;
    let supervision = bundle.read_supervision()?.ok_or_else(|| missing(crate::shim::protocol::SUPERVISION_FILE))?;
    Ok((shim, supervision))
}
