//! Waiting for the exit of an attempt, through restarts and removals.

use std::sync::Arc;

use crate::api::WaitExitRequest;
use crate::controller::Node;
use crate::error::{Class, Fault, Result};
use crate::shim::protocol::{Exit, TaskPhase};
use crate::store::ContainerRecord;

impl Node {
    /// Returns when an attempt has ended.
    pub(in crate::controller) async fn wait_exit(self: &Arc<Self>, request: WaitExitRequest) -> Result<Exit> {
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
