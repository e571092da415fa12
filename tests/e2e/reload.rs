//! SIGHUP: what of the configuration can be in force at once is, the rest is named, and a bad file changes nothing.

use std::fs;
use std::time::{Duration, Instant};

use base64::Engine as _;
use nix::sys::signal::Signal;

use crate::image::Image;
use crate::node::{TestNode, signal};
use crate::registry::TestRegistry;
use crate::wait::eventually;

const IMAGE: &str = "registry.local/box:1";

fn container(name: &str, image: &str) -> String {
    format!(
        "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: {name}}}\n\
         spec: {{image: '{image}', terminationGracePeriodSeconds: 1}}\n"
    )
}

fn daemon(configuration: &str) -> TestNode {
    let mut node = TestNode::new();
    node.configure(configuration);
    let archive = node.dir().join("box.tar");
    Image::busybox().script("exec sleep 100000").oci_archive(&archive, Some(IMAGE));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node.start_daemon();
    node
}

/// Writes the configuration, has it read, and waits for the event that says what became of it.
fn reload(node: &TestNode, configuration: &str, says: &str) {
    node.configure(configuration);
    signal(node.daemon_pid(), Signal::SIGHUP);
    eventually(&format!("an event says {says:?}"), 30, || {
        node.bayplan(&["events", "-A"]).ok().stdout.contains(says).then_some(())
    });
}

#[test]
fn what_can_be_is_in_force_at_once_and_containers_go_on() {
    let registry = TestRegistry::with_login("admin", "123456");
    let private = registry.push(&Image::busybox().env("A", "private").script("exec sleep 100000"), "lab/private:1");
    let auth = base64::engine::general_purpose::STANDARD.encode("admin:123456");
    // By itself it would be tried again in five minutes.
    let slow = "[controller]\nbackoff_initial = '5m'\nbackoff_max = '5m'\n";
    let node = daemon(slow);
    let file = node.file("auth.json", format!(r#"{{"auths": {{"{}": {{"auth": "{auth}"}}}}}}"#, registry.host()));
    node.manifest("steady.yaml", container("steady", IMAGE));
    let steady = node.running("default", "steady");
    node.manifest("private.yaml", container("private", &private));
    eventually("the registry refuses", 30, || {
        let status = node.bayplan(&["status"]);
        (status.status == 1 && status.stdout.contains("lab/private:1")).then_some(())
    });

    // Credentials, and what failed for want of them is tried at once.
    let login = format!("[registry]\nauth_files = ['{file}']\n");
    reload(&node, &format!("{slow}{login}"), "in force: registry.auth_files");
    node.running("default", "private");
    node.converged();

    // The debounce window: a file that is written in place waits for it.
    reload(&node, &format!("[controller]\ndebounce = '2s'\n{login}"), "controller.debounce");
    let closed = Instant::now();
    fs::write(node.manifests().join("late.yaml"), container("late", IMAGE)).unwrap();
    node.running("default", "late");
    assert!(closed.elapsed() >= Duration::from_secs(2), "acted on after {:?}", closed.elapsed());

    // The collector: what nothing uses any more goes after the new grace period, not after ten minutes.
    let blobs = || fs::read_dir(node.root().join("content/blobs/sha256")).unwrap().count();
    let before = blobs();
    node.remove_manifest("private.yaml");
    eventually("its image is no longer named", 30, || (node.get("images").len() == 1).then_some(()));
    assert_eq!(blobs(), before);
    reload(&node, &format!("[gc]\ngrace = '1s'\n{login}"), "gc.grace");
    eventually("its blobs are collected", 30, || (blobs() < before).then_some(()));

    // The level of the log, down and up.
    reload(&node, &format!("[log]\nlevel = 'error'\n{login}"), "in force: gc.grace, log.level");
    let said = node.daemon_log().len();
    node.manifest("quiet.yaml", container("quiet", IMAGE));
    node.running("default", "quiet");
    assert_eq!(&node.daemon_log()[said..], "");
    reload(&node, &login, "in force: log.level");
    node.manifest("loud.yaml", container("loud", IMAGE));
    node.running("default", "loud");
    assert!(node.daemon_log()[said..].contains("container default/loud"), "{}", node.daemon_log());

    assert_eq!(node.running("default", "steady"), steady, "no container was disturbed");
    node.close();
}

#[test]
fn what_needs_a_restart_is_named_and_a_bad_file_changes_nothing() {
    let node = daemon("[controller]\npulls = 2\n");
    node.manifest("steady.yaml", container("steady", IMAGE));
    let steady = node.running("default", "steady");
    let status = || node.bayplan(&["status"]).ok().stdout;

    // Refused as a whole, with the place; what was in force stays so.
    reload(&node, "[controller]\npulls = 3\ndebonce = '1s'\n", "the one before stays in force");
    let said = status();
    assert!(said.contains("config.toml:4:1") && said.contains("debonce"), "{said}");
    assert!(node.daemon_log().contains("config.toml:4:1"), "{}", node.daemon_log());
    node.manifest("more.yaml", container("more", IMAGE));
    node.running("default", "more");

    // Part of it, and the keys that wait.
    let mixed = "[controller]\npulls = 3\n[cgroup]\nparent = '/elsewhere'\n[log]\nformat = 'json'\n";
    reload(&node, mixed, "in force: controller.pulls");
    let said = status();
    assert!(said.contains("cgroup.parent, log.format are changed"), "{said}");
    assert!(!said.contains("debonce"), "{said}");
    let info = node.bayplan(&["info", "-o", "json"]).ok().json();
    assert_ne!(info["cgroupParent"], "/elsewhere", "what is handed out stays as it was");

    // Taken back: nothing waits any more.
    reload(&node, "[controller]\npulls = 4\n", "in force: controller.pulls");
    eventually("status has forgotten it", 30, || (!status().contains("changed")).then_some(()));
    assert_eq!(node.running("default", "steady"), steady);
    node.close();
}
