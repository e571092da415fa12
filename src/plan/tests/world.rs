//! A small world to plan in: short names for what tests declare and observe.

use crate::manifest::{
    ContainerSpec, ImageSpec, Kind, Metadata, NamespaceSpec, Place, PullPolicy, Resource, ResourceKey, Spec, TagSpec,
};
use crate::oci::{Digest, Reference};
use crate::plan::*;

pub const WEB: &str = "r.io/web:1";
pub const NEXT: &str = "r.io/web:2";
pub const LATEST: &str = "r.io/web:latest";
pub const STABLE: &str = "local.io/web:stable";

pub fn reference(text: &str) -> Reference {
    text.parse().unwrap()
}

pub fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

pub fn short(name: &str) -> String {
    format!("sha256:{}…", digest(name).short())
}

pub fn file(name: &str) -> Source {
    Source::Directory(name.into())
}

pub fn declared(namespace: &str, name: &str, spec: Spec) -> Declared {
    let metadata = Metadata { name: name.into(), namespace: namespace.into(), ..Metadata::default() };
    let place = Place { file: "shop.yaml".into(), line: 1, column: 1 };
    let resource = Resource { metadata, spec };
    Declared { resource, source: file("shop.yaml"), place: Some(place), fields: Default::default() }
}

pub fn image(namespace: &str, name: &str) -> Declared {
    let spec = ImageSpec { reference: Some(reference(name)), ..ImageSpec::default() };
    declared(namespace, name, Spec::Image(spec))
}

pub fn image_by(namespace: &str, name: &str, policy: PullPolicy) -> Declared {
    let spec = ImageSpec { reference: Some(reference(name)), pull_policy: Some(policy), ..ImageSpec::default() };
    declared(namespace, name, Spec::Image(spec))
}

/// An `Image` from an archive: named by its reference, or by a handle where the archive names its images.
pub fn archived(namespace: &str, name: &str, archive: &str, named: Option<&str>) -> Declared {
    let spec = ImageSpec { reference: named.map(reference), archive: Some(archive.into()), ..ImageSpec::default() };
    declared(namespace, named.unwrap_or(name), Spec::Image(spec))
}

pub fn tag(namespace: &str, name: &str, source: &str) -> Declared {
    declared(namespace, name, Spec::Tag(TagSpec { reference: reference(name), source: reference(source) }))
}

pub fn namespace(name: &str, labels: &[(&str, &str)]) -> Declared {
    let mut declared = declared("", name, Spec::Namespace(NamespaceSpec::default()));
    for (key, value) in labels {
        declared.resource.metadata.labels.insert((*key).into(), (*value).into());
    }
    declared
}

pub fn container(namespace: &str, name: &str, image: &str) -> Declared {
    container_with(namespace, name, image, |_| ())
}

pub fn container_with(namespace: &str, name: &str, image: &str, set: impl FnOnce(&mut ContainerSpec)) -> Declared {
    let mut spec = ContainerSpec::of(reference(image));
    set(&mut spec);
    let mut declared = declared(namespace, name, Spec::Container(Box::new(spec)));
    declared.fields.insert("spec.image".into(), Place { file: "shop.yaml".into(), line: 14, column: 18 });
    declared
}

pub fn desired(all: impl IntoIterator<Item = Declared>) -> Desired {
    Desired { resources: all.into_iter().map(|declared| (declared.resource.key(), declared)).collect() }
}

pub fn key(text: &str) -> ResourceKey {
    let (kind, name) = text.split_once(' ').unwrap();
    let kind = Kind::ALL.into_iter().find(|known| known.word() == kind).unwrap();
    match name.split_once('/') {
        Some((namespace, name)) if !kind.is_node_wide() => ResourceKey::new(kind, namespace, name),
        _ if kind == Kind::Registry => ResourceKey::new(kind, "", name),
        _ => ResourceKey::new(kind, name, name),
    }
}

/// The lines that `diff` would print.
pub fn lines(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(ToString::to_string).collect()
}

/// Brings a new node to this; every step must succeed.
pub fn settled(desired: &Desired, registry: &[(&str, &str)]) -> simulation::Node {
    let registry = registry.iter().map(|(name, content)| (reference(name), digest(content))).collect();
    let mut node = simulation::Node { registry, asks_registries: true, ..Default::default() };
    settle(&mut node, desired);
    node
}

/// Executes the plan; every step must succeed and the next plan be empty.
pub fn settle(node: &mut simulation::Node, desired: &Desired) {
    let plan = node.plan(desired);
    assert_eq!(node.execute(&plan), simulation::Outcome::default(), "{:#?}", lines(&plan));
    assert_eq!(lines(&node.plan(desired)), Vec::<String>::new());
}

pub fn shop(node: &simulation::Node, name: &str) -> ObservedContainer {
    node.state.containers[&("shop".to_owned(), name.to_owned())].clone()
}

pub fn with_task(node: &simulation::Node, task: ObservedTask) -> simulation::Node {
    let mut node = node.clone();
    node.state.containers.values_mut().for_each(|seen| seen.task = task);
    node
}

pub fn needs(plan: &Plan, of: &str) -> Vec<String> {
    plan.step(&key(of)).unwrap().needs.iter().map(ToString::to_string).collect()
}

/// Severity, message and help of every problem.
pub fn problems(plan: &Plan) -> Vec<(Severity, &str, Option<&str>)> {
    plan.problems.iter().map(|problem| (problem.severity, &*problem.message, problem.help.as_deref())).collect()
}
