//! The node: the engine, what is desired of it, and what is under way.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::Semaphore;

use crate::api::SourceStatus;
use crate::config::Config;
use crate::engine::Engine;
use crate::error::{Fault, Result};
use crate::manifest::ResourceKey;
use crate::plan::{Declared, Desired, Step};
use crate::store::DeclaredRecord;

use super::local::LocalDirectory;
use super::reconcile::Claims;
use super::reload::Reloaded;

/// What the manifest directory wants, as far as it was accepted.
#[derive(Default)]
pub struct DirectoryView {
    /// Counts its changes.
    pub version: u64,
    /// What is declared in it.
    pub declared: BTreeMap<ResourceKey, Declared>,
    /// Its health.
    pub status: SourceStatus,
}

/// Requests to read the directory now.
pub(super) type Looks = tokio::sync::mpsc::UnboundedReceiver<tokio::sync::oneshot::Sender<()>>;

/// The last failure of a resource's step.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub since: jiff::Timestamp,
    pub fault: Fault,
    /// When the loop tries again; `None` when only a change brings a new try.
    pub next_try: Option<jiff::Timestamp>,
}

/// One node, served by a daemon or by the command line itself.
pub struct Node {
    pub(super) engine: Arc<Engine>,
    pub(super) is_daemon: bool,
    pub(super) directory: RwLock<DirectoryView>,
    /// The source behind the view; the daemon's loop owns it, and a command without a daemon.
    pub(super) source: tokio::sync::Mutex<LocalDirectory>,
    pub(super) planning: tokio::sync::Mutex<()>,
    workers: Mutex<Arc<Semaphore>>,
    pulls: Mutex<HashMap<String, Arc<Semaphore>>>,
    /// Has the daemon's follower read the directory now, and answer when what it saw was taken over.
    pub(super) looks: tokio::sync::mpsc::UnboundedSender<tokio::sync::oneshot::Sender<()>>,
    /// The other end, until the daemon takes it.
    pub(super) asked_looks: Mutex<Option<Looks>>,
    /// Says that the loop should look at the directory and the plan now.
    pub(super) wake: tokio::sync::Notify,
    /// Held while space is freed.
    pub(super) relieving: tokio::sync::Mutex<()>,
    claims: Mutex<Claims>,
    failures: Mutex<HashMap<ResourceKey, Failure>>,
    desired: Mutex<Option<(u64, u64, Arc<Desired>)>>,
    reloaded: Mutex<Reloaded>,
}

impl Node {
    /// Opens the node of this configuration. Refused when another process works on it.
    pub async fn open(config: Config, is_daemon: bool) -> Result<Arc<Self>> {
        let workers = config.controller.workers();
        let engine = Engine::open(config).await?;
        let source = LocalDirectory::restore(&engine)?;
        let (looks, asked_looks) = tokio::sync::mpsc::unbounded_channel();
        let node = Arc::new(Self {
            looks,
            asked_looks: Mutex::new(Some(asked_looks)),
            engine,
            is_daemon,
            directory: RwLock::default(),
            source: tokio::sync::Mutex::new(source),
            planning: tokio::sync::Mutex::new(()),
            workers: Mutex::new(Arc::new(Semaphore::new(workers))),
            pulls: Mutex::default(),
            wake: tokio::sync::Notify::new(),
            relieving: tokio::sync::Mutex::default(),
            claims: Mutex::default(),
            failures: Mutex::default(),
            desired: Mutex::default(),
            reloaded: Mutex::default(),
        });
        {
            let source = node.source.lock().await;
            node.show(source.view());
        }
        Ok(node)
    }

    /// Takes other settings into use; see [`Engine::configure`].
    pub(super) fn configure(&self, config: Config) {
        let before = self.engine.config();
        // New places: those that are taken are free when what is under way has ended, and nobody waits for it.
        if before.controller.workers() != config.controller.workers() {
            let places = Arc::new(Semaphore::new(config.controller.workers()));
            *self.workers.lock().unwrap_or_else(PoisonError::into_inner) = places;
        }
        if before.controller.pulls != config.controller.pulls {
            self.pulls.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        self.engine.configure(config);
    }

    /// What is to be said of the last reload.
    pub(super) fn reloaded(&self) -> MutexGuard<'_, Reloaded> {
        self.reloaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The places for steps other than pulls.
    pub(super) fn workers(&self) -> Arc<Semaphore> {
        Arc::clone(&self.workers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The places for pulls from a registry host: one that does not answer keeps no other waiting.
    pub(super) fn pulls(&self, host: &str) -> Arc<Semaphore> {
        let places = usize::try_from(self.engine.config().controller.pulls).unwrap_or(3).max(1);
        let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(pulls.entry(host.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(places))))
    }

    /// Has the directory read now and what it says taken over: by the daemon's follower, or here without one.
    pub(super) async fn look(self: &Arc<Self>, store: bool) -> Result<()> {
        if !self.is_daemon {
            return self.source.lock().await.look(self, store).await;
        }
        let (done, taken) = tokio::sync::oneshot::channel();
        let _ = self.looks.send(done);
        // Under a stream of changes the follower waits for a pause, at most about ten seconds.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(15), taken).await;
        Ok(())
    }

    /// Shows what the directory wants from now on.
    pub(super) fn show(&self, mut view: DirectoryView) {
        let mut shown = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        view.version = shown.version + 1;
        *shown = view;
    }

    /// Says what is wrong with the directory until it is shown anew.
    pub(super) fn complain(&self, diagnostic: crate::manifest::Diagnostic) {
        let mut shown = self.directory.write().unwrap_or_else(PoisonError::into_inner);
        shown.status.problems.retain(|known| known.place != diagnostic.place);
        shown.status.problems.push(diagnostic);
    }

    pub(super) fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<ResourceKey, Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers how a step went.
    pub(super) fn remember(&self, step: &Step, fault: Option<&Fault>) {
        let mut failures = self.failures();
        match fault {
            None => {
                failures.remove(&step.key);
            }
            Some(fault) => {
                let since = failures.get(&step.key).map_or_else(jiff::Timestamp::now, |failure| failure.since);
                failures.insert(step.key.clone(), Failure { since, fault: fault.clone(), next_try: None });
            }
        }
    }

    /// Notes when the loop tries again.
    pub(super) fn note_next_try(&self, key: &ResourceKey, at: jiff::Timestamp) {
        if let Some(failure) = self.failures().get_mut(key) {
            failure.next_try = Some(at);
        }
    }

    /// Drops failures of what nobody wants any more.
    pub(super) fn forget_failures(&self, keep: impl Fn(&ResourceKey) -> bool) {
        self.failures().retain(|key, _| keep(key));
    }

    /// How the last step of a resource failed, if it did.
    pub(super) fn failure(&self, key: &ResourceKey) -> Option<Failure> {
        self.failures().get(key).cloned()
    }

    /// All that is wanted, from every source. A directory goes before what was applied or made by hand.
    pub(super) fn desired(&self) -> Arc<Desired> {
        let directory = self.directory.read().unwrap_or_else(PoisonError::into_inner);
        let records = self.engine.memory().read();
        let mut cache = self.desired.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((version, declarations, desired)) = cache.as_ref()
            && (*version, *declarations) == (directory.version, records.declarations)
        {
            return Arc::clone(desired);
        }
        let mut desired = Desired::default();
        for (key, record) in &records.declared {
            desired.resources.insert(key.clone(), declared(record));
        }
        for (key, declared) in &directory.declared {
            desired.resources.insert(key.clone(), declared.clone());
        }
        let desired = Arc::new(desired);
        *cache = Some((directory.version, records.declarations, Arc::clone(&desired)));
        desired
    }

    /// Who declares a resource, if anybody does.
    pub(super) fn declared(&self, key: &ResourceKey) -> Option<Declared> {
        self.desired().resources.get(key).cloned()
    }

    /// Commits declarations and has the loop look at them.
    pub(super) fn declare(&self, set: Vec<DeclaredRecord>, drop: &[ResourceKey]) -> Result<()> {
        if set.is_empty() && drop.is_empty() {
            return Ok(());
        }
        self.engine.memory().declare(self.engine.store(), set, drop)?;
        self.wake.notify_one();
        Ok(())
    }
}

/// A record as the planner wants it.
fn declared(record: &DeclaredRecord) -> Declared {
    Declared {
        resource: record.resource.clone(),
        source: record.source.clone(),
        place: record.place.clone(),
        fields: BTreeMap::new(),
    }
}
