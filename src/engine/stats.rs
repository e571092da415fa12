//! What tasks use, and the processes in them, as their shims know.

use crate::error::{Class, Fault, Result};
use crate::runtime::ShimClient;
use crate::runtime::metrics::Metrics;
use crate::runtime::procfs::{self, Process};
use crate::shim::protocol::TaskPhase;

use super::container::not_found;
use super::memory::ContainerKey;
use super::{Engine, lock_of};

impl Engine {
    /// A sample of what a running task uses.
    pub async fn metrics(&self, id: &ContainerKey) -> Result<Metrics> {
        let stats = self.running_client(id)?.stats().await.map_err(Fault::from)?;
        crate::runtime::metrics::read(&stats)
            .map_err(|why| Fault::new(Class::Runtime, format!("the stats of container {}/{}: {why}", id.0, id.1)))
    }

    /// The processes of a running task, with the id of the execution that began one, where one did.
    pub async fn processes(&self, id: &ContainerKey) -> Result<Vec<(Process, Option<String>)>> {
        let mut pids = self.running_client(id)?.pids().await.map_err(Fault::from)?;
        pids.sort_unstable();
        let numbers: Vec<u32> = pids.iter().map(|(pid, _)| *pid).collect();
        let looked = tokio::task::spawn_blocking(move || procfs::look(&numbers)).await;
        let looked = looked.map_err(|error| Fault::new(Class::Bug, format!("looking at processes: {error}")))?;
        let exec = |process: &Process| pids.iter().find(|(pid, _)| *pid == process.pid).and_then(|(_, id)| id.clone());
        Ok(looked.into_iter().map(|process| (process.clone(), exec(&process))).collect())
    }

    /// Whoever knows the running task of a container.
    fn running_client(&self, id: &ContainerKey) -> Result<ShimClient> {
        if !self.memory.read().containers.contains_key(id) {
            return Err(not_found(id));
        }
        let tasks = lock_of(&self.tasks);
        let running = tasks.get(id).filter(|task| task.state.phase == TaskPhase::Running);
        running.and_then(|task| task.client.clone()).ok_or_else(|| {
            Fault::new(Class::Refused, format!("container {}/{} has no running task", id.0, id.1))
                .help(format!("start it: bayplan -n {} start {}", id.0, id.1))
        })
    }
}
