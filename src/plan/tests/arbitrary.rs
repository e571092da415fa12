//! Random nodes and declarations in a world small enough for them to meet.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::world::{digest, file, reference};
use crate::manifest::{
    ContainerSpec, HANDLE, ImageSpec, Metadata, NamespaceSpec, Place, PullPolicy, RegistrySpec, Resource,
    RestartPolicy, Spec, TagSpec,
};
use crate::oci::{Digest, Reference};
use crate::plan::simulation::Node;
use crate::plan::*;

const NAMESPACES: [&str; 2] = ["a", "b"];
const REFERENCES: [&str; 6] = ["r.io/app:1", "r.io/app:2", "r.io/app:latest", "r.io/db:1", "t.io/x:1", "t.io/y:1"];
const CONTAINERS: [&str; 3] = ["one", "two", "three"];
const DIGESTS: [&str; 4] = ["d0", "d1", "d2", "d3"];
const ARCHIVES: [&str; 2] = ["/x.tar", "/y.tar"];

fn a_reference() -> impl Strategy<Value = Reference> {
    let pinned = || format!("r.io/app@{}", digest("d1"));
    prop_oneof![20 => select(&REFERENCES[..]).prop_map(str::to_owned), 1 => Just(()).prop_map(move |()| pinned())]
        .prop_map(|text| reference(&text))
}

fn a_digest() -> impl Strategy<Value = Digest> {
    select(&DIGESTS[..]).prop_map(digest)
}

fn a_policy() -> impl Strategy<Value = Option<PullPolicy>> {
    select(vec![None, Some(PullPolicy::Always), Some(PullPolicy::IfNotPresent), Some(PullPolicy::Never)])
}

pub fn a_source() -> impl Strategy<Value = Source> {
    select(vec![file("a.yaml"), file("b.yaml"), Source::Apply("set".into()), Source::Cli])
}

pub fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    select(vec![None, Some("x"), Some("y")])
        .prop_map(|value| value.map(|value| ("tier".to_owned(), value.to_owned())).into_iter().collect())
}

/// Changes that leave the process alone.
pub fn in_place(spec: ContainerSpec) -> impl Strategy<Value = ContainerSpec> {
    let restart = select(vec![RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never]);
    let few = || proptest::option::of(1..3_u32);
    (restart, few(), few(), few(), few(), a_policy()).prop_map(move |(restart, limit, grace, memory, files, policy)| {
        let mut spec = spec.clone();
        spec.restart = restart;
        spec.restart_limit = limit;
        spec.termination_grace_period_seconds = grace.unwrap_or(30);
        spec.resources.limits.pids = memory.map(i64::from);
        spec.logs.max_files = files.unwrap_or(5);
        spec.stop_signal = files.map(|n| format!("SIGUSR{n}"));
        spec.image_pull_policy = policy;
        spec
    })
}

fn a_spec() -> impl Strategy<Value = ContainerSpec> {
    (a_reference(), select(vec![None, Some("UTC"), Some("CET")]), any::<bool>())
        .prop_map(|(image, zone, tty)| {
            let mut spec = ContainerSpec::of(image);
            spec.env = zone.map(|zone| ("TZ".to_owned(), zone.to_owned())).into_iter().collect();
            spec.tty = tty;
            spec
        })
        .prop_flat_map(in_place)
}

fn a_resource() -> impl Strategy<Value = (Option<String>, Spec)> {
    let image = (a_reference(), a_policy(), select(vec![None, Some(true), Some(false)])).prop_map(
        |(reference, pull_policy, keep)| {
            let name = reference.to_string();
            let spec = ImageSpec { reference: Some(reference), pull_policy, keep, ..ImageSpec::default() };
            (Some(name), Spec::Image(spec))
        },
    );
    let archive = (select(&ARCHIVES[..]), proptest::option::of(a_reference())).prop_map(|(path, reference)| {
        let name = reference.as_ref().map_or("handle".to_owned(), ToString::to_string);
        (Some(name), Spec::Image(ImageSpec { reference, archive: Some(path.into()), ..ImageSpec::default() }))
    });
    let tag = (a_reference(), a_reference())
        .prop_map(|(reference, source)| (Some(reference.to_string()), Spec::Tag(TagSpec { reference, source })));
    let container = (select(&CONTAINERS[..]), a_spec())
        .prop_map(|(name, spec)| (Some(name.to_owned()), Spec::Container(Box::new(spec))));
    let registry = (select(&["r.io", "t.io", "_default"][..]), any::<bool>()).prop_map(|(host, plain_http)| {
        let spec = RegistrySpec { host: host.to_owned(), plain_http, ..RegistrySpec::default() };
        (Some(host.to_owned()), Spec::Registry(Box::new(spec)))
    });
    let settings = Just((None, Spec::Namespace(NamespaceSpec::default())));
    prop_oneof![3 => image, 1 => archive, 4 => tag, 6 => container, 1 => registry, 1 => settings]
}

fn declared() -> impl Strategy<Value = Declared> {
    (select(&NAMESPACES[..]), a_resource(), labels(), a_source()).prop_map(
        |(namespace, (name, spec), labels, source)| {
            let is_settings = name.is_none() || matches!(spec, Spec::Registry(_));
            let metadata = Metadata {
                name: name.unwrap_or(namespace.to_owned()),
                namespace: if is_settings { String::new() } else { namespace.to_owned() },
                labels,
                annotations: BTreeMap::new(),
            };
            let place = Some(Place { file: "m.yaml".into(), line: 1, column: 1 });
            Declared { resource: Resource { metadata, spec }, source, place, fields: BTreeMap::new() }
        },
    )
}

pub fn a_desired() -> impl Strategy<Value = Desired> {
    vec(declared(), 0..14).prop_map(super::world::desired)
}

fn seen_reference() -> impl Strategy<Value = ObservedReference> {
    let role = select(vec![ReferenceRole::Image, ReferenceRole::Tag, ReferenceRole::Implied]);
    (a_digest(), role, a_source(), labels(), any::<bool>()).prop_map(|(digest, role, source, labels, handled)| {
        let labels = if role == ReferenceRole::Implied { BTreeMap::new() } else { labels };
        let handle = (handled && role == ReferenceRole::Image).then(|| (HANDLE.to_owned(), "handle".to_owned()));
        ObservedReference {
            digest,
            role,
            source,
            labels,
            annotations: handle.into_iter().collect(),
            complete: true,
            kept: true,
        }
    })
}

fn seen_container() -> impl Strategy<Value = ObservedContainer> {
    let task = select(vec![ObservedTask::None, ObservedTask::Supervised, ObservedTask::Ended, ObservedTask::Lost]);
    (a_spec(), labels(), a_digest(), a_source(), task, prop::bool::weighted(0.2)).prop_map(
        |(spec, labels, image_digest, source, task, stopped_by_hand)| ObservedContainer {
            spec,
            labels,
            annotations: BTreeMap::new(),
            image_digest,
            source,
            task,
            stopped_by_hand,
        },
    )
}

fn archive() -> impl Strategy<Value = Result<Vec<ArchivedImage>, String>> {
    let image = (proptest::option::weighted(0.8, a_reference()), a_digest())
        .prop_map(|(reference, digest)| ArchivedImage { reference, digest });
    prop_oneof![4 => vec(image, 0..3).prop_map(Ok), 1 => Just(Err("no such file".to_owned()))]
}

/// A node in any state, with registries and archives that may hold what is wanted.
pub fn node(is_damaged: bool) -> impl Strategy<Value = Node> {
    let namespace = || select(&NAMESPACES[..]).prop_map(str::to_owned);
    let settings = btree_map(namespace(), labels(), 0..2);
    let references = btree_map((namespace(), a_reference()), seen_reference(), 0..8);
    let containers = btree_map((namespace(), select(&CONTAINERS[..]).prop_map(str::to_owned)), seen_container(), 0..6);
    let damaged = subsequence(DIGESTS.to_vec(), if is_damaged { 1..3 } else { 0..1 });
    let registry = btree_map(a_reference(), a_digest(), 0..6);
    let archives = (archive(), archive());
    (settings, references, containers, damaged, registry, archives).prop_map(
        |(settings, references, containers, damaged, registry, (x, y))| {
            let mut state = Observed { references, containers, ..Observed::default() };
            for (name, labels) in settings {
                state.namespaces.insert(name, ObservedNamespace { labels, ..ObservedNamespace::default() });
            }
            let digests = state.references.values().map(|seen| &seen.digest);
            let digests = digests.chain(state.containers.values().map(|seen| &seen.image_digest));
            let damaged: BTreeSet<Digest> = damaged.into_iter().map(digest).collect();
            let store = digests.filter(|digest| !damaged.contains(*digest)).cloned().collect();
            let archives = ARCHIVES.iter().map(|path| (*path).to_owned()).zip([x, y]).collect();
            Node { state, store, registry, archives, asks_registries: true }
        },
    )
}

/// What is wanted of a node, shown as briefly as can be when a property fails.
#[derive(Clone)]
pub struct World {
    pub desired: Desired,
    pub node: Node,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let brief = |digest: &Digest| DIGESTS.into_iter().find(|name| super::world::digest(name) == *digest);
        for (key, declared) in &self.desired.resources {
            let resource = serde_json::to_string(&declared.resource).unwrap();
            writeln!(f, "\nwanted {key} by {}: {resource}", declared.source)?;
        }
        for (name, seen) in &self.node.state.namespaces {
            writeln!(f, "seen namespace {name}: {:?}", seen.labels)?;
        }
        for ((namespace, name), seen) in &self.node.state.references {
            let ObservedReference { role, source, labels, annotations, .. } = seen;
            let digest = brief(&seen.digest);
            writeln!(f, "seen {namespace}/{name}: {digest:?} {role:?} {source} {labels:?} {annotations:?}")?;
        }
        for ((namespace, name), seen) in &self.node.state.containers {
            let ObservedContainer { task, stopped_by_hand, source, labels, .. } = seen;
            let (digest, spec) = (brief(&seen.image_digest), serde_json::to_string(&seen.spec).unwrap());
            writeln!(f, "seen {namespace}/{name}: {digest:?} {task:?} {stopped_by_hand} {source} {labels:?} {spec}")?;
        }
        writeln!(f, "whole {:?}", self.node.store.iter().map(brief).collect::<Vec<_>>())?;
        for (name, digest) in &self.node.registry {
            writeln!(f, "offered {name}: {:?}", brief(digest))?;
        }
        for (path, held) in &self.node.archives {
            let held = held.as_ref().map(|held| {
                held.iter().map(|image| (image.reference.clone(), brief(&image.digest))).collect::<Vec<_>>()
            });
            writeln!(f, "archive {path}: {held:?}")?;
        }
        for step in &self.node.plan(&self.desired).steps {
            writeln!(f, "planned {step} needs {:?}", step.needs.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

/// Nothing is missing from the content store.
pub fn world() -> impl Strategy<Value = World> {
    (a_desired(), node(false)).prop_map(|(desired, node)| World { desired, node })
}

/// Some blobs are missing. One reference's repair may be another's, so that rounds are saved or needed.
pub fn any_world() -> impl Strategy<Value = World> {
    let node = any::<bool>().prop_flat_map(node);
    (a_desired(), node).prop_map(|(desired, node)| World { desired, node })
}
