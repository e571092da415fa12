//! The rules of the manifest directory: what counts as a removal, and what is held until a person says so.

use std::fs;

use crate::image::Image;
use crate::node::{TestNode, lives};
use crate::wait::eventually;

fn container(name: &str) -> String {
    format!(
        "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: {name}}}\n\
         spec: {{image: 'registry.local/box:1', terminationGracePeriodSeconds: 1}}\n"
    )
}

/// A daemon with the containers `a` and `b`, each from a file of its own; the image is loaded by hand.
fn two() -> (TestNode, u32, u32) {
    let mut node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox().script("exec sleep 100000").oci_archive(&archive, Some("registry.local/box:1"));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node.manifest("a.yaml", container("a"));
    node.manifest("sub/b.yaml", container("b"));
    node.start_daemon();
    let (a, b) = (node.running("default", "a"), node.running("default", "b"));
    (node, a, b)
}

#[test]
fn files_that_go_one_by_one_take_their_containers_along() {
    let (node, a, b) = two();
    node.remove_manifest("a.yaml");
    eventually("a is gone", 40, || node.container("default", "a").is_none().then_some(()));
    assert!(!lives(a) && lives(b));
    node.remove_manifest("sub/b.yaml");
    eventually("b is gone", 40, || node.container("default", "b").is_none().then_some(()));
    node.close();
}

#[test]
fn all_files_at_once_are_held_until_confirmed() {
    let (node, a, b) = two();
    fs::rename(node.manifests(), node.dir().join("away")).unwrap();
    eventually("status says so", 30, || node.bayplan(&["status"]).stdout.contains("--confirm-removal").then_some(()));
    assert!(lives(a) && lives(b));

    // Back again: as if nothing had been.
    fs::rename(node.dir().join("away"), node.manifests()).unwrap();
    eventually("status has forgotten it", 30, || (node.bayplan(&["status"]).status == 0).then_some(()));
    assert_eq!((node.running("default", "a"), node.running("default", "b")), (a, b));

    // Emptied at once, and meant.
    let away = node.dir().join("away");
    fs::create_dir(&away).unwrap();
    fs::rename(node.manifests().join("a.yaml"), away.join("a.yaml")).unwrap();
    fs::rename(node.manifests().join("sub"), away.join("sub")).unwrap();
    eventually("it is held", 30, || node.bayplan(&["status"]).stdout.contains("--confirm-removal").then_some(()));
    assert!(lives(a) && lives(b));
    node.bayplan(&["sync", "--confirm-removal"]).ok();
    eventually("both are gone", 40, || node.get("containers").is_empty().then_some(()));
    node.close();
}

#[test]
fn a_half_written_file_is_waited_for() {
    use std::io::Write;
    let (node, _, _) = two();
    let text = container("slow");
    let (first, second) = text.split_at(text.find("spec:").unwrap());
    let mut file = fs::File::create(node.manifests().join("slow.yaml")).unwrap();
    file.write_all(first.as_bytes()).unwrap();
    file.sync_all().unwrap();
    // Something else happens meanwhile, and is acted on; the open file is not.
    node.manifest("c.yaml", container("c"));
    node.running("default", "c");
    let status = node.bayplan(&["status"]);
    assert!(!status.stdout.contains("slow.yaml:"), "an open file is not reported:\n{}", status.stdout);
    file.write_all(second.as_bytes()).unwrap();
    drop(file);
    node.running("default", "slow");
    node.close();
}

#[test]
fn a_configmap_style_swap_is_one_change() {
    use std::os::unix::fs::symlink;
    let (node, a, _) = two();
    let manifests = node.manifests();
    for (version, tz) in [("..v1", "UTC"), ("..v2", "CET")] {
        fs::create_dir(manifests.join(version)).unwrap();
        let text = container("swapped").replace("spec: {", &format!("spec: {{env: {{TZ: {tz}}}, "));
        fs::write(manifests.join(version).join("s.yaml"), text).unwrap();
    }
    symlink("..v1", manifests.join("..data")).unwrap();
    symlink("..data/s.yaml", manifests.join("s.yaml")).unwrap();
    let first = node.running("default", "swapped");
    symlink("..v2", manifests.join("..new")).unwrap();
    fs::rename(manifests.join("..new"), manifests.join("..data")).unwrap();
    eventually("the new version runs", 40, || {
        let item = node.container("default", "swapped")?;
        (item["spec"]["env"]["TZ"] == "CET" && item["status"]["pid"].as_u64()? != u64::from(first)).then_some(())
    });
    // As kubelet goes on: the old data go, which changes nothing, and the next ones lack the file.
    let second = node.running("default", "swapped");
    fs::remove_dir_all(manifests.join("..v1")).unwrap();
    node.bayplan(&["sync"]).ok();
    assert_eq!(node.running("default", "swapped"), second);
    fs::create_dir(manifests.join("..v3")).unwrap();
    symlink("..v3", manifests.join("..new")).unwrap();
    fs::rename(manifests.join("..new"), manifests.join("..data")).unwrap();
    fs::remove_file(manifests.join("s.yaml")).unwrap();
    eventually("what is not in it is gone", 40, || node.container("default", "swapped").is_none().then_some(()));
    assert!(!lives(second));
    node.converged();
    assert_eq!(node.running("default", "a"), a);
    node.close();
}

#[test]
fn two_nodes_run_side_by_side() {
    let (first, a, _) = two();
    let (second, other, _) = two();
    assert_ne!(a, other);
    second.remove_manifest("a.yaml");
    eventually("the second node's is gone", 40, || second.container("default", "a").is_none().then_some(()));
    assert_eq!(first.running("default", "a"), a);
    second.close();
    assert_eq!(first.running("default", "a"), a);
    first.close();
}

#[test]
fn what_is_taken_away_by_hand_comes_back() {
    let (node, a, b) = two();
    let run = node.bayplan(&["rm", "-f", "a"]).ok();
    assert!(run.stderr.contains("a.yaml"), "it says who declares it:\n{}", run.stderr);
    let again = eventually("it comes back", 40, || {
        let item = node.container("default", "a")?;
        let pid = u32::try_from(item["status"]["pid"].as_u64()?).ok()?;
        (pid != a && lives(pid)).then_some(pid)
    });
    assert!(lives(again) && lives(b));
    node.close();
}

#[test]
fn a_file_cut_to_nothing_removes_nothing() {
    let (node, a, _) = two();
    fs::write(node.manifests().join("a.yaml"), "").unwrap();
    let status = eventually("status names it", 30, || {
        let status = node.bayplan(&["status"]);
        status.stdout.contains("a.yaml is empty").then_some(status)
    });
    assert_eq!(status.status, 1);
    assert_eq!(node.running("default", "a"), a);
    node.manifest("a.yaml", "# nothing any more\n");
    eventually("a is gone", 40, || node.container("default", "a").is_none().then_some(()));
    node.close();
}
