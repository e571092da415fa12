//! A node in memory: what each step of a plan means, without a kernel.
//!
//! The reference semantics of steps. The engine does the same to a real node; property tests and
//! benchmarks run plans against this one. It is stricter than the engine where that finds mistakes of the
//! planner: content goes the moment nothing points at it and is not shared between references while it is
//! fetched, an update refuses what needs a new process, and a reference that a container uses is not
//! removed.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Action, ArchivedImage, Desired, Observed, ObservedContainer, ObservedNamespace, ObservedReference,
    ObservedRegistry, ObservedTask, Plan, ReferenceRole, Source, Step, Target,
};
use crate::manifest::{ContainerSpec, Kind, PullPolicy, Resource, ResourceKey, Spec, pull_policy_or_default};
use crate::oci::{Digest, Reference};

/// A simulated node with the registries and archives it can reach.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// What the node has. `remote`, `archives` and `complete` are filled in by [`Node::observe`].
    pub state: Observed,
    /// Digests that are whole in the content store.
    pub store: BTreeSet<Digest>,
    /// What registries give for a reference.
    pub registry: BTreeMap<Reference, Digest>,
    /// What archives hold, by absolute path.
    pub archives: BTreeMap<String, Result<Vec<ArchivedImage>, String>>,
    /// Whether registries are asked before planning.
    pub asks_registries: bool,
}

/// How the steps of a plan ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Keys of steps that failed, and why.
    pub failed: BTreeMap<ResourceKey, String>,
    /// Keys of steps that were not tried, because a step that they need failed or was not tried.
    pub skipped: BTreeSet<ResourceKey>,
}

impl Outcome {
    /// Whether this step was done.
    pub fn is_done(&self, key: &ResourceKey) -> bool {
        !self.failed.contains_key(key) && !self.skipped.contains(key)
    }
}

impl Node {
    /// What the planner is shown: the state, with the answers of the registries that these declarations
    /// make worth asking (policy `Always`, or not on the node).
    pub fn observe(&self, desired: &Desired) -> Observed {
        let mut observed = self.state.clone();
        for seen in observed.references.values_mut() {
            seen.complete = self.store.contains(&seen.digest);
        }
        observed.archives = self.archives.clone();
        observed.remote.clear();
        let wanted = desired.resources.values().filter_map(|declared| {
            let namespace = &declared.resource.metadata.namespace;
            match &declared.resource.spec {
                Spec::Image(image) => {
                    let reference = image.reference.as_ref()?;
                    Some((namespace, reference, pull_policy_or_default(image.pull_policy, reference)))
                }
                Spec::Container(container) => Some((namespace, &container.image, container.pull_policy())),
                Spec::Namespace(_) | Spec::Registry(_) | Spec::Tag(_) => None,
            }
        });
        for (namespace, reference, policy) in wanted.filter(|_| self.asks_registries) {
            let here = self.state.references.contains_key(&(namespace.clone(), reference.clone()));
            let worth_asking = match policy {
                PullPolicy::Always => true,
                PullPolicy::IfNotPresent => !here,
                PullPolicy::Never => false,
            };
            if worth_asking && reference.digest().is_none() {
                let answer = self.registry.get(reference).cloned().ok_or_else(|| "404 Not Found".to_owned());
                observed.remote.insert(reference.clone(), answer);
            }
        }
        observed
    }

    /// The plan for this node.
    pub fn plan(&self, desired: &Desired) -> Plan {
        super::plan(desired, &self.observe(desired))
    }

    /// Does the steps in their order. A failed step stops those that need it and nothing else.
    pub fn execute(&mut self, plan: &Plan) -> Outcome {
        let mut outcome = Outcome::default();
        for step in &plan.steps {
            self.attempt(step, &mut outcome);
        }
        outcome
    }

    /// Does one step, unless a step that it needs was not done.
    pub fn attempt(&mut self, step: &Step, outcome: &mut Outcome) {
        if !step.needs.iter().all(|need| outcome.is_done(need)) {
            outcome.skipped.insert(step.key.clone());
        } else if let Err(why) = self.apply(step) {
            outcome.failed.insert(step.key.clone(), why);
        }
    }

    /// Does one step wholly, or not at all.
    ///
    /// # Errors
    /// What the step needs is not there; the text says what.
    pub fn apply(&mut self, step: &Step) -> Result<(), String> {
        let name = (step.key.namespace.clone(), step.key.name.clone());
        match (&step.action, &step.target) {
            (Action::Remove, None) => self.remove(&step.key)?,
            (_, Some(Target::Namespace(resource))) => self.apply_namespace(resource)?,
            (_, Some(Target::Registry(resource))) => self.apply_registry(resource)?,
            (_, Some(Target::Pull { reference, digest, resource })) => {
                let digest = self.pull(step, reference, digest.as_ref())?;
                let role = if resource.is_some() { ReferenceRole::Image } else { ReferenceRole::Implied };
                self.point(step, reference, digest, role, resource.as_ref())?;
            }
            (_, Some(Target::Import { reference, archive, digest, resource })) => {
                self.import(step, reference, archive, digest)?;
                self.point(step, reference, digest.clone(), ReferenceRole::Image, Some(resource))?;
            }
            (_, Some(Target::Tag { reference, source, digest, resource })) => {
                let there = self.state.references.get(&(name.0, source.clone())).map(|seen| &seen.digest);
                let digest = digest.as_ref().or(there).cloned().ok_or_else(|| format!("{source} is not here"))?;
                self.need_content(&digest)?;
                self.point(step, reference, digest, ReferenceRole::Tag, Some(resource))?;
            }
            (action, Some(Target::Container { resource, digest })) => {
                let Spec::Container(spec) = &resource.spec else { return Err("it is no container".into()) };
                match action {
                    Action::Create if self.state.containers.contains_key(&name) => return Err("it exists".into()),
                    Action::Create | Action::Replace => {
                        let made = self.make(step, resource, spec, digest.as_ref())?;
                        self.state.containers.insert(name, made);
                    }
                    _ => self.change(step, resource, spec)?,
                }
            }
            (action, None) => return Err(format!("{action:?} without a target")),
        }
        self.collect_garbage();
        Ok(())
    }

    /// A crash in the middle of a step: the most disturbing state that it can leave behind.
    pub fn crash_within(&mut self, step: &Step) {
        let name = (step.key.namespace.clone(), step.key.name.clone());
        if step.key.kind != Kind::Container {
            // Content without a name is nothing, and a name appears at once.
            return;
        }
        match step.action {
            Action::Replace => {
                self.state.containers.remove(&name);
            }
            Action::Create => {
                if self.apply(step).is_ok()
                    && let Some(made) = self.state.containers.get_mut(&name)
                {
                    made.task = ObservedTask::None;
                }
            }
            Action::Start => {
                if self.apply(step).is_ok()
                    && let Some(made) = self.state.containers.get_mut(&name)
                {
                    made.task = ObservedTask::None;
                }
            }
            Action::Remove => {
                if let Some(leaving) = self.state.containers.get_mut(&name) {
                    leaving.task = ObservedTask::None;
                }
            }
            Action::Update => {}
        }
        self.collect_garbage();
    }

    fn remove(&mut self, key: &ResourceKey) -> Result<(), String> {
        let gone = || format!("{key} is not here");
        match key.kind {
            Kind::Namespace => self.state.namespaces.remove(&key.name).map(drop).ok_or_else(gone),
            Kind::Registry => self.state.registries.remove(&key.name).map(drop).ok_or_else(gone),
            Kind::Container => {
                let name = (key.namespace.clone(), key.name.clone());
                self.state.containers.remove(&name).map(drop).ok_or_else(gone)
            }
            Kind::Image | Kind::Tag => {
                let reference: Reference = key.name.parse().map_err(|_| gone())?;
                let user = |((ns, _), seen): &(&(String, String), &ObservedContainer)| {
                    *ns == key.namespace && seen.spec.image == reference
                };
                if let Some(((_, name), _)) = self.state.containers.iter().find(user) {
                    return Err(format!("container {name} uses {reference}"));
                }
                self.state.references.remove(&(key.namespace.clone(), reference)).map(drop).ok_or_else(gone)
            }
        }
    }

    fn apply_namespace(&mut self, resource: &Resource) -> Result<(), String> {
        let Spec::Namespace(spec) = &resource.spec else { return Err("it is no namespace".into()) };
        let metadata = resource.metadata.clone();
        let (labels, annotations, spec) = (metadata.labels, metadata.annotations, spec.clone());
        self.state.namespaces.insert(metadata.name, ObservedNamespace { labels, annotations, spec });
        Ok(())
    }

    fn apply_registry(&mut self, resource: &Resource) -> Result<(), String> {
        let Spec::Registry(spec) = &resource.spec else { return Err("it is no registry".into()) };
        let metadata = resource.metadata.clone();
        let (labels, annotations, spec) = (metadata.labels, metadata.annotations, (**spec).clone());
        self.state.registries.insert(metadata.name, ObservedRegistry { labels, annotations, spec });
        Ok(())
    }

    /// Whether this reference points at this content already, whole.
    fn has(&self, step: &Step, reference: &Reference, digest: &Digest) -> bool {
        let seen = self.state.references.get(&(step.key.namespace.clone(), reference.clone()));
        seen.is_some_and(|seen| seen.digest == *digest) && self.store.contains(digest)
    }

    /// Has this digest, or whatever the registry gives for the reference, in the store.
    fn pull(&mut self, step: &Step, reference: &Reference, digest: Option<&Digest>) -> Result<Digest, String> {
        let answer = || self.registry.get(reference).ok_or_else(|| format!("{reference}: 404 Not Found"));
        let digest = digest.map_or_else(answer, Ok)?.clone();
        let offered = self.registry.values().any(|offered| *offered == digest);
        if !offered && !self.has(step, reference, &digest) {
            return Err(format!("{reference}: no registry has {digest}"));
        }
        self.store.insert(digest.clone());
        Ok(digest)
    }

    fn import(&mut self, step: &Step, reference: &Reference, archive: &str, digest: &Digest) -> Result<(), String> {
        let held = match self.archives.get(archive) {
            Some(Ok(images)) => images.iter().any(|image| image.digest == *digest),
            _ => false,
        };
        if !held && !self.has(step, reference, digest) {
            return Err(format!("{archive} does not hold {digest}"));
        }
        self.store.insert(digest.clone());
        Ok(())
    }

    fn point(
        &mut self,
        step: &Step,
        reference: &Reference,
        digest: Digest,
        role: ReferenceRole,
        resource: Option<&Resource>,
    ) -> Result<(), String> {
        let (labels, annotations) = match resource {
            Some(resource) if resource.key() != step.key => return Err(format!("{} is another", resource.key())),
            Some(resource) => (resource.metadata.labels.clone(), resource.metadata.annotations.clone()),
            None => Default::default(),
        };
        let source = declared_by(step)?;
        let kept = !matches!(resource.map(|resource| &resource.spec), Some(Spec::Image(spec)) if !spec.is_kept());
        let seen = ObservedReference { digest, role, source, labels, annotations, complete: true, kept };
        self.state.references.insert((step.key.namespace.clone(), reference.clone()), seen);
        Ok(())
    }

    fn make(
        &self,
        step: &Step,
        resource: &Resource,
        spec: &ContainerSpec,
        digest: Option<&Digest>,
    ) -> Result<ObservedContainer, String> {
        let image = &spec.image;
        let named = self.state.references.get(&(step.key.namespace.clone(), image.clone()));
        let named = &named.ok_or_else(|| format!("{image} is not here"))?.digest;
        let image_digest = digest.unwrap_or(named).clone();
        if image_digest != *named {
            return Err(format!("{image} is {named} and not {image_digest}"));
        }
        self.need_content(&image_digest)?;
        Ok(ObservedContainer {
            spec: spec.clone(),
            labels: resource.metadata.labels.clone(),
            annotations: resource.metadata.annotations.clone(),
            image_digest,
            source: declared_by(step)?,
            task: ObservedTask::Supervised,
            stopped_by_hand: false,
        })
    }

    /// Changes in place, and starts for a start.
    fn change(&mut self, step: &Step, resource: &Resource, spec: &ContainerSpec) -> Result<(), String> {
        let name = (step.key.namespace.clone(), step.key.name.clone());
        let seen = self.state.containers.get(&name).ok_or("it is not here")?;
        if !is_same_process(&seen.spec, spec) {
            return Err("these changes need another process".into());
        }
        if seen.spec.image != spec.image {
            let named = self.state.references.get(&(step.key.namespace.clone(), spec.image.clone()));
            if named.is_none_or(|named| named.digest != seen.image_digest) {
                return Err(format!("{} is another image", spec.image));
            }
        }
        let starts = step.action == Action::Start;
        if starts {
            self.need_content(&seen.image_digest)?;
        }
        let source = declared_by(step)?;
        if let Some(seen) = self.state.containers.get_mut(&name) {
            seen.spec = spec.clone();
            seen.labels = resource.metadata.labels.clone();
            seen.annotations = resource.metadata.annotations.clone();
            seen.source = source;
            if starts {
                seen.task = ObservedTask::Supervised;
            }
        }
        Ok(())
    }

    fn need_content(&self, digest: &Digest) -> Result<(), String> {
        if self.store.contains(digest) { Ok(()) } else { Err(format!("parts of {digest} are missing")) }
    }

    /// Content lives as long as a reference or a container has its digest.
    fn collect_garbage(&mut self) {
        let references = self.state.references.values().map(|seen| &seen.digest);
        let used: BTreeSet<&Digest> =
            references.chain(self.state.containers.values().map(|seen| &seen.image_digest)).collect();
        self.store.retain(|digest| used.contains(digest));
    }
}

fn declared_by(step: &Step) -> Result<Source, String> {
    step.source.clone().ok_or_else(|| "nobody declares it".into())
}

/// Whether a running process made from one spec is what the other asks for, its image's name aside.
fn is_same_process(one: &ContainerSpec, other: &ContainerSpec) -> bool {
    let process = |spec: &ContainerSpec| ContainerSpec {
        image: one.image.clone(),
        image_pull_policy: None,
        resources: Default::default(),
        restart: Default::default(),
        restart_limit: None,
        backoff: Default::default(),
        stop_signal: None,
        termination_grace_period_seconds: 0,
        logs: Default::default(),
        ..spec.clone()
    };
    process(one) == process(other)
}
