//! What tasks use, and the processes in them.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::api::{ProcessInfo, StatsRequest, TaskStats, TopRequest};
use crate::engine::ContainerKey;
use crate::error::{Class, Result};
use crate::runtime::procfs;
use crate::shim::protocol::TaskPhase;

use super::Node;

impl Node {
    /// A sample of each task, all at once. One that was named and does not run is a fault; one that ends meanwhile is left
    /// out.
    pub(super) async fn stats(self: &Arc<Self>, request: StatsRequest) -> Result<Vec<TaskStats>> {
        let ids: Vec<ContainerKey> = if request.names.is_empty() {
            let records = self.engine.memory().read();
            let within = |id: &&ContainerKey| request.namespace.as_ref().is_none_or(|own| *own == id.0);
            let runs = |id: &&ContainerKey| self.engine.task(id).is_some_and(|state| state.phase == TaskPhase::Running);
            records.containers.keys().filter(within).filter(runs).cloned().collect()
        } else {
            let namespace = request.namespace.clone().unwrap_or_else(|| "default".into());
            let ids: Vec<_> = request.names.iter().map(|name| (namespace.clone(), name.clone())).collect();
            ids.iter().try_for_each(|id| self.known(id))?;
            ids
        };
        let named = !request.names.is_empty();
        let samples = join_all(ids.iter().map(|id| self.sample(id, request.all))).await;
        let mut stats = Vec::with_capacity(samples.len());
        for sample in samples {
            match sample {
                Ok(sample) => stats.push(sample),
                Err(fault) if !named && matches!(fault.class, Class::NotFound | Class::Refused | Class::Runtime) => {
                    tracing::debug!(%fault, "left out of stats");
                }
                Err(fault) => return Err(fault),
            }
        }
        Ok(stats)
    }

    async fn sample(&self, id: &ContainerKey, all: bool) -> Result<TaskStats> {
        let metrics = self.engine.metrics(id).await?;
        let time = jiff::Timestamp::now();
        let pid = self.engine.task(id).and_then(|state| state.pid);
        let on_host = {
            let records = self.engine.memory().read();
            records.containers.get(id).and_then(|record| record.resource.container()).is_some_and(|c| c.host_network)
        };
        let network = pid.filter(|_| !on_host).and_then(procfs::network);
        Ok(TaskStats {
            namespace: id.0.clone(),
            name: id.1.clone(),
            pid,
            time,
            cpu: metrics.cpu,
            memory: metrics.memory,
            memory_limit: metrics.memory_limit,
            pids: metrics.pids,
            pids_limit: metrics.pids_limit,
            block_read: metrics.block.map(|(read, _)| read),
            block_written: metrics.block.map(|(_, written)| written),
            network_received: network.map(|(came, _)| came),
            network_sent: network.map(|(_, went)| went),
            all: if all { metrics.all.into_iter().collect() } else { Default::default() },
        })
    }

    pub(super) async fn top(self: &Arc<Self>, request: TopRequest) -> Result<Vec<ProcessInfo>> {
        let id = (request.namespace, request.name);
        self.known(&id)?;
        let processes = self.engine.processes(&id).await?;
        Ok(processes
            .into_iter()
            .map(|(one, exec_id)| ProcessInfo {
                exec_id,
                pid: one.pid,
                inner_pid: one.inner_pid,
                parent: one.parent,
                uid: one.uid,
                user: one.user,
                state: one.state.to_string(),
                age_ms: one.age_ms,
                cpu_ms: one.cpu_ms,
                resident: one.resident,
                virtual_size: one.virtual_size,
                threads: one.threads,
                terminal: one.terminal,
                program: one.name,
                command: one.command,
            })
            .collect())
    }
}
