//! The rules of containers, each on the smallest node that shows it. Expected lines are
//! those that `diff` prints.

use super::world::*;
use crate::manifest::{PullPolicy, RestartPolicy};
use crate::plan::*;

#[test]
fn a_changed_field_replaces_that_container_and_says_which() {
    let zone = |zone: &str| {
        let set = |spec: &mut crate::manifest::ContainerSpec| drop(spec.env.insert("TZ".into(), zone.into()));
        desired([container_with("shop", "web", WEB, set), container("shop", "other", WEB)])
    };
    let node = settled(&zone("UTC"), &[(WEB, "web1")]);
    assert_eq!(lines(&node.plan(&zone("CET"))), [r#"-/+ container shop/web: env.TZ "UTC" → "CET""#]);
}

#[test]
fn supervision_limits_and_labels_change_in_place() {
    let before = desired([container("shop", "web", WEB)]);
    let node = settled(&before, &[(WEB, "web1")]);
    let mut after = container_with("shop", "web", WEB, |spec| {
        spec.restart = RestartPolicy::OnFailure;
        spec.resources.limits.memory = Some("64Mi".parse().unwrap());
        spec.termination_grace_period_seconds = 5;
        spec.backoff.initial = "1s".parse().unwrap();
    });
    after.resource.metadata.labels.insert("tier".into(), "front".into());
    let plan = node.plan(&desired([after]));
    assert_eq!(
        lines(&plan),
        [concat!(
            r#"~ container shop/web: backoff.initial "10ms" → "1s", resources.limits.memory unset → "64Mi", "#,
            r#"restart "Always" → "OnFailure" and 2 more"#
        )]
    );
    let fields: Vec<&str> = plan.steps[0].changes.iter().map(|change| &*change.field).collect();
    assert_eq!(
        fields,
        ["backoff.initial", "resources.limits.memory", "restart", "terminationGracePeriodSeconds", "labels.tier"]
    );
}

#[test]
fn lists_of_words_change_as_a_whole_and_mounts_one_by_one() {
    let mount = |source: &str| crate::manifest::Mount {
        kind: crate::manifest::MountKind::Bind,
        source: Some(source.into()),
        target: "/data".into(),
        read_only: false,
        options: Vec::new(),
        create: false,
    };
    let with = |args: &[&str], source: &str| {
        desired([container_with("shop", "web", WEB, |spec| {
            spec.args = Some(args.iter().map(|arg| (*arg).to_owned()).collect());
            spec.mounts = vec![mount("/same"), mount(source)];
        })])
    };
    let node = settled(&with(&["-v"], "/a"), &[(WEB, "web1")]);
    assert_eq!(
        lines(&node.plan(&with(&["-v", "-q"], "/b"))),
        [r#"-/+ container shop/web: args ["-v"] → ["-v","-q"], mounts[1].source "/a" → "/b""#]
    );
}

#[test]
fn a_container_that_cannot_be_replaced_keeps_running_and_keeps_its_image() {
    let node = settled(&desired([image("shop", WEB), container("shop", "web", WEB)]), &[(WEB, "web1")]);
    let never = container_with("shop", "web", NEXT, |spec| spec.image_pull_policy = Some(PullPolicy::Never));
    let wanted = desired([never]);
    let plan = node.plan(&wanted);
    assert_eq!(lines(&plan), [""; 0]);
    assert!(!plan.is_converged());
    // After a reboot it is started as it was.
    let plan = with_task(&node, ObservedTask::Lost).plan(&wanted);
    assert_eq!(lines(&plan), ["> container shop/web: its shim is gone"]);
    let Some(Target::Container { resource, .. }) = &plan.steps[0].target else { panic!("{:?}", plan.steps) };
    assert_eq!(resource.container().unwrap().image, reference(WEB));
}

#[test]
fn another_name_of_the_same_image_needs_no_new_process() {
    let mut node = settled(&desired([image("shop", WEB), container("shop", "web", WEB)]), &[(WEB, "web1")]);
    let after = desired([image("shop", WEB), tag("shop", STABLE, WEB), container("shop", "web", STABLE)]);
    let plan = node.plan(&after);
    assert_eq!(
        lines(&plan),
        [
            "+ tag shop/local.io/web:stable: not on the node",
            r#"~ container shop/web: image "r.io/web:1" → "local.io/web:stable" (same digest)"#,
        ]
    );
    assert_eq!(needs(&plan, "container shop/web"), ["tag shop/local.io/web:stable"]);
    settle(&mut node, &after);
}

#[test]
fn tasks_are_started_by_what_became_of_them_and_by_policy() {
    use ObservedTask::{Ended, Lost, None, Supervised};
    use RestartPolicy::{Always, Never, OnFailure};
    for (task, policy, line) in [
        (None, Always, Some("> container shop/web: not started")),
        (None, Never, Some("> container shop/web: not started")),
        (Supervised, Always, Option::None),
        (Ended, Always, Option::None),
        (Ended, Never, Option::None),
        (Lost, Always, Some("> container shop/web: its shim is gone")),
        (Lost, OnFailure, Some("> container shop/web: its shim is gone")),
        (Lost, Never, Option::None),
    ] {
        let wanted = desired([container_with("shop", "web", WEB, |spec| spec.restart = policy)]);
        let mut node = with_task(&settled(&wanted, &[(WEB, "web1")]), task);
        let expected: Vec<&str> = line.into_iter().collect();
        assert_eq!(lines(&node.plan(&wanted)), expected, "{task:?} {policy:?}");
        node.state.containers.values_mut().for_each(|seen| seen.stopped_by_hand = true);
        assert_eq!(lines(&node.plan(&wanted)), [""; 0], "stopped by hand it stays so: {task:?} {policy:?}");
    }
}

#[test]
fn a_container_stopped_by_hand_is_started_by_what_replaces_it_and_not_by_an_update() {
    let node = settled(&desired([container("shop", "web", WEB)]), &[(WEB, "web1")]);
    let mut node = with_task(&node, ObservedTask::Lost);
    node.state.containers.values_mut().for_each(|seen| seen.stopped_by_hand = true);
    let in_place = desired([container_with("shop", "web", WEB, |spec| spec.restart_limit = Some(3))]);
    assert_eq!(lines(&node.plan(&in_place)), ["~ container shop/web: restartLimit unset → 3"]);
    settle(&mut node, &in_place);
    assert_eq!(shop(&node, "web").task, ObservedTask::Lost);
    let replaced = desired([container_with("shop", "web", WEB, |spec| spec.tty = true)]);
    settle(&mut node, &replaced);
    assert_eq!(shop(&node, "web").task, ObservedTask::Supervised);
}

#[test]
fn a_moved_tag_does_not_start_what_a_person_stopped() {
    let wanted = desired([container("shop", "web", LATEST)]);
    let mut node = settled(&wanted, &[(LATEST, "old")]);
    node.registry.insert(reference(LATEST), digest("new"));
    node.state.containers.values_mut().for_each(|seen| seen.stopped_by_hand = true);
    settle(&mut node, &wanted);
    assert_eq!(shop(&node, "web").image_digest, digest("old"));
    node.state.containers.values_mut().for_each(|seen| seen.stopped_by_hand = false);
    settle(&mut node, &wanted);
    assert_eq!(shop(&node, "web").image_digest, digest("new"));
}

#[test]
fn a_start_takes_changes_in_place_along() {
    let node = settled(&desired([container("shop", "web", WEB)]), &[(WEB, "web1")]);
    let mut node = with_task(&node, ObservedTask::Lost);
    let wanted = desired([container_with("shop", "web", WEB, |spec| spec.restart_limit = Some(3))]);
    assert_eq!(lines(&node.plan(&wanted)), ["> container shop/web: its shim is gone, restartLimit unset → 3"]);
    settle(&mut node, &wanted);
}

#[test]
fn a_task_that_ended_is_started_when_its_policy_becomes_always() {
    let with = |policy| desired([container_with("shop", "job", WEB, |spec| spec.restart = policy)]);
    let node = settled(&with(RestartPolicy::Never), &[(WEB, "web1")]);
    let node = with_task(&node, ObservedTask::Ended);
    assert_eq!(
        lines(&node.plan(&with(RestartPolicy::Always))),
        [r#"> container shop/job: it ended, restart "Never" → "Always""#]
    );
    assert_eq!(
        lines(&node.plan(&with(RestartPolicy::OnFailure))),
        [r#"~ container shop/job: restart "Never" → "OnFailure""#]
    );
}
