//! Random nodes, random declarations: what must hold whatever they are.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};

use super::world::{digest, file, reference};
use crate::manifest::{
    ContainerSpec, HANDLE, ImageSpec, Metadata, NamespaceSpec, Place, PullPolicy, Resource, ResourceKey, RestartPolicy,
    Spec, TagSpec,
};
use crate::oci::{Digest, Reference};
use crate::plan::simulation::{Node, Outcome};
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

fn a_source() -> impl Strategy<Value = Source> {
    select(vec![file("a.yaml"), file("b.yaml"), Source::Apply("set".into()), Source::Cli])
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    select(vec![None, Some("x"), Some("y")])
        .prop_map(|value| value.map(|value| ("tier".to_owned(), value.to_owned())).into_iter().collect())
}

/// Changes that leave the process alone.
fn in_place(spec: ContainerSpec) -> impl Strategy<Value = ContainerSpec> {
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
    let image = (a_reference(), a_policy()).prop_map(|(reference, pull_policy)| {
        let name = reference.to_string();
        (Some(name), Spec::Image(ImageSpec { reference: Some(reference), pull_policy, ..ImageSpec::default() }))
    });
    let archive = (select(&ARCHIVES[..]), proptest::option::of(a_reference())).prop_map(|(path, reference)| {
        let name = reference.as_ref().map_or("handle".to_owned(), ToString::to_string);
        (Some(name), Spec::Image(ImageSpec { reference, archive: Some(path.into()), ..ImageSpec::default() }))
    });
    let tag = (a_reference(), a_reference())
        .prop_map(|(reference, source)| (Some(reference.to_string()), Spec::Tag(TagSpec { reference, source })));
    let container = (select(&CONTAINERS[..]), a_spec())
        .prop_map(|(name, spec)| (Some(name.to_owned()), Spec::Container(Box::new(spec))));
    let settings = Just((None, Spec::Namespace(NamespaceSpec::default())));
    prop_oneof![3 => image, 1 => archive, 4 => tag, 6 => container, 1 => settings]
}

fn declared() -> impl Strategy<Value = Declared> {
    (select(&NAMESPACES[..]), a_resource(), labels(), a_source()).prop_map(
        |(namespace, (name, spec), labels, source)| {
            let is_settings = name.is_none();
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

fn a_desired() -> impl Strategy<Value = Desired> {
    vec(declared(), 0..14).prop_map(super::world::desired)
}

fn seen_reference() -> impl Strategy<Value = ObservedReference> {
    let role = select(vec![ReferenceRole::Image, ReferenceRole::Tag, ReferenceRole::Implied]);
    (a_digest(), role, a_source(), labels(), any::<bool>()).prop_map(|(digest, role, source, labels, handled)| {
        let labels = if role == ReferenceRole::Implied { BTreeMap::new() } else { labels };
        let handle = (handled && role == ReferenceRole::Image).then(|| (HANDLE.to_owned(), "handle".to_owned()));
        ObservedReference { digest, role, source, labels, annotations: handle.into_iter().collect(), complete: true }
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
fn node(is_damaged: bool) -> impl Strategy<Value = Node> {
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
struct World {
    desired: Desired,
    node: Node,
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
fn world() -> impl Strategy<Value = World> {
    (a_desired(), node(false)).prop_map(|(desired, node)| World { desired, node })
}

/// Some blobs are missing. One reference's repair may be another's, so that rounds are saved or needed.
fn any_world() -> impl Strategy<Value = World> {
    let node = any::<bool>().prop_flat_map(node);
    (a_desired(), node).prop_map(|(desired, node)| World { desired, node })
}

/// The node without what has no meaning: which container's source an implied reference got.
fn meaning(node: &Node) -> Node {
    let mut node = node.clone();
    for seen in node.state.references.values_mut() {
        if seen.role == ReferenceRole::Implied && seen.source != Source::Cli {
            seen.source = file("");
        }
    }
    node
}

/// Plans and executes until nothing changes. Fails when that takes more rounds than it ever should.
fn converge(node: &mut Node, desired: &Desired) -> Outcome {
    for _ in 0..4 {
        let plan = node.plan(desired);
        let before = node.clone();
        let outcome = node.execute(&plan);
        if *node == before {
            return outcome;
        }
    }
    panic!("no fixed point: {:#?}", super::world::lines(&node.plan(desired)));
}

fn keys(plan: &Plan) -> Vec<&ResourceKey> {
    plan.steps.iter().map(|step| &step.key).collect()
}

/// Everything that a step needs stands before it, and no key stands twice.
fn assert_well_ordered(plan: &Plan) {
    let mut done = BTreeSet::new();
    for step in &plan.steps {
        for need in &step.needs {
            assert!(done.contains(need), "{step} stands before {need}: {:#?}", super::world::lines(plan));
        }
        assert!(done.insert(&step.key), "{} has two steps", step.key);
    }
}

/// The order of steps that picks by `choices` among those whose needs are done.
fn shuffled(plan: &Plan, choices: &[Index]) -> Vec<Step> {
    let mut rest: Vec<&Step> = plan.steps.iter().collect();
    let mut order: Vec<Step> = Vec::new();
    let mut choices = choices.iter().cycle();
    while !rest.is_empty() {
        let done = |need: &ResourceKey| order.iter().any(|step| step.key == *need);
        let ready: Vec<usize> = (0..rest.len()).filter(|at| rest[*at].needs.iter().all(done)).collect();
        let at = *choices.next().unwrap().get(&ready);
        order.push(rest.remove(at).clone());
    }
    order
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// One plan brings the node to a fixed point; what a second plan holds is what could not be done.
    #[test]
    fn a_second_plan_holds_only_what_failed(World { desired, mut node } in world()) {
        let first = node.plan(&desired);
        let outcome = node.execute(&first);
        let second = node.plan(&desired);
        for key in keys(&second) {
            prop_assert!(!outcome.is_done(key), "{:#?} then {:#?}", super::world::lines(&first), super::world::lines(&second));
        }
        let settled = node.clone();
        node.execute(&second);
        prop_assert_eq!(node, settled);
    }

    /// Only registries and damage make steps fail: the plan itself asks for nothing impossible.
    #[test]
    fn steps_fail_only_where_content_cannot_be_had(World { desired, mut node } in any_world()) {
        let plan = node.plan(&desired);
        for (key, why) in node.execute(&plan).failed {
            let of_content = why.contains("404") || why.contains("no registry has") || why.contains("parts of");
            prop_assert!(of_content, "{}: {} in {:#?}", key, why, super::world::lines(&plan));
        }
    }

    /// Where registries were not asked, it takes more rounds and ends as well.
    #[test]
    fn unasked_registries_only_cost_a_round(World { desired, mut node } in any_world()) {
        node.asks_registries = false;
        converge(&mut node, &desired);
    }

    /// A crash behind any step, or within it, and a new plan: the same node in the end.
    #[test]
    fn a_crash_anywhere_changes_nothing_in_the_end(World { desired, node: start } in world()) {
        let plan = start.plan(&desired);
        let mut whole = start.clone();
        converge(&mut whole, &desired);
        let mut node = start;
        let mut outcome = Outcome::default();
        for step in &plan.steps {
            let mut behind = node.clone();
            converge(&mut behind, &desired);
            prop_assert_eq!(meaning(&behind), meaning(&whole), "crashed before {}", step);
            if step.needs.iter().all(|need| outcome.is_done(need)) && node.clone().apply(step).is_ok() {
                let mut within = node.clone();
                within.crash_within(step);
                converge(&mut within, &desired);
                prop_assert_eq!(meaning(&within), meaning(&whole), "crashed within {}", step);
            }
            node.attempt(step, &mut outcome);
        }
    }

    /// With parts of the content missing, what is repaired first may decide what else needs repair: the node
    /// comes to rest all the same.
    #[test]
    fn a_damaged_node_comes_to_rest_after_any_crash(World { desired, mut node } in any_world(), at in any::<Index>()) {
        let plan = node.plan(&desired);
        if plan.steps.is_empty() {
            return Ok(());
        }
        let crashed = at.index(plan.steps.len());
        let mut outcome = Outcome::default();
        for step in &plan.steps[..crashed] {
            node.attempt(step, &mut outcome);
        }
        let step = &plan.steps[crashed];
        if step.needs.iter().all(|need| outcome.is_done(need)) && node.clone().apply(step).is_ok() {
            node.crash_within(step);
        }
        converge(&mut node, &desired);
    }

    /// Any order that keeps to `needs`, as an executor working in parallel has it, ends the same.
    #[test]
    fn every_order_that_keeps_to_needs_ends_the_same(
        World { desired, node } in world(), choices in vec(any::<Index>(), 40)
    ) {
        let plan = node.plan(&desired);
        let (mut one, mut other) = (node.clone(), node);
        let first = one.execute(&plan);
        let second = other.execute(&Plan { steps: shuffled(&plan, &choices), problems: Vec::new() });
        prop_assert_eq!(first, second);
        prop_assert_eq!(one, other);
    }

    /// No step stands before one that it needs; a removal stands behind what stops using the removed thing
    /// (the simulated node refuses it otherwise, see `steps_fail_only_where_content_cannot_be_had`).
    #[test]
    fn needs_come_first_and_keys_once(World { desired, node } in any_world()) {
        assert_well_ordered(&node.plan(&desired));
    }

    #[test]
    fn planning_is_deterministic(World { desired, node } in any_world()) {
        let observed = node.observe(&desired);
        prop_assert_eq!(plan(&desired, &observed), plan(&desired, &observed));
    }

    /// Fields that can change in place never cost a process.
    #[test]
    fn in_place_changes_never_replace(
        (desired, changed) in a_desired().prop_flat_map(|desired| {
            let specs: Vec<_> = desired.resources.values().map(|declared| match declared.resource.container() {
                Some(spec) => in_place(spec.clone())
                    .prop_map(|spec| Some(Box::new(spec))).boxed(),
                None => Just(None).boxed(),
            }).collect();
            (Just(desired), specs, labels(), a_source()).prop_map(|(desired, specs, labels, source)| {
                let mut changed = desired.clone();
                for (declared, spec) in changed.resources.values_mut().zip(specs) {
                    if let (Spec::Container(old), Some(mut new)) = (&mut declared.resource.spec, spec) {
                        // Asking a registry again may well find another image.
                        new.image_pull_policy = old.image_pull_policy;
                        *old = new;
                        declared.resource.metadata.labels = labels.clone();
                        declared.source = source.clone();
                    }
                }
                (desired, changed)
            })
        }),
        mut node in any::<bool>().prop_flat_map(node),
    ) {
        converge(&mut node, &desired);
        let before = node.plan(&desired);
        let plan = node.plan(&changed);
        for step in &plan.steps {
            let pending = before.step(&step.key).is_some();
            prop_assert!(step.action != Action::Replace || pending, "{}", step);
        }
    }

    /// A change of one container is a step of that container and of nothing else.
    #[test]
    fn others_are_left_alone(World { desired, mut node } in any_world(), at in any::<Index>()) {
        converge(&mut node, &desired);
        let containers: Vec<ResourceKey> =
            desired.resources.iter().filter(|(_, d)| d.resource.container().is_some()).map(|(key, _)| key.clone()).collect();
        if containers.is_empty() {
            return Ok(());
        }
        let key = at.get(&containers);
        let mut changed = desired.clone();
        if let Some(Spec::Container(spec)) = changed.resources.get_mut(key).map(|declared| &mut declared.resource.spec) {
            spec.env.insert("NEW".into(), "1".into());
        }
        let others = |plan: Plan| plan.steps.into_iter().filter(|step| step.key != *key).collect::<Vec<_>>();
        prop_assert_eq!(others(node.plan(&changed)), others(node.plan(&desired)));
    }
}
