//! The first thing at a start: adopt what lives, clean up what does not, remove orphans of ours.
//!
//! Ours is what stands under our own directories and our own cgroup parent; nothing else is looked at.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Class, Result};
use crate::manifest::RestartPolicy;
use crate::runtime::{Bundle, ForeignTask, ShimClient, cgroup};
use crate::shim::protocol::{Exit, TaskPhase, TaskState};
use crate::store::{ContainerRecord, EventType};

use super::container::{container_key, is_supervised};
use super::memory::ContainerKey;
use super::{Engine, lock_of};

impl Engine {
    /// Adopts every task whose shim lives, and clears away what is left of the others.
    pub(super) async fn adopt(self: &Arc<Self>) {
        let known: HashSet<ContainerKey> = self.memory.read().containers.keys().cloned().collect();
        let mut work = Vec::new();
        for bundle in Bundle::list(&self.config().state).unwrap_or_default() {
            let id = (bundle.namespace().to_owned(), bundle.id().to_owned());
            let path = bundle.path().to_owned();
            let engine = Arc::clone(self);
            let is_known = known.contains(&id);
            work.push(tokio::spawn(async move {
                if is_known && crate::runtime::foreign::is_foreign(&path) {
                    return engine.adopt_foreign(&id, &bundle).await;
                }
                // What a shim that has said nothing yet is at, or that nobody knows of, is not ours to go on with.
                let is_made = crate::runtime::read_state(&path).is_some();
                if !is_known || (!is_made && crate::runtime::shim_alive(&path)) {
                    if let Err(fault) = engine.end_stranger(&bundle).await {
                        engine.event(&container_key(&id), EventType::Warning, "CleanUpFailed", fault.message);
                    }
                    return;
                }
                if crate::runtime::shim_alive(&path) {
                    match engine.adopt_or_end(&id, &path).await {
                        Ok(Some(state)) => {
                            engine.adopted(&id, &state);
                            return;
                        }
                        Ok(None) => {}
                        Err(fault) => {
                            engine.event(&container_key(&id), EventType::Warning, "ShimLost", fault.message);
                        }
                    }
                }
                engine.clear_after_shim(&id, crate::runtime::read_state(&path)).await;
            }));
        }
        for task in work {
            if let Err(error) = task.await {
                tracing::error!(%error, "adoption");
            }
        }
        self.sweep().await;
        self.finish_wishes().await;
    }

    /// Adopts the task of another runtime's shim: one that runs, one whose exit nobody saw, one that is to start again.
    async fn adopt_foreign(self: &Arc<Self>, id: &ContainerKey, bundle: &Bundle) {
        let warn = |message: String| self.event(&container_key(id), EventType::Warning, "ShimLost", message);
        let state = crate::runtime::read_state(bundle.path());
        let Some(known) = state.clone() else {
            // Its start lost its daemon.
            if let Err(fault) = self.end_stranger(bundle).await {
                self.event(&container_key(id), EventType::Warning, "CleanUpFailed", fault.message);
            }
            return;
        };
        match ForeignTask::adopt(bundle, known).await {
            Ok(Some(task)) => match self.adopt_task(id, task).await {
                Ok(state) => {
                    self.adopted(id, &state);
                    if !is_supervised(&state) && state.phase != TaskPhase::Created {
                        // Here and now: without a daemon, this process may end before anybody else comes to it.
                        self.collect(id).await;
                    }
                    return;
                }
                Err(fault) => warn(fault.message),
            },
            Ok(None) => warn("its shim is gone".to_owned()),
            Err(error) => warn(error.to_string()),
        }
        self.clear_after_shim(id, state).await;
    }

    /// Adopts the task of a living shim. A shim whose task is deleted is ended: `None`.
    async fn adopt_or_end(self: &Arc<Self>, id: &ContainerKey, bundle: &Path) -> Result<Option<TaskState>> {
        let client = ShimClient::connect(bundle).await?;
        match self.adopt_task(id, client.clone()).await {
            // Whoever deleted the task ended before the shim was told to shut down.
            Err(fault) if fault.class == Class::NotFound => {
                client.shutdown().await?;
                Ok(None)
            }
            adopted => adopted.map(Some),
        }
    }

    /// What a person wanted and a crash kept from being done: to be removed after its end, to be stopped.
    async fn finish_wishes(self: &Arc<Self>) {
        let records: Vec<ContainerRecord> = self.memory.read().containers.values().cloned().collect();
        for record in records {
            let id = (record.namespace.clone(), record.name.clone());
            let supervised = self.task(&id).is_some_and(|state| is_supervised(&state));
            let done = if record.stopped_by_hand && supervised {
                self.stop_by_hand(&id, None).await
            } else if record.auto_remove && !record.stopped_by_hand && self.task(&id).is_none() {
                self.forget_container(&id, &record).await
            } else {
                Ok(())
            };
            if let Err(fault) = done {
                self.event(&container_key(&id), EventType::Warning, "CleanUpFailed", fault.message);
            }
        }
    }

    /// What the crash of a start may have kept from the record.
    fn adopted(&self, id: &ContainerKey, state: &TaskState) {
        if state.phase != TaskPhase::Created
            && let Err(fault) = self.change(id, ContainerRecord::begun)
        {
            tracing::error!(%fault, "an adopted task could not be recorded");
        }
    }

    /// After a shim that died: its processes are ended, its mounts and cgroups go, its last words are kept.
    pub(super) async fn clear_after_shim(self: &Arc<Self>, id: &ContainerKey, state: Option<TaskState>) {
        let record = self.memory.read().containers.get(id).cloned();
        let was_started = state.as_ref().is_some_and(|state| state.phase != TaskPhase::Created);
        let last = record.as_ref().zip(state).map(|(record, state)| last_words(record, state));
        if let (Some(record), Some(last)) = (&record, &last) {
            let result = self.change(id, |own| {
                own.started = record.started || was_started;
                own.ended(last.clone());
            });
            if let Err(fault) = result {
                tracing::error!(%fault, "a lost task could not be recorded");
            }
        }
        // From here on the record speaks for it, and whoever looks sees one or the other.
        drop(lock_of(&self.tasks).remove(id));
        let cleared = match self.bundle(id) {
            Ok(bundle) => self.clear_bundle(&bundle, None).await,
            Err(fault) => Err(fault),
        };
        let cleared = match (cleared, record, last) {
            // The one that was to remove itself at its end does so at this one.
            (Ok(()), Some(mut record), Some(last)) if record.auto_remove && last.phase == TaskPhase::Exited => {
                record.ended(last);
                self.forget_container(id, &record).await
            }
            (cleared, ..) => cleared,
        };
        if let Err(fault) = cleared {
            self.event(&container_key(id), EventType::Warning, "CleanUpFailed", fault.message);
        }
    }

    /// Network namespaces, cgroups and writable snapshots of ours that belong to no container, pipes of no process.
    async fn sweep(self: &Arc<Self>) {
        let running: HashSet<ContainerKey> = lock_of(&self.tasks).keys().cloned().collect();
        let engine = Arc::clone(self);
        let swept = tokio::task::spawn_blocking(move || {
            crate::fifos::sweep(&engine.config().state);
            for id in crate::network::list(&engine.config().state).unwrap_or_default() {
                if !running.contains(&id)
                    && let Err(error) = crate::network::remove(&engine.config().state, &id.0, &id.1)
                {
                    tracing::warn!(%error, "an orphaned network namespace stays");
                }
            }
            let driver = engine.cgroup_driver();
            if let Ok(parent) = cgroup::CgroupParent::new(&engine.config().cgroup_parent()) {
                for path in cgroup::leftovers(&engine.host, driver, &parent) {
                    let id = (path.namespace().to_owned(), path.id().to_owned());
                    if !running.contains(&id)
                        && let Err(error) = cgroup::remove(&engine.host, driver, &path)
                    {
                        tracing::warn!(%error, "an orphaned cgroup stays");
                    }
                }
                cgroup::prune(&engine.host, driver, &parent, &engine.namespaces_in_use());
            }
            let uids: HashSet<String> = {
                let records = engine.memory.read();
                records.containers.values().map(|r| format!("{}/{}", r.namespace, r.uid)).collect()
            };
            for key in engine.snapshots.keys().unwrap_or_default() {
                if !uids.contains(&key)
                    && let Err(error) = engine.snapshots.remove(&key)
                {
                    tracing::warn!(%error, "an orphaned snapshot stays");
                }
            }
        })
        .await;
        if let Err(error) = swept {
            tracing::error!(%error, "the sweep at start");
        }
    }
}

/// What is known of a task whose shim died. A final state is the end. An attempt that ran ends by the SIGKILL that the
/// clean-up sends to what is left; its restarts outlive that, and without any it is the end.
fn last_words(record: &ContainerRecord, mut state: TaskState) -> TaskState {
    let is_final = match state.phase {
        TaskPhase::Exited | TaskPhase::Stopped => true,
        TaskPhase::Failed => state.next_start.is_none(),
        TaskPhase::Created | TaskPhase::Running | TaskPhase::BackOff => false,
    };
    let never = record.resource.container().is_some_and(|spec| spec.restart == RestartPolicy::Never);
    if is_final {
        return state;
    }
    let ran = state.phase == TaskPhase::Running;
    if ran {
        state.ended(Exit { code: 137, signal: Some(9), oom_killed: false, at: jiff::Timestamp::now() });
        state.reason = Some("its shim died, and its processes were ended".to_owned());
    }
    let phase = if ran && never { TaskPhase::Exited } else { TaskPhase::BackOff };
    TaskState { phase, pid: None, ..state }
}
