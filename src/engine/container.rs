//! The steps of containers: make, update, start, stop, collect, take away.
//!
//! Order of making: row, writable snapshot, network namespace and bundle (while the shim starts), task,
//! then the row says that it was started. Order of taking away: task, shim, bundle, network namespace,
//! snapshot, logs, row. A crash leaves the row, and the row is what the next reconcile repairs by.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oci_spec::runtime::LinuxResources;

use crate::error::{Class, Fault, Result};
use crate::image::Image;
use crate::manifest::{ContainerSpec, Kind, Resource, ResourceKey, RestartPolicy};
use crate::oci::{Digest, Platform, Reference};
use crate::plan::Source;
use crate::runtime::{
    Bundle, CgroupDriver, CgroupPath, ForeignShim, ForeignTask, Launch, RootMount, RuncOptions, ShimClient, Stdio, spec,
};
use crate::shim::protocol::{AttemptExit, Policy, Restart, Supervision, TaskPhase, TaskState};
use crate::store::{ContainerRecord, EventType};

use super::image::new_uid;
use super::memory::ContainerKey;
use super::{Engine, lock_of};

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

/// What no process survives.
const SIGKILL: i32 = 9;

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
    /// Makes a container and starts it; one of this name that is there already is taken away first, but
    /// not before the new one's image is ready.
    pub(super) async fn make_container(
        self: &Arc<Self>,
        key: &ResourceKey,
        resource: &Resource,
        digest: Option<&Digest>,
        source: Source,
    ) -> Result<()> {
        let id = (key.namespace.clone(), key.name.clone());
        let spec = container_spec(resource)?;
        self.check_runtime(spec, key)?;
        // Until the record keeps it.
        let _lease = self.lease();
        let digest = self.image_digest(&key.namespace, spec, digest)?;
        let image = self.ready_image(&spec.image, &digest).await?;
        check_sources(spec, key)?;
        let before = self.memory.read().containers.get(&id).cloned();
        let revision = before.as_ref().map_or(1, |record| record.revision + 1);
        // How it was made by hand is not part of what it is.
        let wish = self.take_wish(&id);
        if let Some(before) = &before {
            let state = self.take_down(&id, before).await?;
            self.remove_data(&id, before).await?;
            self.has_departed(&id, before, state.as_ref());
        }
        let record = ContainerRecord {
            namespace: id.0.clone(),
            name: id.1.clone(),
            uid: new_uid(),
            revision,
            resource: resource.clone(),
            source,
            image: digest,
            created: jiff::Timestamp::now(),
            stopped_by_hand: wish.making.held,
            started: false,
            auto_remove: wish.making.auto_remove,
            last: None,
            exits: Vec::new(),
        };
        self.put(record)?;
        if wish.making.held {
            self.event(key, EventType::Normal, "Created", "made, not started");
            return Ok(());
        }
        self.start_task(&id, &image, wish.options).await.map(drop)
    }

    /// Changes what can be changed while it runs.
    pub(super) async fn update_container(
        self: &Arc<Self>,
        key: &ResourceKey,
        resource: &Resource,
        digest: Option<&Digest>,
        source: Source,
    ) -> Result<()> {
        let id = (key.namespace.clone(), key.name.clone());
        let Some(before) = self.memory.read().containers.get(&id).cloned() else {
            return Err(Fault::new(Class::Bug, format!("{key} is updated, but not there")));
        };
        let spec = container_spec(resource)?;
        let alive = lock_of(&self.tasks).contains_key(&id);
        if alive {
            let old = container_spec(&before.resource)?;
            let bundle = self.bundle(&id)?;
            if old.resources != spec.resources {
                // The next attempt is made by it, and may begin at any moment.
                bundle.write_limits(&spec::limits(&spec.resources, &self.host)).map_err(Fault::from)?;
                self.update_limits(&id, spec).await?;
            }
            let mut supervision = self.supervision(&id, spec, &before, false)?;
            if let Some(current) = bundle.read_supervision().map_err(Fault::from)? {
                supervision.first_attempt = current.first_attempt;
                supervision.restarts = current.restarts;
            }
            bundle.write_supervision(&supervision).map_err(Fault::from)?;
            let supervisor = lock_of(&self.tasks).get(&id).map(|task| task.supervisor.clone());
            if let Some(supervisor) = supervisor {
                supervisor.reload().await.map_err(Fault::from)?;
            }
        }
        let mut record = before;
        record.revision += 1;
        record.resource = resource.clone();
        record.source = source;
        if let Some(digest) = digest {
            record.image = digest.clone();
        }
        self.put(record)?;
        self.event(key, EventType::Normal, "Updated", "changed in place");
        Ok(())
    }

    /// Changes the limits of a task while it runs.
    async fn update_limits(&self, id: &ContainerKey, spec: &ContainerSpec) -> Result<()> {
        let limits = spec::resources(&spec.resources, &self.host);
        match self.runner(spec)? {
            Runner::Own(runtime) => self.update_own(id, &limits, &runtime).await,
            Runner::Foreign(_) => {
                let client = lock_of(&self.tasks).get(id).and_then(|task| task.client.clone());
                match client {
                    Some(client) => client.update(&limits).await.map_err(Fault::from),
                    // Between two attempts there is nothing to change.
                    None => Ok(()),
                }
            }
        }
    }

    /// The same by our own shim. Between two attempts there is nothing to change; one that has just begun may have been made
    /// by what was written before, and is changed when it runs.
    async fn update_own(&self, id: &ContainerKey, limits: &LinuxResources, runtime: &Path) -> Result<()> {
        for _ in 0..5 {
            let task = lock_of(&self.tasks).get(id).map(|task| (task.client.clone(), task.state.clone()));
            let Some((Some(client), state)) = task else { return Ok(()) };
            match client.update(limits).await {
                Ok(()) => return Ok(()),
                // One of an older release.
                Err(error) if error.is_unimplemented() => {
                    let (root, systemd) = (self.runtime_root(&id.0), self.uses_systemd_cgroups());
                    let updated = crate::runtime::runc::update_resources(runtime, &root, &id.1, limits, systemd);
                    return updated.await.map_err(Fault::from);
                }
                Err(error) if error.is_precondition() => {
                    // A start that is due is under way, or so near that nobody can tell.
                    let due = jiff::Timestamp::now() + jiff::SignedDuration::from_millis(100);
                    let begins = state.phase == TaskPhase::BackOff && state.next_start.is_some_and(|next| next <= due);
                    let next = tokio::time::timeout(Duration::from_secs(10), client.watch(state.seq));
                    if !begins || !matches!(next.await, Ok(Ok(state)) if state.phase == TaskPhase::Running) {
                        return Ok(());
                    }
                }
                Err(error) => return Err(Fault::from(error)),
            }
        }
        Ok(())
    }

    /// Starts the task of a container that has none.
    pub(super) async fn start_again(self: &Arc<Self>, key: &ResourceKey) -> Result<()> {
        let id = (key.namespace.clone(), key.name.clone());
        if lock_of(&self.tasks).get(&id).is_some_and(|task| is_supervised(&task.state)) {
            return Ok(());
        }
        let Some(record) = self.memory.read().containers.get(&id).cloned() else {
            return Err(Fault::new(Class::NotFound, format!("{key} is not there")));
        };
        self.check_runtime(container_spec(&record.resource)?, key)?;
        // What is left of the task before goes first.
        self.end_task(&id, &record, None, |state| self.change(&id, |record| record.keep_exits(state))).await?;
        let image = self.ready_image(&container_spec(&record.resource)?.image, &record.image).await?;
        let mut options = self.take_wish(&id).options;
        let was_final = record.last.as_ref().is_some_and(|state| !is_supervised(state));
        options.lost = record.started && !record.stopped_by_hand && !was_final;
        if record.stopped_by_hand {
            self.change(&id, |record| record.stopped_by_hand = false)?;
        }
        self.start_task(&id, &image, options).await.map(drop)
    }

    /// Takes a container away with everything that was made for it.
    pub(super) async fn remove_container(self: &Arc<Self>, id: &ContainerKey) -> Result<()> {
        let record = self.memory.read().containers.get(id).cloned();
        let Some(record) = record else {
            return Ok(());
        };
        let state = self.take_down(id, &record).await?;
        self.remove_data(id, &record).await?;
        self.has_departed(id, &record, state.as_ref());
        // Until now it was in use.
        self.images.store().touch(&record.image);
        self.store.remove_container(&id.0, &id.1)?;
        self.memory.write().containers.remove(id);
        self.leave_garbage();
        self.remove_empty_directories(&id.0);
        self.event(&container_key(id), EventType::Normal, "Removed", "stopped and removed");
        Ok(())
    }

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
    fn has_departed(&self, id: &ContainerKey, record: &ContainerRecord, state: Option<&TaskState>) {
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

    /// Says how the container that the next step makes or starts is to be, beside what its resource says.
    pub fn wish(&self, id: &ContainerKey, making: Making, options: StartOptions) {
        lock_of(&self.wishes).insert(id.clone(), Wishes { making, options });
    }

    /// Takes back what no step has taken.
    pub fn unwish(&self, id: &ContainerKey) {
        lock_of(&self.wishes).remove(id);
    }

    fn take_wish(&self, id: &ContainerKey) -> Wishes {
        lock_of(&self.wishes).remove(id).unwrap_or_default()
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

    /// The digest to run: as planned, else what the reference gives now.
    fn image_digest(&self, namespace: &str, spec: &ContainerSpec, planned: Option<&Digest>) -> Result<Digest> {
        if let Some(digest) = planned {
            return Ok(digest.clone());
        }
        let records = self.memory.read();
        match records.references.get(&(namespace.to_owned(), spec.image.clone())) {
            Some(record) => Ok(record.digest.clone()),
            None => Err(Fault::new(Class::NotFound, format!("image {} is not in namespace {namespace}", spec.image))
                .help(format!("bayplan -n {namespace} pull {}", spec.image))),
        }
    }

    pub(super) async fn ready_image(self: &Arc<Self>, reference: &Reference, digest: &Digest) -> Result<Image> {
        let name = reference.to_string();
        let image = self.images.load_named(&name, digest, &Platform::host())?;
        self.hold_image(&image);
        if !self.snapshots.is_unpacked(&image) {
            self.unpack(&image, None).await.map_err(|fault| super::image::of_image(&name, fault))?;
        }
        Ok(image)
    }

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

    fn supervision(
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

    /// Where a container's logs are.
    pub fn log_dir(&self, id: &ContainerKey) -> PathBuf {
        self.config().log_dir().join(&id.0).join(&id.1)
    }

    pub(super) fn stop_signal(&self, record: &ContainerRecord, container: &ContainerSpec) -> i32 {
        let image = self.images.load_image(&record.image, &Platform::host()).ok();
        image.and_then(|image| spec::stop_signal(container, &image.config).ok()).unwrap_or(15)
    }

    /// What runs the container must be there before anything of it is made, and before what it replaces goes.
    fn check_runtime(&self, spec: &ContainerSpec, key: &ResourceKey) -> Result<()> {
        let runner = self.runner(spec).map_err(|fault| in_container(key, fault))?;
        if let (Runner::Foreign(_), true) = (runner, spec.stdin) {
            let runtime = spec.runtime.as_deref().unwrap_or_default();
            let message =
                format!("the shim of {runtime} connects streams only at the start: it cannot keep stdin open");
            let fault = Fault::new(Class::Refused, message).help("leave `stdin` out, or `runtime`");
            return Err(in_container(key, fault));
        }
        crate::runtime::check_own_shim(&self.config().shim_path())
            .map_err(|error| in_container(key, Fault::from(error)))
    }

    fn runner(&self, spec: &ContainerSpec) -> Result<Runner> {
        let name = spec.runtime.as_deref();
        let config = self.config();
        if let Some(path) = config.runtime(name.filter(|_| !crate::runtime::is_own(name))) {
            return crate::runtime::host::find_runc(Some(path)).map(Runner::Own).map_err(Fault::from);
        }
        let name = name.unwrap_or("runc");
        if !name.contains(['.', '/']) {
            return Err(Fault::new(Class::Invalid, format!("runtime {name} is not configured"))
                .help(format!("add [runtimes.{name}] with its path to the configuration")));
        }
        crate::runtime::shim_binary_for(Some(name), &self.config().shim_path())
            .map(Runner::Foreign)
            .map_err(Fault::from)
    }

    /// What containerd's shim for runc (`containerd-shim-runc-v2`) is told; others have options of their own.
    fn runc_options(&self, shim: &Path) -> Result<Option<RuncOptions>> {
        let name = shim.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with("containerd-shim-runc-") {
            return Ok(None);
        }
        let binary = crate::runtime::host::find_runc(self.config().runtime(None)).map_err(Fault::from)?;
        // The shim adds the namespace.
        let root = self.config().state.join("runtime");
        Ok(Some(RuncOptions { binary, root, systemd_cgroup: self.uses_systemd_cgroups() }))
    }

    /// runc's `--root`: ids are unique within a namespace only.
    pub(super) fn runtime_root(&self, namespace: &str) -> PathBuf {
        self.config().state.join("runtime").join(namespace)
    }

    pub(super) fn cgroup_driver(&self) -> CgroupDriver {
        match self.config().cgroup.driver {
            crate::config::CgroupDriver::Auto => CgroupDriver::auto(&self.host),
            crate::config::CgroupDriver::Cgroupfs => CgroupDriver::Cgroupfs,
            crate::config::CgroupDriver::Systemd => CgroupDriver::Systemd,
        }
    }

    /// Whether systemd makes the cgroups.
    pub fn uses_systemd_cgroups(&self) -> bool {
        self.cgroup_driver() == CgroupDriver::Systemd
    }

    pub(super) fn cgroup_path(&self, namespace: &str, name: &str) -> Result<CgroupPath> {
        CgroupPath::new(&self.config().cgroup_parent(), namespace, name).map_err(Fault::from)
    }

    /// Commits a record and then shows it.
    pub(super) fn put(&self, record: ContainerRecord) -> Result<()> {
        self.store.put_container(&record)?;
        let image = record.image.clone();
        let id = (record.namespace.clone(), record.name.clone());
        let before = self.memory.write().containers.insert(id, record);
        if before.is_some_and(|before| before.image != image) {
            self.leave_garbage();
        }
        Ok(())
    }

    /// Changes a record, commits it if it differs, and then shows it.
    pub(super) fn change(&self, id: &ContainerKey, change: impl FnOnce(&mut ContainerRecord)) -> Result<()> {
        let Some(mut record) = self.memory.read().containers.get(id).cloned() else {
            return Ok(());
        };
        let before = record.clone();
        change(&mut record);
        if record == before { Ok(()) } else { self.put(record) }
    }
}

/// What runs a container.
enum Runner {
    /// An OCI runtime, which our own shim executes.
    Own(PathBuf),
    /// Another runtime's shim.
    Foreign(PathBuf),
}

/// How a container is made by hand, beside what it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Making {
    /// Removed when its task ends.
    pub auto_remove: bool,
    /// Made, but not started.
    pub held: bool,
}

/// Set by who asks, taken by the step that makes or starts it.
#[derive(Debug, Clone, Default)]
pub(super) struct Wishes {
    making: Making,
    options: StartOptions,
}

/// A runtime spec with its sets of capabilities, which have no order, in one.
fn in_order(mut spec: serde_json::Value) -> serde_json::Value {
    let sets = spec.pointer_mut("/process/capabilities").and_then(serde_json::Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(serde_json::Value::as_array_mut) {
        set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
    }
    spec
}

/// The key of a container.
pub fn container_key(id: &ContainerKey) -> ResourceKey {
    ResourceKey::new(Kind::Container, &id.0, &id.1)
}

/// Whether the shim goes on with it: it runs, or it is started again later (also where the runtime failed once).
pub(super) fn is_supervised(state: &TaskState) -> bool {
    match state.phase {
        TaskPhase::Running | TaskPhase::BackOff => true,
        TaskPhase::Failed => state.next_start.is_some(),
        TaskPhase::Created | TaskPhase::Exited | TaskPhase::Stopped => false,
    }
}

pub(super) fn not_found(id: &ContainerKey) -> Fault {
    Fault::new(Class::NotFound, format!("container {}/{} is not there", id.0, id.1))
        .help(format!("bayplan -n {} get containers lists what is", id.0))
}

pub(super) fn container_spec(resource: &Resource) -> Result<&ContainerSpec> {
    resource.container().ok_or_else(|| Fault::new(Class::Bug, format!("{} is executed as a container", resource.key())))
}

fn check_sources(spec: &ContainerSpec, key: &ResourceKey) -> Result<()> {
    spec::check_sources(&spec.mounts).map_err(|error| in_container(key, Fault::from(error)))
}

/// The fault with its container named.
fn in_container(key: &ResourceKey, mut fault: Fault) -> Fault {
    fault.message = format!("{key}: {}", fault.message);
    fault
}

pub(super) fn snapshot_key(record: &ContainerRecord) -> String {
    format!("{}/{}", record.namespace, record.uid)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The highest attempt that has a log: counts on where nothing else remembers (after a reboot).
fn newest_attempt(log_dir: &Path) -> u32 {
    let Ok(entries) = std::fs::read_dir(log_dir) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.split_once(".log")?.0.parse().ok()).max().unwrap_or(0)
}
