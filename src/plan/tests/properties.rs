//! Random nodes, random declarations: what must hold whatever they are.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::arbitrary::{World, a_desired, a_source, any_world, in_place, labels, node, world};
use super::world::file;
use crate::manifest::{ResourceKey, Spec};
use crate::plan::simulation::{Node, Outcome};
use crate::plan::*;

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
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

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
