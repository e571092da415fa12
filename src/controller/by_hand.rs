//! What is done by hand. Whatever it makes is a resource with source `cli`: declared first, then brought
//! about by the same planner and executor as everything else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use crate::api::*;
use crate::api::{Archive, Stream, channel};
use crate::engine::{Freshness, Making, StartOptions, TaskStdio};
use crate::error::{Class, Fault, Result};
use crate::image::{Progress, ProgressState, PullOptions};
use crate::manifest::{ImageSpec, Kind, Metadata, NamespaceSpec, PullPolicy, Resource, ResourceKey, Spec};
use crate::oci::{Platform, Reference};
use crate::plan::{Action, Source, Step};
use crate::shim::protocol::{Exit, TaskPhase};
use crate::store::{ContainerRecord, DeclaredRecord};

use super::Node;
use super::reconcile::Scope;

impl Node {
    pub(super) async fn create_by_hand(self: &Arc<Self>, request: CreateRequest) -> Result<Created> {
        let key = ResourceKey::new(Kind::Container, &request.namespace, &request.id);
        let id = (request.namespace.clone(), request.id.clone());
        self.wait_for_departure(&id).await;
        // Manifests have the same rule: what is made by hand can be written as one.
        if !is_namespace_name(&request.id) || request.id.contains('.') {
            return Err(Fault::new(Class::Usage, format!("{:?} is not a container's name", request.id))
                .help("lower-case letters, digits and dashes, at most 63, with a letter or digit at both ends"));
        }
        if let Some(before) = self.declared(&key) {
            return Err(Fault::new(Class::Refused, format!("{key} exists (declared by {})", before.source))
                .help(format!("choose another name, or remove it: bayplan -n {} rm -f {}", id.0, id.1)));
        }
        if self.engine.memory().read().containers.contains_key(&id) {
            // On its way out: its name is free as soon as it is gone.
            self.drive(&Scope::one(key.clone()), Freshness::Known, None, None).await?;
        }
        let metadata = Metadata {
            name: request.id.clone(),
            namespace: request.namespace.clone(),
            labels: request.labels,
            annotations: BTreeMap::new(),
        };
        let resource = Resource { metadata, spec: Spec::Container(Box::new(request.spec)) };
        let making = Making { auto_remove: request.remove_after_exit, held: !request.start };
        self.engine.wish(&id, making, StartOptions { stdio: stdio(request.stdio), lost: false });
        self.engine.memory().declare(self.engine.store(), vec![by_hand(resource)], &[])?;
        let unwanted = Unwanted { node: Some(Arc::clone(self)), key: key.clone() };
        let counts = self.drive(&Scope::one(key.clone()), Freshness::Now, None, None).await;
        unwanted.keep();
        self.engine.unwish(&id);
        let fault = match counts {
            Ok(counts) => counts.first_fault,
            Err(fault) => Some(fault),
        };
        if let Some(fault) = fault {
            // Made by hand and refused by the node: nothing of it stays, so that the command can be given again.
            self.engine.memory().declare(self.engine.store(), Vec::new(), std::slice::from_ref(&key))?;
            let _ = self.drive(&Scope::one(key), Freshness::Known, None, None).await;
            return Err(fault);
        }
        self.created(&id)
    }

    /// Until a container of this name that has ended and removes itself is gone, so that its name is free.
    async fn wait_for_departure(&self, id: &crate::engine::ContainerKey) {
        let mut changes = self.engine.changes();
        let gone = async {
            loop {
                let record = self.engine.memory().read().containers.get(id).cloned();
                let leaves = record.is_some_and(|record| {
                    let ended = |phase| matches!(phase, TaskPhase::Exited | TaskPhase::Stopped);
                    let state = self.engine.task(id).or(record.last);
                    record.auto_remove && state.is_some_and(|state| ended(state.phase))
                });
                if !leaves || changes.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(30), gone).await;
    }

    pub(super) async fn start_by_hand(self: &Arc<Self>, request: StartRequest) -> Result<Created> {
        let id = (request.namespace, request.name);
        let key = ResourceKey::new(Kind::Container, &id.0, &id.1);
        let Some(record) = self.engine.memory().read().containers.get(&id).cloned() else {
            return Err(self.no_container(&id));
        };
        if self.engine.task(&id).is_some_and(|state| matches!(state.phase, TaskPhase::Running | TaskPhase::BackOff)) {
            return Err(Fault::new(Class::Refused, format!("{key} runs already"))
                .help(format!("bayplan -n {} restart {} starts it anew", id.0, id.1)));
        }
        let options = StartOptions { stdio: stdio(request.stdio), lost: false };
        self.engine.wish(&id, Making::default(), options);
        let step = Step {
            action: Action::Start,
            key: key.clone(),
            reason: "started by hand".into(),
            changes: Vec::new(),
            needs: Vec::new(),
            target: Some(crate::plan::Target::Container {
                resource: record.resource.clone(),
                digest: Some(record.image.clone()),
            }),
            source: Some(record.source),
        };
        let result = self.take(step).await;
        self.engine.unwish(&id);
        result?;
        self.created(&id)
    }

    pub(super) async fn stop_by_hand(self: &Arc<Self>, request: StopRequest) -> Result<()> {
        let id = (request.namespace, request.name);
        let key = ResourceKey::new(Kind::Container, &id.0, &id.1);
        let _claim = self.claim_when_free(&key).await;
        self.engine.stop_by_hand(&id, request.grace_ms.map(Duration::from_millis)).await
    }

    pub(super) async fn remove_by_hand(self: &Arc<Self>, request: RemoveContainerRequest) -> Result<RemovedContainer> {
        let id = (request.namespace, request.name);
        let key = ResourceKey::new(Kind::Container, &id.0, &id.1);
        let declared = self.declared(&key);
        if declared.is_none() && !self.engine.memory().read().containers.contains_key(&id) {
            return Err(self.no_container(&id));
        }
        let runs =
            self.engine.task(&id).is_some_and(|state| matches!(state.phase, TaskPhase::Running | TaskPhase::BackOff));
        if runs && !request.force {
            return Err(Fault::new(Class::Refused, format!("{key} runs"))
                .help(format!("stop it first (bayplan -n {} stop {}), or use rm -f", id.0, id.1)));
        }
        let others = declared.filter(|declared| declared.source != Source::Cli);
        if others.is_none() {
            self.engine.memory().declare(self.engine.store(), Vec::new(), std::slice::from_ref(&key))?;
        }
        let grace = request.force.then_some(Duration::ZERO);
        if runs {
            let _claim = self.claim_when_free(&key).await;
            self.engine.stop_by_hand(&id, grace).await?;
        }
        self.take(removal(key)).await?;
        if others.is_none() {
            // The image that it implied goes with it.
            self.wake.notify_one();
            if !self.is_daemon {
                let _ = self.drive(&self.implied_scope(&id.0), Freshness::Known, None, None).await;
            }
        }
        self.wake.notify_one();
        Ok(RemovedContainer { declared_by: others.map(|declared| declared.source.to_string()) })
    }

    /// References of a namespace that only containers keep here.
    fn implied_scope(&self, namespace: &str) -> Scope {
        let records = self.engine.memory().read();
        Scope::Keys(
            records
                .references
                .values()
                .filter(|r| r.namespace == namespace && r.role == crate::plan::ReferenceRole::Implied)
                .map(|r| ResourceKey::new(Kind::Image, namespace, r.reference.to_string()))
                .collect(),
        )
    }

    /// Returns when an attempt has ended.
    pub(super) async fn wait_exit(self: &Arc<Self>, request: WaitExitRequest) -> Result<Exit> {
        let id = (request.namespace, request.name);
        let mut changes = self.engine.changes();
        let mut last_seen: Option<crate::shim::protocol::TaskState> = None;
        loop {
            let task = self.engine.task(&id);
            let record = self.engine.memory().read().containers.get(&id).cloned();
            // Another container of this name: what it does says nothing about the one that is asked about.
            let is_other = |record: &ContainerRecord| request.uid.as_ref().is_some_and(|uid| *uid != record.uid);
            let replaced = record.as_ref().is_some_and(is_other);
            let record = record.filter(|_| !replaced);
            let task = task.filter(|_| !replaced);
            let state = task.or_else(|| record.as_ref().and_then(|record| record.last.clone()));
            let ended = state.as_ref().or(last_seen.as_ref()).and_then(|state| {
                let over = match request.attempt {
                    Some(attempt) => {
                        state.attempt > attempt
                            || (state.attempt == attempt
                                && state.phase != TaskPhase::Running
                                && state.phase != TaskPhase::Created)
                    }
                    None => !matches!(state.phase, TaskPhase::Running | TaskPhase::Created),
                };
                if over { state.exit.clone() } else { None }
            });
            if let Some(exit) = ended {
                return Ok(exit);
            }
            if state.is_some() {
                last_seen = state;
            }
            if record.is_none() {
                if let Some(exit) = self.engine.departed(&id, request.uid.as_deref()) {
                    return Ok(exit);
                }
                return Err(match last_seen {
                    Some(_) => Fault::new(
                        Class::Runtime,
                        format!("container {}/{} was removed before its exit was seen", id.0, id.1),
                    ),
                    None => self.no_container(&id),
                });
            }
            if changes.changed().await.is_err() {
                return Err(Fault::new(Class::Runtime, "the node goes down"));
            }
        }
    }

    pub(super) fn pull_by_hand(self: &Arc<Self>, request: PullRequest) -> Result<Stream<PullEvent>> {
        let (sender, stream) = channel(256);
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let telling = sender.clone();
            let progress: Progress = Arc::new(move |event| {
                let (state, done, total) = match event.state {
                    ProgressState::Waiting => (BlobState::Waiting, 0, 0),
                    ProgressState::Downloading { done, total } => (BlobState::Downloading, done, total),
                    ProgressState::Done => (BlobState::Done, 0, 0),
                    ProgressState::Unpacking => (BlobState::Unpacking, 0, 0),
                };
                // A slow reader misses progress, never the pull.
                let _ = telling.try_send(Ok(PullEvent::Blob { digest: event.digest, state, done, total }));
            });
            let result = node.pull_now(request, progress).await;
            let _ = sender.send(result).await;
        });
        Ok(stream)
    }

    async fn pull_now(self: &Arc<Self>, request: PullRequest, progress: Progress) -> Result<PullEvent> {
        let PullRequest { namespace, reference, platform, all_platforms, plain_http, skip_verify, credentials } =
            request;
        let key = ResourceKey::new(Kind::Image, &namespace, reference.to_string());
        let _claim = self.claim_when_free(&key).await;
        let options = PullOptions {
            platform: platform.clone().unwrap_or_else(Platform::host),
            all_platforms,
            plain_http,
            skip_verify,
            credentials: credentials.map(|c| (c.user, c.password)),
            ..PullOptions::default()
        };
        let before = self
            .engine
            .memory()
            .read()
            .references
            .get(&(namespace.clone(), reference.clone()))
            .map(|r| r.digest.clone());
        let image = self.engine.pull_by_hand(&key, &reference, &options, self.declared(&key), progress).await?;
        if self.declared(&key).is_none() {
            // Of an image that the node cannot run, the platform that is here is what is wanted.
            let platform = platform.or_else(|| (!image.runs_here()).then(|| image.platform.clone()));
            self.engine.memory().declare(
                self.engine.store(),
                vec![by_hand(image_resource(&namespace, &reference, PullPolicy::IfNotPresent, platform))],
                &[],
            )?;
        }
        self.wake.notify_one();
        Ok(PullEvent::Pulled {
            unchanged: before.as_ref() == Some(&image.target.digest),
            reference,
            digest: image.target.digest,
            size: image.size,
        })
    }

    pub(super) async fn tag_by_hand(self: &Arc<Self>, request: TagRequest) -> Result<Item> {
        let TagRequest { namespace, source, target, force } = request;
        let key = ResourceKey::new(Kind::Image, &namespace, target.to_string());
        let (found, before) = {
            let records = self.engine.memory().read();
            (
                records.references.get(&(namespace.clone(), source.clone())).cloned(),
                records.references.get(&(namespace.clone(), target.clone())).cloned(),
            )
        };
        let Some(found) = found else { return Err(self.no_image(&namespace, &source.to_string())) };
        for kind in [Kind::Image, Kind::Tag] {
            if let Some(declared) = self.declared(&ResourceKey::new(kind, &namespace, target.to_string()))
                && declared.source != Source::Cli
            {
                return Err(Fault::new(
                    Class::Refused,
                    format!("{kind} {namespace}/{target} is declared by {}", declared.source),
                )
                .help("change it there"));
            }
        }
        if let Some(before) = before
            && before.digest != found.digest
            && !force
        {
            return Err(Fault::new(
                Class::Refused,
                format!("{target} exists in namespace {namespace} and points at sha256:{}", before.digest.short()),
            )
            .help("--force moves it"));
        }
        let resource = image_resource(&namespace, &target, PullPolicy::Never, None);
        {
            let _claim = self.claim_when_free(&key).await;
            self.engine.name_by_hand(&namespace, &target, &found)?;
            self.engine.memory().declare(self.engine.store(), vec![by_hand(resource)], &[])?;
        }
        self.wake.notify_one();
        let listed =
            self.list(&Query { kinds: vec![Kind::Image], namespace: Some(namespace), name: Some(target.to_string()) })?;
        listed
            .into_iter()
            .next()
            .ok_or_else(|| Fault::new(Class::Bug, format!("{target} was tagged and is not listed")))
    }

    pub(super) async fn remove_image_by_hand(self: &Arc<Self>, request: RemoveImageRequest) -> Result<RemovedImage> {
        let RemoveImageRequest { namespace, name, force } = request;
        let key = self.image_key(&namespace, &name)?;
        let Ok(reference) = key.name.parse::<Reference>() else { return Err(self.no_image(&namespace, &name)) };
        if !self.is_on_node(&key) {
            return Err(self.no_image(&namespace, &name));
        }
        let users: Vec<String> = self.users_of(&namespace, &reference);
        if !users.is_empty() && !force {
            return Err(Fault::new(
                Class::Refused,
                format!("image {namespace}/{reference} is in use by container {}", users.join(", ")),
            )
            .help("remove the container first, or use rmi -f"));
        }
        let declared = [Kind::Image, Kind::Tag]
            .into_iter()
            .find_map(|kind| self.declared(&ResourceKey::new(kind, &namespace, reference.to_string())));
        let others = declared.filter(|declared| declared.source != Source::Cli);
        if let Some(others) = &others
            && !force
        {
            return Err(Fault::new(
                Class::Refused,
                format!("image {namespace}/{reference} is declared by {}", others.source),
            )
            .help("remove it there, or use rmi -f (it comes back)"));
        }
        if others.is_none() {
            let keys = [Kind::Image, Kind::Tag].map(|kind| ResourceKey::new(kind, &namespace, reference.to_string()));
            self.engine.memory().declare(self.engine.store(), Vec::new(), &keys)?;
        }
        self.take(removal(key)).await?;
        let freed = self.engine.collect_garbage(Duration::ZERO).await;
        self.wake.notify_one();
        Ok(RemovedImage {
            reference: reference.to_string(),
            freed: freed.bytes,
            declared_by: others.map(|declared| declared.source.to_string()),
        })
    }

    /// An image's key, by its reference or its handle.
    fn image_key(&self, namespace: &str, name: &str) -> Result<ResourceKey> {
        let canonical = name.parse::<Reference>().map(|reference| reference.to_string());
        let direct = ResourceKey::new(Kind::Image, namespace, canonical.clone().unwrap_or_else(|_| name.to_owned()));
        if canonical.is_ok() {
            return Ok(direct);
        }
        for kind in [Kind::Image, Kind::Tag] {
            let key = self.resolve_handle(&ResourceKey::new(kind, namespace, name));
            if key.name != name {
                return Ok(key);
            }
        }
        match canonical {
            Err(error @ crate::oci::ReferenceError::Short { .. }) => Err(Fault::new(Class::Usage, error.to_string())),
            _ => Ok(direct),
        }
    }

    pub(super) async fn load(self: &Arc<Self>, request: LoadRequest, archive: Archive) -> Result<Vec<LoadedImage>> {
        let (path, spooled) = match archive {
            Archive::Path(path) => (path, None),
            Archive::Bytes(mut bytes) => {
                let path = self.engine.config().state.join(format!("load-{}", uuid::Uuid::new_v4()));
                let io = |error: std::io::Error| Fault::new(Class::Runtime, format!("{}: {error}", path.display()));
                let mut file = tokio::fs::File::create(&path).await.map_err(io)?;
                let guard = Spooled(path.clone());
                while let Some(chunk) = bytes.next().await {
                    file.write_all(&chunk?).await.map_err(io)?;
                }
                file.flush().await.map_err(io)?;
                (path, Some(guard))
            }
        };
        let imported = self.engine.import_by_hand(&path).await?;
        drop(spooled);
        let mut loaded = Vec::new();
        let mut resources = Vec::new();
        for (reference, target) in imported {
            let reference = reference.or_else(|| {
                let base = request.base_name.as_ref()?;
                format!("{base}@{}", target.digest).parse().ok()
            });
            if let Some(reference) = &reference {
                self.engine.name_target_by_hand(&request.namespace, reference, &target)?;
                resources.push(by_hand(image_resource(&request.namespace, reference, PullPolicy::Never, None)));
            }
            loaded.push(LoadedImage { reference, digest: target.digest });
        }
        if loaded.iter().all(|image| image.reference.is_none()) {
            return Err(Fault::new(Class::Invalid, "the archive names none of its images")
                .help("give them a name: --base-name HOST/PATH"));
        }
        let resources: Vec<DeclaredRecord> =
            resources.into_iter().filter(|record| self.declared(&record.key()).is_none()).collect();
        self.engine.memory().declare(self.engine.store(), resources, &[])?;
        self.wake.notify_one();
        Ok(loaded)
    }

    pub(super) async fn create_namespace(self: &Arc<Self>, request: NamespaceRequest) -> Result<Item> {
        let key = ResourceKey::new(Kind::Namespace, &request.name, &request.name);
        if !is_namespace_name(&request.name) {
            return Err(Fault::new(Class::Usage, format!("{:?} is not a namespace's name", request.name))
                .help("lower-case letters, digits, dots and dashes, at most 63"));
        }
        if !self
            .list(&Query { kinds: vec![Kind::Namespace], namespace: Some(request.name.clone()), name: None })?
            .is_empty()
        {
            return Err(Fault::new(Class::Refused, format!("namespace {} exists", request.name)));
        }
        let metadata = Metadata { name: request.name.clone(), labels: request.labels, ..Metadata::default() };
        let resource = Resource { metadata, spec: Spec::Namespace(NamespaceSpec::default()) };
        self.engine.memory().declare(self.engine.store(), vec![by_hand(resource)], &[])?;
        let counts = self.drive(&Scope::one(key), Freshness::Known, None, None).await?;
        if let Some(fault) = counts.first_fault {
            return Err(fault);
        }
        let listed = self.list(&Query { kinds: vec![Kind::Namespace], namespace: Some(request.name), name: None })?;
        listed.into_iter().next().ok_or_else(|| Fault::new(Class::Bug, "a namespace was made and is not listed"))
    }

    pub(super) async fn remove_namespace(self: &Arc<Self>, request: NamespaceRequest) -> Result<()> {
        let key = ResourceKey::new(Kind::Namespace, &request.name, &request.name);
        let inside = self.list(&Query { kinds: Vec::new(), namespace: Some(request.name.clone()), name: None })?;
        let left: Vec<String> =
            inside.iter().filter(|item| item.kind != Kind::Namespace).map(|item| item.key().to_string()).collect();
        if !left.is_empty() {
            return Err(Fault::new(Class::Refused, format!("namespace {} is not empty: {}", request.name, few(&left)))
                .help("remove what is inside first"));
        }
        match self.declared(&key) {
            Some(declared) if declared.source != Source::Cli => {
                Err(Fault::new(Class::Refused, format!("{key} is declared by {}", declared.source))
                    .help("remove it there"))
            }
            None if inside.is_empty() => Err(Fault::new(Class::NotFound, format!("{key} is not there"))),
            _ => {
                self.engine.memory().declare(self.engine.store(), Vec::new(), std::slice::from_ref(&key))?;
                self.drive(&Scope::one(key), Freshness::Known, None, None).await.map(drop)
            }
        }
    }

    pub(super) async fn label(self: &Arc<Self>, request: LabelRequest) -> Result<Item> {
        let key = self.resolve_handle(&request.key);
        let Some(declared) = self.declared(&key) else {
            return Err(Fault::new(Class::NotFound, format!("{key} is not there")));
        };
        if declared.source != Source::Cli {
            return Err(Fault::new(Class::Refused, format!("{key} is declared by {}", declared.source))
                .help("change its labels there"));
        }
        let mut resource = declared.resource;
        for (name, value) in request.labels {
            match value {
                Some(value) => {
                    resource.metadata.labels.insert(name, value);
                }
                None => {
                    resource.metadata.labels.remove(&name);
                }
            }
        }
        self.engine.memory().declare(self.engine.store(), vec![by_hand(resource)], &[])?;
        let counts = self.drive(&Scope::one(key.clone()), Freshness::Known, None, None).await?;
        if let Some(fault) = counts.first_fault {
            return Err(fault);
        }
        let listed =
            self.list(&Query { kinds: vec![key.kind], namespace: Some(key.namespace), name: Some(key.name) })?;
        listed.into_iter().next().ok_or_else(|| Fault::new(Class::Bug, "a labelled resource is not listed"))
    }

    /// Carries out one step that a person asked for.
    async fn take(self: &Arc<Self>, step: Step) -> Result<()> {
        let claim = self.claim_when_free(&step.key).await;
        Arc::clone(self).carry_out(step, claim, None).await.result
    }

    fn created(&self, id: &crate::engine::ContainerKey) -> Result<Created> {
        let record = self.engine.memory().read().containers.get(id).cloned();
        let task = self.engine.task(id);
        let departed = self.engine.departed_uid(id);
        let Some(uid) = record.as_ref().map(|record| record.uid.clone()).or(departed) else {
            return Err(self.no_container(id));
        };
        let state = task.or_else(|| record.and_then(|record| record.last));
        Ok(Created {
            uid,
            attempt: state.as_ref().map_or(0, |state| state.attempt),
            pid: state.and_then(|state| state.pid),
        })
    }

    pub(super) fn no_container(&self, id: &crate::engine::ContainerKey) -> Fault {
        let elsewhere: Vec<String> = self
            .engine
            .memory()
            .read()
            .containers
            .keys()
            .filter(|own| own.1 == id.1)
            .map(|own| own.0.clone())
            .collect();
        let fault = Fault::new(Class::NotFound, format!("container {}/{} is not there", id.0, id.1));
        match elsewhere.first() {
            Some(namespace) => fault.help(format!("namespace {namespace} has one: -n {namespace}")),
            None => fault.help(format!("bayplan -n {} get containers lists what is", id.0)),
        }
    }

    pub(super) fn no_image(&self, namespace: &str, name: &str) -> Fault {
        let records = self.engine.memory().read();
        let nearest = records
            .references
            .keys()
            .filter(|(own, _)| own == namespace)
            .map(|(_, reference)| reference.to_string())
            .map(|reference| (strsim::jaro_winkler(&reference, name), reference))
            .filter(|(score, _)| *score > 0.85)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let fault = Fault::new(Class::NotFound, format!("image {name} is not in namespace {namespace}"));
        match nearest {
            Some((_, reference)) => fault.help(format!("did you mean {reference}?")),
            None => fault.help(format!("bayplan -n {namespace} images lists what is")),
        }
    }
}

/// Takes back what was declared for somebody who went away before it was made (a second ^C while its
/// image is pulled): nobody waits for it, so nothing of it stays.
struct Unwanted {
    node: Option<Arc<Node>>,
    key: ResourceKey,
}

impl Unwanted {
    fn keep(mut self) {
        self.node = None;
    }
}

impl Drop for Unwanted {
    fn drop(&mut self) {
        let Some(node) = self.node.take() else { return };
        let key = self.key.clone();
        node.engine.unwish(&(key.namespace.clone(), key.name.clone()));
        if let Err(fault) = node.engine.memory().declare(node.engine.store(), Vec::new(), std::slice::from_ref(&key)) {
            tracing::error!(%fault, "{key} was given up and stays declared");
        }
        node.wake.notify_one();
    }
}

/// A file that goes away with its guard.
struct Spooled(std::path::PathBuf);

impl Drop for Spooled {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn stdio(stdio: Option<Stdio>) -> TaskStdio {
    let Some(stdio) = stdio else { return TaskStdio::default() };
    TaskStdio { stdin: stdio.stdin, stdout: stdio.stdout, stderr: stdio.stderr, terminal: stdio.terminal }
}

fn removal(key: ResourceKey) -> Step {
    Step {
        action: Action::Remove,
        key,
        reason: "removed by hand".into(),
        changes: Vec::new(),
        needs: Vec::new(),
        target: None,
        source: None,
    }
}

fn by_hand(resource: Resource) -> DeclaredRecord {
    DeclaredRecord { resource, source: Source::Cli, place: None, created: jiff::Timestamp::now() }
}

fn image_resource(namespace: &str, reference: &Reference, policy: PullPolicy, platform: Option<Platform>) -> Resource {
    Resource {
        metadata: Metadata { name: reference.to_string(), namespace: namespace.to_owned(), ..Metadata::default() },
        spec: Spec::Image(ImageSpec {
            reference: Some(reference.clone()),
            pull_policy: Some(policy),
            platform,
            ..ImageSpec::default()
        }),
    }
}

/// The first three, and how many more.
fn few(names: &[String]) -> String {
    match names.len() {
        0..=3 => names.join(", "),
        count => format!("{} and {} more", names[..3].join(", "), count - 3),
    }
}

/// For [`Node::wait`]'s sake: how long a wait may take.
pub(super) fn deadline(timeout_ms: Option<u64>) -> Option<Instant> {
    timeout_ms.map(|millis| Instant::now() + Duration::from_millis(millis))
}

/// A DNS name of at most 63 characters; dots are allowed, as in `k8s.io`.
fn is_namespace_name(name: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=63).contains(&name.len())
        && name.split('.').all(|label| {
            label.bytes().next().is_some_and(word)
                && label.bytes().next_back().is_some_and(word)
                && label.bytes().all(|byte| word(byte) || byte == b'-')
        })
}
