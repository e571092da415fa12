//! Each rule of planning, on the smallest node that shows it. Expected lines are those that `diff` prints.

use super::world::*;
use crate::manifest::{HANDLE, PullPolicy, RestartPolicy, Spec};
use crate::plan::simulation::Node;
use crate::plan::*;

const WEB: &str = "r.io/web:1";
const NEXT: &str = "r.io/web:2";
const LATEST: &str = "r.io/web:latest";
const STABLE: &str = "local.io/web:stable";

fn shop(node: &Node, name: &str) -> ObservedContainer {
    node.state.containers[&("shop".to_owned(), name.to_owned())].clone()
}

fn with_task(node: &Node, task: ObservedTask) -> Node {
    let mut node = node.clone();
    node.state.containers.values_mut().for_each(|seen| seen.task = task);
    node
}

fn needs(plan: &Plan, of: &str) -> Vec<String> {
    plan.step(&key(of)).unwrap().needs.iter().map(ToString::to_string).collect()
}

/// Severity, message and help of every problem.
fn problems(plan: &Plan) -> Vec<(Severity, &str, Option<&str>)> {
    plan.problems.iter().map(|problem| (problem.severity, &*problem.message, problem.help.as_deref())).collect()
}

#[test]
fn a_new_node_gets_settings_images_tags_and_containers_in_that_order() {
    let node = Node { asks_registries: true, ..Node::default() };
    let all = [container("shop", "web", STABLE), tag("shop", STABLE, WEB), image("shop", WEB), namespace("shop", &[])];
    let plan = node.plan(&desired(all));
    assert_eq!(
        lines(&plan),
        [
            "+ namespace shop: not on the node",
            "+ image shop/r.io/web:1: not on the node",
            "+ tag shop/local.io/web:stable: not on the node",
            "+ container shop/web: not on the node",
        ]
    );
    assert_eq!(needs(&plan, "tag shop/local.io/web:stable"), ["image shop/r.io/web:1"]);
    assert_eq!(needs(&plan, "container shop/web"), ["tag shop/local.io/web:stable"]);
}

#[test]
fn removals_go_first_and_users_before_what_they_use() {
    let before = [
        namespace("shop", &[]),
        image("shop", WEB),
        tag("shop", STABLE, WEB),
        container("shop", "web", STABLE),
        container("shop", "db", "r.io/db:1"),
    ];
    let mut node = settled(&desired(before), &[(WEB, "web1"), ("r.io/db:1", "db"), (NEXT, "web2")]);
    let after = desired([image("new", NEXT)]);
    let plan = node.plan(&after);
    assert_eq!(
        lines(&plan),
        [
            "- container shop/db: no longer declared",
            "- container shop/web: no longer declared",
            "- tag shop/local.io/web:stable: no longer declared",
            "- image shop/r.io/db:1: no container uses it",
            "- image shop/r.io/web:1: no longer declared",
            "- namespace shop: no longer declared",
            "+ image new/r.io/web:2: not on the node",
        ]
    );
    assert_eq!(needs(&plan, "tag shop/local.io/web:stable"), ["container shop/web"]);
    settle(&mut node, &after);
    assert_eq!(node.store.len(), 1);
}

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
fn a_moved_latest_replaces_its_containers() {
    let wanted = desired([image("shop", LATEST), container("shop", "web", LATEST)]);
    let mut node = settled(&wanted, &[(LATEST, "old")]);
    node.registry.insert(reference(LATEST), digest("new"));
    let plan = node.plan(&wanted);
    let (old, new) = (short("old"), short("new"));
    assert_eq!(
        lines(&plan),
        [
            format!("~ image shop/r.io/web:latest: {old} → {new}"),
            format!("-/+ container shop/web: image digest {old} → {new}"),
        ]
    );
    assert_eq!(needs(&plan, "container shop/web"), ["image shop/r.io/web:latest"]);
    settle(&mut node, &wanted);
    assert_eq!(shop(&node, "web").image_digest, digest("new"));
}

#[test]
fn if_not_present_asks_nobody_and_a_digest_is_never_resolved_again() {
    let pinned = format!("r.io/web@{}", digest("web1"));
    let always = image_by("shop", &pinned, PullPolicy::Always);
    let wanted = desired([image("shop", WEB), always, container("shop", "web", &pinned)]);
    let mut node = settled(&wanted, &[(WEB, "web1")]);
    node.registry.insert(reference(WEB), digest("moved"));
    assert!(node.observe(&wanted).remote.is_empty());
    assert_eq!(node.plan(&wanted), Plan::default());
}

#[test]
fn a_silent_registry_stops_nothing_that_is_here() {
    let wanted = desired([image("shop", LATEST), container("shop", "web", LATEST)]);
    let mut node = settled(&wanted, &[(LATEST, "old")]);
    node.registry.clear();
    let plan = node.plan(&wanted);
    assert!(plan.is_converged());
    assert_eq!(
        problems(&plan),
        [(
            Severity::Warning,
            "image r.io/web:latest could not be looked up again: 404 Not Found",
            Some("the image on the node is used until the registry answers")
        )]
    );
}

#[test]
fn an_image_that_no_registry_has_is_still_tried_and_the_likely_name_is_told() {
    let misspelt = "local.io/web:stabel";
    let wanted = desired([image("shop", WEB), tag("shop", STABLE, WEB), container("shop", "web", misspelt)]);
    let node = Node { registry: [(reference(WEB), digest("web1"))].into(), asks_registries: true, ..Node::default() };
    let plan = node.plan(&wanted);
    assert!(lines(&plan).contains(&"+ image shop/local.io/web:stabel: not on the node".to_owned()));
    assert_eq!(
        problems(&plan),
        [(
            Severity::Warning,
            "image local.io/web:stabel is not in namespace shop, and its registry says: 404 Not Found",
            Some("did you mean local.io/web:stable?")
        )]
    );
    assert_eq!(plan.problems[0].place.as_ref().unwrap().to_string(), "shop.yaml:14:18");
}

#[test]
fn never_means_it_must_be_here() {
    let web = container_with("shop", "web", WEB, |spec| spec.image_pull_policy = Some(PullPolicy::Never));
    let db = image_by("shop", "r.io/db:1", PullPolicy::Never);
    let plan = plan(&desired([web, db]), &Observed::default());
    assert_eq!(lines(&plan), [""; 0]);
    assert_eq!(
        problems(&plan),
        [
            (
                Severity::Error,
                "image r.io/db:1 is not in namespace shop, and its pull policy is Never",
                Some("load it, or set pullPolicy: IfNotPresent")
            ),
            (
                Severity::Error,
                "container shop/web: image r.io/web:1 is not in namespace shop, and its pull policy is Never",
                Some("load it, or set imagePullPolicy: IfNotPresent")
            ),
        ]
    );
    assert_eq!(plan.problems[1].place.as_ref().unwrap().to_string(), "shop.yaml:14:18");
}

#[test]
fn an_incomplete_image_is_fetched_again_at_the_same_digest() {
    let wanted = desired([image("shop", WEB), tag("shop", STABLE, WEB), container("shop", "web", STABLE)]);
    let mut node = settled(&wanted, &[(WEB, "web1")]);
    node.store.clear();
    let plan = node.plan(&wanted);
    assert_eq!(lines(&plan), ["+ image shop/r.io/web:1: incomplete on the node"]);
    assert!(matches!(&plan.steps[0].target, Some(Target::Pull { digest: Some(same), .. }) if *same == digest("web1")));
    // A container that must be started waits for it, through its tag.
    let lost = with_task(&node, ObservedTask::Lost);
    assert_eq!(needs(&lost.plan(&wanted), "container shop/web"), ["image shop/r.io/web:1"]);
    settle(&mut node, &wanted);
}

#[test]
fn an_image_that_a_container_brought_becomes_declared_and_implied_again_without_a_pull() {
    let implied = desired([container("shop", "web", WEB)]);
    let mut node = settled(&implied, &[(WEB, "web1")]);
    let declared = desired([image("shop", WEB), container("shop", "web", WEB)]);
    node.registry.clear();
    assert_eq!(lines(&node.plan(&declared)), ["~ image shop/r.io/web:1: now declared by dir:shop.yaml"]);
    settle(&mut node, &declared);
    assert_eq!(
        lines(&node.plan(&implied)),
        ["~ image shop/r.io/web:1: no longer declared, but container shop/web uses it"]
    );
    settle(&mut node, &implied);
    assert_eq!(
        lines(&node.plan(&desired([]))),
        ["- container shop/web: no longer declared", "- image shop/r.io/web:1: no container uses it"]
    );
}

#[test]
fn what_a_container_made_by_hand_brought_stays() {
    let mut by_hand = container("shop", "job", WEB);
    by_hand.source = Source::Cli;
    let node = settled(&desired([by_hand]), &[(WEB, "web1")]);
    assert_eq!(lines(&node.plan(&desired([]))), ["- container shop/job: no longer declared"]);
}

#[test]
fn an_archive_is_imported_and_imported_anew_when_it_changed() {
    let wanted = desired([archived("shop", "", "/web.tar", Some(WEB)), container("shop", "web", WEB)]);
    let holding = |content: &str| Ok(vec![ArchivedImage { reference: None, digest: digest(content) }]);
    let mut node = Node { archives: [("/web.tar".into(), holding("one"))].into(), ..Node::default() };
    settle(&mut node, &wanted);
    node.archives.insert("/web.tar".into(), holding("two"));
    let (one, two) = (short("one"), short("two"));
    assert_eq!(
        lines(&node.plan(&wanted)),
        [
            format!("~ image shop/r.io/web:1: {one} → {two}"),
            format!("-/+ container shop/web: image digest {one} → {two}"),
        ]
    );
}

#[test]
fn an_archive_that_names_its_images_gives_each_of_them() {
    let wanted = desired([archived("shop", "bundle", "/all.tar", None), container("shop", "web", WEB)]);
    let held = |name: &str, content: &str| ArchivedImage { reference: Some(reference(name)), digest: digest(content) };
    let images = Ok(vec![held(WEB, "web1"), held("r.io/db:1", "db")]);
    let mut node = Node { archives: [("/all.tar".into(), images)].into(), ..Node::default() };
    let plan = node.plan(&wanted);
    assert_eq!(
        lines(&plan),
        [
            "+ image shop/r.io/db:1: not on the node",
            "+ image shop/r.io/web:1: not on the node",
            "+ container shop/web: not on the node",
        ]
    );
    settle(&mut node, &wanted);
    let seen = &node.state.references[&("shop".to_owned(), reference(WEB))];
    assert_eq!((seen.annotations[HANDLE].as_str(), &seen.role), ("bundle", &ReferenceRole::Image));

    // The archive cannot be read: what it gave stays, used or not.
    node.archives.insert("/all.tar".into(), Err("no such file".into()));
    let plan = node.plan(&wanted);
    assert!(plan.is_converged());
    assert_eq!(
        problems(&plan),
        [(
            Severity::Warning,
            "image shop/bundle: archive /all.tar cannot be used: no such file",
            Some("what was imported before is kept")
        )]
    );
    // It holds one image fewer: that one goes.
    node.archives.insert("/all.tar".into(), Ok(vec![held(WEB, "web1")]));
    assert_eq!(lines(&node.plan(&wanted)), ["- image shop/r.io/db:1: no longer declared"]);
}

#[test]
fn an_archive_that_cannot_be_meant_is_a_problem() {
    let held =
        |name: Option<&str>, content: &str| ArchivedImage { reference: name.map(reference), digest: digest(content) };
    for (named, images, message) in [
        (None, Ok(vec![held(None, "a")]), "image shop/web: archive /web.tar does not name its image"),
        (None, Ok(vec![]), "image shop/web: archive /web.tar holds no image"),
        (None, Err("no such file".to_owned()), "image shop/web: archive /web.tar cannot be used: no such file"),
        (
            Some(WEB),
            Ok(vec![held(None, "a"), held(Some(NEXT), "b")]),
            "image shop/r.io/web:1: archive /web.tar holds 2 images and none is named r.io/web:1",
        ),
    ] {
        let observed = Observed { archives: [("/web.tar".into(), images)].into(), ..Observed::default() };
        let plan = plan(&desired([archived("shop", "web", "/web.tar", named)]), &observed);
        assert_eq!(lines(&plan), [""; 0]);
        assert_eq!((plan.problems[0].severity, &*plan.problems[0].message), (Severity::Error, message));
    }
}

#[test]
fn two_sources_of_one_reference_are_both_named_and_neither_is_taken() {
    let wanted = desired([image("shop", WEB)]);
    let node = settled(&wanted, &[(WEB, "web1"), (NEXT, "web2")]);
    let conflict = desired([image("shop", WEB), image("shop", NEXT), tag("shop", WEB, NEXT)]);
    let plan = node.plan(&conflict);
    assert_eq!(lines(&plan), ["+ image shop/r.io/web:2: not on the node"]);
    assert_eq!(
        plan.problems[0].message,
        "tag shop/r.io/web:1 and image shop/r.io/web:1 (shop.yaml:1:1) both give the reference r.io/web:1"
    );
}

#[test]
fn a_tag_follows_its_source_through_other_tags_and_takes_its_containers_along() {
    let wanted = |source: &str| {
        desired([
            image("shop", WEB),
            image("shop", NEXT),
            tag("shop", "local.io/web:a", source),
            tag("shop", "local.io/web:b", "local.io/web:a"),
            container("shop", "web", "local.io/web:b"),
        ])
    };
    let mut node = settled(&wanted(WEB), &[(WEB, "web1"), (NEXT, "web2")]);
    let plan = node.plan(&wanted(NEXT));
    let (one, two) = (short("web1"), short("web2"));
    assert_eq!(
        lines(&plan),
        [
            format!("~ tag shop/local.io/web:a: moved: {one} → {two}"),
            format!("~ tag shop/local.io/web:b: moved: {one} → {two}"),
            format!("-/+ container shop/web: image digest {one} → {two}"),
        ]
    );
    assert_eq!(needs(&plan, "tag shop/local.io/web:b"), ["tag shop/local.io/web:a"]);
    settle(&mut node, &wanted(NEXT));
}

#[test]
fn tags_in_a_circle_and_tags_of_nothing_are_problems() {
    let plan = plan(
        &desired([
            tag("shop", "l.io/a:1", "l.io/b:1"),
            tag("shop", "l.io/b:1", "l.io/a:1"),
            image("shop", WEB),
            tag("shop", "l.io/c:1", "r.io/wep:1"),
        ]),
        &Observed::default(),
    );
    assert_eq!(lines(&plan), ["+ image shop/r.io/web:1: not on the node"]);
    assert_eq!(
        problems(&plan),
        [
            (
                Severity::Error,
                "tag shop/l.io/a:1: tags point at each other: l.io/a:1 → l.io/b:1 → l.io/a:1",
                Some("point one of them at an image")
            ),
            (
                Severity::Error,
                "tag shop/l.io/b:1: tags point at each other: l.io/a:1 → l.io/b:1 → l.io/a:1",
                Some("point one of them at an image")
            ),
            (
                Severity::Error,
                "tag shop/l.io/c:1: its source r.io/wep:1 is not in namespace shop",
                Some("did you mean r.io/web:1?")
            ),
        ]
    );
}

#[test]
fn a_tag_of_something_yet_to_be_looked_up_waits_for_it() {
    let wanted = desired([image("shop", WEB), tag("shop", STABLE, WEB), container("shop", "web", STABLE)]);
    let mut node =
        Node { registry: [(reference(WEB), digest("web1"))].into(), asks_registries: false, ..Node::default() };
    let plan = node.plan(&wanted);
    for step in &plan.steps {
        let unknown = match &step.target {
            Some(Target::Pull { digest, .. } | Target::Tag { digest, .. } | Target::Container { digest, .. }) => digest,
            other => panic!("{other:?}"),
        };
        assert_eq!(*unknown, None, "{step}");
    }
    settle(&mut node, &wanted);
}

#[test]
fn a_tag_is_made_before_its_undeclared_source_goes() {
    let before = desired([image("shop", WEB)]);
    let mut node = settled(&before, &[(WEB, "web1")]);
    node.registry.clear();
    let mut by_hand = tag("shop", STABLE, WEB);
    by_hand.source = Source::Cli;
    let after = desired([by_hand]);
    let plan = node.plan(&after);
    assert_eq!(
        lines(&plan),
        ["+ tag shop/local.io/web:stable: not on the node", "- image shop/r.io/web:1: no longer declared"]
    );
    settle(&mut node, &after);
    assert_eq!(node.plan(&after), Plan::default(), "a second name made by hand outlives the first");
}

#[test]
fn a_container_that_is_replaced_lets_its_old_image_go_afterwards() {
    let node = settled(&desired([image("shop", WEB), container("shop", "web", WEB)]), &[(WEB, "web1"), (NEXT, "web2")]);
    let plan = node.plan(&desired([image("shop", NEXT), container("shop", "web", NEXT)]));
    let (one, two) = (short("web1"), short("web2"));
    assert_eq!(
        lines(&plan),
        [
            "+ image shop/r.io/web:2: not on the node".to_owned(),
            format!(r#"-/+ container shop/web: image "r.io/web:1" → "r.io/web:2", image digest {one} → {two}"#),
            "- image shop/r.io/web:1: no longer declared".to_owned(),
        ]
    );
    assert_eq!(needs(&plan, "container shop/web"), ["image shop/r.io/web:2"]);
    assert_eq!(needs(&plan, "image shop/r.io/web:1"), ["container shop/web"]);
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

#[test]
fn a_resource_that_moves_to_another_file_is_only_noted() {
    let all = || vec![image("shop", WEB), tag("shop", STABLE, WEB), container("shop", "web", WEB)];
    let mut node = settled(&desired(all()), &[(WEB, "web1")]);
    let moved = desired(all().into_iter().map(|declared| Declared { source: file("other.yaml"), ..declared }));
    assert_eq!(
        lines(&node.plan(&moved)),
        [
            "~ image shop/r.io/web:1: now declared by dir:other.yaml",
            "~ tag shop/local.io/web:stable: now declared by dir:other.yaml",
            "~ container shop/web: now declared by dir:other.yaml",
        ]
    );
    settle(&mut node, &moved);
}

#[test]
fn settings_of_a_namespace_are_updated() {
    let node = settled(&desired([namespace("shop", &[("tier", "front")])]), &[]);
    let plan = node.plan(&desired([namespace("shop", &[("tier", "back")])]));
    assert_eq!(lines(&plan), [r#"~ namespace shop: labels.tier "front" → "back""#]);
}

#[test]
fn long_chains_of_tags_are_followed_without_recursion() {
    let name = |n: usize| format!("l.io/chain:{n}");
    let tags = (1..20_000).map(|n| tag("shop", &name(n), &name(n - 1)));
    let mut all = desired(tags.chain([image("shop", &name(0))]));
    assert_eq!(plan(&all, &Observed::default()).steps.len(), 20_000);
    let closing = tag("shop", &name(0), &name(19_999));
    all.resources.remove(&key("image shop/l.io/chain:0"));
    all.resources.insert(closing.resource.key(), closing);
    let plan = plan(&all, &Observed::default());
    assert_eq!((plan.steps.len(), plan.problems.len()), (0, 20_000));
}

#[test]
fn a_thousand_unchanged_containers_plan_to_nothing() {
    let all = desired((0..1000).map(|n| {
        container_with("shop", &format!("web-{n}"), &format!("r.io/web:{}", n % 50), |spec| {
            spec.env = (0..20).map(|n| (format!("KEY_{n}"), "value".repeat(5))).collect();
        })
    }));
    let registry: Vec<String> = (0..50).map(|n| format!("r.io/web:{n}")).collect();
    let registry: Vec<(&str, &str)> = registry.iter().map(|name| (&**name, "web")).collect();
    let node = settled(&all, &registry);
    let observed = node.observe(&all);
    let started = std::time::Instant::now();
    assert_eq!(plan(&all, &observed), Plan::default());
    // An unoptimised build on a busy machine; `benches/` measures the promise.
    assert!(started.elapsed() < std::time::Duration::from_millis(500), "{:?}", started.elapsed());
    println!("planned in {:?}", started.elapsed());
}

#[test]
fn steps_survive_json() {
    let wanted = desired([image("shop", WEB), tag("shop", STABLE, WEB), container("shop", "web", STABLE)]);
    let plan = plan(&wanted, &Observed::default());
    let back: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!(back, plan);
    assert!(wanted.resources.values().any(|declared| matches!(declared.resource.spec, Spec::Container(_))));
}
