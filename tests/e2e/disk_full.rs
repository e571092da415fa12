//! The disk below the root runs full under a daemon: what needs it fails by name, what runs goes on, nothing is
//! corrupt, and freed space is all it takes to go on.

use std::fs;
use std::io::Write as _;

use bayplan::oci::Digest;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::image::Image;
use crate::node::{TestNode, lives};
use crate::registry::TestRegistry;
use crate::wait::eventually;

/// Bytes that no compression makes smaller.
fn noise(mib: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(mib << 20);
    while bytes.len() < mib << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

fn container(name: &str, image: &str) -> String {
    format!(
        "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: {name}}}\n\
         spec: {{image: '{image}', terminationGracePeriodSeconds: 1}}\n"
    )
}

/// Fills the file system until nothing fits any more.
fn fill(node: &TestNode) {
    let mut ballast = fs::File::options().create(true).append(true).open(node.root().join("ballast")).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        let piece = vec![0; size];
        while ballast.write_all(&piece).is_ok() {}
    }
}

/// Every blob has the digest that it is named by.
fn whole(node: &TestNode) {
    for blob in fs::read_dir(node.root().join("content/blobs/sha256")).unwrap().flatten() {
        let bytes = fs::read(blob.path()).unwrap();
        assert_eq!(Digest::of(&bytes).hex(), blob.file_name().to_str().unwrap());
    }
}

fn free(node: &TestNode) {
    fs::remove_file(node.root().join("ballast")).unwrap();
}

#[track_caller]
fn names_the_space(node: &TestNode, object: &str) {
    let started = std::time::Instant::now();
    loop {
        let status = node.bayplan(&["status"]);
        let lines: Vec<&str> = status.stdout.lines().collect();
        let at = lines.iter().position(|line| line.contains(object) && line.contains("Failed"));
        if at.is_some_and(|at| lines[at + 1].to_lowercase().contains("no space left")) {
            assert_eq!(status.status, 1);
            return;
        }
        assert!(
            started.elapsed().as_secs() < 60,
            "no {object} for want of space in:\n{}\n{}",
            status.stdout,
            status.stderr
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_full_disk_harms_only_what_needs_it_and_mends_by_itself() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    node.configure("[controller]\nbackoff_initial = '200ms'\nbackoff_max = '500ms'\n");
    // A page of the log is soon full.
    let script = format!("while :; do echo {}; sleep 0.1; done", "tick".repeat(200));
    let script = script.as_str();
    let small = registry.push(&Image::busybox().script(script), "lab/small:1");
    // 12 MiB as a blob and 12 MiB unpacked: the one fits and the other does not.
    let big = registry
        .push(&Image::busybox().layer(|layer| layer.file("noise", 0o644, &noise(12))).script(script), "lab/big:1");
    let huge = registry.push(&Image::busybox().layer(|layer| layer.file("noise", 0o644, &noise(30))), "lab/huge:1");
    fs::create_dir(node.root()).unwrap();
    mount("tmpfs", node.root(), "tmpfs", MountFlags::empty(), Some(c"size=24m,mode=0711")).unwrap();
    node.start_daemon();
    node.manifest("steady.yaml", container("steady", &small));
    let steady = node.running("default", "steady");
    node.converged();
    let descriptors = node.daemon_descriptors();

    // While it is unpacked, and while it is fetched.
    node.manifest("big.yaml", container("big", &big));
    names_the_space(&node, "lab/big:1");
    node.manifest("huge.yaml", container("huge", &huge));
    names_the_space(&node, "lab/huge:1");
    assert!(lives(steady));
    whole(&node);

    // While rows are to be written: not a byte is left, and nothing gives any back.
    node.remove_manifest("huge.yaml");
    node.remove_manifest("big.yaml");
    node.converged();
    fill(&node);
    let one = node.file("one.yaml", container("one", &small));
    let refused = node.bayplan(&["apply", "-f", &one]).exits(7).says("bayplan.db").says("full").says("help");
    assert!(!refused.stdout.contains("changed"), "{}", refused.stdout);
    assert!(node.container("default", "one").is_none());
    // A manifest that cannot be stored is not in force, and not lost either.
    node.manifest("late.yaml", container("late", &small));
    eventually("status says that it waits", 30, || {
        let status = node.bayplan(&["status"]);
        (status.status == 1 && status.stdout.contains("cannot be stored")).then_some(())
    });
    node.bayplan(&["logs", "steady", "--tail", "1"]).ok();
    eventually("lines of its log are dropped and counted", 30, || {
        let state = fs::read(node.state().join("tasks/default/steady/state.json")).ok()?;
        let state: serde_json::Value = serde_json::from_slice(&state).ok()?;
        (state["droppedLines"].as_u64()? > 0).then_some(())
    });
    assert!(lives(steady));
    whole(&node);

    // Room again, and nobody does anything else. The database works, the manifest comes into force.
    free(&node);
    node.running("default", "late");
    node.bayplan(&["apply", "-f", &one]).ok();
    node.running("default", "one");
    // What did not fit waits, and runs when there is room.
    eventually("an event says that lines were dropped, though the disk had no room for it", 30, || {
        let events = node.bayplan(&["events", "container/steady"]).ok();
        events.stdout.contains("LogDropped").then_some(())
    });
    node.manifest("big.yaml", container("big", &big));
    names_the_space(&node, "lab/big:1");
    rustix::mount::mount_remount(node.root(), MountFlags::empty(), c"size=128m").unwrap();
    node.running("default", "big");
    node.converged();
    assert_eq!(node.running("default", "steady"), steady);
    eventually("no descriptor leaked", 30, || (node.daemon_descriptors() <= descriptors + 20).then_some(()));
    node.bayplan(&["delete", "-f", &one]).ok();

    // Another daemon finds all of it well.
    node.kill_daemon();
    node.start_daemon();
    node.converged();
    assert_eq!(node.running("default", "steady"), steady);
    node.stop_daemon();
    for name in ["steady", "big", "late"] {
        node.remove_manifest(&format!("{name}.yaml"));
    }
    node.bayplan(&["sync", "--confirm-removal"]).ok();
    let found = crate::leaks::find(node.dir());
    let root = node.root().display().to_string();
    assert!(found.iter().all(|line| line.ends_with(&root)), "left behind: {found:?}");
    unmount(node.root(), UnmountFlags::empty()).unwrap();
    node.close();
}
