//! `apply`, `diff`, `delete` and `sync`: declarations, and the drive that brings them about.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::api::{ApplyEvent, ApplyRequest, DEFAULT_SET, DeleteRequest, DiffRequest, SyncRequest};
use crate::api::{Stream, channel};
use crate::engine::Freshness;
use crate::error::{Class, Fault, Result};
use crate::manifest::{Kind, ResourceKey, RestartPolicy};
use crate::plan::{Declared, Desired, Plan, Severity, Source};
use crate::shim::protocol::TaskPhase;
use crate::store::DeclaredRecord;

use super::Node;
use super::reconcile::{Counts, Scope};

/// What an `apply` would declare and drop.
struct Change {
    set: Vec<DeclaredRecord>,
    drop: Vec<ResourceKey>,
    scope: BTreeSet<ResourceKey>,
}

impl Node {
    pub(super) async fn apply(self: &Arc<Self>, request: ApplyRequest) -> Result<Stream<ApplyEvent>> {
        let change = self.change(&request.declared, request.set.as_deref(), request.prune)?;
        let (sender, stream) = channel(64);
        let node = Arc::clone(self);
        let limit = request.timeout_ms.map(Duration::from_millis);
        tokio::spawn(async move {
            let work = async {
                if request.dry_run {
                    let desired = node.with(&change);
                    let scope = node.followed(&desired, change.scope.clone()).await;
                    let plan = node.dry_run(&desired, &scope, Freshness::Known).await;
                    tell_plan(&plan, change.scope.len(), &sender).await;
                    return Ok(());
                }
                let total = change.scope.len();
                // Looked at before it is declared: the daemon's own loop may begin with it at once.
                let first = node.plan_for(&node.with(&change), Freshness::Known).await;
                let first = Scope::Keys(change.scope.clone()).narrow(first);
                node.declare(change.set, &change.drop)?;
                let scope = node.followed(&node.desired(), change.scope.clone()).await;
                let counts = node.drive_from(Some(&first), &scope, Freshness::Known, Some(sender.clone())).await?;
                let scope = Scope::Keys(change.scope);
                if request.wait && counts.failed == 0 {
                    node.wait_for_all(&request.declared, &sender).await?;
                }
                let _ = sender.send(Ok(summary(&counts, &scope, total))).await;
                Ok(())
            };
            let result = match limit {
                Some(limit) => tokio::time::timeout(limit, work)
                    .await
                    .unwrap_or_else(|_| Err(node.out_of_time(&request.declared, limit))),
                None => work.await,
            };
            if let Err(fault) = result {
                let _ = sender.send(Err(fault)).await;
            }
        });
        Ok(stream)
    }

    pub(super) async fn diff(self: &Arc<Self>, request: DiffRequest) -> Result<Plan> {
        match request.declared {
            Some(declared) => {
                let change = self.change(&declared, request.set.as_deref(), request.prune)?;
                let desired = self.with(&change);
                let scope = self.followed(&desired, change.scope).await;
                Ok(self.dry_run(&desired, &scope, Freshness::Known).await)
            }
            None => {
                if !self.is_daemon {
                    self.source.lock().await.look(self, false).await?;
                }
                Ok(self.dry_run(&self.desired(), &Scope::All, Freshness::Now).await)
            }
        }
    }

    pub(super) async fn delete(self: &Arc<Self>, request: DeleteRequest) -> Result<Stream<ApplyEvent>> {
        let desired = self.desired();
        let mut scope = BTreeSet::new();
        for key in &request.keys {
            let key = self.resolve_handle(key);
            match desired.resources.get(&key) {
                Some(Declared { source: Source::Directory(file), .. }) => {
                    return Err(Fault::new(Class::Refused, format!("{key} is declared by the manifest directory"))
                        .at(self.directory_file(file))
                        .help("remove it from that file, or remove the file"));
                }
                Some(_) => {
                    scope.insert(key);
                }
                None if self.is_on_node(&key) => {
                    scope.insert(key);
                }
                None if request.ignore_missing => {}
                None => return Err(self.nothing_called(&key)),
            }
        }
        let drop: Vec<ResourceKey> = scope.iter().filter(|key| desired.resources.contains_key(*key)).cloned().collect();
        let (sender, stream) = channel(64);
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let result = async {
                let change = Change { set: Vec::new(), drop, scope };
                if request.dry_run {
                    let plan =
                        node.dry_run(&node.with(&change), &Scope::Keys(change.scope.clone()), Freshness::Now).await;
                    tell_plan(&plan, change.scope.len(), &sender).await;
                    return Ok(());
                }
                let total = change.scope.len();
                let scope = Scope::Keys(change.scope);
                node.declare(Vec::new(), &change.drop)?;
                let counts = node.drive(&scope, Freshness::Known, Some(sender.clone())).await?;
                let _ = sender.send(Ok(summary(&counts, &scope, total))).await;
                Ok(())
            };
            if let Err(fault) = result.await {
                let _ = sender.send(Err(fault)).await;
            }
        });
        Ok(stream)
    }

    pub(super) async fn sync(self: &Arc<Self>, request: SyncRequest) -> Result<Stream<ApplyEvent>> {
        let of_source = |source: &str, declared: &Declared| {
            let name = declared.source.to_string();
            name == source || (source == "dir" && matches!(declared.source, Source::Directory(_)))
        };
        self.look(true).await?;
        if request.confirm_removal {
            self.source.lock().await.confirm_removal(self)?;
        }
        let desired = self.desired();
        let scope = match request.source.as_deref() {
            None => Scope::All,
            Some(source) => {
                let known = source == "dir" || source == "cli" || source.starts_with("apply:");
                let keys: BTreeSet<ResourceKey> = desired
                    .resources
                    .iter()
                    .filter(|(_, declared)| of_source(source, declared))
                    .map(|(key, _)| key.clone())
                    .collect();
                if !known || (keys.is_empty() && source.starts_with("apply:")) {
                    return Err(Fault::new(Class::NotFound, format!("source {source} is not known"))
                        .help("sources are dir, cli and apply:SET; `bayplan status` lists them"));
                }
                Scope::Keys(keys)
            }
        };
        let about_directory = request.source.as_deref().is_none_or(|source| source == "dir");
        let (sender, stream) = channel(64);
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let total = match &scope {
                Scope::All => desired.resources.len(),
                Scope::Keys(keys) => keys.len(),
            };
            match node.drive(&scope, Freshness::Now, Some(sender.clone())).await {
                Ok(counts) => {
                    let _ = sender.send(Ok(summary(&counts, &scope, total))).await;
                    if about_directory && let Some(fault) = node.held_removal() {
                        let _ = sender.send(Err(fault)).await;
                    }
                }
                Err(fault) => {
                    let _ = sender.send(Err(fault)).await;
                }
            }
        });
        Ok(stream)
    }

    /// What a `sync` says of a removal that is held: what stays, why, and how it is released.
    fn held_removal(&self) -> Option<Fault> {
        let held = self.directory_status().held?;
        let (what, _) = held.split_once("; ").unwrap_or((&held, ""));
        let help = "bayplan sync --confirm-removal lets it happen; files that come back keep what they declare";
        Some(Fault::new(Class::No, format!("a removal is {what}")).help(help))
    }

    /// What an `apply` of these would declare. Refused where another source declares one of them.
    fn change(&self, declared: &[Declared], set: Option<&str>, prune: bool) -> Result<Change> {
        if prune && set.is_none() {
            return Err(Fault::new(Class::Usage, "--prune needs to know what it may take away")
                .help("name the set: --prune --set NAME"));
        }
        let source = Source::Apply(set.unwrap_or(DEFAULT_SET).to_owned());
        let desired = self.desired();
        let now = jiff::Timestamp::now();
        let mut change = Change { set: Vec::new(), drop: Vec::new(), scope: BTreeSet::new() };
        for one in declared {
            let key = one.resource.key();
            let before = desired.resources.get(&key);
            if let Some(before) = before
                && before.source != source
                // What was pulled by hand may be declared at any time; a container made by hand is somebody's.
                && (before.source != Source::Cli || key.kind == Kind::Container)
            {
                let (who, place) = match &before.source {
                    Source::Directory(file) => ("the manifest directory".to_owned(), self.directory_file(file)),
                    Source::Cli => {
                        return Err(Fault::new(Class::Refused, format!("{key} was made by hand"))
                            .help(format!("remove it first: bayplan -n {} rm -f {}", key.namespace, key.name)));
                    }
                    other => (
                        other.to_string(),
                        before.place.as_ref().map_or_else(|| other.to_string(), ToString::to_string),
                    ),
                };
                return Err(Fault::new(Class::Refused, format!("{key} is declared by {who}"))
                    .at(place)
                    .help("change it there, or remove it there first"));
            }
            let created = self.engine.memory().read().declared.get(&key).map_or(now, |record| record.created);
            let record = DeclaredRecord {
                resource: one.resource.clone(),
                source: source.clone(),
                place: one.place.clone(),
                created,
            };
            if self.engine.memory().read().declared.get(&key) != Some(&record) {
                change.set.push(record);
            }
            change.scope.insert(key);
        }
        if prune {
            for (key, before) in &desired.resources {
                if before.source == source && !change.scope.contains(key) {
                    change.drop.push(key.clone());
                }
            }
            change.scope.extend(change.drop.iter().cloned());
        }
        Ok(change)
    }

    /// What would be desired after a change.
    fn with(&self, change: &Change) -> Desired {
        let mut desired = (*self.desired()).clone();
        for record in &change.set {
            desired.resources.insert(
                record.key(),
                Declared {
                    resource: record.resource.clone(),
                    source: record.source.clone(),
                    place: record.place.clone(),
                    fields: std::collections::BTreeMap::new(),
                },
            );
        }
        for key in &change.drop {
            desired.resources.remove(key);
        }
        desired
    }

    /// Until every container among these runs, or has ended where it is not to be restarted.
    async fn wait_for_all(
        &self,
        declared: &[Declared],
        sender: &tokio::sync::mpsc::Sender<Result<ApplyEvent>>,
    ) -> Result<()> {
        let mut changes = self.engine.changes();
        let mut told = BTreeSet::new();
        loop {
            let Some(key) = declared.iter().find(|one| !self.is_up(one)).map(|one| one.resource.key()) else {
                return Ok(());
            };
            if told.insert(key.clone()) {
                let message = format!("waiting for {key} to run");
                let _ = sender.send(Ok(ApplyEvent::Note { message })).await;
            }
            if changes.changed().await.is_err() {
                return Ok(());
            }
        }
    }

    /// Whether a resource is as `apply --wait` waits for it.
    fn is_up(&self, declared: &Declared) -> bool {
        let key = declared.resource.key();
        let Some(spec) = declared.resource.container() else { return self.is_on_node(&key) };
        let id = (key.namespace, key.name);
        match self.engine.task(&id) {
            Some(state) => state.phase == TaskPhase::Running,
            None => {
                let record = self.engine.memory().read().containers.get(&id).cloned();
                record.and_then(|record| record.last).is_some() && spec.restart != RestartPolicy::Always
            }
        }
    }

    /// What an `apply` says that took too long: what it still waits for.
    fn out_of_time(&self, declared: &[Declared], limit: Duration) -> Fault {
        let late: Vec<ResourceKey> =
            declared.iter().filter(|one| !self.is_up(one)).map(|one| one.resource.key()).collect();
        let shown: Vec<String> =
            late.iter().take(5).map(|key| format!("{key} is {}", self.describe_phase(key))).collect();
        let more = if late.len() > 5 { format!(", and {} more", late.len() - 5) } else { String::new() };
        let colon = if late.is_empty() { "" } else { ": " };
        let what = format!("apply is not done after {} s{colon}{}{more}", limit.as_secs_f32(), shown.join(", "));
        Fault::new(Class::No, what).help(if self.is_daemon {
            "it goes on: `bayplan status` shows what is left; --timeout waits longer"
        } else {
            "the next `bayplan sync` or daemon goes on with it; --timeout waits longer"
        })
    }

    /// Whether the node has it, declared or not.
    pub(super) fn is_on_node(&self, key: &ResourceKey) -> bool {
        let records = self.engine.memory().read();
        match key.kind {
            Kind::Namespace => records.namespaces.contains_key(&key.name),
            Kind::Registry => records.registries.contains_key(&key.name),
            Kind::Container => records.containers.contains_key(&(key.namespace.clone(), key.name.clone())),
            Kind::Image | Kind::Tag => key
                .name
                .parse()
                .is_ok_and(|reference| records.references.contains_key(&(key.namespace.clone(), reference))),
        }
    }

    /// An image's or tag's key by its handle, where it is not a reference.
    pub(super) fn resolve_handle(&self, key: &ResourceKey) -> ResourceKey {
        let desired = self.desired();
        if desired.resources.contains_key(key) || !matches!(key.kind, Kind::Image | Kind::Tag | Kind::Registry) {
            return key.clone();
        }
        let by_handle = desired.resources.iter().find(|(own, declared)| {
            own.kind == key.kind
                && own.namespace == key.namespace
                && declared.resource.metadata.annotations.get(crate::manifest::HANDLE) == Some(&key.name)
        });
        by_handle.map_or_else(|| key.clone(), |(own, _)| own.clone())
    }

    fn nothing_called(&self, key: &ResourceKey) -> Fault {
        let desired = self.desired();
        let nearest = desired
            .resources
            .keys()
            .filter(|own| own.kind == key.kind)
            .map(|own| (strsim::jaro_winkler(&own.to_string(), &key.to_string()), own))
            .filter(|(score, _)| *score > 0.85)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, own)| own.to_string());
        let fault = Fault::new(Class::NotFound, format!("{key} is not there"));
        match nearest {
            Some(nearest) => fault.help(format!("did you mean {nearest}?")),
            None => fault,
        }
    }

    /// A file of the manifest directory, as people would open it.
    pub(super) fn directory_file(&self, file: &str) -> String {
        self.engine.config().manifests.join(file).display().to_string()
    }
}

async fn tell_plan(plan: &Plan, total: usize, sender: &tokio::sync::mpsc::Sender<Result<ApplyEvent>>) {
    for step in &plan.steps {
        let _ = sender.send(Ok(ApplyEvent::Planned { step: step.clone() })).await;
    }
    for problem in &plan.problems {
        let _ = sender.send(Ok(ApplyEvent::Problem { problem: problem.clone() })).await;
    }
    let failed = plan.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let changed = plan.steps.len();
    let summary = ApplyEvent::Summary {
        changed: changed as u64,
        unchanged: total.saturating_sub(changed + failed) as u64,
        failed: failed as u64,
    };
    let _ = sender.send(Ok(summary)).await;
}

/// What was declared and needed no step is unchanged; a step of something implied counts as changed.
fn summary(counts: &Counts, scope: &Scope, total: usize) -> ApplyEvent {
    let touched = match scope {
        Scope::All => counts.touched.len(),
        Scope::Keys(keys) => counts.touched.intersection(keys).count(),
    };
    ApplyEvent::Summary {
        changed: counts.changed,
        unchanged: total.saturating_sub(touched) as u64,
        failed: counts.failed,
    }
}
