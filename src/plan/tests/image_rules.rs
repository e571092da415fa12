//! The rules of images, archives and tags, each on the smallest node that shows it. Expected lines are
//! those that `diff` prints.

use super::world::*;
use crate::manifest::{HANDLE, PullPolicy};
use crate::plan::simulation::Node;
use crate::plan::*;

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
        "tag shop/r.io/web:1 (shop.yaml:1:1) and image shop/r.io/web:1 (shop.yaml:1:1) both give the reference r.io/web:1"
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
