//! Shims that nobody expects: after a crash between two calls, and after the loss of the database.

use std::fs;

use bayplan::runtime::ShimClient;
use nix::sys::signal::Signal;

use crate::image::Image;
use crate::leaks;
use crate::node::{TestNode, lives, signal};
use crate::wait::eventually;

/// A node with a running container `default/web`, its process, and its manifest.
fn node_with(field: &str) -> (TestNode, u32, String) {
    let node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox().script("exec sleep 100000").oci_archive(&archive, Some("registry.local/box:1"));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    let manifest = node.file(
        "web.yaml",
        format!("apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: web}}\nspec: {{image: 'registry.local/box:1', {field}}}\n"),
    );
    node.bayplan(&["apply", "-f", &manifest]).ok();
    let web = node.running("default", "web");
    (node, web, manifest)
}

fn shims(node: &TestNode) -> usize {
    leaks::processes(node.dir()).iter().filter(|(_, command)| command.contains("bayplan-shim")).count()
}

#[test]
fn a_shim_whose_task_was_deleted_is_ended_by_the_next_start() {
    let (node, job, _) = node_with("restart: Never");
    // What a command does that is killed before its last call.
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let client = ShimClient::connect(&node.state().join("tasks/default/web")).await.unwrap();
        signal(job, Signal::SIGKILL);
        client.wait().await.unwrap();
        client.delete().await.unwrap();
    });
    assert_eq!(shims(&node), 1, "the shim is left");

    assert_eq!(node.phase("default", "web", "Exited")["status"]["exitCode"], 137);
    eventually("the shim ends", 10, || (shims(&node) == 0).then_some(()));
    let events = node.bayplan(&["events"]).ok().stdout;
    assert!(!events.contains("ShimLost") && !events.contains("CleanUpFailed"), "{events}");
    node.close();
}

#[test]
fn with_the_database_lost_its_containers_are_ended_and_their_names_free() {
    let (node, web, manifest) = node_with("restart: Always");
    for entry in fs::read_dir(node.root()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().contains(".db") {
            fs::remove_file(path).unwrap();
        }
    }
    assert!(node.get("containers").is_empty());
    eventually("the orphan ends", 10, || (!lives(web) && shims(&node) == 0).then_some(()));
    assert!(leaks::mounts(node.dir()).is_empty());

    let archive = node.dir().join("box.tar");
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node.bayplan(&["apply", "-f", &manifest]).ok();
    assert!(lives(node.running("default", "web")));
    node.close();
}

#[test]
fn a_shim_that_does_not_answer_is_killed_for_whoever_removes_its_container() {
    let (mut node, web, _) = node_with("restart: Always");
    node.start_daemon();
    let item = node.phase("default", "web", "Running");
    let shim = u32::try_from(item["status"]["shimPid"].as_u64().unwrap()).unwrap();
    signal(shim, Signal::SIGSTOP);
    let begun = std::time::Instant::now();
    node.bayplan(&["rm", "-f", "web"]).ok();
    assert!(begun.elapsed() < std::time::Duration::from_secs(40), "{:?}", begun.elapsed());
    assert!(!lives(web) && !lives(shim));
    // It is still declared.
    assert_ne!(node.running("default", "web"), web);
    assert!(node.bayplan(&["events"]).ok().stdout.contains("ShimKilled"));
    node.close();
}
