//! Waiting for the exit of an attempt, through restarts and removals.

use std::sync::Arc;
use std::time::Duration;

use crate::api::{Ended, WaitExitRequest};
use crate::controller::Node;
use crate::error::{Class, Fault, Result};
use crate::shim::protocol::{Exit, TaskPhase};
use crate::store::ContainerRecord;

/// How long a container that removes itself may take for that; who waited removes it then, and hears why it stays.
const REMOVAL: Duration = Duration::from_secs(30);

impl Node {
    /// Returns when an attempt has ended, and if asked for, when the container that removes itself is gone.
    pub(in crate::controller) async fn wait_exit(self: &Arc<Self>, request: WaitExitRequest) -> Result<Ended> {
        let uid = request.uid.clone();
        let id = (request.namespace.clone(), request.name.clone());
        let removed = request.removed;
        let exit = self.exit_of(request).await?;
        if !removed {
            return Ok(Ended { exit, removed: false });
        }
        let mut changes = self.engine.changes();
        let gone = async {
            loop {
                let record = self.engine.memory().read().containers.get(&id).cloned();
                let same = |record: &ContainerRecord| uid.as_ref().is_none_or(|uid| *uid == record.uid);
                match record.filter(same) {
                    None => return true,
                    Some(record) if !record.auto_remove => return false,
                    Some(_) if changes.changed().await.is_err() => return false,
                    Some(_) => {}
                }
            }
        };
        let removed = tokio::time::timeout(REMOVAL, gone).await.unwrap_or(false);
        Ok(Ended { exit, removed })
    }

    async fn exit_of(self: &Arc<Self>, request: WaitExitRequest) -> Result<Exit> {
        let id = (request.namespace, request.name);
        let mut changes = self.engine.changes();
        let mut last_seen: Option<crate::shim::protocol::TaskState> = None;
        loop {
            let task = self.engine.task(&id);
            let record = self.engine.memory().read().containers.get(&id).cloned();
            // Another container of this name: what it does says nothing about the one that is asked about.
            let is_other = |record: &ContainerRecord| request.uid.as_ref().is_some_and(|uid| *uid != record.uid);
            let replaced = record.as_ref().is_some_and(is_other);
            let record = record.filter(|_| !replaced);
            let task = task.filter(|_| !replaced);
            let state = task.or_else(|| record.as_ref().and_then(|record| record.last.clone()));
            let ended = state.as_ref().or(last_seen.as_ref()).and_then(|state| {
                let over = match request.attempt {
                    Some(attempt) => {
                        state.attempt > attempt
                            || (state.attempt == attempt
                                && state.phase != TaskPhase::Running
                                && state.phase != TaskPhase::Created)
                    }
                    None => !matches!(state.phase, TaskPhase::Running | TaskPhase::Created),
                };
                if over { state.exit.clone() } else { None }
            });
            if let Some(exit) = ended {
                return Ok(exit);
            }
            if state.is_some() {
                last_seen = state;
            }
            if record.is_none() {
                if let Some(exit) = self.engine.departed(&id, request.uid.as_deref()) {
                    return Ok(exit);
                }
                return Err(match last_seen {
                    Some(_) => Fault::new(
                        Class::Runtime,
                        format!("container {}/{} was removed before its exit was seen", id.0, id.1),
                    ),
                    None => self.no_container(&id),
                });
            }
            if changes.changed().await.is_err() {
                return Err(Fault::new(Class::Runtime, "the node goes down"));
            }
        }
    }
}
