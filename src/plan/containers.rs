//! Containers: made, changed in place, replaced, started, removed.
//!
//! An unchanged container costs a comparison and no allocation; the field-by-field difference is made
//! only where that comparison fails.

use std::collections::HashMap;

use super::diff;
use super::order::{Draft, StepId};
use super::references::{Content, Lack, References, View};
use super::{
    Action, Change, Declared, Desired, Observed, ObservedContainer, ObservedTask, Problem, Severity, Source, Step,
    Target,
};
use crate::manifest::{ContainerSpec, Kind, Metadata, Resource, ResourceKey, RestartPolicy, Spec};
use crate::oci::Digest;

/// Something of the host that one container at a time can have. There is nothing of the kind yet; host
/// ports go here and into [`host_claims`].
#[derive(PartialEq, Eq, Hash)]
enum HostClaim {}

/// What a container takes of the host for itself alone.
fn host_claims(_: &ContainerSpec) -> impl Iterator<Item = HostClaim> {
    std::iter::empty()
}

/// Plans every container, declared or on the node.
pub(super) fn plan<'a>(
    desired: &'a Desired,
    observed: &'a Observed,
    references: &mut References<'a>,
    draft: &mut Draft,
) {
    let pairs = pair(desired, observed);
    let mut freed: HashMap<HostClaim, Vec<StepId>> = HashMap::new();
    for pair in &pairs {
        if let Pair::Observed(namespace, name, seen) = pair {
            let key = ResourceKey::new(Kind::Container, *namespace, *name);
            let step = draft.add(Step::removal(key, diff::NO_LONGER_DECLARED), Vec::new());
            references.released((namespace, &seen.spec.image), step);
            for claim in host_claims(&seen.spec) {
                freed.entry(claim).or_default().push(step);
            }
        }
    }
    for pair in &pairs {
        let Pair::Desired(wanted, seen) = pair else { continue };
        let Some(view) = references.view((wanted.namespace(), &wanted.spec.image)) else { continue };
        if seen.is_some_and(|seen| is_as_wanted(wanted, seen, view)) {
            continue;
        }
        let room = || host_claims(wanted.spec).filter_map(|claim| freed.get(&claim)).flatten().copied();
        match seen {
            None => create(wanted, view, room(), references, draft),
            Some(seen) => change(wanted, seen, view, room(), references, draft),
        }
    }
}

/// A container that is declared.
struct Wanted<'a> {
    key: &'a ResourceKey,
    declared: &'a Declared,
    spec: &'a ContainerSpec,
}

impl<'a> Wanted<'a> {
    fn namespace(&self) -> &'a str {
        &self.declared.resource.metadata.namespace
    }
    fn metadata(&self) -> &'a Metadata {
        &self.declared.resource.metadata
    }
}

/// A container that is declared, on the node, or both.
enum Pair<'a> {
    Desired(Wanted<'a>, Option<&'a ObservedContainer>),
    Observed(&'a str, &'a str, &'a ObservedContainer),
}

/// Walks both sorted maps side by side.
fn pair<'a>(desired: &'a Desired, observed: &'a Observed) -> Vec<Pair<'a>> {
    let mut pairs = Vec::with_capacity(observed.containers.len());
    let mut there = observed.containers.iter().peekable();
    let passed = |((namespace, name), seen): (&'a (String, String), &'a ObservedContainer)| {
        Pair::Observed(namespace, name, seen)
    };
    for (key, declared) in &desired.resources {
        let Some(spec) = declared.resource.container() else { continue };
        let at = (&key.namespace, &key.name);
        while let Some(next) = there.next_if(|((namespace, name), _)| (namespace, name) < at) {
            pairs.push(passed(next));
        }
        let seen = there.next_if(|((namespace, name), _)| (namespace, name) == at).map(|(_, seen)| seen);
        pairs.push(Pair::Desired(Wanted { key, declared, spec }, seen));
    }
    pairs.extend(there.map(passed));
    pairs
}

/// The cheap answer for nearly every container of nearly every reconcile.
fn is_as_wanted(wanted: &Wanted<'_>, seen: &ObservedContainer, view: View<'_>) -> bool {
    let metadata = wanted.metadata();
    let image = match view.content {
        Content::Known(digest) => *digest == seen.image_digest,
        Content::Pending => true,
        Content::Missing(_) => false,
    };
    image
        && seen.spec == *wanted.spec
        && seen.labels == metadata.labels
        && seen.annotations == metadata.annotations
        && seen.source == wanted.declared.source
        && start_reason(seen, wanted.spec).is_none()
}

/// Why its task must be started, if it must.
fn start_reason(seen: &ObservedContainer, spec: &ContainerSpec) -> Option<&'static str> {
    if seen.stopped_by_hand {
        return None;
    }
    match seen.task {
        ObservedTask::None => Some("not started"),
        ObservedTask::Lost if spec.restart != RestartPolicy::Never => Some("its shim is gone"),
        // It ended for good by a policy that no longer holds.
        ObservedTask::Ended if spec.restart == RestartPolicy::Always && seen.spec.restart != RestartPolicy::Always => {
            Some("it ended")
        }
        ObservedTask::Lost | ObservedTask::Supervised | ObservedTask::Ended => None,
    }
}

fn create<'a>(
    wanted: &Wanted<'a>,
    view: View<'a>,
    room: impl Iterator<Item = StepId>,
    references: &mut References<'a>,
    draft: &mut Draft,
) {
    if let Content::Missing(lack) = view.content {
        draft.problems.push(no_image(wanted, lack, Severity::Error, references));
        return;
    }
    let needs = view.step.into_iter().chain(room).collect();
    let resource = wanted.declared.resource.clone();
    let target = Target::Container { resource, digest: known(view.content).cloned() };
    draft.add(step(wanted, Action::Create, diff::NOT_ON_NODE.into(), Vec::new(), target), needs);
}

fn change<'a>(
    wanted: &Wanted<'a>,
    seen: &'a ObservedContainer,
    view: View<'a>,
    room: impl Iterator<Item = StepId>,
    references: &mut References<'a>,
    draft: &mut Draft,
) {
    let namespace = wanted.namespace();
    let mut changes = Vec::new();
    if seen.spec != *wanted.spec {
        diff::specs(&seen.spec, wanted.spec, &mut changes);
    }
    let metadata = wanted.metadata();
    diff::map("labels", &seen.labels, &metadata.labels, &mut changes);
    diff::map("annotations", &seen.annotations, &metadata.annotations, &mut changes);
    diff::source(&seen.source, &wanted.declared.source, &mut changes);

    let renamed = seen.spec.image != wanted.spec.image;
    let digest = known(view.content);
    // The same content under another name needs no new process.
    let same_content = digest == Some(&seen.image_digest);
    let mut replace =
        changes.iter().any(|change| !(diff::is_in_place(change) || change.field == "image" && same_content));
    // A person who stopped it wants it down: a moved tag waits until it is started, a new spec does not.
    if let Some(digest) = digest.filter(|_| !same_content && (replace || !seen.stopped_by_hand)) {
        changes.push(diff::digest(diff::IMAGE_DIGEST, &seen.image_digest, digest));
        replace = true;
    }

    if let Content::Missing(lack) = view.content {
        let severity = if replace { Severity::Error } else { Severity::Warning };
        draft.problems.push(no_image(wanted, lack, severity, references));
        if replace {
            // What worked goes on working until it can be replaced.
            references.hold((namespace, &seen.spec.image));
            if let Some(reason) = start_reason(seen, &seen.spec) {
                start_as_it_was(wanted, seen, reason, draft);
            }
            return;
        }
    }

    let id = if replace {
        let needs = view.step.into_iter().chain(room).collect();
        let reason = diff::reason(changes.iter().map(diff::say));
        let target = Target::Container { resource: wanted.declared.resource.clone(), digest: digest.cloned() };
        draft.add(step(wanted, Action::Replace, reason, changes, target), needs)
    } else {
        let start = start_reason(seen, wanted.spec);
        if start.is_none() && changes.is_empty() {
            return;
        }
        let action = if start.is_some() { Action::Start } else { Action::Update };
        let told = start.map(str::to_owned).into_iter().chain(changes.iter().map(|change| match &*change.field {
            "image" => format!("{} (same digest)", diff::say(change)),
            _ => diff::say(change),
        }));
        let reason = diff::reason(told);
        // A new name must exist first; a start needs what a repair brings back.
        let repaired = start.is_some()
            && same_content
            && references.seen((namespace, &wanted.spec.image)).is_none_or(|image| !image.complete);
        let needs = if renamed || repaired { view.step.into_iter().collect() } else { Vec::new() };
        let resource = wanted.declared.resource.clone();
        let target = Target::Container { resource, digest: Some(seen.image_digest.clone()) };
        draft.add(step(wanted, action, reason, changes, target), needs)
    };
    if renamed {
        references.released((namespace, &seen.spec.image), id);
    }
}

/// Starts a container as it was made, because what it should become cannot be had now.
fn start_as_it_was(wanted: &Wanted<'_>, seen: &ObservedContainer, reason: &str, draft: &mut Draft) {
    let metadata = Metadata {
        labels: seen.labels.clone(),
        annotations: seen.annotations.clone(),
        ..wanted.declared.resource.metadata.clone()
    };
    let resource = Resource { metadata, spec: Spec::Container(Box::new(seen.spec.clone())) };
    let target = Target::Container { resource, digest: Some(seen.image_digest.clone()) };
    let step = step(wanted, Action::Start, reason.into(), Vec::new(), target);
    draft.add(Step { source: Some(seen.source.clone()), ..step }, Vec::new());
}

fn known<'a>(content: Content<'a>) -> Option<&'a Digest> {
    match content {
        Content::Known(digest) => Some(digest),
        Content::Pending | Content::Missing(_) => None,
    }
}

fn step(wanted: &Wanted<'_>, action: Action, reason: String, changes: Vec<Change>, target: Target) -> Step {
    let source: Option<Source> = Some(wanted.declared.source.clone());
    Step { action, key: wanted.key.clone(), reason, changes, needs: Vec::new(), target: Some(target), source }
}

/// The image of a container cannot be had.
fn no_image<'a>(wanted: &Wanted<'a>, lack: Lack, severity: Severity, references: &mut References<'a>) -> Problem {
    let image = &wanted.spec.image;
    let namespace = wanted.namespace();
    let (what, help) = match lack {
        Lack::Never => ("is not in", references.suggest((namespace, image), None)),
        Lack::Incomplete => ("is incomplete in", None),
        Lack::Broken => ("cannot be had in", None),
    };
    let (why, next) = match lack {
        Lack::Never | Lack::Incomplete => {
            (", and its pull policy is Never", Some("load it, or set imagePullPolicy: IfNotPresent"))
        }
        Lack::Broken => ("", None),
    };
    Problem {
        key: wanted.key.clone(),
        message: format!("{}: image {image} {what} namespace {namespace}{why}", wanted.key),
        place: wanted.declared.place_of("spec.image"),
        help: help.or_else(|| next.map(str::to_owned)),
        severity,
    }
}
