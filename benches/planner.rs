//! How long planning takes on a node of 1,000 containers: nothing changed, one thing changed, everything new.
//! And how much planning it takes to bring about 1,000 new containers, step by step, with the daemon's pace.
//! Prints rows of the table in docs/SPECIFICATION.md. `cargo bench --bench planner`

// A failed unwrap ends the benchmark, and that is the report.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use bayplan::controller::pace::Pace;
use bayplan::manifest::{ContainerSpec, ImageSpec, Metadata, Resource, Spec};
use bayplan::oci::{Digest, Reference};
use bayplan::plan::simulation::Node;
use bayplan::plan::{Declared, Desired, Plan, Source, plan};

const CONTAINERS: usize = 1000;
const NAMESPACES: usize = 10;
const IMAGES: usize = 20;
const ROUNDS: usize = 101;

fn declare(desired: &mut Desired, resource: Resource) {
    let source = Source::Directory("bench.yaml".into());
    let declared = Declared { resource, source, place: None, fields: Default::default() };
    desired.resources.insert(declared.resource.key(), declared);
}

fn metadata(namespace: &str, name: &str) -> Metadata {
    Metadata { name: name.into(), namespace: namespace.into(), ..Metadata::default() }
}

fn reference(image: usize) -> Reference {
    format!("registry.local/team/image-{image}:1.0").parse().unwrap()
}

fn node() -> (Node, Desired) {
    let mut desired = Desired::default();
    let mut node = Node { asks_registries: true, ..Node::default() };
    for image in 0..IMAGES {
        node.registry.insert(reference(image), Digest::of(image.to_string().as_bytes()));
    }
    for namespace in (0..NAMESPACES).map(|n| format!("team-{n}")) {
        for image in 0..IMAGES {
            let spec = ImageSpec { reference: Some(reference(image)), ..ImageSpec::default() };
            let metadata = metadata(&namespace, &reference(image).to_string());
            declare(&mut desired, Resource { metadata, spec: Spec::Image(spec) });
        }
        for n in 0..CONTAINERS / NAMESPACES {
            let mut spec = ContainerSpec::of(reference(n % IMAGES));
            spec.command = Some(vec!["serve".into(), "--port".into(), "8080".into()]);
            spec.env = (0..10).map(|n| (format!("VARIABLE_{n}"), format!("value {n}"))).collect();
            let metadata = metadata(&namespace, &format!("c{n}"));
            declare(&mut desired, Resource { metadata, spec: Spec::Container(Box::new(spec)) });
        }
    }
    (node, desired)
}

fn median(mut round: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let started = Instant::now();
            round();
            started.elapsed()
        })
        .collect();
    times.sort();
    times[ROUNDS / 2]
}

fn row(what: &str, took: Duration, target: &str) {
    println!("| {what} | {:.2} ms | {target} |", took.as_secs_f64() * 1000.0);
}

/// Brings everything about as the daemon's loop does: [`PLACES`] steps at a time of [`STEP`] each, three times as many
/// begun that wait for a place, a plan after every end as far as `paced` allows. Steps take simulated time, plans their
/// own. Gives the number of plans, and the time that they took.
fn bring_about(mut node: Node, desired: &Desired, paced: bool) -> (u32, Duration) {
    const PLACES: usize = 4;
    const STEP: Duration = Duration::from_millis(60);
    let start = Instant::now();
    let (mut now, mut pace, mut plans, mut planning) = (start, Pace::default(), 0, Duration::ZERO);
    // Ends are spread evenly.
    let mut free: Vec<Instant> = (0..4).map(|place| start + STEP * place / 4).collect();
    let mut under_way = Vec::new();
    loop {
        let ended;
        (ended, under_way) = under_way.into_iter().partition(|(at, _)| *at <= now);
        for (_, step) in ended {
            assert!(node.execute(&Plan { steps: vec![step], problems: Vec::new() }).failed.is_empty());
        }
        let began = Instant::now();
        let plan = node.plan(desired);
        let took = began.elapsed();
        (plans, planning) = (plans + 1, planning + took);
        if paced {
            pace.planned(desired.resources.len(), now, now + took);
        }
        now += took;
        if plan.is_converged() {
            return (plans, planning);
        }
        for step in &plan.steps {
            let is_ready = step.needs.iter().all(|need| plan.step(need).is_none());
            if under_way.len() < 4 * PLACES && is_ready && under_way.iter().all(|(_, own)| own.key != step.key) {
                free.sort();
                free[0] = free[0].max(now) + STEP;
                under_way.push((free[0], step.clone()));
            }
        }
        let next = under_way.iter().map(|(at, _)| *at).min().unwrap();
        now = now.max(next);
        now = pace.pause(now).unwrap_or(now);
    }
}

fn main() {
    let (mut node, desired) = node();
    for (what, paced) in [("planned after every end", false), ("paced", true)] {
        let (plans, planning) = bring_about(node.clone(), &desired, paced);
        println!("1,000 new containers, {what}: {plans} plans, {} ms in all", planning.as_millis());
    }
    let observed = node.observe(&desired);
    let first = plan(&desired, &observed);
    assert!(first.problems.is_empty() && first.steps.len() >= CONTAINERS, "{} steps", first.steps.len());
    println!("| planning on a node of {CONTAINERS} containers | median of {ROUNDS} | target |\n| --- | --- | --- |");
    row("everything new", median(|| drop(std::hint::black_box(plan(&desired, &observed)))), "");

    let outcome = node.execute(&first);
    assert!(outcome.failed.is_empty());
    let observed = node.observe(&desired);
    assert!(plan(&desired, &observed).is_converged(), "a second plan is empty");
    row("unchanged", median(|| drop(std::hint::black_box(plan(&desired, &observed)))), "≤ 20 ms");
    let both = median(|| drop(std::hint::black_box(node.plan(&desired))));
    row("unchanged, the copying of what was observed included", both, "≤ 20 ms");

    let mut changed = desired.clone();
    let container = changed.resources.values_mut().find(|declared| declared.resource.container().is_some()).unwrap();
    if let Spec::Container(spec) = &mut container.resource.spec {
        spec.env.insert("VARIABLE_0".into(), "another value".into());
    }
    assert_eq!(plan(&changed, &observed).steps.len(), 1);
    row("one container changed", median(|| drop(std::hint::black_box(plan(&changed, &observed)))), "≤ 20 ms");
}
