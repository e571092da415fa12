//! Containers that another runtime's shim runs: Debian's `containerd-shim-runc-v2`. What a user sees is what our own shim
//! gives: logs, adoption, exit codes, restarts, stops, and nothing left behind.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::image::Image;
use crate::leaks;
use crate::node::{TestNode, lives, pid, signal};
use crate::wait::{eventually, patience};

const IMAGE: &str = "registry.local/box:1";
const RUNC: &str = "io.containerd.runc.v2";

fn with_box() -> TestNode {
    let node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox().oci_archive(&archive, Some(IMAGE));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node
}

fn declare(node: &TestNode, script: &str, fields: &str) {
    let script = serde_json::to_string(script).unwrap();
    node.manifest(
        "one.yaml",
        format!(
            "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: one}}\n\
             spec: {{image: '{IMAGE}', runtime: {RUNC}, command: [sh, -c, {script}], {fields}}}\n"
        ),
    );
}

fn shim_pid(item: &Value) -> u32 {
    u32::try_from(item["status"]["shimPid"].as_u64().unwrap()).unwrap()
}

fn log(item: &Value) -> String {
    fs::read_to_string(item["status"]["logPath"].as_str().unwrap()).unwrap_or_default()
}

/// What a container printed, without the log's own columns.
fn printed(log: &str) -> Vec<String> {
    log.lines().map(|line| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned()).collect()
}

fn events(node: &TestNode) -> String {
    node.bayplan(&["events"]).ok().stdout
}

/// The shim's socket, every mount, and every process of the node but its daemon are gone.
#[track_caller]
fn nothing_is_left(node: &TestNode, id: &str) {
    let mut left = Vec::new();
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(10) * patience() {
        left = leaks::processes(node.dir()).into_iter().map(|(_, command)| command).collect();
        left.retain(|command| !command.contains(" daemon"));
        left.extend(leaks::mounts(node.dir()).into_iter().map(|path| path.display().to_string()));
        left.extend(leaks::shim_sockets(&node.state(), &[("default".to_owned(), id.to_owned())]));
        if left.is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("left of {id}: {left:#?}");
}

#[test]
fn a_task_of_containerds_shim_is_followed_logged_adopted_stopped_and_removed() {
    let mut node = with_box();
    declare(
        &node,
        "trap 'echo bye; exit 7' TERM; echo out; echo err >&2; n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.05; done",
        "stopSignal: SIGTERM",
    );
    node.start_daemon();
    let one = node.phase("default", "one", "Running");
    let shim = fs::read_to_string(format!("/proc/{}/cmdline", shim_pid(&one))).unwrap();
    assert!(shim.contains("containerd-shim-runc-v2"), "{shim}");
    assert!(leaks::shim_socket(&node.state(), "default", "one").exists());
    eventually("its output is in the log", 10, || {
        let log = log(&one);
        (log.contains(" stdout F out\n") && log.contains(" stderr F err\n")).then_some(())
    });
    assert!(node.bayplan(&["logs", "one"]).ok().stdout.starts_with("out\n"));

    node.kill_daemon();
    let before = log(&one).len();
    eventually("the log is written without a daemon", 10, || (log(&one).len() > before + 200).then_some(()));
    node.start_daemon();
    let again = node.phase("default", "one", "Running");
    for field in ["pid", "shimPid", "restarts", "attempt", "started", "logPath"] {
        assert_eq!(one["status"][field], again["status"][field], "{field}");
    }
    node.converged();

    node.bayplan(&["stop", "one"]).ok();
    let one = node.container("default", "one").unwrap();
    assert_eq!((&one["status"]["phase"], &one["status"]["exitCode"]), (&"Exited".into(), &7.into()));
    let lines = printed(&log(&one));
    assert_eq!(lines.last().unwrap(), "bye");
    let ticks = lines.iter().filter_map(|line| line.strip_prefix("tick ")?.parse::<usize>().ok());
    assert!(ticks.clone().eq(1..=ticks.count()), "every line once and in order: {lines:?}");
    nothing_is_left(&node, "one");

    // A stop is remembered; a start is a new attempt.
    node.kill_daemon();
    node.start_daemon();
    node.converged();
    assert_eq!(node.container("default", "one").unwrap()["status"]["phase"], "Exited");
    node.bayplan(&["start", "one"]).ok();
    assert_eq!(node.phase("default", "one", "Running")["status"]["attempt"], 2);
    node.remove_manifest("one.yaml");
    eventually("it is removed", 20, || node.container("default", "one").is_none().then_some(()));
    nothing_is_left(&node, "one");
    node.close();
}

#[test]
fn the_restart_policy_is_the_daemons_to_carry_out() {
    let mut node = with_box();
    declare(&node, "echo attempt; exit 3", "restart: OnFailure, restartLimit: 3, backoff: {initial: 10ms, max: 40ms}");
    node.start_daemon();
    let one = eventually("it gives up", 60, || {
        let one = node.container("default", "one")?;
        (one["status"]["phase"] == "Exited").then_some(one)
    });
    assert_eq!((&one["status"]["restarts"], &one["status"]["attempt"]), (&3.into(), &4.into()));
    assert_eq!(one["status"]["exitCode"], 3);
    for attempt in 1..=4 {
        let path = PathBuf::from(one["status"]["logPath"].as_str().unwrap()).with_file_name(format!("{attempt}.log"));
        assert_eq!(printed(&fs::read_to_string(path).unwrap()), ["attempt"]);
    }
    nothing_is_left(&node, "one");

    // A policy that changes takes back a restart that waits.
    declare(&node, "exit 4", "backoff: {initial: 60s, max: 60s}");
    eventually("it waits to be started again", 30, || {
        let one = node.container("default", "one")?;
        (one["status"]["exitCode"] == 4 && one["status"]["phase"] == "BackOff").then_some(())
    });
    declare(&node, "exit 4", "restart: Never, backoff: {initial: 60s, max: 60s}");
    assert_eq!(node.phase("default", "one", "Exited")["status"]["restarts"], 0);
    node.converged();

    // For ever, across the deaths of daemons: the counts go on.
    declare(&node, "exit 5", "backoff: {initial: 1ms, max: 1ms}");
    eventually("the other container is there", 30, || {
        node.container("default", "one").filter(|one| one["status"]["exitCode"] == 5)
    });
    let restarts = |node: &TestNode| node.container("default", "one")?["status"]["restarts"].as_u64();
    let mut seen = 0;
    for _ in 0..4 {
        let wanted = seen + 3;
        seen = eventually("it is restarted again and again", 60, || restarts(&node).filter(|count| *count >= wanted));
        node.kill_daemon();
        node.start_daemon();
        assert!(restarts(&node).unwrap() >= seen, "a count is lost");
    }
    let one = node.container("default", "one").unwrap();
    assert_eq!(one["status"]["attempt"].as_u64(), one["status"]["restarts"].as_u64().map(|count| count + 1));
    node.close();
}

#[test]
fn an_exit_while_no_daemon_ran_is_known_and_its_restart_made_up_for() {
    let mut node = with_box();
    fs::create_dir(node.dir().join("flag")).unwrap();
    let script = "while ! test -e /flag/go; do sleep 0.05; done; rm /flag/go; exit 42";
    let flag = node.dir().join("flag");
    for (policy, phase, restarts) in [("Never", "Exited", 0), ("Always", "Running", 1)] {
        declare(&node, script, &format!("restart: {policy}, mounts: ['{}:/flag']", flag.display()));
        node.start_daemon();
        let process = node.running("default", "one");
        node.kill_daemon();
        fs::write(flag.join("go"), "").unwrap();
        eventually("the process ends", 20, || (!lives(process)).then_some(()));
        node.start_daemon();
        let one = node.phase("default", "one", phase);
        assert_eq!(
            (&one["status"]["exitCode"], &one["status"]["restarts"]),
            (&42.into(), &restarts.into()),
            "{policy}"
        );
        node.stop_daemon();
        node.bayplan(&["rm", "-f", "one"]).ok();
    }
    node.close();
}

#[test]
fn a_killed_shim_is_noticed_cleaned_up_after_and_its_container_runs_again() {
    let mut node = with_box();
    declare(&node, "setsid sleep 100000 & echo up; exec sleep 100000", "");
    node.start_daemon();
    let mut one = node.phase("default", "one", "Running");
    for round in 1..=3u64 {
        eventually("its output is in the log", 20, || log(&one).contains("up").then_some(()));
        let (process, shim) = (pid(&one), shim_pid(&one));
        // With a daemon, and without.
        let without = round == 2;
        if without {
            node.kill_daemon();
        }
        signal(shim, Signal::SIGKILL);
        if without {
            assert!(lives(process), "a container outlives its shim");
            node.start_daemon();
        }
        one = eventually("it runs anew", 40, || {
            let now = node.container("default", "one")?;
            (now["status"]["phase"] == "Running" && shim_pid(&now) != shim).then_some(now)
        });
        assert!(!lives(process), "the process without a shim is gone");
        assert_eq!((&one["status"]["restarts"], &one["status"]["attempt"]), (&round.into(), &(round + 1).into()));
    }
    let told = events(&node);
    assert_eq!(told.matches("ShimLost").count(), 3, "{told}");
    node.bayplan(&["stop", "one"]).ok();
    nothing_is_left(&node, "one");

    // Without a restart that is its end.
    declare(&node, "exec sleep 100000", "restart: Never");
    let one = node.phase("default", "one", "Running");
    signal(shim_pid(&one), Signal::SIGKILL);
    assert_eq!(node.phase("default", "one", "Exited")["status"]["exitCode"], 137);
    nothing_is_left(&node, "one");
    node.close();
}

#[test]
fn limits_change_in_place_and_a_kill_for_want_of_memory_is_named() {
    let mut node = with_box();
    let script = "while ! test -e /tmp/go; do sleep 0.05; done; exec dd if=/dev/zero of=/dev/null bs=64M count=1";
    let fields = |limit: &str| {
        format!("resources: {{limits: {{memory: {limit}}}}}, restart: Always, backoff: {{initial: 10ms}}")
    };
    declare(&node, script, &fields("256Mi"));
    node.start_daemon();
    let before = node.running("default", "one");
    let limit = |pid: u32| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let group = groups.lines().find_map(|line| line.split_once(":memory:")).map(|(_, path)| path.to_owned());
        let path = match group {
            Some(path) => format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"),
            None => format!("/sys/fs/cgroup{}/memory.max", groups.trim().rsplit(':').next().unwrap()),
        };
        fs::read_to_string(path).unwrap().trim().to_owned()
    };
    assert_eq!(limit(before), (256 << 20).to_string());
    declare(&node, script, &fields("32Mi"));
    eventually("the limit is in force", 20, || (limit(before) == (32 << 20).to_string()).then_some(()));
    node.converged();
    assert_eq!(node.running("default", "one"), before, "changed in place");

    fs::write(format!("/proc/{before}/root/tmp/go"), "").unwrap();
    eventually("it is killed for its memory", 30, || events(&node).contains("OOMKilled").then_some(()));
    // /tmp/go lies in the writable layer: it is killed again and again.
    let one = eventually("it is made again with the limit that it had", 30, || {
        node.container("default", "one").filter(|one| one["status"]["restarts"].as_u64() >= Some(2))
    });
    assert_eq!((&one["status"]["exitCode"], &one["status"]["oomKilled"]), (&137.into(), &true.into()));
    node.close();
}

#[test]
fn the_foreground_is_what_it_is_with_our_own_shim() {
    let node = with_box();
    let run = |flags: &[&str], id: &str, script: &str| {
        node.command(&[&["run", "--runtime", RUNC], flags, &[IMAGE, id, "sh", "-c", script]].concat())
    };
    let both = crate::node::Run::of(&mut run(&["--rm"], "a", "echo out; echo err >&2; exit 7")).exits(7);
    assert_eq!((both.stdout.as_str(), both.stderr.trim_end()), ("out\n", "err"));
    nothing_is_left(&node, "a");
    // As much as no pipe holds, and the log has it too.
    let much = crate::node::Run::of(&mut run(&[], "b", "seq 100000")).ok();
    let expected: Vec<String> = (1..=100_000).map(|n| n.to_string()).collect();
    assert!(much.stdout.lines().eq(expected.iter()), "{} lines came", much.stdout.lines().count());
    let b = node.container("default", "b").unwrap();
    assert_eq!(b["status"]["exitCode"], 0);
    assert!(printed(&log(&b)).iter().eq(expected.iter()), "the log has every line");
    nothing_is_left(&node, "b");
    // Standard input goes straight to the shim, and so does the output then.
    let mut cat =
        run(&["--rm", "-i"], "c", "cat; echo end").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut cat.stdin.take().unwrap(), b"given\n").unwrap();
    let output = cat.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"given\nend\n".as_slice()));
    let words = ["run", "--rm", "--runtime", RUNC, IMAGE, "d", "no-such-program"];
    node.bayplan(&words).exits(127);
    nothing_is_left(&node, "d");
    assert!(node.container("default", "d").is_none());
    node.close();
}

#[test]
fn further_processes_and_the_freezer_work_and_attach_says_why_not() {
    let mut node = with_box();
    declare(&node, "n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.02; done", "");
    node.start_daemon();
    let one = node.phase("default", "one", "Running");
    let run = node.bayplan(&["exec", "one", "sh", "-c", "echo out; echo err >&2; exit 6"]).exits(6);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("out\n", "err\n"));
    let mut cat = node.command(&["exec", "-i", "one", "sh", "-c", "cat; echo end"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut cat.stdin.take().unwrap(), b"given\n").unwrap();
    let output = cat.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"given\nend\n".as_slice()));

    node.bayplan(&["pause", "one"]).ok();
    assert_eq!(node.phase("default", "one", "Paused")["status"]["pid"], one["status"]["pid"]);
    // It is known to be frozen after the daemon's death, too.
    node.kill_daemon();
    node.start_daemon();
    node.phase("default", "one", "Paused");
    let before = log(&one);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(log(&one), before, "nothing moves");
    node.bayplan(&["unpause", "one"]).ok();
    node.running("default", "one");
    eventually("it goes on", 10, || (log(&one).len() > before.len()).then_some(()));
    node.bayplan(&["attach", "one"]).exits(125).says("the shim of io.containerd.runc.v2 has no attach");
    // A frozen task is stopped like any other.
    node.bayplan(&["pause", "one"]).ok();
    node.bayplan(&["stop", "one"]).ok();
    nothing_is_left(&node, "one");
    node.close();
}

#[test]
fn a_log_is_rotated_without_losing_or_splitting_a_line() {
    let node = with_box();
    let manifest = node.file(
        "one.yaml",
        format!(
            "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: one}}\nspec: {{image: '{IMAGE}', runtime: {RUNC}, \
             command: [seq, '60000'], restart: Never, logs: {{maxSize: 1Mi, maxFiles: 9}}}}\n"
        ),
    );
    node.bayplan(&["apply", "-f", &manifest]).ok();
    let one = node.phase("default", "one", "Exited");
    let path = PathBuf::from(one["status"]["logPath"].as_str().unwrap());
    let mut files = vec![path.clone()];
    files.extend((1..9).map(|n| PathBuf::from(format!("{}.{n}", path.display()))).filter(|path| path.exists()));
    assert!(files.len() > 2, "{files:?}");
    assert!(files.iter().all(|file| fs::metadata(file).unwrap().len() <= 1 << 20));
    let text: String = files.iter().rev().map(|file| fs::read_to_string(file).unwrap()).collect();
    assert!(printed(&text).into_iter().eq((1..=60_000).map(|n| n.to_string())));
    node.close();
}

#[test]
fn a_process_that_ignores_its_stop_signal_is_killed_after_its_grace_period() {
    let mut node = with_box();
    declare(
        &node,
        "trap '' TERM; sleep 100000 & while :; do sleep 0.1; done",
        "stopSignal: SIGTERM, terminationGracePeriodSeconds: 1",
    );
    node.start_daemon();
    node.running("default", "one");
    let began = std::time::Instant::now();
    node.bayplan(&["stop", "one"]).ok();
    assert!(began.elapsed() >= Duration::from_secs(1) && began.elapsed() < Duration::from_secs(8) * patience());
    assert_eq!(node.container("default", "one").unwrap()["status"]["exitCode"], 137);
    nothing_is_left(&node, "one");
    node.close();
}

#[test]
fn a_shim_that_hangs_is_killed_when_its_end_is_wanted() {
    let mut node = with_box();
    declare(&node, "exec sleep 100000", "terminationGracePeriodSeconds: 0");
    node.start_daemon();
    let one = node.phase("default", "one", "Running");
    signal(shim_pid(&one), Signal::SIGSTOP);
    node.remove_manifest("one.yaml");
    eventually("it is removed", 60, || node.container("default", "one").is_none().then_some(()));
    assert!(!lives(pid(&one)));
    nothing_is_left(&node, "one");
    node.close();
}

#[test]
fn a_daemon_that_dies_at_any_instant_leaves_nothing_that_the_next_does_not_mend() {
    let mut node = with_box();
    let mut nap = 0x2545_f491_4f6c_dd1d_u64;
    for instant in 0..12u64 {
        let script = format!("echo {instant}; sleep 0.{}; exit 1", instant % 4);
        declare(&node, &script, "backoff: {initial: 1ms, max: 50ms}, terminationGracePeriodSeconds: 0");
        node.start_daemon();
        nap ^= nap << 13;
        nap ^= nap >> 7;
        nap ^= nap << 17;
        // Not waiting for anything: the length of this nap is the instant itself.
        std::thread::sleep(Duration::from_millis(nap % 500 * u64::from(patience())));
        node.kill_daemon();
    }
    declare(&node, "echo last; exec sleep 100000", "");
    node.start_daemon();
    eventually("the last one runs", 30, || {
        let one = node.container("default", "one")?;
        (one["status"]["phase"] == "Running" && log(&one).contains("last")).then_some(())
    });
    node.converged();
    // One shim, one logger, one container.
    let left = leaks::processes(node.dir());
    let count = |what: &str| left.iter().filter(|(_, command)| command.contains(what)).count();
    assert_eq!((count("containerd-shim-runc-v2"), count("bayplan-shim")), (1, 1), "{left:?}");
    node.close();
}

#[test]
fn a_runtime_that_is_not_there_is_an_error_before_anything_is_made() {
    let node = with_box();
    let run = |runtime: &str| node.bayplan(&["run", "-d", "--runtime", runtime, IMAGE, "x"]);
    run("io.containerd.nosuchthing.v9")
        .exits(7)
        .says("the shim containerd-shim-nosuchthing-v9 of runtime io.containerd.nosuchthing.v9 is not there");
    run("nosuchthing").exits(3).says("runtime nosuchthing is not configured").says("[runtimes.nosuchthing]");
    assert!(node.container("default", "x").is_none_or(|x| x["status"]["pid"].is_null()));
    assert!(fs::read_dir(node.state().join("tasks")).map_or(0, |tasks| tasks.count()) == 0, "no bundle was made");
    node.close();
}

#[test]
fn an_oci_runtime_of_any_name_is_run_by_our_own_shim() {
    let mut node = with_box();
    // A copy under another name is another runtime; so is a script.
    let copy = node.dir().join("other");
    fs::copy("/usr/sbin/runc", &copy).or_else(|_| fs::copy("/usr/bin/runc", &copy)).unwrap();
    let calls = node.dir().join("calls");
    let script = node.dir().join("wrapped.sh");
    fs::write(&script, format!("#!/bin/sh\necho \"$*\" >> {}\nexec {} \"$@\"\n", calls.display(), copy.display()))
        .unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    node.configure(&format!(
        "[runtimes.copied]\npath = '{}'\n[runtimes.wrapped]\npath = '{}'\n",
        copy.display(),
        script.display()
    ));
    node.start_daemon();
    for name in ["copied", "wrapped"] {
        let run =
            node.bayplan(&["run", "--runtime", name, "--rm", IMAGE, "x", "sh", "-c", "echo here; exit 3"]).exits(3);
        assert_eq!(run.stdout, "here\n", "{name}");
        node.bayplan(&["run", "-d", "--restart", "always", "--runtime", name, IMAGE, name, "sleep", "100000"]).ok();
        let before = node.running("default", name);
        signal(before, Signal::SIGKILL);
        eventually("it is restarted", 20, || {
            let now = node.container("default", name)?;
            (now["status"]["phase"] == "Running" && now["status"]["restarts"] == 1).then_some(())
        });
    }
    let called = fs::read_to_string(&calls).unwrap();
    assert!(called.contains(" create ") && called.contains(" start "), "{called}");
    node.close();
}
