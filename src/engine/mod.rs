//! Executes steps, builds `observed`, adopts at start what still lives and cleans up what does not.
//!
//! Invariant: every effect is idempotent, and ordered so that a crash between any two is repaired by the
//! next reconcile: a container's row is committed before anything of it is made and forgotten after
//! everything of it is gone. The engine owns no container: shims do. Steps flow in; task states, events and
//! `observed` flow out. May use [`crate::image`], [`crate::snapshot`], [`crate::runtime`], [`crate::network`]
//! and [`crate::store`]; knows neither sources nor the API.

mod adopt;
mod check;
mod collect;
mod container;
mod ending;
mod events;
mod exec;
mod image;
mod keyed;
pub mod lock;
mod memory;
mod monitor;
mod moving;
mod observe;
mod registry;
mod root;
mod runner;
mod starting;
mod stats;
mod teardown;
mod transfers;
mod unwanted;
mod views;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use tokio::sync::watch;

use crate::config::Config;
use crate::error::{Class, Fault, Result};
use crate::image::{Images, RegistryConfig};
use crate::manifest::{Kind, ResourceKey};
use crate::oci::{Digest, Reference};
use crate::plan::{Action, Source, Step, Target};
use crate::runtime::{Bundle, HostFacts};
use crate::snapshot::Snapshots;
use crate::store::{EventType, Store};

pub use crate::runtime::Stdio as TaskStdio;
pub use crate::runtime::spec::ExecSpec;
pub use check::{Examination, Examined, Flaw, Found};
pub use collect::{ContentLease, Freed, Garbage};
pub use container::{Making, container_key};
pub use ending::Departed;
pub use events::EventLog;
pub use exec::{ExecStarted, ExecWhose};
pub use memory::{ContainerKey, Memory, Records};
pub use monitor::Task;
pub use moving::{ImportMove, ImportProgress, Incoming};
pub use observe::Freshness;
pub use starting::{Launched, StartOptions};
pub use transfers::{Move, Transfers};
pub use unwanted::GivenUp;
pub use views::View;

/// The node's effects behind one door. Cheap to share behind an [`Arc`].
pub struct Engine {
    // Replaced as a whole when the configuration is read again.
    config: RwLock<Arc<Config>>,
    store: Arc<Store>,
    memory: Memory,
    images: Images,
    snapshots: Snapshots,
    host: HostFacts,
    events: EventLog,
    tasks: Mutex<HashMap<ContainerKey, Task>>,
    busy: Mutex<HashMap<ResourceKey, Busy>>,
    keys: keyed::KeyedLocks<ResourceKey>,
    wishes: Mutex<HashMap<ContainerKey, container::Wishes>>,
    unwanted: unwanted::Unwanted,
    // Further processes that are waited for.
    execs: Arc<exec::Execs>,
    departed: Mutex<VecDeque<ending::Departed>>,
    answers: Mutex<HashMap<Reference, Answer>>,
    // Counts what may matter to a plan or to somebody who waits.
    generation: watch::Sender<u64>,
    // Something may have become garbage since the last question.
    garbage: AtomicBool,
    // Held while the record of a mounted view is made or cleared.
    views: Mutex<()>,
    // One collection at a time.
    collecting: tokio::sync::Mutex<()>,
    // One writer of the layout's index.json at a time.
    index: Mutex<()>,
    transfers: Arc<Transfers>,
    // Held while the engine lives.
    _lock: lock::NodeLock,
}

/// What a registry answered, and when.
type Answer = (Instant, std::result::Result<Digest, String>);

/// What a resource is in the middle of, for listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Busy {
    /// Its image is on its way.
    Pulling,
    /// It is being made or changed.
    Working,
    /// It is being taken away.
    Removing,
}

/// How registries are spoken to by this configuration.
pub fn registry_config(config: &Config) -> RegistryConfig {
    let registry = RegistryConfig {
        plain_http_hosts: config.registry.plain_http.clone(),
        concurrency: config.registry.max_concurrent_downloads as usize,
        per_host: config.registry.max_concurrent_downloads_per_host as usize,
        ..RegistryConfig::with_certs(&config.registry.certs_dir)
    };
    match config.registry.auth_files.as_slice() {
        // Where Podman and Docker look.
        [] => registry,
        files => RegistryConfig { auth_files: files.to_vec(), ..registry },
    }
}

impl Engine {
    /// Takes the node's lock, opens what is kept, and adopts every task that lives.
    ///
    /// Must run inside a tokio runtime. Refused when another process has the lock.
    pub async fn open(config: Config) -> Result<Arc<Self>> {
        let root = config.root.clone();
        let state = config.state.clone();
        make_directory(&root)?;
        make_directory(&state)?;
        let lock = lock::NodeLock::take(&root, &state)?;
        let store = Arc::new(Store::open(&root)?);
        let memory = Memory::load(&store)?;
        let events = EventLog::open(&store, config.events.keep)?;
        let images = Images::open(&root, registry_config(&config))?;
        let limit = u64::try_from(config.layers.max_size.value()).unwrap_or(u64::MAX);
        let snapshots = Snapshots::open_limited(&root, limit)?;
        let host = HostFacts::detect()?;
        let engine = Arc::new(Self {
            config: RwLock::new(Arc::new(config)),
            store,
            memory,
            images,
            snapshots,
            host,
            events,
            tasks: Mutex::default(),
            busy: Mutex::default(),
            keys: keyed::KeyedLocks::default(),
            wishes: Mutex::default(),
            unwanted: watch::Sender::default(),
            execs: Arc::default(),
            departed: Mutex::default(),
            answers: Mutex::default(),
            generation: watch::Sender::new(0),
            garbage: AtomicBool::new(false),
            views: Mutex::default(),
            collecting: tokio::sync::Mutex::default(),
            index: Mutex::default(),
            transfers: Arc::default(),
            _lock: lock,
        });
        engine.write_index();
        engine.reach_registries_as_declared();
        engine.adopt().await;
        Ok(engine)
    }

    /// The settings in force. Asked for anew at each use, so that a reload needs no further word.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes other settings into use. Only what [`Config::with_live`] lets through may differ: paths and cgroups
    /// were handed out by the old ones.
    pub fn configure(&self, config: Config) {
        let before = std::mem::replace(
            &mut *self.config.write().unwrap_or_else(PoisonError::into_inner),
            Arc::new(config.clone()),
        );
        self.events.keep(config.events.keep);
        if before.registry != config.registry {
            self.images.configure(registry_config(&config));
            // What a registry could not answer as it was asked, it may answer now.
            lock_of(&self.answers).retain(|_, (_, answer)| answer.is_ok());
        }
        self.touch();
    }

    /// The database.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The records.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// The images.
    pub fn images(&self) -> &Images {
        &self.images
    }

    /// The snapshots.
    pub fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// What is on its way to the node.
    pub fn transfers(&self) -> &Transfers {
        &self.transfers
    }

    /// What this machine can do.
    pub fn host(&self) -> &HostFacts {
        &self.host
    }

    /// The event log.
    pub fn events(&self) -> &EventLog {
        &self.events
    }

    /// Changes whenever something did that may matter to a plan or to somebody who waits.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Says that something did.
    pub fn touch(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Something was given up that a collection may free.
    fn leave_garbage(&self) {
        self.garbage.store(true, Ordering::Release);
    }

    /// Whether something was since the last call.
    pub fn take_garbage(&self) -> bool {
        self.garbage.swap(false, Ordering::AcqRel)
    }

    /// Records an event.
    pub fn event(&self, key: &ResourceKey, kind: EventType, reason: &str, message: impl Into<String>) {
        self.events.record(key, kind, reason, message.into());
    }

    /// What a resource is in the middle of.
    pub fn busy(&self, key: &ResourceKey) -> Option<Busy> {
        lock_of(&self.busy).get(key).copied()
    }

    /// Carries out one step. Idempotent: a step that was carried out before does nothing again.
    pub async fn execute(self: &Arc<Self>, step: &Step) -> Result<()> {
        let _key = self.keys.lock(&step.key).await;
        let busy = match (&step.target, step.action) {
            (_, Action::Remove) => Busy::Removing,
            (Some(Target::Pull { .. } | Target::Import { .. }), _) => Busy::Pulling,
            _ => Busy::Working,
        };
        lock_of(&self.busy).insert(step.key.clone(), busy);
        let result = self.dispatch(step).await;
        lock_of(&self.busy).remove(&step.key);
        match &result {
            Ok(()) => {}
            Err(fault) if self.is_given_up(&(step.key.namespace.clone(), step.key.name.clone())) => {
                self.event(&step.key, EventType::Normal, "GivenUp", fault.message.clone());
            }
            Err(fault) => {
                if busy == Busy::Pulling {
                    self.leave_garbage();
                }
                self.event(&step.key, EventType::Warning, "Failed", fault.message.clone());
            }
        }
        self.touch();
        result
    }

    async fn dispatch(self: &Arc<Self>, step: &Step) -> Result<()> {
        let key = &step.key;
        let source = step.source.clone().unwrap_or(Source::Cli);
        match (&step.target, key.kind) {
            (Some(Target::Registry(resource)), _) => self.set_registry(key, resource, source),
            (Some(Target::Namespace(resource)), _) => self.set_namespace(key, resource, source),
            (Some(Target::Pull { reference, digest, resource }), _) => {
                self.pull(key, reference, digest.as_ref(), resource.as_ref(), source).await
            }
            (Some(Target::Import { reference, archive, digest, resource }), _) => {
                self.import(key, reference, archive, digest, resource, source).await
            }
            (Some(Target::Tag { reference, source: from, digest, resource }), _) => {
                self.set_tag(key, reference, from, digest.as_ref(), resource, source)
            }
            (Some(Target::Container { resource, digest }), _) => match step.action {
                Action::Update => self.update_container(key, resource, digest.as_ref(), source).await,
                Action::Start => {
                    if !step.changes.is_empty() {
                        self.update_container(key, resource, digest.as_ref(), source).await?;
                    }
                    self.start_again(key).await
                }
                _ => self.make_container(key, resource, digest.as_ref(), source).await,
            },
            (None, Kind::Container) => self.remove_container(&(key.namespace.clone(), key.name.clone())).await,
            (None, Kind::Image | Kind::Tag) => self.remove_reference(key),
            (None, Kind::Registry) => self.remove_registry(&key.name),
            (None, Kind::Namespace) => self.remove_namespace(&key.name),
        }
    }

    /// Where a container's bundle is while it has a task.
    pub fn bundle(&self, key: &ContainerKey) -> Result<Bundle> {
        Bundle::at(&self.config().state, &key.0, &key.1).map_err(Fault::from)
    }
}

fn make_directory(path: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(|error| {
        Fault::new(Class::Runtime, format!("directory {}: {error}", path.display()))
            .help("bayplan works as root; --root and --state choose other directories")
    })
}

/// A poisoned lock still guards sound data here: nothing is left half-written under any of them.
fn lock_of<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
