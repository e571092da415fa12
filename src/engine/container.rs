//! The steps of containers, make, update, start again, take away, and their records. What a start is, is in `starting`; how
//! they end, in `ending`.
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
use crate::manifest::{ContainerSpec, Kind, Resource, ResourceKey};
use crate::oci::{Digest, Platform, Reference};
use crate::plan::Source;
use crate::runtime::spec;
use crate::shim::protocol::{TaskPhase, TaskState};
use crate::store::{ContainerRecord, EventType};

use super::image::new_uid;
use super::memory::ContainerKey;
use super::runner::Runner;
use super::starting::StartOptions;
use super::{Engine, lock_of};

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

    /// Says how the container that the next step makes or starts is to be, beside what its resource says.
    pub fn wish(&self, id: &ContainerKey, making: Making, options: StartOptions) {
        lock_of(&self.wishes).insert(id.clone(), Wishes { making, options });
    }

    /// Takes back what no step has taken.
    pub fn unwish(&self, id: &ContainerKey) {
        lock_of(&self.wishes).remove(id);
    }

    pub(super) fn take_wish(&self, id: &ContainerKey) -> Wishes {
        lock_of(&self.wishes).remove(id).unwrap_or_default()
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

    /// Where a container's logs are.
    pub fn log_dir(&self, id: &ContainerKey) -> PathBuf {
        self.config().log_dir().join(&id.0).join(&id.1)
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

pub(super) fn check_sources(spec: &ContainerSpec, key: &ResourceKey) -> Result<()> {
    spec::check_sources(&spec.mounts).map_err(|error| in_container(key, Fault::from(error)))
}

/// The fault with its container named.
pub(super) fn in_container(key: &ResourceKey, mut fault: Fault) -> Fault {
    fault.message = format!("{key}: {}", fault.message);
    fault
}

pub(super) fn snapshot_key(record: &ContainerRecord) -> String {
    format!("{}/{}", record.namespace, record.uid)
}
