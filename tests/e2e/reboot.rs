//! After a reboot `--state` is empty and no process is left: everything is rebuilt from database and manifests.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::image::Image;
use crate::leaks;
use crate::node::{TestNode, lives, signal};
use crate::wait::eventually;

/// What a reboot takes away: processes (shims first), mounts, the state directory.
fn power_off(node: &TestNode, pids: &[u32]) {
    let mut left = leaks::processes(node.dir());
    left.retain(|(_, command)| command.contains("bayplan-shim"));
    for (pid, _) in left {
        signal(u32::try_from(pid).unwrap(), Signal::SIGKILL);
    }
    for pid in pids {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(*pid).unwrap()), Signal::SIGKILL).ok();
        eventually("the process ends", 10, || (!lives(*pid)).then_some(()));
    }
    for target in leaks::mounts(node.dir()).into_iter().rev() {
        rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    remove(&node.state());
}

fn remove(dir: &Path) {
    eventually("the state directory goes", 10, || (fs::remove_dir_all(dir).is_ok() || !dir.exists()).then_some(()));
}

#[test]
fn everything_declared_runs_again() {
    let mut node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox().script("exec sleep 100000").oci_archive(&archive, Some("registry.local/box:1"));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node.manifest(
        "a.yaml",
        "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {name: a}\nspec: {image: 'registry.local/box:1'}\n---\n\
         apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {name: job}\nspec: {image: 'registry.local/box:1', command: [sh, -c, exit 5], restart: Never}\n",
    );
    let applied = node.file(
        "b.yaml",
        "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {name: b}\nspec: {image: 'registry.local/box:1'}\n",
    );
    node.start_daemon();
    node.bayplan(&["apply", "-f", &applied]).ok();
    let (a, b) = (node.running("default", "a"), node.running("default", "b"));
    let job = node.phase("default", "job", "Exited");
    assert_eq!(job["status"]["exitCode"], 5);
    node.kill_daemon();
    power_off(&node, &[a, b]);

    node.start_daemon();
    let (a2, b2) = (node.running("default", "a"), node.running("default", "b"));
    assert!(a2 != a && b2 != b && lives(a2) && lives(b2));
    let job = node.phase("default", "job", "Exited");
    assert_eq!(job["status"]["exitCode"], 5, "a job that was done stays done");
    node.converged();
    node.close();
}
