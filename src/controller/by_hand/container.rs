//! Containers made, started, stopped and removed by hand.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::api::{
    CreateEvent, CreateRequest, Created, KillRequest, RemoveContainerRequest, RemovedContainer, StartRequest, Stdio,
    StopRequest, Stream, channel,
};
use crate::engine::{ContainerKey, Freshness, Making, StartOptions, TaskStdio};
use crate::error::{Class, Fault, Result};
use crate::manifest::{Kind, Metadata, Resource, ResourceKey, Spec};
use crate::plan::{Action, Source, Step};
use crate::shim::protocol::TaskPhase;
use crate::store::Durability;

use super::{MOVES, by_hand, is_namespace_name, removal};
use crate::controller::Node;
use crate::controller::reconcile::Scope;

impl Node {
    /// Makes a container, and tells meanwhile how far its image is. Given up when nobody listens.
    pub(in crate::controller) fn create_by_hand(self: &Arc<Self>, request: CreateRequest) -> Stream<CreateEvent> {
        let (sender, stream) = channel(MOVES);
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let image = node.pulled_for(&request.namespace, &request.spec.image);
            let tell = |transfer| drop(sender.try_send(Ok(CreateEvent::Progress { transfer })));
            tokio::select! {
                made = node.showing(&image, tell, node.create_now(request)) => {
                    let _ = sender.send(made.map(CreateEvent::Created)).await;
                }
                () = sender.closed() => {}
            }
        });
        stream
    }

    async fn create_now(self: &Arc<Self>, request: CreateRequest) -> Result<Created> {
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
            self.drive(&Scope::one(key.clone()), Freshness::Known, None).await?;
        }
        let metadata = Metadata {
            name: request.id.clone(),
            namespace: request.namespace.clone(),
            labels: request.labels,
            annotations: BTreeMap::new(),
        };
        let resource = Resource { metadata, spec: Spec::Container(Box::new(request.spec)) };
        let making = Making { auto_remove: request.remove_after_exit, held: !request.start };
        let options = StartOptions { console: console(&request.stdio), stdio: stdio(request.stdio), lost: false };
        self.engine.wish(&id, making, options);
        // On the disk with the record of its start, before anybody is told.
        self.engine.memory().declare_as(self.engine.store(), vec![by_hand(resource)], &[], Durability::InOrder)?;
        let unwanted = Unwanted { node: Some(Arc::clone(self)), key: key.clone() };
        let counts = self.drive(&Scope::one(key.clone()), Freshness::Now, None).await;
        unwanted.keep();
        self.engine.unwish(&id);
        let fault = match counts {
            Ok(counts) => counts.first_fault,
            Err(fault) => Some(fault),
        };
        if let Some(fault) = fault {
            // Made by hand and refused by the node: nothing of it stays, so that the command can be given again.
            self.engine.memory().declare(self.engine.store(), Vec::new(), std::slice::from_ref(&key))?;
            let _ = self.drive(&Scope::one(key), Freshness::Known, None).await;
            return Err(fault);
        }
        self.created(&id).map_err(|fault| match self.declared(&key) {
            // By a step that the loop took; what became of that is not told here.
            None => Fault::new(Class::Refused, format!("{key}: its start was given up, because its end is wanted")),
            Some(_) => fault,
        })
    }

    /// Until a container of this name that has ended and removes itself is gone, so that its name is free.
    async fn wait_for_departure(&self, id: &ContainerKey) {
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

    pub(in crate::controller) async fn start_by_hand(self: &Arc<Self>, request: StartRequest) -> Result<Created> {
        let id = (request.namespace, request.name);
        let key = ResourceKey::new(Kind::Container, &id.0, &id.1);
        let Some(record) = self.engine.memory().read().containers.get(&id).cloned() else {
            return Err(self.no_container(&id));
        };
        if record.source == Source::Cli && self.declared(&key).is_none() {
            // What a failed `create` made, whose daemon died before it was gone: the next plan takes it away.
            return Err(Fault::new(Class::Refused, format!("{key} could not be made and is being removed")).help(
                format!("make it anew once it is gone: bayplan -n {} wait container/{} --for deleted", id.0, id.1),
            ));
        }
        let task = self.engine.task(&id);
        if task.as_ref().is_some_and(|state| state.paused) {
            return Err(Fault::new(Class::Refused, format!("{key} is paused"))
                .help(format!("bayplan -n {} unpause {} lets it go on", id.0, id.1)));
        }
        if task.is_some_and(|state| matches!(state.phase, TaskPhase::Running | TaskPhase::BackOff)) {
            return Err(Fault::new(Class::Refused, format!("{key} runs already"))
                .help(format!("bayplan -n {} restart {} starts it anew", id.0, id.1)));
        }
        let options = StartOptions { console: console(&request.stdio), stdio: stdio(request.stdio), lost: false };
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

    pub(in crate::controller) async fn stop_by_hand(self: &Arc<Self>, request: StopRequest) -> Result<()> {
        let id = (request.namespace, request.name);
        let key = ResourceKey::new(Kind::Container, &id.0, &id.1);
        // First the claim: a container that is being made is there when that has ended.
        let _claim = self.claim_for_the_end(&key).await;
        self.known(&id)?;
        self.engine.stop_by_hand(&id, request.grace_ms.map(Duration::from_millis)).await
    }

    pub(in crate::controller) async fn kill_by_hand(self: &Arc<Self>, request: KillRequest) -> Result<()> {
        let id = (request.namespace, request.name);
        self.known(&id)?;
        match &request.exec_id {
            Some(exec_id) => self.engine.kill_exec(&id, exec_id, request.signal, request.all).await,
            None => self.engine.kill(&id, request.signal, request.all).await,
        }
    }

    /// Refused with what may have been meant when there is no such container.
    pub(in crate::controller) fn known(&self, id: &ContainerKey) -> Result<()> {
        let there = self.engine.memory().read().containers.contains_key(id);
        if there { Ok(()) } else { Err(self.no_container(id)) }
    }

    pub(in crate::controller) async fn remove_by_hand(
        self: &Arc<Self>,
        request: RemoveContainerRequest,
    ) -> Result<RemovedContainer> {
        let id = (request.namespace, request.name);
        let key = ResourceKey::new(Kind::Container, &id.0, &id.1);
        let declared = self.declared(&key);
        if declared.is_none() && !self.engine.memory().read().containers.contains_key(&id) {
            return Err(self.no_container(&id));
        }
        let runs = || {
            self.engine.task(&id).is_some_and(|state| matches!(state.phase, TaskPhase::Running | TaskPhase::BackOff))
        };
        if runs() && !request.force {
            return Err(Fault::new(Class::Refused, format!("{key} runs")).help(format!(
                "stop it first: bayplan -n {0} stop {1}; or both at once: bayplan -n {0} rm -f {1}",
                id.0, id.1
            )));
        }
        let others = declared.filter(|declared| declared.source != Source::Cli);
        if others.is_none() {
            self.engine.memory().declare(self.engine.store(), Vec::new(), std::slice::from_ref(&key))?;
        }
        let claim = if request.force { self.claim_for_the_end(&key).await } else { self.claim_when_free(&key).await };
        if request.force && runs() {
            self.engine.stop_by_hand(&id, Some(Duration::ZERO)).await?;
        }
        Arc::clone(self).carry_out(removal(key), claim, None).await.result?;
        if others.is_none() {
            // The image that it implied goes with it.
            self.wake.notify_one();
            if !self.is_daemon {
                let _ = self.drive(&self.implied_scope(&id.0), Freshness::Known, None).await;
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

pub(super) fn stdio(stdio: Option<Stdio>) -> TaskStdio {
    let Some(stdio) = stdio else { return TaskStdio::default() };
    TaskStdio { stdin: stdio.stdin, stdout: stdio.stdout, stderr: stdio.stderr, terminal: stdio.terminal }
}

pub(super) fn console(stdio: &Option<Stdio>) -> Option<(u16, u16)> {
    stdio.as_ref()?.size.map(|size| (size.width, size.height))
}
