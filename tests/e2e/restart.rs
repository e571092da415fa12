//! Shims keep containers alive while no daemon runs, and the next daemon adopts what it finds.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::image::Image;
use crate::node::{TestNode, lives, signal};
use crate::wait::{eventually, patience};

fn one_container(node: &TestNode, script: &str, fields: &str) {
    let archive = node.dir().join("box.tar");
    Image::busybox().script(script).oci_archive(&archive, None);
    node.manifest(
        "one.yaml",
        format!(
            "apiVersion: bayplan.dev/v1\nkind: Image\nmetadata: {{name: box}}\nspec: {{archive: {}, reference: 'registry.local/box:1'}}\n---\n\
             apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: one}}\nspec: {{image: 'registry.local/box:1', {fields}}}\n",
            archive.display()
        ),
    );
}

/// The state file that the only shim of this node keeps.
fn state_file(dir: &Path) -> Option<PathBuf> {
    fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if entry.file_name() == "state.json" { Some(path) } else { path.is_dir().then(|| state_file(&path)).flatten() }
    })
}

fn shim_state(node: &TestNode) -> Option<Value> {
    serde_json::from_slice(&fs::read(state_file(&node.state().join("tasks"))?).ok()?).ok()
}

#[test]
fn a_killed_process_is_back_at_once_without_a_daemon() {
    const BACKOFF: u64 = 20;
    const TIMES: u64 = 5;
    let mut node = TestNode::alone();
    one_container(&node, "exec sleep 100000", &format!("backoff: {{initial: {BACKOFF}ms, max: {BACKOFF}ms}}"));
    node.start_daemon();
    let first = node.running("default", "one");
    node.kill_daemon();

    let mut took = Vec::new();
    let mut pid = first;
    for _ in 0..TIMES {
        let killed = Instant::now();
        signal(pid, Signal::SIGKILL);
        pid = loop {
            if let Some(now) = shim_state(&node).and_then(|state| u32::try_from(state["pid"].as_u64()?).ok())
                && now != pid
                && lives(now)
            {
                break now;
            }
            assert!(killed.elapsed() < Duration::from_secs(20), "not restarted: {:?}", shim_state(&node));
            std::thread::sleep(Duration::from_millis(1));
        };
        took.push(killed.elapsed());
    }
    took.sort();
    let median = took[took.len() / 2];
    let limit = Duration::from_millis(100 + BACKOFF) * patience();
    assert!(median <= limit, "back after {median:?} (median of {took:?}), not {limit:?}");

    node.start_daemon();
    let one = node.phase("default", "one", "Running");
    assert_eq!(one["status"]["pid"], pid, "adopted as it is");
    assert_eq!(one["status"]["restarts"], TIMES);
    assert_eq!(one["status"]["attempt"], TIMES + 1);
    node.close();
}

#[test]
fn a_stopped_daemon_leaves_everything_and_the_next_adopts_it() {
    let mut node = TestNode::new();
    one_container(&node, "echo started; exec sleep 100000", "");
    node.start_daemon();
    let before = node.phase("default", "one", "Running");
    node.stop_daemon();
    let pid = u32::try_from(before["status"]["pid"].as_u64().unwrap()).unwrap();
    assert!(lives(pid));
    node.start_daemon();
    let after = node.phase("default", "one", "Running");
    for field in ["pid", "shimPid", "restarts", "attempt", "started", "imageDigest", "logPath"] {
        assert_eq!(before["status"][field], after["status"][field], "{field}");
    }
    assert_eq!(before["metadata"], after["metadata"]);
    node.close();
}

#[test]
fn an_exit_while_no_daemon_ran_is_known_afterwards() {
    let mut node = TestNode::new();
    one_container(
        &node,
        "while ! test -e /flag/go; do sleep 0.05; done; exit 42",
        &format!("restart: Never, mounts: ['{}:/flag']", node.dir().join("flag").display()),
    );
    fs::create_dir(node.dir().join("flag")).unwrap();
    node.start_daemon();
    let pid = node.running("default", "one");
    node.kill_daemon();
    fs::write(node.dir().join("flag/go"), "").unwrap();
    eventually("the process ends", 20, || (!lives(pid)).then_some(()));
    node.start_daemon();
    let one = node.phase("default", "one", "Exited");
    assert_eq!(one["status"]["exitCode"], 42);
    assert_eq!(one["status"]["restarts"], 0);
    assert!(one["status"]["finished"].is_string());
    node.close();
}

#[test]
fn on_failure_stops_at_its_limit() {
    let mut node = TestNode::new();
    one_container(&node, "exit 3", "restart: OnFailure, restartLimit: 3, backoff: {initial: 10ms, max: 10ms}");
    node.start_daemon();
    let one = eventually("it gives up", 60, || {
        let one = node.container("default", "one")?;
        (one["status"]["restarts"] == 3 && one["status"]["pid"].is_null() && one["status"]["phase"] != "BackOff")
            .then_some(one)
    });
    assert_eq!(one["status"]["exitCode"], 3);
    node.close();
}

#[test]
fn a_killed_shim_is_cleaned_up_and_its_container_runs_again() {
    let mut node = TestNode::new();
    one_container(&node, "exec sleep 100000", "");
    node.start_daemon();
    let one = node.phase("default", "one", "Running");
    let (pid, shim) = (one["status"]["pid"].as_u64().unwrap(), one["status"]["shimPid"].as_u64().unwrap());
    signal(u32::try_from(shim).unwrap(), Signal::SIGKILL);
    eventually("it runs anew", 40, || {
        let now = node.container("default", "one")?;
        (now["status"]["phase"] == "Running"
            && now["status"]["pid"].as_u64()? != pid
            && now["status"]["shimPid"].as_u64()? != shim)
            .then_some(())
    });
    assert!(!lives(u32::try_from(pid).unwrap()), "the process without a shim is gone");
    node.close();
}
