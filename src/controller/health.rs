//! Whether a container that needs no step is well: what its shim says of it.
//!
//! A container in back-off, one that the runtime could not make again and one whose restarts are used up are as
//! planned (the shim looks after them), and still not what anybody wants.

use crate::api::NotConverged;
use crate::engine::ContainerKey;
use crate::manifest::{Kind, ResourceKey, RestartPolicy};
use crate::shim::protocol::{TaskPhase, TaskState};

use super::Node;

/// How its shim fares with a container.
pub(super) enum Supervised {
    /// It runs, or has ended as its policy says.
    Well,
    /// It does not run, and should.
    Ill(NotConverged),
    /// It does not run, and need not: somebody said so, or it failed and is not to be tried again. A sentence.
    Down(String),
}

impl Node {
    pub(super) fn supervision(&self, id: &ContainerKey) -> Supervised {
        let Some(record) = self.engine.memory().read().containers.get(id).cloned() else { return Supervised::Well };
        if record.stopped_by_hand {
            return Supervised::Down(format!("is stopped by hand: bayplan -n {} start {} starts it", id.0, id.1));
        }
        let Some(state) = self.engine.task(id).or(record.last) else { return Supervised::Well };
        let policy = record.resource.container().map(|spec| spec.restart);
        let failed = state.exit.as_ref().is_some_and(|exit| exit.code != 0);
        let reason = match state.phase {
            TaskPhase::BackOff => "BackOff",
            TaskPhase::Failed => "Failed",
            TaskPhase::Exited if policy == Some(RestartPolicy::Always) => "RestartLimit",
            TaskPhase::Exited if failed && policy == Some(RestartPolicy::OnFailure) => "RestartLimit",
            TaskPhase::Exited if failed => {
                return Supervised::Down(format!("is not restarted: {}", told(&state, "Exited", id)));
            }
            _ => return Supervised::Well,
        };
        Supervised::Ill(NotConverged {
            key: ResourceKey::new(Kind::Container, &id.0, &id.1),
            since: state.exit.as_ref().map_or(record.created, |exit| exit.at),
            reason: reason.into(),
            message: told(&state, reason, id),
            next_try: state.next_start.filter(|_| state.phase == TaskPhase::BackOff),
        })
    }
}

fn told(state: &TaskState, reason: &str, id: &ContainerKey) -> String {
    let exit = match &state.exit {
        Some(exit) if exit.oom_killed => format!("it was killed for its memory limit (status {})", exit.code),
        Some(exit) => match exit.signal {
            Some(signal) => format!("it ended by signal {signal} (status {})", exit.code),
            None => format!("it ended with status {}", exit.code),
        },
        None => "it ended".to_owned(),
    };
    let what = match (&state.reason, reason) {
        (Some(said), "Failed") if state.phase == TaskPhase::Failed => said.clone(),
        (_, "RestartLimit") => format!("{exit}, and its restarts are used up after {}", state.restarts),
        _ if state.restarts > 0 => format!("{exit}, restarted {} times", state.restarts),
        _ => exit,
    };
    format!("{what}; bayplan -n {} logs {}", id.0, id.1)
}
