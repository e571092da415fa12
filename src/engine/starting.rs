//! The start of a task: bundle, shim, snapshot, network namespace and runtime spec, in an order in which a crash leaves only
//! what the next reconcile finds by the container's row.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Class, Fault, Result};
use crate::image::Image;
use crate::manifest::{ContainerSpec, RestartPolicy};
use crate::oci::Platform;
use crate::runtime::{Bundle, ForeignShim, ForeignTask, Launch, RootMount, ShimClient, Stdio, spec};
use crate::shim::protocol::{Policy, Restart, Supervision};
use crate::store::{ContainerRecord, EventType};

use super::Engine;
use super::container::{container_key, container_spec, in_container, not_found, snapshot_key};
use super::memory::ContainerKey;
use super::runner::Runner;
/// What is special about one start.
#[derive(Debug, Clone, Default)]
pub struct StartOptions {
    /// Streams beside the log.
    pub stdio: Stdio,
    /// Counts as a restart (its shim was gone).
    pub lost: bool,
    /// Columns and rows of its terminal at the start.
    pub console: Option<(u16, u16)>,
}

/// A task that was started.
#[derive(Debug, Clone, Copy)]
pub struct Launched {
    /// Number of its attempt.
    pub attempt: u32,
    /// Its process.
    pub pid: u32,
}

/// What is needed beside the shim, made while it starts.
struct Prepared {
    mounts: Vec<RootMount>,
    warnings: Vec<String>,
}

impl Engine {
    /// Starts the task: the shim comes up while everything else is prepared.
    pub(super) async fn start_task(
        self: &Arc<Self>,
        id: &ContainerKey,
        image: &Image,
        options: StartOptions,
    ) -> Result<Launched> {
        let Some(record) = self.memory.read().containers.get(id).cloned() else {
            return Err(not_found(id));
        };
        let result = self.try_start(id, &record, image, options).await;
        if result.is_err() {
            // Nothing half-made stays; the row does, and with it the wish.
            let grace = self.is_given_up(id).then_some(Duration::ZERO);
            if let Err(fault) = self.end_task(id, &record, grace, |_| Ok(())).await {
                tracing::warn!(container = %container_key(id), %fault, "a failed start left something behind");
            }
        }
        result
    }

    async fn try_start(
        self: &Arc<Self>,
        id: &ContainerKey,
        record: &ContainerRecord,
        image: &Image,
        mut options: StartOptions,
    ) -> Result<Launched> {
        let key = container_key(id);
        let spec = container_spec(&record.resource)?;
        // One with a terminal has it also when nobody looks.
        options.stdio.terminal |= spec.tty;
        if let Some(driver) = &spec.logs.driver {
            let uri = Some(PathBuf::from(driver)).filter(|_| driver != "none");
            (options.stdio.stdout, options.stdio.stderr) = (uri.clone(), uri);
        }
        if self.is_given_up(id) {
            return Err(self.given_up(id).await);
        }
        if self.bundle(id)?.exists() {
            self.end_task(id, record, None, |state| self.change(id, |record| record.keep_exits(state))).await?;
        }
        let record = &self.memory.read().containers.get(id).cloned().ok_or_else(|| not_found(id))?;
        let bundle = Bundle::create(&self.config().state, &id.0, &id.1).map_err(Fault::from)?;
        let mut supervision = self.supervision(id, spec, record, options.lost)?;
        // The input of a command in the foreground ends when that says so.
        supervision.stdin &= options.stdio.stdin.is_none();
        let first_attempt = supervision.first_attempt;
        // The shim reads it first thing, for its own oom score.
        bundle.write_supervision(&supervision).map_err(Fault::from)?;
        if let Runner::Foreign(shim) = self.runner(spec)? {
            let task = self.start_foreign(id, record, image, &bundle, &options, shim);
            let (task, pid) = tokio::select! {
                started = task => started?,
                fault = self.given_up(id) => return Err(fault),
            };
            self.adopt_task(id, task).await?;
            return self.has_started(id, first_attempt, pid);
        }
        let launch = {
            let launch = Launch {
                shim_binary: self.config().shim_path(),
                bundle: bundle.path().to_owned(),
                address: self.config().address(),
                foreign: false,
                debug: false,
            };
            tokio::spawn(async move { ShimClient::launch(&launch).await })
        };
        let prepared = {
            let (engine, record, image, bundle) = (Arc::clone(self), record.clone(), image.clone(), bundle.clone());
            let (terminal, console) = (options.stdio.terminal, options.console);
            tokio::task::spawn_blocking(move || engine.prepare(&record, &image, &bundle, terminal, console)).await
        };
        let client = launch
            .await
            .map_err(|error| Fault::new(Class::Bug, format!("{key}: the shim's start: {error}")))?
            .map_err(Fault::from)?;
        let prepared =
            prepared.map_err(|error| Fault::new(Class::Bug, format!("{key}: preparing its start: {error}")))??;
        for warning in &prepared.warnings {
            self.event(&key, EventType::Warning, "BestEffort", warning.clone());
        }
        let pid = tokio::select! {
            started = client.create_started(&prepared.mounts, &options.stdio) => started.map_err(|error| in_container(&key, Fault::from(error)))?,
            fault = self.given_up(id) => return Err(fault),
        };
        self.adopt_task(id, client).await?;
        self.has_started(id, first_attempt, pid)
    }

    /// Starts the task by another runtime's shim, which wants everything to be there before it is started itself.
    async fn start_foreign(
        self: &Arc<Self>,
        id: &ContainerKey,
        record: &ContainerRecord,
        image: &Image,
        bundle: &Bundle,
        options: &StartOptions,
        binary: PathBuf,
    ) -> Result<(ForeignTask, u32)> {
        let key = container_key(id);
        let config = self.config();
        let mut shim = ForeignShim {
            version: 1,
            runc: self.runc_options(&binary)?,
            binary,
            address: config.address(),
            logger: config.shim_path(),
            mounts: Vec::new(),
            stdio: options.stdio.clone(),
            cgroups: self.cgroup_path(&id.0, &id.1)?.everywhere(&self.host, self.cgroup_driver()),
            in_a_row: 0,
        };
        // Before anything is mounted or made, so that whoever finds the bundle knows whose it is.
        shim.write(bundle.path()).map_err(Fault::from)?;
        let prepared = {
            let (engine, record, image, bundle) = (Arc::clone(self), record.clone(), image.clone(), bundle.clone());
            let (terminal, console) = (options.stdio.terminal, options.console);
            tokio::task::spawn_blocking(move || engine.prepare(&record, &image, &bundle, terminal, console)).await
        };
        let prepared =
            prepared.map_err(|error| Fault::new(Class::Bug, format!("{key}: preparing its start: {error}")))??;
        for warning in &prepared.warnings {
            self.event(&key, EventType::Warning, "BestEffort", warning.clone());
        }
        shim.mounts = prepared.mounts;
        shim.write(bundle.path()).map_err(Fault::from)?;
        let task = ForeignTask::start(bundle).await.map_err(|error| in_container(&key, Fault::from(error)))?;
        let pid = task.pid().unwrap_or_default();
        Ok((task, pid))
    }

    /// A task was started: its record says so.
    fn has_started(&self, id: &ContainerKey, first_attempt: u32, pid: u32) -> Result<Launched> {
        // A crash before this commit is repaired by adoption, which finds the shim.
        self.change(id, ContainerRecord::begun)?;
        let message = format!("attempt {first_attempt}, process {pid}");
        self.event(&container_key(id), EventType::Normal, "Started", message);
        Ok(Launched { attempt: first_attempt, pid })
    }

    /// Everything that a task needs beside its shim. Blocking.
    fn prepare(
        &self,
        record: &ContainerRecord,
        image: &Image,
        bundle: &Bundle,
        terminal: bool,
        console: Option<(u16, u16)>,
    ) -> Result<Prepared> {
        let spec = container_spec(&record.resource)?;
        let mut mounts = self.snapshots.prepare(&snapshot_key(record), image).map_err(Fault::from)?;
        if record.auto_remove && spec.restart == RestartPolicy::Never {
            // What goes with its only task need not reach the disk: unmounting it then syncs nothing.
            self.snapshots.make_volatile(&snapshot_key(record), &mut mounts).map_err(Fault::from)?;
        }
        let netns = if spec.host_network {
            None
        } else {
            Some(crate::network::create(&self.config().state, &record.namespace, &record.name).map_err(Fault::from)?)
        };
        let mut container = spec.clone();
        container.tty |= terminal;
        let built = self.build_spec(record, &container, image, netns, console)?;
        let names = spec::EtcFiles { hostname: built.hostname.clone(), ..spec::EtcFiles::default() };
        spec::write_etc_files(bundle.path(), &names).map_err(Fault::from)?;
        bundle.write_config(&built.spec).map_err(Fault::from)?;
        Ok(Prepared { mounts, warnings: built.warnings })
    }

    /// The runtime spec. Reads the image's own files and nothing else.
    fn build_spec(
        &self,
        record: &ContainerRecord,
        container: &ContainerSpec,
        image: &Image,
        netns: Option<PathBuf>,
        console: Option<(u16, u16)>,
    ) -> Result<spec::Built> {
        let files = spec::LayerFiles { layers: self.snapshots.lower_dirs(image).map_err(Fault::from)? };
        spec::build(&spec::SpecInput {
            name: &record.name,
            namespace: &record.namespace,
            container,
            image: &image.config,
            files: &files,
            netns,
            cgroup: &self.cgroup_path(&record.namespace, &record.name)?,
            cgroup_driver: self.cgroup_driver(),
            console,
            bundle: self.bundle(&(record.namespace.clone(), record.name.clone()))?.path(),
            host: &self.host,
        })
        .map_err(Fault::from)
    }

    /// The OCI runtime spec of a container: that of its task, or what it would be started by. `None` while its image is
    /// not here in full.
    pub fn runtime_spec(&self, id: &ContainerKey) -> Option<serde_json::Value> {
        let written = std::fs::read(self.bundle(id).ok()?.path().join("config.json")).ok();
        if let Some(written) = written.and_then(|text| serde_json::from_slice(&text).ok()) {
            return Some(in_order(written));
        }
        let record = self.memory.read().containers.get(id).cloned()?;
        let container = container_spec(&record.resource).ok()?;
        let image = self.images.load_image(&record.image, &Platform::host()).ok()?;
        let netns = (!container.host_network)
            .then(|| crate::network::path(&self.config().state, &record.namespace, &record.name).ok())
            .flatten();
        let built = self.build_spec(&record, container, &image, netns, None).ok()?;
        serde_json::to_value(&built.spec).ok().map(in_order)
    }

    pub(super) fn supervision(
        &self,
        id: &ContainerKey,
        spec: &ContainerSpec,
        record: &ContainerRecord,
        lost: bool,
    ) -> Result<Supervision> {
        let log_dir = self.log_dir(id);
        let before = crate::runtime::read_state(self.bundle(id)?.path()).or_else(|| record.last.clone());
        let logged = newest_attempt(&log_dir);
        let ended = record.exits.last().map_or(0, |exit| exit.attempt);
        let attempt = before.as_ref().map_or(0, |state| state.attempt).max(logged).max(ended);
        let restarts = before.as_ref().map_or(attempt.saturating_sub(1), |state| state.restarts) + u32::from(lost);
        Ok(Supervision {
            version: 1,
            runtime: match self.runner(spec)? {
                Runner::Own(runtime) => runtime,
                Runner::Foreign(shim) => shim,
            },
            runtime_root: self.runtime_root(&id.0),
            systemd_cgroup: self.uses_systemd_cgroups(),
            restart: Restart {
                policy: match spec.restart {
                    RestartPolicy::Always => Policy::Always,
                    RestartPolicy::OnFailure => Policy::OnFailure,
                    RestartPolicy::Never => Policy::Never,
                },
                limit: spec.restart_limit,
                initial_ms: millis(spec.backoff.initial.duration()),
                max_ms: millis(spec.backoff.max.duration()),
            },
            log_dir: spec.logs.driver.is_none().then_some(log_dir),
            log_max_size: u64::try_from(spec.logs.max_size.value()).unwrap_or(10 << 20),
            log_max_files: spec.logs.max_files,
            first_attempt: attempt + 1,
            restarts,
            oom_score_adj: Some(self.config().shim.oom_score_adj),
            runtime_timeout_ms: None,
            stop_signal: Some(self.stop_signal(record, spec)),
            grace_ms: Some(u64::from(spec.termination_grace_period_seconds) * 1000),
            stdin: spec.stdin,
            reader_patience_ms: None,
        })
    }

    pub(super) fn stop_signal(&self, record: &ContainerRecord, container: &ContainerSpec) -> i32 {
        let image = self.images.load_image(&record.image, &Platform::host()).ok();
        image.and_then(|image| spec::stop_signal(container, &image.config).ok()).unwrap_or(15)
    }
}

/// A runtime spec with its sets of capabilities, which have no order, in one.
fn in_order(mut spec: serde_json::Value) -> serde_json::Value {
    let sets = spec.pointer_mut("/process/capabilities").and_then(serde_json::Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(serde_json::Value::as_array_mut) {
        set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
    spec
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The highest attempt that has a log: counts on where nothing else remembers (after a reboot).
fn newest_attempt(log_dir: &Path) -> u32 {
    let Ok(entries) = std::fs::read_dir(log_dir) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.split_once(".log")?.0.parse().ok()).max().unwrap_or(0)
}
