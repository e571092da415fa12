//! `diff` tells the truth: the steps it lists are those that `apply` takes, and nothing is left after them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bayplan::oci::Digest;

use crate::image::Image;
use crate::node::TestNode;

fn plan(node: &TestNode, tz: &str, memory: &str, extra: &str) -> String {
    node.file(
        "plan.yaml",
        format!(
            "apiVersion: bayplan.dev/v1\nkind: BayPlan\nmetadata: {{name: shop}}\nspec:\n  namespaces:\n    shop:\n      \
             images: [{{archive: box.tar, reference: 'registry.local/box:1'}}]\n      tags: {{'registry.local/web:stable': 'registry.local/box:1'}}\n      \
             containers:\n        web: {{image: 'registry.local/web:stable', env: {{TZ: {tz}}}}}\n        \
             api: {{image: 'registry.local/box:1', resources: {{limits: {{memory: {memory}}}}}}}\n{extra}"
        ),
    )
}

fn with_archive() -> TestNode {
    let node = TestNode::new();
    Image::busybox().script("exec sleep 100000").oci_archive(&node.dir().join("box.tar"), None);
    node
}

/// Digests of every SQLite file below a directory.
fn databases(dir: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name() != "content" && entry.file_name() != "snapshots" {
                databases(&path, found);
            }
        } else if let Ok(bytes) = fs::read(&path)
            && bytes.starts_with(b"SQLite format 3\0")
        {
            found.insert(path.display().to_string(), Digest::of(&bytes).as_str().to_owned());
        }
    }
}

#[track_caller]
fn check(node: &TestNode, path: &str, expected: &[&str]) {
    let diff = node.bayplan(&["diff", "-f", path]).exits(1);
    assert_eq!(diff.steps(), expected, "{}", diff.stdout);
    let apply = node.bayplan(&["apply", "-f", path]).ok();
    assert_eq!(apply.steps(), diff.steps(), "apply said:\n{}\ndiff said:\n{}", apply.stdout, diff.stdout);
    let last = apply.stdout.lines().last().unwrap_or_default();
    assert!(last.starts_with(&format!("{} changed", expected.len())) && last.ends_with("0 failed"), "{last}");

    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    databases(&node.root(), &mut before);
    let second = node.bayplan(&["diff", "-f", path]).ok();
    assert!(second.steps().is_empty(), "{}", second.stdout);
    databases(&node.root(), &mut after);
    assert!(!before.is_empty());
    assert_eq!(before, after, "a diff changes no byte of the database");
}

fn sequence(node: &TestNode) {
    check(
        node,
        &plan(node, "UTC", "64Mi", ""),
        &[
            "+ image shop/registry.local/box:1",
            "+ tag shop/registry.local/web:stable",
            "+ container shop/api",
            "+ container shop/web",
        ],
    );
    let (web, api) = (node.running("shop", "web"), node.running("shop", "api"));

    // A limit changes in place, the environment replaces.
    let path = plan(node, "CET", "32Mi", "");
    let diff = node.bayplan(&["diff", "-f", &path]).exits(1);
    assert!(
        diff.stdout.contains("env.TZ") && diff.stdout.contains("UTC") && diff.stdout.contains("CET"),
        "{}",
        diff.stdout
    );
    check(node, &path, &["~ container shop/api", "-/+ container shop/web"]);
    assert_ne!(node.running("shop", "web"), web);
    assert_eq!(node.running("shop", "api"), api);

    check(
        node,
        &plan(node, "CET", "32Mi", "        job: {image: 'registry.local/box:1'}\n"),
        &["+ container shop/job"],
    );

    // A second apply does nothing.
    let again = node.bayplan(&["apply", "-f", &node.dir().join("plan.yaml").display().to_string()]).ok();
    assert!(again.steps().is_empty(), "{}", again.stdout);
    assert!(again.stdout.lines().last().unwrap_or_default().starts_with("0 changed"), "{}", again.stdout);

    node.bayplan(&["delete", "-f", &node.dir().join("plan.yaml").display().to_string()]).ok();
    assert!(node.get("containers").is_empty());
}

#[test]
fn apply_takes_the_steps_of_diff_without_a_daemon() {
    let node = with_archive();
    sequence(&node);
    node.close();
}

#[test]
fn apply_takes_the_steps_of_diff_through_the_daemon() {
    let mut node = with_archive();
    node.start_daemon();
    sequence(&node);
    node.close();
}

#[test]
fn what_another_source_declares_is_refused_with_its_place() {
    let mut node = with_archive();
    let text = fs::read_to_string(plan(&node, "UTC", "64Mi", "")).unwrap();
    node.manifest("shop.yaml", text.replace("archive: box.tar", "archive: ../box.tar"));
    node.start_daemon();
    node.running("shop", "web");
    node.bayplan(&["apply", "-f", &plan(&node, "CET", "64Mi", "")]).exits(5).says("shop.yaml");
    node.bayplan(&["-n", "shop", "delete", "container", "web"]).exits(5).says("shop.yaml");
    node.close();
}

#[test]
fn what_runs_a_moved_tag_follows_though_the_file_does_not_name_it() {
    let node = with_archive();
    Image::busybox().script("exec sleep 200000").oci_archive(&node.dir().join("two.tar"), None);
    let two = "            - {archive: two.tar, reference: 'registry.local/box:2'}\n";
    let text = fs::read_to_string(plan(&node, "UTC", "64Mi", "")).unwrap();
    let one = "[{archive: box.tar, reference: 'registry.local/box:1'}]\n";
    let both = text.replace(
        &format!(" {one}"),
        &format!("\n            - {{archive: box.tar, reference: 'registry.local/box:1'}}\n{two}"),
    );
    node.bayplan(&["apply", "-f", &node.file("both.yaml", both)]).ok();
    let (web, api) = (node.running("shop", "web"), node.running("shop", "api"));
    let tag = "apiVersion: bayplan.dev/v1\nkind: BayPlan\nmetadata: {name: shop}\nspec:\n  namespaces:\n    shop:\n      \
               tags: {'registry.local/web:stable': 'registry.local/box:2'}\n";
    let path = node.file("tag.yaml", tag);
    check(&node, &path, &["~ tag shop/registry.local/web:stable", "-/+ container shop/web"]);
    assert_ne!(node.running("shop", "web"), web);
    assert_eq!(node.running("shop", "api"), api);
    node.close();
}
