//! The rules of a whole plan, each on the smallest node that shows it. Expected lines are
//! those that `diff` prints.

use super::world::*;
use crate::manifest::Spec;
use crate::plan::simulation::Node;
use crate::plan::*;

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
}

#[test]
fn steps_survive_json() {
    let wanted = desired([image("shop", WEB), tag("shop", STABLE, WEB), container("shop", "web", STABLE)]);
    let plan = plan(&wanted, &Observed::default());
    let back: Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
    assert_eq!(back, plan);
    assert!(wanted.resources.values().any(|declared| matches!(declared.resource.spec, Spec::Container(_))));
}
