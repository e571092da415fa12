//! `status` names what does not run as it should and why; `sync` says no while a removal is held.

use std::fs;

use crate::image::Image;
use crate::node::TestNode;
use crate::wait::eventually;

const IMAGE: &str = "registry.local/box:1";

fn node() -> TestNode {
    let mut node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox().script("exec sleep 100000").oci_archive(&archive, Some(IMAGE));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node.start_daemon();
    node
}

fn container(name: &str, more: &str) -> String {
    format!(
        "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: {name}}}\n\
         spec: {{image: '{IMAGE}', terminationGracePeriodSeconds: 1{more}}}\n"
    )
}

#[test]
fn a_crash_loop_is_not_converged_and_a_stop_by_hand_is_named() {
    let node = node();
    node.manifest("web.yaml", container("web", ""));
    node.running("default", "web");
    node.converged();

    // Stopped by hand: as somebody asked, and said.
    node.bayplan(&["stop", "web"]).ok();
    let status = node.bayplan(&["status"]).ok();
    assert!(status.stdout.contains("container default/web is stopped by hand"), "{}", status.stdout);
    assert!(status.stdout.contains("bayplan -n default start web"), "{}", status.stdout);
    node.bayplan(&["start", "web"]).ok();
    assert!(!node.bayplan(&["status"]).ok().stdout.contains("stopped by hand"));

    // In back-off: why, and when it starts again.
    node.manifest("loop.yaml", container("loop", ", command: [sh, -c, exit 3], backoff: {initial: 100s, max: 100s}"));
    node.phase("default", "loop", "BackOff");
    let said = eventually("status says so", 30, || {
        let status = node.bayplan(&["status"]);
        (status.status == 1 && status.stdout.contains("BackOff for")).then_some(status.stdout)
    });
    assert!(said.contains("container default/loop  BackOff") && said.contains("ended with status 3"), "{said}");
    assert!(said.contains("tried again in 9") || said.contains("tried again in 100s"), "{said}");
    let report = node.bayplan(&["status", "-o", "json"]).exits(1).json();
    assert_eq!(report["notConverged"][0]["reason"], "BackOff", "{report}");
    assert!(report["notConverged"][0]["nextTry"].is_string(), "{report}");
    assert_eq!(report["pending"].as_array().map(Vec::len), Some(0), "no step mends it: {report}");

    // Its restarts used up: for good, until somebody changes something.
    node.manifest("loop.yaml", container("loop", ", command: [sh, -c, exit 4], restart: OnFailure, restartLimit: 1"));
    eventually("status names the limit", 30, || {
        node.bayplan(&["status"]).stdout.contains("its restarts are used up after 1").then_some(())
    });
    // One that is not to be restarted has ended as it was to; that it failed is said.
    node.manifest("loop.yaml", container("loop", ", command: [sh, -c, exit 3], restart: Never"));
    eventually("it ended", 30, || {
        let status = node.bayplan(&["status"]);
        (status.status == 0 && status.stdout.contains("loop is not restarted: it ended with status 3")).then_some(())
    });
    node.remove_manifest("loop.yaml");
    eventually("converged without it", 30, || {
        let status = node.bayplan(&["status"]);
        (status.status == 0 && !status.stdout.contains("loop")).then_some(())
    });
    node.close();
}

#[test]
fn sync_says_no_while_a_removal_is_held() {
    let node = node();
    node.manifest("a.yaml", container("a", ""));
    node.manifest("b.yaml", container("b", ""));
    node.running("default", "a");
    node.running("default", "b");
    node.bayplan(&["sync"]).ok();
    fs::rename(node.manifests(), node.dir().join("away")).unwrap();
    fs::create_dir(node.manifests()).unwrap();
    for _ in 0..2 {
        let sync = node.bayplan(&["sync"]).exits(1).says("a.yaml, b.yaml").says("sync --confirm-removal");
        assert!(sync.stdout.contains("0 failed"), "{}", sync.stdout);
    }
    assert_eq!(node.get("containers").len(), 2);
    let status = node.bayplan(&["status"]).exits(1);
    assert!(status.stdout.contains("a.yaml, b.yaml"), "{}", status.stdout);
    node.bayplan(&["sync", "--confirm-removal"]).ok();
    assert_eq!(node.get("containers").len(), 0, "a sync waits for what it releases");
    node.bayplan(&["status"]).ok();
    node.close();
}
