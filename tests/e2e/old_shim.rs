//! The daemon is upgraded: containers whose shims are of an earlier release go on, are adopted, and do all that their
//! shims can; what these cannot is refused with what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::image::Image;
use crate::node::{TestNode, lives, signal};
use crate::wait::eventually;

/// The shim of a commit, unpacked (see the README beside it); `None` on other machines than its own.
fn old_shim(node: &TestNode, commit: &str) -> Option<PathBuf> {
    if !cfg!(target_arch = "x86_64") {
        eprintln!("NOT TESTED: the shim of {commit} is for x86_64");
        return None;
    }
    let packed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/shims/{commit}.x86_64.zst"));
    let path = node.dir().join("old-shim");
    fs::write(&path, zstd::decode_all(fs::File::open(packed).unwrap()).unwrap()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Some(path)
}

#[test]
fn shims_of_the_release_before_are_adopted_and_their_containers_go_on() {
    let mut node = TestNode::new();
    let Some(shim) = old_shim(&node, "b673c5a") else { return node.close() };
    let image = Image::busybox().script("echo attempt; trap 'exit 0' TERM; while :; do sleep 1; done");
    image.oci_archive(&node.dir().join("box.tar"), Some("registry.local/box:1"));
    node.configure(&format!("[shim]\npath = '{}'\n", shim.display()));
    node.start_daemon();
    node.bayplan(&["load", "box.tar"]).ok();
    let run = |name: &str| {
        node.bayplan(&["run", "-d", "--restart", "always", "registry.local/box:1", name]).ok();
    };
    ["kept", "stopped", "removed"].into_iter().for_each(run);
    let pids = ["kept", "stopped", "removed"].map(|name| node.running("default", name));
    let shim_of = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
        fs::read_link(format!("/proc/{parent}/exe")).unwrap()
    };
    assert!(pids.iter().all(|pid| shim_of(*pid) == shim));

    // The new release.
    node.stop_daemon();
    node.configure("");
    node.start_daemon();
    for (name, pid) in ["kept", "stopped", "removed"].iter().zip(pids) {
        assert_eq!(node.running("default", name), pid, "{name} is the process that it was");
    }
    node.converged();

    // It restarts by itself, is counted, and is read.
    signal(pids[0], Signal::SIGKILL);
    let again = eventually("it was restarted", 30, || {
        let item = node.container("default", "kept")?;
        let pid = item["status"]["pid"].as_u64().filter(|pid| *pid != u64::from(pids[0]))?;
        (item["status"]["restarts"] == 1).then(|| u32::try_from(pid).unwrap())
    });
    assert_eq!(shim_of(again), shim);
    eventually("the new attempt has said it", 20, || {
        (node.bayplan(&["logs", "kept"]).ok().stdout == "attempt\n").then_some(())
    });
    assert_eq!(node.bayplan(&["logs", "--previous", "kept"]).ok().stdout, "attempt\n");

    // What it cannot.
    let next_step = "bayplan -n default restart kept";
    node.bayplan(&["exec", "kept", "true"]).exits(125).says("of an older release").says(next_step);
    node.bayplan(&["pause", "kept"]).exits(5).says("of an older release").says(next_step);
    assert_eq!(node.running("default", "kept"), again, "it was not harmed");

    // Stop, removal, and the way to the new shim.
    node.bayplan(&["stop", "stopped"]).ok();
    // The image's stop signal is SIGKILL.
    assert_eq!(node.phase("default", "stopped", "Exited")["status"]["exitCode"], 137);
    node.bayplan(&["rm", "-f", "removed"]).ok();
    assert!(!lives(pids[1]) && !lives(pids[2]));
    node.bayplan(&["restart", "kept"]).ok();
    let renewed = node.running("default", "kept");
    assert_ne!(shim_of(renewed), shim);
    node.bayplan(&["exec", "kept", "true"]).ok();
    node.close();
}
