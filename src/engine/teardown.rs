//! Taking down: the end of a task, and of everything that was made for it.
//!
//! Every step is idempotent and may meet the leftovers of a crash: a dead shim's processes, mounts and runc
//! state, a pinned network namespace, a cgroup. The record goes last, by the caller.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Class, Fault, Result};
use crate::runtime::{Bundle, RuntimeError, ShimClient, Supervisor, cgroup, foreign};
use crate::shim::protocol::{Exit, TaskPhase, TaskState};
use crate::store::{ContainerRecord, EventType};

use super::container::{container_key, container_spec, snapshot_key};
use super::memory::ContainerKey;
use super::{Engine, lock_of};

/// What ends whatever nobody knows.
const SIGKILL: i32 = 9;

impl Engine {
    /// Ends the task if there is one, and clears away shim, bundle and network namespace. Idempotent.
    /// The container's record and its files stay; its last state is for whoever keeps it.
    pub(super) async fn take_down(
        self: &Arc<Self>,
        id: &ContainerKey,
        record: &ContainerRecord,
    ) -> Result<Option<TaskState>> {
        let state = self.end_task(id, record, None, |_| Ok(())).await?;
        if let Some(state) = &state {
            tracing::debug!(container = %container_key(id), phase = ?state.phase, "task is down");
        }
        Ok(state)
    }

    /// Ends the task and gives its last state. `keep` is handed that state while its bundle, which tells it too, is still
    /// there: a crash takes no exit away.
    pub(super) async fn end_task(
        self: &Arc<Self>,
        id: &ContainerKey,
        record: &ContainerRecord,
        grace: Option<Duration>,
        keep: impl FnOnce(&TaskState) -> Result<()>,
    ) -> Result<Option<TaskState>> {
        let bundle = self.bundle(id)?;
        let path = bundle.path();
        let task = lock_of(&self.tasks).get(id).map(|task| (task.supervisor.clone(), task.state.clone()));
        let mut last = task.as_ref().map(|(_, state)| state.clone()).or_else(|| crate::runtime::read_state(path));
        let supervisor = match task {
            Some((supervisor, _)) => Some(supervisor),
            None => living_shim(path).await.map(Supervisor::from),
        };
        if let Some(supervisor) = supervisor {
            let spec = container_spec(&record.resource)?;
            let grace = grace.unwrap_or(Duration::from_secs(u64::from(spec.termination_grace_period_seconds)));
            let signal = self.stop_signal(record, spec);
            let has_ended = last.as_ref().is_some_and(|state| state.phase == TaskPhase::Exited);
            let ended = async {
                if has_ended && let Supervisor::Own(client) = &supervisor {
                    // Nothing to wait for.
                    return tokio::try_join!(client.shim_pid(), end_shim(client)).map(drop);
                }
                if let Some(client) = supervisor.client() {
                    // A shim answers this from memory; one that does not is not asked for what may take minutes.
                    client.shim_pid().await?;
                }
                if last.as_ref().is_some_and(|state| state.paused)
                    && let Err(error) = supervisor.resume().await
                {
                    // The shim thaws it as well when it kills.
                    tracing::debug!(container = %container_key(id), %error, "thawing");
                }
                // The end of another runtime's shim is part of its stop, also where that has nothing else to do.
                if !has_ended || supervisor.is_foreign() {
                    match supervisor.stop(signal, grace).await {
                        Ok(state) => last = Some(state),
                        Err(error) if error.is_late() => return Err(error),
                        // A shim that dies while it stops its container is cleaned up after like any dead one.
                        Err(error) => {
                            tracing::warn!(container = %container_key(id), %error, "its shim did not stop it");
                        }
                    }
                }
                match &supervisor {
                    Supervisor::Own(client) => end_shim(client).await,
                    Supervisor::Foreign(_) => Ok(()),
                }
            }
            .await;
            if let Err(error) = ended
                && error.is_late()
                && self.end_wedged(id, path).await
            {
                last = last.map(killed_with_its_shim);
            }
        }
        // A shim that died meanwhile may have written what it told nobody; what it left running is ended now.
        let written = crate::runtime::read_state(path);
        let newer = |written: &TaskState| last.as_ref().is_some_and(|last| last.seq < written.seq);
        let last = written.filter(newer).or(last).map(|state| match state.phase {
            TaskPhase::Running => killed_with_its_shim(state),
            _ => state,
        });
        if let Some(last) = &last {
            keep(last)?;
        }
        if let Some(task) = lock_of(&self.tasks).remove(id) {
            task.forget();
        }
        self.clear_bundle(&bundle, last.as_ref().map(|state| state.shim_pid)).await?;
        Ok(last)
    }

    /// Ends a task that nobody has a record of, shim and all.
    pub(super) async fn end_stranger(self: &Arc<Self>, bundle: &Bundle) -> Result<()> {
        if let Some(client) = living_shim(bundle.path()).await {
            let ended = async {
                client.shim_pid().await?;
                if let Err(error) = client.stop(SIGKILL, Duration::ZERO).await {
                    tracing::debug!(bundle = %bundle.path().display(), %error, "stop");
                }
                end_shim(&client).await
            }
            .await;
            if ended.is_err_and(|error| error.is_late()) {
                let id = (bundle.namespace().to_owned(), bundle.id().to_owned());
                self.end_wedged(&id, bundle.path()).await;
            }
        }
        self.clear_bundle(bundle, None).await
    }

    /// Kills a shim that does not answer. What it leaves is cleared away as after any dead one.
    async fn end_wedged(self: &Arc<Self>, id: &ContainerKey, bundle: &Path) -> bool {
        // Its follower would take the end for a surprise.
        if let Some(task) = lock_of(&self.tasks).remove(id) {
            task.forget();
        }
        let killed = if foreign::is_foreign(bundle) {
            foreign::kill_shim(bundle).await
        } else {
            let (bundle, shim) = (bundle.to_owned(), self.config().shim_path());
            let killed = tokio::task::spawn_blocking(move || crate::runtime::kill_shim(&bundle, &shim)).await;
            killed.unwrap_or(false)
        };
        if killed {
            let message = "its shim did not answer and was killed".to_owned();
            self.event(&container_key(id), EventType::Warning, "ShimKilled", message);
        }
        killed
    }

    /// What is left when a task has no shim any more: processes, mounts, runc's state, the bundle, the
    /// network namespace, the cgroup. Idempotent. `shim` is the process that was told to go.
    pub(super) async fn clear_bundle(self: &Arc<Self>, bundle: &Bundle, shim: Option<u32>) -> Result<()> {
        if foreign::is_foreign(bundle.path()) {
            foreign::clear(bundle.path()).await.map_err(Fault::from)?;
        } else if bundle.exists() {
            wait_for_shim(bundle.path(), shim).await;
            if !is_clean(bundle.path()) {
                crate::runtime::cleanup(&self.config().shim_path(), bundle.path(), &self.config().address())
                    .await
                    .map_err(Fault::from)?;
            }
        }
        let engine = Arc::clone(self);
        let bundle = bundle.clone();
        tokio::task::spawn_blocking(move || {
            bundle.remove().map_err(Fault::from)?;
            let (namespace, name) = (bundle.namespace(), bundle.id());
            crate::network::remove(&engine.config().state, namespace, name).map_err(Fault::from)?;
            let path = engine.cgroup_path(namespace, name)?;
            cgroup::remove(&engine.host, engine.cgroup_driver(), &path).map_err(Fault::from)?;
            let _ = std::fs::remove_dir_all(engine.runtime_root(namespace).join(name));
            Ok(())
        })
        .await
        .map_err(|error| Fault::new(Class::Bug, error.to_string()))?
    }

    /// The writable snapshot and the logs.
    pub(super) async fn remove_data(self: &Arc<Self>, id: &ContainerKey, record: &ContainerRecord) -> Result<()> {
        let engine = Arc::clone(self);
        let key = snapshot_key(record);
        let logs = self.log_dir(id);
        tokio::task::spawn_blocking(move || {
            engine.snapshots.remove(&key).map_err(Fault::from)?;
            match std::fs::remove_dir_all(&logs) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(Fault::new(Class::Runtime, format!("logs {}: {error}", logs.display())));
                }
            }
            Ok(())
        })
        .await
        .map_err(|error| Fault::new(Class::Bug, error.to_string()))?
    }

    /// Namespaces that have containers: a start under way may be about to use their cgroups.
    pub(super) fn namespaces_in_use(&self) -> BTreeSet<String> {
        self.memory.read().containers.keys().map(|(namespace, _)| namespace.clone()).collect()
    }

    /// Directories and cgroups of a namespace in which nothing is left.
    pub(super) fn remove_empty_directories(&self, namespace: &str) {
        let _ = std::fs::remove_dir(self.config().state.join("tasks").join(namespace));
        let _ = std::fs::remove_dir(self.runtime_root(namespace));
        let _ = std::fs::remove_dir(self.config().log_dir().join(namespace));
        if let Ok(parent) = cgroup::CgroupParent::new(&self.config().cgroup_parent()) {
            cgroup::prune(&self.host, self.cgroup_driver(), &parent, &self.namespaces_in_use());
        }
    }
}

/// Deletes the task, and ends its shim. Only the silence of the shim is a failure: what is left is cleared away.
async fn end_shim(client: &ShimClient) -> std::result::Result<(), RuntimeError> {
    match client.delete().await {
        Err(error) if error.is_late() => return Err(error),
        Err(error) => tracing::debug!(%error, "delete"),
        Ok(_) => {}
    }
    client.shutdown().await
}

/// The last state of a task whose shim died or was killed: what is left of it is killed next.
fn killed_with_its_shim(mut state: TaskState) -> TaskState {
    if matches!(state.phase, TaskPhase::Exited | TaskPhase::Stopped) {
        return state;
    }
    if state.pid.is_some() {
        state.ended(Exit { code: 137, signal: Some(SIGKILL), oom_killed: false, at: jiff::Timestamp::now() });
    }
    let reason = Some("its shim did not answer and was killed".to_owned());
    TaskState { phase: TaskPhase::Stopped, pid: None, next_start: None, reason, ..state }
}

/// The shim of a bundle, if one lives and answers.
async fn living_shim(bundle: &Path) -> Option<ShimClient> {
    if crate::runtime::shim_alive(bundle) { ShimClient::connect(bundle).await.ok() } else { None }
}

/// How long a shim that was told to shut down may take.
const SHIM_PATIENCE: Duration = Duration::from_secs(1);

/// A shim that was told to shut down needs a moment; one that is gone needs none. The kernel says when its
/// process ends; its lock, which no other process can take over, says that it did.
async fn wait_for_shim(bundle: &Path, shim: Option<u32>) {
    if !crate::runtime::shim_alive(bundle) {
        return;
    }
    let bundle = bundle.to_owned();
    let waiting = tokio::task::spawn_blocking(move || {
        let until = Instant::now() + SHIM_PATIENCE;
        let pid = shim.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        while crate::runtime::shim_alive(&bundle) && Instant::now() < until {
            // Should the number be another process's by now, the lock is looked at again soon.
            let patience = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            match &process {
                Some(process) => drop(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience))),
                None => std::thread::sleep(Duration::from_micros(500)),
            }
        }
    });
    let _ = waiting.await;
}

/// Whether the shim left in order: it deleted its container, so there is nothing to clean up.
fn is_clean(bundle: &Path) -> bool {
    !bundle.join(crate::shim::protocol::LOCK_FILE).exists()
}
