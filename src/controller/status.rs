//! What the node tells of itself: status, events, waiting, inspection, facts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::api::*;
use crate::api::{Stream, channel};
use crate::error::{Class, Fault, Result};
use crate::manifest::{API_VERSION, Kind, ResourceKey};
use crate::oci::{Platform, Reference};
use crate::plan::{Severity, Source};
use crate::shim::protocol::TaskPhase;
use crate::store;

use super::Node;
use super::health::Supervised;
use super::reconcile::Scope;

impl Node {
    pub(super) fn directory_status(&self) -> SourceStatus {
        self.directory.read().unwrap_or_else(PoisonError::into_inner).status.clone()
    }

    pub(super) async fn status(self: &Arc<Self>) -> Result<StatusReport> {
        if !self.is_daemon {
            self.source.lock().await.look(self, false).await?;
        }
        let desired = self.desired();
        let plan = Scope::All.narrow(self.plan_for(&desired, crate::engine::Freshness::Recent).await);
        let mut sources: BTreeMap<String, SourceStatus> = BTreeMap::new();
        for declared in desired.resources.values() {
            if !matches!(declared.source, Source::Directory(_)) {
                let name = declared.source.to_string();
                let source =
                    sources.entry(name.clone()).or_insert_with(|| SourceStatus { name, ..SourceStatus::default() });
                source.resources += 1;
            }
        }
        let directory = self.directory_status();
        let held = directory.held.is_some();
        let broken = !directory.problems.is_empty();
        let mut all = vec![directory];
        all.extend(sources.into_values());
        let mut phases: BTreeMap<Phase, u64> = BTreeMap::new();
        let now = jiff::Timestamp::now();
        let mut not_converged: Vec<NotConverged> = Vec::new();
        let mut notes = Vec::new();
        for item in self.list(&Query { kinds: vec![Kind::Container], namespace: None, name: None })? {
            let Some(status) = item.container() else { continue };
            *phases.entry(status.phase).or_default() += 1;
            let key = item.key();
            // What a step is about to change is told below.
            if plan.step(&key).is_none() && !self.is_claimed(&key) {
                let id = (key.namespace.clone(), key.name.clone());
                match self.supervision(&id) {
                    Supervised::Well => {}
                    Supervised::Ill(ill) => not_converged.push(ill),
                    Supervised::Down(why) => notes.push(format!("{key} {why}")),
                }
            }
        }
        for step in &plan.steps {
            let failure = self.failure(&step.key);
            let waiting = step.needs.iter().find(|need| plan.step(need).is_some());
            let (reason, message) = match (&failure, waiting) {
                (Some(failure), _) => ("Failed", failure.fault.message.clone()),
                (None, Some(need)) => ("Waiting", format!("{}; waits for {need}", step.reason)),
                (None, None) if self.is_claimed(&step.key) => ("Working", step.reason.clone()),
                (None, None) => ("Pending", step.reason.clone()),
            };
            not_converged.push(NotConverged {
                key: step.key.clone(),
                since: failure.as_ref().map_or(now, |failure| failure.since),
                reason: reason.into(),
                message,
                next_try: failure.and_then(|failure| failure.next_try),
            });
        }
        // What began for an earlier wish and is not over.
        for key in self.claims_now().into_keys().filter(|key| plan.step(key).is_none()) {
            let message = "what was begun is not over yet".to_owned();
            not_converged.push(NotConverged { key, since: now, reason: "Working".into(), message, next_try: None });
        }
        for problem in plan.problems.iter().filter(|problem| problem.severity == Severity::Error) {
            not_converged.push(NotConverged {
                key: problem.key.clone(),
                since: now,
                reason: "Impossible".into(),
                message: problem.message.clone(),
                next_try: None,
            });
        }
        let references = self.engine.memory().read().references.len() as u64;
        Ok(StatusReport {
            converged: plan.is_converged() && not_converged.is_empty() && !held && !broken,
            daemon: self.is_daemon,
            sources: all,
            phases,
            references,
            not_converged,
            pending: plan.steps,
            problems: plan.problems,
            notes,
            warnings: self.warnings(),
        })
    }

    pub(super) async fn wait(self: &Arc<Self>, request: WaitRequest) -> Result<()> {
        let WaitRequest { key, condition, timeout_ms } = request;
        let wait = async {
            let mut changes = self.engine.changes();
            loop {
                if self.holds(&key, condition) {
                    return Ok(());
                }
                if changes.changed().await.is_err() {
                    return Err(Fault::new(Class::Runtime, "the node goes down"));
                }
            }
        };
        match deadline(timeout_ms) {
            None => wait.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), wait).await.unwrap_or_else(|_| {
                let now = self.describe_phase(&key);
                Err(Fault::new(
                    Class::No,
                    format!("{key} is not {condition} after {:.1} s; it is {now}", seconds(timeout_ms)),
                )
                .help(format!("bayplan -n {} describe {} {}", key.namespace, key.kind, key.name)))
            }),
        }
    }

    pub(super) fn describe_phase(&self, key: &ResourceKey) -> String {
        if let Some(failure) = self.failure(key) {
            return format!("not as declared: {}", failure.fault.message);
        }
        match self.engine.task(&(key.namespace.clone(), key.name.clone())) {
            Some(state) => format!("{:?}", state.phase),
            None if self.is_on_node(key) => self.last_end(key).unwrap_or_else(|| "there, without a task".into()),
            None if self.declared(key).is_some() => "declared, and not there yet".into(),
            None => "not there".into(),
        }
    }

    /// How and when the last task of a container ended.
    fn last_end(&self, key: &ResourceKey) -> Option<String> {
        let id = (key.namespace.clone(), key.name.clone());
        let records = self.engine.memory().read();
        let exit = records.containers.get(&id)?.last.as_ref()?.exit.as_ref()?;
        Some(format!("ended with status {} at {:.0}", exit.code, exit.at))
    }

    fn holds(&self, key: &ResourceKey, condition: WaitFor) -> bool {
        let id = (key.namespace.clone(), key.name.clone());
        match (key.kind, condition) {
            (_, WaitFor::Deleted) => !self.is_on_node(key) && !self.is_claimed(key),
            (Kind::Container, WaitFor::Running | WaitFor::Ready) => {
                self.engine.task(&id).is_some_and(|state| state.phase == TaskPhase::Running)
            }
            (Kind::Container, WaitFor::Exited) => {
                let ended = |phase| matches!(phase, TaskPhase::Exited | TaskPhase::Stopped | TaskPhase::Failed);
                match self.engine.task(&id) {
                    Some(state) => ended(state.phase),
                    None => {
                        let record = self.engine.memory().read().containers.get(&id).cloned();
                        match record {
                            Some(record) => record.last.is_some_and(|state| ended(state.phase)),
                            None => self.engine.departed(&id, None).is_some(),
                        }
                    }
                }
            }
            (_, WaitFor::Running | WaitFor::Ready) => self.is_on_node(key),
            (_, WaitFor::Exited) => false,
        }
    }

    pub(super) fn events(self: &Arc<Self>, filter: EventFilter) -> Result<Stream<EventRecord>> {
        let selects = move |event: &store::EventRecord| {
            filter.namespace.as_ref().is_none_or(|namespace| event.key.namespace == *namespace)
                && filter.kind.is_none_or(|kind| event.key.kind == kind)
                && filter.name.as_ref().is_none_or(|name| event.key.name == *name)
        };
        // Followed before it is read: nothing that happens in between is missed.
        let mut coming = self.engine.events().follow();
        self.engine.events().flush();
        let kept = self.engine.store().events()?;
        let newest = kept.last().map_or(0, |event| event.id);
        let mut kept: Vec<store::EventRecord> = kept.into_iter().filter(&selects).collect();
        if let Some(tail) = filter.tail {
            let tail = usize::try_from(tail).unwrap_or(usize::MAX);
            kept.drain(..kept.len().saturating_sub(tail));
        }
        let (sender, stream) = channel(64);
        let follow = filter.follow;
        tokio::spawn(async move {
            for event in kept {
                if sender.send(Ok(told(event))).await.is_err() {
                    return;
                }
            }
            if !follow {
                return;
            }
            loop {
                tokio::select! {
                    () = sender.closed() => return,
                    event = coming.recv() => match event {
                        Ok(event) if event.id < newest || !selects(&event) => {}
                        Ok(event) => {
                            if sender.send(Ok(told(event))).await.is_err() {
                                return;
                            }
                        }
                        Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                        Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
                    },
                }
            }
        });
        Ok(stream)
    }

    pub(super) fn inspect(self: &Arc<Self>, key: &ResourceKey) -> Result<Inspection> {
        let key = self.resolve_handle(key);
        let query =
            Query { kinds: vec![key.kind], namespace: Some(key.namespace.clone()), name: Some(key.name.clone()) };
        let Some(item) = self.list(&query)?.into_iter().next() else {
            return Err(match key.kind {
                Kind::Container => self.no_container(&(key.namespace, key.name)),
                Kind::Image | Kind::Tag => self.no_image(&key.namespace, &key.name),
                Kind::Namespace | Kind::Registry => Fault::new(Class::NotFound, format!("{key} is not there")),
            });
        };
        let nothing = || serde_json::Value::Null;
        let mut inspection =
            Inspection { item, record: nothing(), runtime_spec: nothing(), config: nothing(), image: None };
        match key.kind {
            Kind::Container => {
                let id = (key.namespace.clone(), key.name.clone());
                let record = self.engine.memory().read().containers.get(&id).cloned();
                inspection.record = serde_json::to_value(record).unwrap_or_default();
                inspection.runtime_spec = self.engine.runtime_spec(&id).unwrap_or_default();
            }
            Kind::Image | Kind::Tag => {
                if let Ok(reference) = key.name.parse::<Reference>() {
                    let record =
                        self.engine.memory().read().references.get(&(key.namespace.clone(), reference)).cloned();
                    if let Some(record) = &record
                        && let Some(image) = self.shown_image(record)
                    {
                        inspection.config = serde_json::to_value(&image.config).unwrap_or_default();
                    }
                    inspection.image = record.as_ref().and_then(|record| self.image_details(record));
                    inspection.record = serde_json::to_value(record).unwrap_or_default();
                }
            }
            Kind::Namespace | Kind::Registry => {}
        }
        Ok(inspection)
    }

    /// What this machine cannot do and what of the configuration is not in force, each a sentence.
    pub(super) fn warnings(&self) -> Vec<String> {
        let host = self.engine.host();
        let mut warnings = Vec::new();
        if !host.can_raise_rlimits {
            warnings.push(
                "this machine lacks CAP_SYS_RESOURCE: rlimits above the node's own and oom scores are best effort"
                    .into(),
            );
        }
        warnings.extend(self.reloaded().warnings());
        warnings.extend(self.disk_warning());
        warnings
    }

    pub(super) fn info(&self) -> Info {
        let config = self.engine.config();
        let records = self.engine.memory().read();
        let running = records
            .containers
            .keys()
            .filter(|id| self.engine.task(id).is_some_and(|state| state.phase == TaskPhase::Running))
            .count();
        let namespaces: std::collections::BTreeSet<&String> = records
            .containers
            .keys()
            .map(|(namespace, _)| namespace)
            .chain(records.references.keys().map(|(namespace, _)| namespace))
            .chain(records.namespaces.keys())
            .collect();
        Info {
            daemon: self.is_daemon,
            pid: std::process::id(),
            root: config.root.clone(),
            state: config.state.clone(),
            manifests: config.manifests.clone(),
            address: config.address(),
            cgroup_version: self.engine.host().cgroup.to_string(),
            cgroup_driver: if self.engine.uses_systemd_cgroups() { "systemd".into() } else { "cgroupfs".into() },
            cgroup_parent: config.cgroup_parent(),
            containers: records.containers.len() as u64,
            running: running as u64,
            images: records.references.len() as u64,
            namespaces: namespaces.len() as u64,
            warnings: self.warnings(),
        }
    }

    pub(super) async fn version(&self) -> Version {
        let path = self.engine.config().runtime(None).map(Path::to_path_buf).unwrap_or_else(|| "runc".into());
        let found = crate::runtime::host::find_runc(Some(&path)).ok();
        let runtime = match &found {
            Some(path) => runtime_version(path).await,
            None => None,
        };
        Version {
            version: env!("CARGO_PKG_VERSION").into(),
            commit: option_env!("BAYPLAN_COMMIT").unwrap_or_default().into(),
            api_version: API_VERSION.into(),
            platform: Platform::host().to_string(),
            runtime,
            runtime_path: found,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        }
    }
}

fn told(event: store::EventRecord) -> EventRecord {
    EventRecord {
        time: event.time,
        key: event.key,
        kind: match event.kind {
            store::EventType::Normal => EventKind::Normal,
            store::EventType::Warning => EventKind::Warning,
        },
        reason: event.reason,
        message: event.message,
        count: u64::from(event.count),
    }
}

fn seconds(timeout_ms: Option<u64>) -> f64 {
    std::time::Duration::from_millis(timeout_ms.unwrap_or_default()).as_secs_f64()
}

/// The first line of `runc --version`.
async fn runtime_version(path: &Path) -> Option<String> {
    let mut command = tokio::process::Command::new(path);
    command.arg("--version").stdin(std::process::Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(std::time::Duration::from_secs(5), command.output()).await.ok()?.ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

/// When a wait is over that may take so long.
fn deadline(timeout_ms: Option<u64>) -> Option<std::time::Instant> {
    timeout_ms.map(|millis| std::time::Instant::now() + std::time::Duration::from_millis(millis))
}
