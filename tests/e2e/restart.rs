//! Shims keep containers alive while no daemon runs, and the next daemon adopts what it finds.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::image::Image;
use crate::node::{TestNode, lives, pid, signal};
use crate::wait::eventually;

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

    node.start_daemon();
    // What it costs on this machine at this moment: a start by hand does the same, and more.
    let mut starts: Vec<Duration> = (0..TIMES)
        .map(|n| {
            let begun = Instant::now();
            node.bayplan(&["run", "-d", crate::interactive::IMAGE, &format!("by-hand-{n}"), "sleep", "100000"]).ok();
            begun.elapsed()
        })
        .collect();
    starts.sort();
    let limit = Duration::from_millis(BACKOFF) + starts[starts.len() / 2] * 3;
    assert!(median <= limit, "back after {median:?} (median of {took:?}), not {limit:?}");
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

/// Reasons of a container's events, oldest first, with their messages.
fn events(node: &TestNode) -> Vec<(String, String)> {
    let list = node.bayplan(&["events", "container/one", "-o", "json"]).ok().json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().unwrap();
    items.iter().map(|event| (text(&event["reason"]), text(&event["message"]))).collect()
}

#[track_caller]
fn told(node: &TestNode, reason: &str, message: &str) {
    let events = events(node);
    assert!(events.iter().any(|(r, m)| r == reason && m.contains(message)), "no {reason} {message:?} in {events:?}");
}

#[test]
fn a_killed_shim_is_cleaned_up_and_its_container_runs_again() {
    let mut node = TestNode::new();
    // A process that its shim's end must not leave behind, and one that does not even share its session.
    one_container(&node, "setsid sleep 100000 & echo up; exec sleep 100000", "");
    node.start_daemon();
    let mut one = node.phase("default", "one", "Running");
    let log = |item: &Value| fs::read_to_string(item["status"]["logPath"].as_str().unwrap()).unwrap_or_default();
    for round in 1..=3 {
        eventually("its output is in the log", 20, || log(&one).contains("up").then_some(()));
        let (pid, shim) = (pid(&one), u32::try_from(one["status"]["shimPid"].as_u64().unwrap()).unwrap());
        let before = processes(&node);
        signal(shim, Signal::SIGKILL);
        one = eventually("it runs anew", 40, || {
            let now = node.container("default", "one")?;
            let other = |field: &str, than: u32| now["status"][field].as_u64().is_some_and(|it| it != u64::from(than));
            (now["status"]["phase"] == "Running" && other("pid", pid) && other("shimPid", shim)).then_some(now)
        });
        assert!(!lives(pid), "the process without a shim is gone");
        let after = processes(&node);
        let left: Vec<&u32> = before.iter().filter(|pid| after.contains(pid)).collect();
        assert!(left.is_empty(), "of the lost container there are left: {left:?}");
        told(&node, "ShimLost", &format!("shim {shim} is gone"));
        assert_eq!((&one["status"]["restarts"], &one["status"]["attempt"]), (&round.into(), &(round + 1).into()));
    }
    node.converged();
    node.close();
}

#[test]
fn without_a_restart_a_killed_shim_is_the_end_and_who_waits_is_told() {
    let mut node = TestNode::new();
    one_container(&node, "exec sleep 100000", "restart: Never");
    node.start_daemon();
    node.running("default", "one");
    let args = ["run", "--rm", "registry.local/box:1", "two"];
    let foreground = node.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pids = vec![];
    for name in ["one", "two"] {
        let status = node.phase("default", name, "Running")["status"].clone();
        pids.push(u32::try_from(status["pid"].as_u64().unwrap()).unwrap());
        signal(u32::try_from(status["shimPid"].as_u64().unwrap()).unwrap(), Signal::SIGKILL);
    }
    let one = node.phase("default", "one", "Exited");
    assert_eq!((&one["status"]["exitCode"], &one["status"]["restarts"]), (&137.into(), &0.into()));
    assert_eq!(foreground.wait_with_output().unwrap().status.code(), Some(137));
    assert!(node.container("default", "two").is_none(), "it removed itself");
    assert!(!pids.into_iter().any(lives));
    node.converged();
    node.close();
}

#[test]
fn a_shim_that_no_record_knows_is_ended_with_its_container() {
    let mut node = TestNode::new();
    one_container(&node, "trap '' TERM; while :; do sleep 0.1; done", "");
    node.start_daemon();
    let one = node.phase("default", "one", "Running");
    let shim = u32::try_from(one["status"]["shimPid"].as_u64().unwrap()).unwrap();
    node.kill_daemon();
    node.remove_manifest("one.yaml");
    fs::remove_dir_all(node.root()).unwrap();
    node.start_daemon();
    assert!(!lives(pid(&one)) && !lives(shim), "what was ours and is nobody's goes at the start");
    assert!(node.get("containers").is_empty());
    node.close();
}

/// Everything in the container's control groups.
fn processes(node: &TestNode) -> Vec<u32> {
    let init = pid(&node.container("default", "one").unwrap());
    let groups = fs::read_to_string(format!("/proc/{init}/cgroup")).unwrap();
    let path = groups.lines().filter_map(|line| line.rsplit_once(':')).map(|(_, path)| path).max_by_key(|p| p.len());
    let path = path.unwrap().trim_start_matches('/');
    let roots = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let lists = roots.chain([PathBuf::from("/sys/fs/cgroup")]).map(|root| root.join(path).join("cgroup.procs"));
    let texts: Vec<String> = lists.filter_map(|list| fs::read_to_string(list).ok()).collect();
    let mut pids: Vec<u32> = texts.iter().flat_map(|text| text.lines()).filter_map(|line| line.parse().ok()).collect();
    pids.sort_unstable();
    pids.dedup();
    assert!(pids.contains(&init), "{init} is not among {pids:?} of {path}");
    pids
}

#[test]
fn a_kill_for_want_of_memory_is_named_and_the_policy_followed() {
    let mut node = TestNode::new();
    one_container(
        &node,
        "exec dd if=/dev/zero of=/dev/null bs=64M count=1",
        "resources: {limits: {memory: 16Mi}}, restart: OnFailure, restartLimit: 2, backoff: {initial: 10ms, max: 10ms}",
    );
    node.start_daemon();
    let one = node.phase("default", "one", "Exited");
    let status = &one["status"];
    assert_eq!(
        (&status["exitCode"], &status["oomKilled"], &status["restarts"]),
        (&137.into(), &true.into(), &2.into())
    );
    told(&node, "OOMKilled", "memory limit");
    let condition = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "OOMKilled");
    assert!(condition.is_some_and(|c| c["status"] == "True"), "{status}");
    node.close();
}

#[test]
fn a_container_that_crashes_for_ever_costs_the_daemon_nothing() {
    const RESTARTS: u64 = 100;
    let mut node = TestNode::new();
    one_container(&node, "echo attempt; exit 3", "backoff: {initial: 1ms, max: 1ms}");
    node.start_daemon();
    let restarts = |node: &TestNode| node.container("default", "one")?["status"]["restarts"].as_u64();
    eventually("the first restarts", 60, || restarts(&node).filter(|count| *count >= 10));
    let before = node.daemon_descriptors();
    eventually("a hundred restarts", 120, || restarts(&node).filter(|count| *count >= RESTARTS));
    assert!(node.daemon_descriptors() <= before + 3, "from {before} to {} descriptors", node.daemon_descriptors());
    let one = node.container("default", "one").unwrap();
    assert_eq!(one["status"]["attempt"].as_u64(), one["status"]["restarts"].as_u64().map(|count| count + 1));
    let log = PathBuf::from(one["status"]["logPath"].as_str().unwrap());
    let logs = fs::read_dir(log.parent().unwrap()).unwrap().count();
    assert!(logs <= 6, "{logs} logs are kept");
    // Counting goes on under the next daemon.
    node.kill_daemon();
    let then = one["status"]["restarts"].as_u64().unwrap();
    node.start_daemon();
    eventually("it goes on", 60, || restarts(&node).filter(|count| *count > then));
    node.close();
}

#[test]
fn paths_longer_than_a_socket_address_work() {
    let mut node = TestNode::new().with_long_state();
    one_container(&node, "echo up; exec sleep 100000", "");
    assert!(node.state().as_os_str().len() > 200);
    node.start_daemon();
    let pid = node.running("default", "one");
    // Past the daemon's death too, and in the foreground.
    node.kill_daemon();
    let run = node.bayplan(&["run", "--rm", "registry.local/box:1", "two", "sh", "-c", "echo out; exit 3"]).exits(3);
    assert_eq!(run.stdout, "out\n");
    node.start_daemon();
    assert_eq!(node.running("default", "one"), pid);
    node.bayplan(&["restart", "one"]).ok();
    assert_ne!(node.running("default", "one"), pid);
    node.close();
}
