//! `apply` with a set that is pruned, with a wait that ends, and names that are looked for in the wrong place.

use std::net::TcpListener;

use crate::image::Image;
use crate::node::TestNode;

const IMAGE: &str = "registry.local/box:1";

fn node() -> TestNode {
    let node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox().script("exec sleep 100000").oci_archive(&archive, Some(IMAGE));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node.bayplan(&["-n", "shop", "load", archive.to_str().unwrap()]).ok();
    node
}

fn containers(names: &[&str]) -> String {
    let one = |name: &&str| {
        format!(
            "---\napiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: {name}}}\n\
             spec: {{image: '{IMAGE}', terminationGracePeriodSeconds: 1}}\n"
        )
    };
    names.iter().map(one).collect()
}

fn names(node: &TestNode) -> Vec<String> {
    let mut names: Vec<String> =
        node.get("containers").iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn prune_takes_what_the_set_no_longer_holds_and_only_that() {
    let mut node = node();
    node.manifest("d.yaml", containers(&["directory"]));
    node.start_daemon();
    node.running("default", "directory");
    let path = node.file("one.yaml", containers(&["a", "b", "c"]));
    node.bayplan(&["apply", "-f", &path, "--set", "one"]).ok();
    let other = node.file("two.yaml", containers(&["other"]));
    node.bayplan(&["apply", "-f", &other, "--set", "two"]).ok();
    let plain = node.file("plain.yaml", containers(&["plain"]));
    node.bayplan(&["apply", "-f", &plain]).ok();
    node.bayplan(&["run", "-d", IMAGE, "hand"]).ok();
    let kept = node.running("default", "a");
    let all = ["a", "b", "c", "directory", "hand", "other", "plain"];
    assert_eq!(names(&node), all);

    // Without --prune a set only grows; --prune wants to know which.
    let path = node.file("one.yaml", containers(&["a"]));
    node.bayplan(&["apply", "-f", &path, "--set", "one"]).ok();
    assert_eq!(names(&node), all);
    node.bayplan(&["apply", "-f", &path, "--prune"]).exits(2);

    // The dry run says what the run then does.
    let dry = node.bayplan(&["apply", "-f", &path, "--prune", "--set", "one", "--dry-run"]).ok();
    assert_eq!(dry.steps(), ["- container default/b", "- container default/c"], "{}", dry.stdout);
    assert_eq!(names(&node), all);
    let run = node.bayplan(&["apply", "-f", &path, "--prune", "--set", "one"]).ok();
    assert_eq!(run.steps(), dry.steps(), "{}", run.stdout);
    assert_eq!(names(&node), ["a", "directory", "hand", "other", "plain"]);
    assert_eq!(node.running("default", "a"), kept);

    // A set that holds what another one declares is refused, and nothing of it is taken or pruned.
    let both = node.file("both.yaml", containers(&["other", "new"]));
    node.bayplan(&["apply", "-f", &both, "--prune", "--set", "one"]).exits(5).says("other");
    assert_eq!(names(&node), ["a", "directory", "hand", "other", "plain"]);
    // An image that only the pruned ones implied went with them? It is used still, and stays.
    assert!(node.get("images").iter().any(|item| item["metadata"]["name"] == IMAGE));
    node.close();
}

#[test]
fn a_wait_that_takes_too_long_says_no_and_names_what_is_late() {
    for with_daemon in [false, true] {
        // Takes connections and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let image = format!("{}/lab/never:1", silent.local_addr().unwrap());
        let mut node = node();
        if with_daemon {
            node.start_daemon();
        }
        let path = node.file("good.yaml", containers(&["good"]));
        node.bayplan(&["apply", "-f", &path, "--wait", "--timeout", "30s"]).ok();

        // Stopped by hand: an apply does not start it, and says so instead of claiming success.
        node.bayplan(&["stop", "good"]).ok();
        let late = node.bayplan(&["apply", "-f", &path, "--wait", "--timeout", "1s"]).exits(1);
        let late = late.says("not done after 1 s").says("container default/good");
        assert!(!late.stdout.contains("changed"), "no summary of what did not come about:\n{}", late.stdout);
        node.bayplan(&["start", "good"]).ok();

        let text = containers(&["good", "stuck"]).replacen(
            &format!("{{name: stuck}}\nspec: {{image: '{IMAGE}'"),
            &format!("{{name: stuck}}\nspec: {{image: '{image}'"),
            1,
        );
        let path = node.file("stuck.yaml", text);
        let late = node.bayplan(&["apply", "-f", &path, "--wait", "--timeout", "2s"]).exits(1);
        let late = late.says("container default/stuck").says("--timeout waits longer");
        assert!(!late.stderr.contains("default/good is"), "what is ready is not named:\n{}", late.stderr);
        node.bayplan(&["delete", "container", "stuck"]).ok();
        // What is under way is waited for, wanted or not.
        drop(silent);
        node.converged();
        node.close();
    }
}

#[test]
fn a_name_of_another_namespace_is_hinted_at() {
    let node = node();
    node.bayplan(&["-n", "shop", "run", "-d", IMAGE, "web"]).ok();
    for verb in [
        &["stop", "web"][..],
        &["kill", "web"],
        &["start", "web"],
        &["rm", "web"],
        &["logs", "web"],
        &["restart", "web"],
    ] {
        node.bayplan(verb).exits(4).says("container default/web is not there").says("-n shop");
    }
    node.running("shop", "web");
    node.close();
}
