//! Builds `observed`: what the node has, as far as planning needs it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::image::PullOptions;
use crate::manifest::{PullPolicy, RegistrySpec, Spec, pull_policy_or_default};
use crate::oci::{Digest, Platform, Reference};
use crate::plan::{
    ArchivedImage, Declared, Desired, Observed, ObservedContainer, ObservedNamespace, ObservedReference,
    ObservedRegistry, ObservedTask, ReferenceRole, Source,
};
use crate::shim::protocol::TaskPhase;
use crate::store::ContainerRecord;

use super::container::is_supervised;
use super::memory::ContainerKey;
use super::{Engine, lock_of};

/// How old an answer of a registry may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Asked now: somebody gave the command.
    Now,
    /// Whatever was answered last: nobody is asked.
    Known,
    /// Up to five minutes: something on the node changed, and registries must not hear of each such thing.
    Recent,
}

impl Engine {
    /// What is there, including what registries and archives answer for what is desired.
    pub async fn observe(self: &Arc<Self>, desired: &Desired, freshness: Freshness) -> Observed {
        let mut observed = Observed::default();
        let platforms = declared_platforms(desired);
        let (unknown, mut digests) = {
            let records = self.memory.read();
            let host = Platform::host();
            for (name, record) in &records.namespaces {
                if let Spec::Namespace(spec) = &record.resource.spec {
                    observed.namespaces.insert(
                        name.clone(),
                        ObservedNamespace {
                            labels: record.resource.metadata.labels.clone(),
                            annotations: record.resource.metadata.annotations.clone(),
                            spec: spec.clone(),
                        },
                    );
                }
            }
            for (host, record) in &records.registries {
                if let Spec::Registry(spec) = &record.resource.spec {
                    observed.registries.insert(
                        host.clone(),
                        ObservedRegistry {
                            labels: record.resource.metadata.labels.clone(),
                            annotations: record.resource.metadata.annotations.clone(),
                            spec: RegistrySpec::clone(spec),
                        },
                    );
                }
            }
            observed.pull_secrets = self.config().registry.pull_secrets.keys().cloned().collect();
            let mut unknown = BTreeSet::new();
            for (key, record) in &records.references {
                let platform = platforms.get(key).cloned().unwrap_or_else(|| host.clone());
                let asked = (record.digest.clone(), platform);
                let complete = records.complete.get(&asked).copied();
                if complete.is_none() {
                    unknown.insert((key.clone(), asked));
                }
                observed.references.insert(
                    key.clone(),
                    ObservedReference {
                        digest: record.digest.clone(),
                        role: record.role.clone(),
                        source: record.source.clone(),
                        labels: record.labels.clone(),
                        annotations: record.annotations.clone(),
                        complete: complete.unwrap_or(false),
                        kept: record.kept,
                    },
                );
            }
            for (key, record) in &records.containers {
                if let Some(container) = self.observe_container(key, record) {
                    observed.containers.insert(key.clone(), container);
                }
            }
            (unknown, Vec::new())
        };
        if !unknown.is_empty() {
            let engine = Arc::clone(self);
            digests = tokio::task::spawn_blocking(move || {
                unknown.into_iter().map(|(key, asked)| (engine.is_complete(&asked.0, &asked.1), key, asked)).collect()
            })
            .await
            .unwrap_or_default();
        }
        if !digests.is_empty() {
            let mut records = self.memory.write();
            for (complete, key, asked) in digests {
                if let Some(reference) = observed.references.get_mut(&key) {
                    reference.complete = complete;
                }
                records.complete.insert(asked, complete);
            }
        }
        self.ask_registries(desired, &mut observed, freshness, None).await;
        self.read_archives(desired, &mut observed).await;
        observed
    }

    fn observe_container(&self, key: &ContainerKey, record: &ContainerRecord) -> Option<ObservedContainer> {
        let spec = record.resource.container()?.clone();
        let task = match lock_of(&self.tasks).get(key) {
            Some(task) if is_supervised(&task.state) => ObservedTask::Supervised,
            Some(task) => match task.state.phase {
                TaskPhase::Created => ObservedTask::None,
                TaskPhase::Running | TaskPhase::BackOff => ObservedTask::Supervised,
                TaskPhase::Exited | TaskPhase::Stopped | TaskPhase::Failed => ObservedTask::Ended,
            },
            None if !record.started => ObservedTask::None,
            None => match record.last.as_ref().map(|state| state.phase) {
                Some(TaskPhase::Exited | TaskPhase::Stopped | TaskPhase::Failed) => ObservedTask::Ended,
                _ => ObservedTask::Lost,
            },
        };
        Some(ObservedContainer {
            spec,
            labels: record.resource.metadata.labels.clone(),
            annotations: record.resource.metadata.annotations.clone(),
            image_digest: record.image.clone(),
            source: record.source.clone(),
            task,
            stopped_by_hand: record.stopped_by_hand,
        })
    }

    /// Whether every blob is in the store and every layer unpacked. Asks the disk.
    fn is_complete(&self, digest: &Digest, platform: &Platform) -> bool {
        self.images.load_image(digest, platform).is_ok_and(|image| self.snapshots.is_unpacked(&image))
    }

    /// What a registry is to be asked for: what is to be pulled at each reconcile, and what is not on the node.
    fn questions(&self, desired: &Desired, about: Option<&BTreeSet<(String, Reference)>>) -> BTreeSet<Reference> {
        let unsettled = self.unsettled_hosts(desired);
        let records = self.memory.read();
        let mut wanted: BTreeSet<Reference> = BTreeSet::new();
        let mut local: BTreeSet<(&str, &Reference)> = BTreeSet::new();
        for declared in desired.resources.values() {
            let namespace = declared.resource.metadata.namespace.as_str();
            match &declared.resource.spec {
                Spec::Tag(spec) => {
                    local.insert((namespace, &spec.reference));
                }
                Spec::Image(spec) if spec.archive.is_some() => {
                    if let Some(reference) = &spec.reference {
                        local.insert((namespace, reference));
                    }
                }
                _ => {}
            }
        }
        for declared in desired.resources.values() {
            let namespace = declared.resource.metadata.namespace.as_str();
            let (reference, policy) = match &declared.resource.spec {
                Spec::Image(spec) => match (&spec.reference, &spec.archive) {
                    (Some(reference), None) => (reference, pull_policy_or_default(spec.pull_policy, reference)),
                    _ => continue,
                },
                Spec::Container(spec) => (&spec.image, spec.pull_policy()),
                _ => continue,
            };
            if about.is_some_and(|about| !about.contains(&(namespace.to_owned(), reference.clone()))) {
                continue;
            }
            if unsettled.contains(reference.host()) {
                continue;
            }
            if reference.digest().is_some() || local.contains(&(namespace, reference)) {
                continue;
            }
            let present = records.references.get(&(namespace.to_owned(), reference.clone()));
            let ask = match policy {
                PullPolicy::Never => false,
                PullPolicy::IfNotPresent => present.is_none(),
                // What was tagged or loaded by hand, or comes from an archive, is in no registry.
                PullPolicy::Always => present.is_none_or(|r| r.source != Source::Cli && r.role != ReferenceRole::Tag),
            };
            if ask {
                wanted.insert(reference.clone());
            }
        }
        wanted
    }

    /// Whether a registry should be asked now, by the answers at hand.
    pub fn has_questions(&self, desired: &Desired) -> bool {
        let answers = lock_of(&self.answers);
        self.questions(desired, None)
            .iter()
            .any(|reference| !answers.get(reference).is_some_and(|(at, answer)| still_good(*at, answer)))
    }

    /// Asks what there is to ask, all of it or `about` these references of these namespaces; the answers are
    /// kept for the plans that follow.
    pub async fn ask(&self, desired: &Desired, freshness: Freshness, about: Option<&BTreeSet<(String, Reference)>>) {
        self.ask_registries(desired, &mut Observed::default(), freshness, about).await;
    }

    async fn ask_registries(
        &self,
        desired: &Desired,
        observed: &mut Observed,
        freshness: Freshness,
        about: Option<&BTreeSet<(String, Reference)>>,
    ) {
        let mut asked = Vec::new();
        for reference in self.questions(desired, about) {
            let known = lock_of(&self.answers).get(&reference).cloned();
            match known {
                Some((at, answer))
                    if freshness == Freshness::Known || (freshness == Freshness::Recent && still_good(at, &answer)) =>
                {
                    observed.remote.insert(reference, answer);
                }
                _ if freshness == Freshness::Known => {}
                _ => {
                    let images = self.images.clone();
                    let pull_secrets = self.secrets_for(desired, &reference);
                    asked.push(tokio::spawn(async move {
                        let answer = tokio::time::timeout(
                            Duration::from_secs(15),
                            images.resolve(&reference, &PullOptions { pull_secrets, ..PullOptions::default() }),
                        )
                        .await;
                        let answer = match answer {
                            Ok(Ok(descriptor)) => Ok(descriptor.digest),
                            Ok(Err(error)) => Err(crate::error::Fault::from(error).message),
                            Err(_) => Err(format!("{} did not answer within 15 s", reference.host())),
                        };
                        (reference, answer)
                    }));
                }
            }
        }
        for task in asked {
            if let Ok((reference, answer)) = task.await {
                lock_of(&self.answers).insert(reference.clone(), (Instant::now(), answer.clone()));
                observed.remote.insert(reference, answer);
            }
        }
    }

    async fn read_archives(&self, desired: &Desired, observed: &mut Observed) {
        let archives: BTreeSet<String> = desired
            .resources
            .values()
            .filter_map(|declared| match &declared.resource.spec {
                Spec::Image(spec) => spec.archive.clone(),
                _ => None,
            })
            .collect();
        for archive in archives {
            let images = self.images.clone();
            let path = archive.clone();
            let answer = tokio::task::spawn_blocking(move || {
                images
                    .archive_images(Path::new(&path))
                    .map(|found| {
                        found
                            .into_iter()
                            .map(|image| ArchivedImage { reference: image.reference, digest: image.target.digest })
                            .collect()
                    })
                    .map_err(|error| crate::error::Fault::from(error).message)
            })
            .await
            .unwrap_or_else(|_| Err(format!("archive {archive} could not be read")));
            observed.archives.insert(archive, answer);
        }
    }
}

/// Platforms other than the node's, by the reference that an `Image` declares.
fn declared_platforms(desired: &Desired) -> BTreeMap<(String, Reference), Platform> {
    let platform = |declared: &Declared| match &declared.resource.spec {
        Spec::Image(spec) => {
            let key = (declared.resource.metadata.namespace.clone(), spec.reference.clone()?);
            Some((key, spec.platform.clone()?))
        }
        _ => None,
    };
    desired.resources.values().filter_map(platform).collect()
}

/// A digest serves five minutes, a failure one; somebody who gives a command asks anew.
fn still_good(at: Instant, answer: &Result<Digest, String>) -> bool {
    at.elapsed() < Duration::from_secs(if answer.is_ok() { 300 } else { 60 })
}
