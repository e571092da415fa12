//! Registries before what comes from them, credentials that are not known, images that need not be kept.

use super::world::*;
use crate::manifest::{Place, PullSecret, RegistryAuth, RegistrySpec, Spec};
use crate::plan::*;

fn registry(host: &str, set: impl FnOnce(&mut RegistrySpec)) -> Declared {
    let mut spec = RegistrySpec { host: host.into(), ..RegistrySpec::default() };
    set(&mut spec);
    declared("", host, Spec::Registry(Box::new(spec)))
}

fn image_with(namespace: &str, name: &str, set: impl FnOnce(&mut crate::manifest::ImageSpec)) -> Declared {
    let mut declared = image(namespace, name);
    if let Spec::Image(spec) = &mut declared.resource.spec {
        set(spec);
    }
    declared
}

#[test]
fn a_pull_waits_for_the_policy_of_its_host() {
    let wanted = desired([registry("r.io", |_| ()), image("shop", WEB), image("shop", "other.io/x:1")]);
    let plan = simulation::Node::default().plan(&wanted);
    assert_eq!(needs(&plan, &format!("image shop/{WEB}")), ["registry r.io"]);
    assert_eq!(needs(&plan, "image shop/other.io/x:1"), Vec::<String>::new());
    // The one for all others counts where a host has none of its own.
    let wanted = desired([
        registry("_default", |_| ()),
        registry("r.io", |_| ()),
        image("shop", WEB),
        image("shop", "other.io/x:1"),
    ]);
    let plan = simulation::Node::default().plan(&wanted);
    assert_eq!(needs(&plan, &format!("image shop/{WEB}")), ["registry r.io"]);
    assert_eq!(needs(&plan, "image shop/other.io/x:1"), ["registry _default"]);
}

#[test]
fn a_registry_that_changes_is_applied_and_one_that_is_gone_is_taken_away() {
    let mut node = settled(&desired([registry("r.io", |_| ())]), &[]);
    let changed = desired([registry("r.io", |spec| spec.plain_http = true)]);
    assert_eq!(lines(&node.plan(&changed)), ["~ registry r.io: plainHTTP unset → true"]);
    settle(&mut node, &changed);
    assert_eq!(lines(&node.plan(&Desired::default())), ["- registry r.io: no longer declared"]);
    settle(&mut node, &Desired::default());
}

#[test]
fn a_pull_secret_that_is_not_configured_is_named_at_its_place_and_nothing_is_pulled() {
    let mut wanted = image_with("shop", WEB, |spec| spec.pull_secrets = vec![PullSecret { name: "taem".into() }]);
    let place = Place { file: "shop.yaml".into(), line: 7, column: 16 };
    wanted.fields.insert("spec.pullSecrets[0]".into(), place.clone());
    let registry = registry("r.io", |spec| spec.auth = Some(RegistryAuth::pull_secret("nobody")));
    let mut node = simulation::Node::default();
    let plan = node.plan(&desired([wanted.clone(), registry.clone()]));
    assert_eq!(lines(&plan), Vec::<String>::new());
    assert_eq!(plan.problems.iter().find(|problem| problem.key.name == WEB).unwrap().place, Some(place));
    node.state.pull_secrets = ["team".to_owned()].into();
    let plan = node.plan(&desired([wanted, registry]));
    let said = problems(&plan);
    assert!(said.contains(&(
        Severity::Error,
        "image shop/r.io/web:1: pull secret taem is not in the configuration",
        Some("did you mean team?")
    )));
    assert!(said.contains(&(
        Severity::Error,
        "registry r.io: pull secret nobody is not in the configuration",
        Some("name its auth.json in config.toml, below [registry.pull_secrets]: nobody = \"FILE\"")
    )));
}

#[test]
fn an_image_that_need_not_be_kept_comes_back_only_when_it_is_used() {
    let loose = || image_with("shop", WEB, |spec| spec.keep = Some(false));
    let mut node = settled(&desired([loose()]), &[(WEB, "one")]);
    // Collected: nothing is wrong, and nothing is fetched.
    node.store.clear();
    assert_eq!(lines(&node.plan(&desired([loose()]))), Vec::<String>::new());
    for user in [container("shop", "web", WEB), tag("shop", STABLE, WEB)] {
        let mut node = node.clone();
        let wanted = desired([loose(), user]);
        assert_eq!(lines(&node.plan(&wanted))[0], format!("+ image shop/{WEB}: incomplete on the node"));
        settle(&mut node, &wanted);
    }
    // Declared to be kept after all, it is.
    let kept = desired([image("shop", WEB)]);
    assert_eq!(lines(&node.plan(&kept)), [format!("+ image shop/{WEB}: incomplete on the node, keep false → true")]);
    settle(&mut node, &kept);
    // While one that is kept is repaired.
    node.store.clear();
    assert_eq!(lines(&node.plan(&kept)), [format!("+ image shop/{WEB}: incomplete on the node")]);
}

#[test]
fn a_tag_that_is_in_use_elsewhere_is_a_conflict_that_names_both() {
    let mut by_hand = image_by("shop", STABLE, crate::manifest::PullPolicy::Never);
    (by_hand.source, by_hand.place) = (Source::Cli, None);
    let mut node = settled(&desired([by_hand.clone(), image("shop", WEB)].into_iter().skip(1)), &[(WEB, "one")]);
    let wanted = desired([by_hand, image("shop", WEB), tag("shop", STABLE, WEB)]);
    assert_eq!(
        problems(&node.plan(&wanted)),
        [(
            Severity::Error,
            "tag shop/local.io/web:stable (shop.yaml:1:1) and image shop/local.io/web:stable (made by hand) both give the reference local.io/web:stable",
            Some(
                "what was made by hand goes with `bayplan -n shop rmi local.io/web:stable`; until then the reference stays as it is"
            )
        )]
    );
    let mut applied = image("shop", STABLE);
    applied.source = Source::Apply("front".into());
    let plan = node.plan(&desired([applied, image("shop", WEB), tag("shop", STABLE, WEB)]));
    assert_eq!(
        problems(&plan)[0].1,
        "tag shop/local.io/web:stable (shop.yaml:1:1) and image shop/local.io/web:stable (apply:front, shop.yaml:1:1) both give the reference local.io/web:stable"
    );
    // Without the other the tag is set, and moves with its source.
    settle(&mut node, &desired([image("shop", WEB), tag("shop", STABLE, WEB)]));
}
