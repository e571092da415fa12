//! How containers end: stopped by hand, by a signal, by themselves; and what is remembered of those that are gone.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Class, Fault, Result};
use crate::shim::protocol::{AttemptExit, TaskPhase, TaskState};
use crate::store::{ContainerRecord, EventType};

use super::container::{container_key, is_supervised, not_found};
use super::memory::ContainerKey;
use super::{Engine, lock_of};
/// Containers that are gone and whose exits are kept.
const KEPT_DEPARTED: usize = 256;

/// A container that is gone, for who asks for its exit a moment later.
#[derive(Debug, Clone)]
pub struct Departed {
    id: ContainerKey,
    /// Its unique id.
    pub uid: String,
    /// It removed itself.
    by_itself: bool,
    /// How its attempts ended, the oldest first; at least one.
    pub exits: Vec<AttemptExit>,
}

/// What no process survives.
const SIGKILL: i32 = 9;

impl Engine {
    /// Ends the task by hand and keeps it down.
    ///
    /// # Errors
    /// `NotFound` when there is no such container.
    pub async fn stop_by_hand(self: &Arc<Self>, id: &ContainerKey, grace: Option<Duration>) -> Result<()> {
        let key = container_key(id);
        let _key = self.keys.lock(&key).await;
        let Some(record) = self.memory.read().containers.get(id).cloned() else {
            return Err(not_found(id));
        };
        // The wish is durable before the signal: a crash between leaves a task that is stopped at the next start.
        self.change(id, |record| record.stopped_by_hand = true)?;
        self.end_task(id, &record, grace, |state| self.change(id, |record| record.ended(state.clone()))).await?;
        self.event(&key, EventType::Normal, "Stopped", "by hand");
        if record.auto_remove {
            let record = self.memory.read().containers.get(id).cloned().unwrap_or(record);
            self.forget_container(id, &record).await?;
        }
        self.touch();
        Ok(())
    }

    /// Sends a signal to the task's process.
    pub async fn kill(&self, id: &ContainerKey, signal: i32, all: bool) -> Result<()> {
        if !self.memory.read().containers.contains_key(id) {
            return Err(not_found(id));
        }
        let client = lock_of(&self.tasks)
            .get(id)
            .filter(|task| task.state.phase == TaskPhase::Running)
            .and_then(|task| Some((task.client.clone()?, task.state.paused)));
        match client {
            Some((client, paused)) => {
                client.kill(signal, all).await.map_err(Fault::from)?;
                if paused && signal == SIGKILL {
                    // What is frozen does not even die (cgroup v1).
                    let _ = client.resume().await;
                }
                Ok(())
            }
            None => Err(Fault::new(Class::Refused, format!("container {}/{} has no running task", id.0, id.1))
                .help(format!("start it: bayplan -n {} start {}", id.0, id.1))),
        }
    }

    /// The end of a task that ended for good: its state is kept, and the shim may go.
    pub(super) async fn collect(self: &Arc<Self>, id: &ContainerKey) {
        let key = container_key(id);
        let _key = self.keys.lock(&key).await;
        let Some(state) = lock_of(&self.tasks).get(id).map(|task| task.state.clone()) else { return };
        if is_supervised(&state) || state.phase == TaskPhase::Created {
            return;
        }
        let Some(record) = self.memory.read().containers.get(id).cloned() else { return };
        let result = async {
            if record.auto_remove {
                // Its end is remembered by who waits for it; a crash here is made good at the next start.
                let mut record = record;
                record.ended(state);
                self.has_departed(id, &record, None);
                self.take_down(id, &record).await?;
                return self.forget_container(id, &record).await;
            }
            self.change(id, |record| {
                record.started = true;
                record.ended(state);
            })?;
            self.take_down(id, &record).await.map(drop)
        }
        .await;
        if let Err(fault) = result {
            self.event(&key, EventType::Warning, "CleanUpFailed", fault.message);
        }
        self.touch();
    }

    /// Forgets a container that removes itself, and that it was declared.
    pub(super) async fn forget_container(self: &Arc<Self>, id: &ContainerKey, record: &ContainerRecord) -> Result<()> {
        self.has_departed(id, record, None);
        self.remove_data(id, record).await?;
        self.memory.forget_container(&self.store, id)?;
        self.leave_garbage();
        self.remove_empty_directories(&id.0);
        Ok(())
    }

    /// How attempts of a container that is gone ended, if it went not long ago; without a unique id, of the last one of
    /// that name that removed itself.
    pub fn departed(&self, id: &ContainerKey, uid: Option<&str>) -> Option<Departed> {
        let departed = lock_of(&self.departed);
        let is_meant = |one: &&Departed| match uid {
            Some(uid) => one.uid == uid,
            None => one.by_itself,
        };
        departed.iter().rev().filter(|one| one.id == *id).find(is_meant).cloned()
    }

    /// A container is about to be forgotten; `state` is the last one of its task, where the record has not been told.
    pub(super) fn has_departed(&self, id: &ContainerKey, record: &ContainerRecord, state: Option<&TaskState>) {
        let mut record = record.clone();
        for state in record.last.take().iter().chain(state) {
            record.keep_exits(state);
        }
        if record.exits.is_empty() {
            return;
        }
        let ContainerRecord { uid, exits, auto_remove: by_itself, .. } = record;
        let mut departed = lock_of(&self.departed);
        departed.retain(|one| one.uid != uid);
        departed.push_back(Departed { id: id.clone(), uid, by_itself, exits });
        if departed.len() > KEPT_DEPARTED {
            departed.pop_front();
        }
    }
}
