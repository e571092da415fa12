//! Follows each task through its shim: one long poll a task, no timer.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::error::{Fault, Result};
use crate::runtime::{Bundle, ForeignTask, ShimClient, Supervisor, foreign};
use crate::shim::protocol::{TaskPhase, TaskState};
use crate::store::EventType;

use super::container::{container_key, is_supervised};
use super::memory::ContainerKey;
use super::{Engine, lock_of};

/// A task that a living shim looks after.
pub struct Task {
    /// What the shim said last.
    pub state: TaskState,
    /// Which container's it is: names are given again.
    pub(super) uid: String,
    /// Who answers the Task API just now.
    pub(super) client: Option<ShimClient>,
    pub(super) supervisor: Supervisor,
    // `None` while its follower itself looks for the shim.
    follower: Option<tokio::task::JoinHandle<()>>,
    serial: u64,
}

impl Task {
    /// Ends the following, without disturbing the task.
    pub(super) fn forget(self) {
        if let Some(follower) = self.follower {
            follower.abort();
        }
    }
}

impl Engine {
    /// The last known state of a task.
    pub fn task(&self, id: &ContainerKey) -> Option<TaskState> {
        lock_of(&self.tasks).get(id).map(|task| task.state.clone())
    }

    /// The same, with the unique id of the container whose it is.
    pub fn task_of(&self, id: &ContainerKey) -> Option<(String, TaskState)> {
        lock_of(&self.tasks).get(id).map(|task| (task.uid.clone(), task.state.clone()))
    }

    /// Asks who looks after the task for its state and follows it from there on.
    pub(super) fn adopt_task<'a>(
        self: &'a Arc<Self>,
        id: &'a ContainerKey,
        supervisor: impl Into<Supervisor>,
    ) -> BoxFuture<'a, Result<TaskState>> {
        // Boxed: a follower whose connection broke adopts its task again.
        Box::pin(self.adopt_task_now(id, supervisor.into()))
    }

    async fn adopt_task_now(self: &Arc<Self>, id: &ContainerKey, supervisor: Supervisor) -> Result<TaskState> {
        let state = tokio::time::timeout(Duration::from_secs(5), supervisor.watch(0))
            .await
            .map_err(|_| {
                let message = format!("{}: its shim does not answer", container_key(id));
                Fault::new(crate::error::Class::Runtime, message)
            })?
            .map_err(Fault::from)?;
        static SERIAL: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let uid = self.memory.read().containers.get(id).map(|record| record.uid.clone()).unwrap_or_default();
        let mut tasks = lock_of(&self.tasks);
        // A weak handle: a follower must not keep the node's lock when everybody else has let go.
        let engine = Arc::downgrade(self);
        let (own, seen, watching) = (id.clone(), state.seq, supervisor.clone());
        let follower = tokio::spawn(async move {
            let mut seen = seen;
            loop {
                let next = watching.watch(seen).await;
                let Some(engine) = engine.upgrade() else { return };
                match next {
                    Ok(state) => {
                        seen = state.seq;
                        engine.task_changed(&own, serial, state, watching.client());
                    }
                    Err(error) => {
                        tracing::debug!(container = %container_key(&own), %error, "its shim is gone");
                        engine.shim_gone(&own, serial).await;
                        return;
                    }
                }
            }
        });
        let ended = !is_supervised(&state) && state.phase != TaskPhase::Created;
        let client = supervisor.client();
        let task = Task { state: state.clone(), uid, client, supervisor, follower: Some(follower), serial };
        if let Some(old) = tasks.insert(id.clone(), task) {
            old.forget();
        }
        drop(tasks);
        self.touch();
        if ended {
            self.collect_soon(id);
        }
        Ok(state)
    }

    fn task_changed(self: &Arc<Self>, id: &ContainerKey, serial: u64, state: TaskState, client: Option<ShimClient>) {
        let before = {
            let mut tasks = lock_of(&self.tasks);
            // The follower of a task before this one has nothing to say of it.
            let Some(task) = tasks.get_mut(id).filter(|task| task.serial == serial) else { return };
            task.client = client;
            std::mem::replace(&mut task.state, state.clone())
        };
        if let Some(more) = state.dropped_lines.checked_sub(before.dropped_lines).filter(|more| *more > 0) {
            let message = format!("{more} lines of its log were dropped: they could not be written");
            self.event(&container_key(id), EventType::Warning, "LogDropped", message);
        }
        if (state.phase, state.attempt) == (before.phase, before.attempt) {
            // The shim wrote down a detail; what happened was told before.
            self.touch();
            return;
        }
        let key = container_key(id);
        let exited = || match &state.exit {
            Some(exit) if exit.oom_killed => format!("killed for its memory limit (status {})", exit.code),
            Some(exit) => match exit.signal {
                Some(signal) => format!("ended by signal {signal} (status {})", exit.code),
                None => format!("ended with status {}", exit.code),
            },
            None => "ended".to_owned(),
        };
        // Told of the exit and not of the phase after it: a short back-off may be over before it is seen.
        if let Some(exit) = state.exit.as_ref().filter(|exit| exit.oom_killed && before.exit.as_ref() != Some(*exit)) {
            let message = format!("the kernel killed it at its memory limit (status {})", exit.code);
            self.event(&key, EventType::Warning, "OOMKilled", message);
        }
        match state.phase {
            TaskPhase::BackOff => {
                let reason = state.reason.clone().unwrap_or_default();
                let next = if reason.is_empty() { "restarts".to_owned() } else { reason };
                self.event(&key, EventType::Warning, "BackOff", format!("{}; {next}", exited()));
            }
            TaskPhase::Running if state.attempt != before.attempt => {
                let pid = state.pid.unwrap_or(0);
                self.event(&key, EventType::Normal, "Restarted", format!("attempt {}, process {pid}", state.attempt));
            }
            TaskPhase::Exited => {
                let failed = state.exit.as_ref().is_some_and(|exit| exit.code != 0);
                let kind = if failed { EventType::Warning } else { EventType::Normal };
                self.event(&key, kind, "Exited", exited());
            }
            TaskPhase::Failed => {
                self.event(&key, EventType::Warning, "Failed", state.reason.clone().unwrap_or_else(exited));
            }
            TaskPhase::Running | TaskPhase::Created | TaskPhase::Stopped => {}
        }
        self.touch();
        if matches!(state.phase, TaskPhase::Exited | TaskPhase::Failed) && !is_supervised(&state) {
            self.collect_soon(id);
        }
    }

    fn collect_soon(self: &Arc<Self>, id: &ContainerKey) {
        let engine = Arc::clone(self);
        let id = id.clone();
        tokio::spawn(async move { engine.collect(&id).await });
    }

    /// The connection ended. Where we ended the task ourselves, nobody is surprised; else the shim died.
    async fn shim_gone(self: &Arc<Self>, id: &ContainerKey, serial: u64) {
        let key = container_key(id);
        let _key = self.keys.lock(&key).await;
        let ours = lock_of(&self.tasks).get(id).filter(|task| task.serial == serial).map(|task| task.state.clone());
        let Some(state) = ours else { return };
        // Only the connection broke: the shim is there, and is asked again.
        if let Ok(bundle) = self.bundle(id)
            && let Some(supervisor) = self.again(bundle).await
        {
            // Not ended as others are, for its follower is who comes here.
            if let Some(task) = lock_of(&self.tasks).get_mut(id) {
                task.follower = None;
            }
            if self.adopt_task(id, supervisor).await.is_ok() {
                return;
            }
        }
        self.event(&key, EventType::Warning, "ShimLost", format!("shim {} is gone", state.shim_pid));
        // Its last words may not have reached us.
        let written = self.bundle(id).ok().and_then(|bundle| crate::runtime::read_state(bundle.path()));
        let last = written.filter(|written| written.seq > state.seq).unwrap_or(state);
        self.clear_after_shim(id, Some(last)).await;
        self.touch();
    }

    /// Who looks after the task of a bundle whose connection broke, if its shim lives.
    async fn again(&self, bundle: Bundle) -> Option<Supervisor> {
        let path = bundle.path();
        if foreign::is_foreign(path) {
            // A dead shim's socket refuses; one that is caught in something lets the time pass.
            let state = crate::runtime::read_state(path)?;
            return ForeignTask::adopt(&bundle, state).await.ok()?.map(Supervisor::from);
        }
        if !crate::runtime::shim_alive(path) {
            return None;
        }
        ShimClient::connect(path).await.ok().map(Supervisor::from)
    }
}
