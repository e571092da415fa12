//! Who looks after a task: our own shim by itself, or the daemon for a shim that cannot. Both answer alike.

use std::time::Duration;

use super::{ForeignTask, RuntimeError, ShimClient};
use crate::shim::protocol::TaskState;

/// See the module. Clones share what they speak to.
#[derive(Clone)]
pub enum Supervisor {
    /// Our shim.
    Own(ShimClient),
    /// This process, for another runtime's shim.
    Foreign(ForeignTask),
}

impl From<ShimClient> for Supervisor {
    fn from(client: ShimClient) -> Self {
        Self::Own(client)
    }
}

impl From<ForeignTask> for Supervisor {
    fn from(task: ForeignTask) -> Self {
        Self::Foreign(task)
    }
}

impl Supervisor {
    /// The first state later than `since` (a `seq`), waited for as long as it takes.
    pub async fn watch(&self, since: u64) -> Result<TaskState, RuntimeError> {
        match self {
            Self::Own(client) => client.watch(since).await,
            Self::Foreign(task) => task.watch(since).await,
        }
    }

    /// Has the supervision file read again.
    pub async fn reload(&self) -> Result<(), RuntimeError> {
        match self {
            Self::Own(client) => client.reload().await,
            Self::Foreign(task) => task.reload().await,
        }
    }

    /// Ends the container for good: `signal`, after `grace` SIGKILL to everything. The state after.
    pub async fn stop(&self, signal: i32, grace: Duration) -> Result<TaskState, RuntimeError> {
        match self {
            Self::Own(client) => client.stop(signal, grace).await,
            Self::Foreign(task) => task.stop(signal, grace).await,
        }
    }

    /// Freezes every process of the container.
    pub async fn pause(&self) -> Result<(), RuntimeError> {
        match self {
            Self::Own(client) => client.pause().await,
            Self::Foreign(task) => task.freeze(true).await,
        }
    }

    /// Lets them go on.
    pub async fn resume(&self) -> Result<(), RuntimeError> {
        match self {
            Self::Own(client) => client.resume().await,
            Self::Foreign(task) => task.freeze(false).await,
        }
    }

    /// Who answers the Task API just now; `None` between two attempts of a foreign shim's task, and after its end.
    pub fn client(&self) -> Option<ShimClient> {
        match self {
            Self::Own(client) => Some(client.clone()),
            Self::Foreign(task) => task.client(),
        }
    }

    /// Whether the shim is another runtime's.
    pub fn is_foreign(&self) -> bool {
        matches!(self, Self::Foreign(_))
    }
}
