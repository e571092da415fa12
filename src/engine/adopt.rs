//! The first thing at a start: adopt what lives, clean up what does not, remove orphans of ours.
//!
//! Ours is what stands under our own directories and our own cgroup parent; nothing else is looked at.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Class, Result};
use crate::runtime::{Bundle, ShimClient, cgroup};
use crate::shim::protocol::{TaskPhase, TaskState};
use crate::store::{ContainerRecord, EventType};

use super::container::{container_key, is_supervised};
use super::memory::ContainerKey;
use super::{Engine, lock_of};

impl Engine {
    /// Adopts every task whose shim lives, and clears away what is left of the others.
    pub(super) async fn adopt(self: &Arc<Self>) {
        let known: HashSet<ContainerKey> = self.memory.read().containers.keys().cloned().collect();
        let mut work = Vec::new();
        for bundle in Bundle::list(&self.config.state).unwrap_or_default() {
            let id = (bundle.namespace().to_owned(), bundle.id().to_owned());
            let path = bundle.path().to_owned();
            let engine = Arc::clone(self);
            let is_known = known.contains(&id);
            work.push(tokio::spawn(async move {
                if crate::runtime::shim_alive(&path) {
                    match engine.adopt_or_end(&id, &path, is_known).await {
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

    /// Adopts the task of a living shim. A shim without a task, and one whose container no record knows, is ended:
    /// `None`.
    async fn adopt_or_end(
        self: &Arc<Self>,
        id: &ContainerKey,
        bundle: &Path,
        is_known: bool,
    ) -> Result<Option<TaskState>> {
        let client = ShimClient::connect(bundle).await?;
        if is_known {
            match self.adopt_task(id, client.clone()).await {
                // Whoever deleted the task ended before the shim was told to shut down.
                Err(fault) if fault.class == Class::NotFound => {}
                adopted => return adopted.map(Some),
            }
        } else {
            // Without a task these two are refused.
            if let Err(error) = client.stop(rustix::process::Signal::KILL.as_raw(), Duration::ZERO).await {
                tracing::debug!(container = %container_key(id), %error, "the end of an orphan");
            }
            if let Err(error) = client.delete().await {
                tracing::debug!(container = %container_key(id), %error, "the end of an orphan");
            }
        }
        client.shutdown().await?;
        Ok(None)
    }

    /// What a person wanted and a crash kept from being done: to be removed after its end, to be stopped.
    async fn finish_wishes(self: &Arc<Self>) {
        let records: Vec<ContainerRecord> = self.memory.read().containers.values().cloned().collect();
        for record in records {
            let id = (record.namespace.clone(), record.name.clone());
            let supervised = self.task(&id).is_some_and(|state| is_supervised(&state));
            let done = if record.stopped_by_hand && supervised {
                self.stop_by_hand(&id, None).await
            } else if record.auto_remove && record.started && self.task(&id).is_none() {
                self.forget_container(&id, &record, None).await
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
            && let Err(fault) = self.change(id, |record| {
                record.started = true;
                record.last = None;
            })
        {
            tracing::error!(%fault, "an adopted task could not be recorded");
        }
    }

    /// After a shim that died: its processes are ended, its mounts and cgroups go, its last words are kept.
    pub(super) async fn clear_after_shim(self: &Arc<Self>, id: &ContainerKey, state: Option<TaskState>) {
        let record = self.memory.read().containers.get(id).cloned();
        if let (Some(record), Some(state)) = (&record, &state) {
            // A final state is the end; another one is a task that was lost, which its restarts outlive.
            let result = self.change(id, |own| {
                own.started = record.started || state.phase != TaskPhase::Created;
                own.last = match state.phase {
                    TaskPhase::Exited | TaskPhase::Stopped => Some(state.clone()),
                    TaskPhase::Failed if state.next_start.is_none() => Some(state.clone()),
                    _ => Some(TaskState { phase: TaskPhase::BackOff, pid: None, ..state.clone() }),
                };
            });
            if let Err(fault) = result {
                tracing::error!(%fault, "a lost task could not be recorded");
            }
        }
        let cleared = match self.bundle(id) {
            Ok(bundle) => self.clear_bundle(&bundle).await,
            Err(fault) => Err(fault),
        };
        if let Err(fault) = cleared {
            self.event(&container_key(id), EventType::Warning, "CleanUpFailed", fault.message);
        }
    }

    /// Network namespaces, cgroups and writable snapshots of ours that belong to no container.
    async fn sweep(self: &Arc<Self>) {
        let running: HashSet<ContainerKey> = lock_of(&self.tasks).keys().cloned().collect();
        let engine = Arc::clone(self);
        let swept = tokio::task::spawn_blocking(move || {
            for id in crate::network::list(&engine.config.state).unwrap_or_default() {
                if !running.contains(&id)
                    && let Err(error) = crate::network::remove(&engine.config.state, &id.0, &id.1)
                {
                    tracing::warn!(%error, "an orphaned network namespace stays");
                }
            }
            let driver = engine.cgroup_driver();
            if let Ok(parent) = cgroup::CgroupParent::new(&engine.config.cgroup_parent()) {
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
