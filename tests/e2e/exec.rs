//! Further processes of running containers, and frozen ones.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::Stdio;

use crate::image::Image;
use crate::node::{Run, TestNode, lives};
use crate::wait::eventually;

const IMAGE: &str = "registry.local/box:1";

fn node() -> TestNode {
    let mut node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox()
        .layer(|layer| layer.file("bin/not-executable", 0o644, b"#!/bin/sh\n"))
        .env("FROM", "image")
        .workdir("/var")
        .script("trap 'exit 3' TERM; n=0; while :; do n=$((n+1)); echo $n >/tmp/count; sleep 0.02; done")
        .oci_archive(&archive, Some(IMAGE));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node.start_daemon();
    node
}

#[test]
fn a_further_process_is_as_the_containers_own_and_as_asked() {
    let node = node();
    node.bayplan(&["run", "-d", "--env", "OWN=container", "--cap-drop", "CHOWN", IMAGE, "x"]).ok();
    let said = |args: &[&str]| node.bayplan(args).ok().stdout;
    let facts =
        "echo $FROM $OWN $MORE; pwd; id -u; id -G; echo $HOME; grep -E '^(CapEff|NoNewPrivs)' /proc/self/status";
    let own = said(&["exec", "x", "sh", "-c", facts]);
    let lines: Vec<&str> = own.lines().collect();
    assert_eq!(lines[..5], ["image container", "/var", "0", "0", "/root"], "{own}");
    assert!(own.contains("NoNewPrivs:\t1"), "{own}");
    let eff = |text: &str| {
        let hex = text.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
        u64::from_str_radix(hex, 16).unwrap()
    };
    assert_eq!(eff(&own) & 1, 0, "CHOWN was dropped");
    let asked = said(&[
        "exec",
        "-e",
        "OWN=exec",
        "-e",
        "MORE=more",
        "-w",
        "/tmp",
        "-u",
        "app",
        "--group-add",
        "extra,77",
        "x",
        "sh",
        "-c",
        facts,
    ]);
    let lines: Vec<&str> = asked.lines().collect();
    assert_eq!(lines[..5], ["image exec more", "/tmp", "1000", "1000 77 2000", "/tmp"], "{asked}");
    let privileged = said(&["exec", "--privileged", "x", "sh", "-c", facts]);
    assert!(eff(&privileged) & 1 == 1 && eff(&privileged).count_ones() > 20, "{privileged}");
    assert!(privileged.contains("NoNewPrivs:\t0"), "{privileged}");
    // The container's own limits hold for it as well: it is in its cgroup.
    let of = |pid: &str| said(&["exec", "x", "cat", &format!("/proc/{pid}/cgroup")]);
    assert_eq!(of("1"), of("self"));
    node.close();
}

#[test]
fn streams_and_statuses_are_the_process_own() {
    let node = node();
    node.bayplan(&["run", "-d", IMAGE, "x"]).ok();
    let run = node.bayplan(&["exec", "x", "sh", "-c", "echo out; echo err >&2; exit 42"]).exits(42);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("out\n", "err\n"));
    node.bayplan(&["exec", "x", "sh", "-c", "kill -9 $$"]).exits(137);
    // Standard input, to its end and half closed: what follows still arrives.
    let mut counted = node.command(&["exec", "-i", "x", "sh", "-c", "wc -c; echo after"]);
    let mut counted = counted.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = counted.stdin.take().unwrap();
    let writing = std::thread::spawn(move || stdin.write_all(&vec![b'x'; 300_000]).unwrap());
    let output = counted.wait_with_output().unwrap();
    writing.join().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "300000\nafter\n");
    // Much output, and none of it lost.
    let run = node.bayplan(&["exec", "x", "seq", "1", "200000"]).ok();
    assert_eq!(run.stdout.lines().count(), 200_000);
    // Nor when whoever reads it takes his time.
    let mut slow = node.command(&["exec", "x", "dd", "if=/dev/zero", "bs=1000", "count=500"]);
    let mut slow = slow.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(6));
    let mut read = Vec::new();
    slow.stdout.take().unwrap().read_to_end(&mut read).unwrap();
    assert_eq!((read.len(), slow.wait().unwrap().code()), (500_000, Some(0)));
    // Signals go through.
    let script = "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.1; done";
    let mut caught = node.bare(&["exec", "x", "sh", "-c", script]);
    let log = node.dir().join("caught");
    let mut child = caught.stdout(fs::File::create(&log).unwrap()).spawn().unwrap();
    eventually("it is ready", 20, || fs::read_to_string(&log).unwrap().contains("ready").then_some(()));
    crate::node::signal(child.id(), nix::sys::signal::Signal::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(9));
    assert!(fs::read_to_string(&log).unwrap().contains("caught"));
    // Nothing of any of them is left.
    assert_eq!(fs::read_dir(node.state().join("fifo")).map_or(0, Iterator::count), 0);
    node.close();
}

#[test]
fn time_is_up_when_it_was_said() {
    let mut node = node();
    node.bayplan(&["run", "-d", IMAGE, "x"]).ok();
    node.bayplan(&["exec", "--timeout", "300ms", "x", "sleep", "1000"]).exits(124).says("its time of 0.3 s was over");
    node.bayplan(&["exec", "--timeout", "1m", "x", "true"]).ok();
    let detached = node.bayplan(&["exec", "-d", "--timeout", "300ms", "--exec-id", "late", "x", "sleep", "2000"]).ok();
    assert_eq!(detached.stdout, "late\n");
    eventually("the node kills it", 20, || {
        let ps = node.bayplan(&["exec", "x", "ps"]).ok().stdout;
        (!ps.contains("sleep 2000")).then_some(())
    });
    // What it began goes with it, and holds up nobody with the output that it has as well.
    let family = "sleep 3000 & sleep 4000";
    node.bayplan(&["exec", "--timeout", "300ms", "x", "sh", "-c", family]).exits(124);
    let ps = node.bayplan(&["exec", "x", "ps"]).ok().stdout;
    assert!(!ps.contains("sleep 3000") && !ps.contains("sleep 4000"), "{ps}");
    // The shim keeps the time of one that nobody waits for: no daemon need be there.
    node.bayplan(&["exec", "-d", "--timeout", "1500ms", "--exec-id", "alone", "x", "sh", "-c", family]).ok();
    let described = node.bayplan(&["describe", "container", "x"]).ok().stdout;
    assert!(described.contains("Execs:") && described.contains("alone"), "{described}");
    let inside = |node: &TestNode| node.bayplan(&["top", "x", "args"]).ok().stdout;
    assert!(inside(&node).contains("sleep 3000"));
    node.kill_daemon();
    eventually("its shim kills it", 20, || {
        let inside = inside(&node);
        (!inside.contains("sleep 3000") && !inside.contains("sleep 4000")).then_some(())
    });
    node.bayplan(&["exec", "-d", "--timeout", "300ms", "x", "sleep", "5000"]).ok();
    eventually("also when there was none from the start", 20, || (!inside(&node).contains("sleep 5000")).then_some(()));
    node.start_daemon();
    // Those that are not waited for go on by themselves, and their ids are free when they have ended.
    node.bayplan(&["exec", "-d", "--exec-id", "job", "x", "sh", "-c", "sleep 0.3; echo done >/tmp/done"]).ok();
    node.bayplan(&["exec", "--exec-id", "job", "x", "true"]).exits(125).says("already");
    eventually("it is done", 20, || (node.bayplan(&["exec", "x", "cat", "/tmp/done"]).status == 0).then_some(()));
    eventually("its id is free", 20, || {
        (node.bayplan(&["exec", "--exec-id", "job", "x", "true"]).status == 0).then_some(())
    });
    node.close();
}

#[test]
fn a_process_needs_a_container_that_runs() {
    let node = node();
    node.bayplan(&["exec", "ghost", "true"]).exits(125).says("ghost");
    node.bayplan(&["run", "-d", IMAGE, "x"]).ok();
    node.bayplan(&["stop", "x"]).ok();
    node.bayplan(&["exec", "x", "true"]).exits(125).says("bayplan -n default start x");
    node.bayplan(&["exec", "-d", "x", "true"]).exits(5).says("bayplan -n default start x");
    node.bayplan(&["pause", "x"]).exits(5).says("bayplan -n default start x");
    node.close();
}

#[test]
fn a_command_that_is_not_there_is_127() {
    let node = node();
    node.bayplan(&["run", "-d", IMAGE, "x"]).ok();
    node.bayplan(&["exec", "x", "nope"]).exits(127).says("nope");
    node.bayplan(&["exec", "-d", "x", "nope"]).exits(7).says("nope");
    node.bayplan(&["run", "--rm", IMAGE, "y", "nope"]).exits(127).says("nope");
    node.bayplan(&["exec", "x", "true"]).ok();
    node.close();
}

#[test]
fn a_command_that_cannot_be_executed_is_126() {
    let node = node();
    node.bayplan(&["run", "-d", IMAGE, "x"]).ok();
    node.bayplan(&["exec", "x", "/bin/not-executable"]).exits(126).says("permission denied");
    node.bayplan(&["run", "--rm", IMAGE, "y", "/bin/not-executable"]).exits(126).says("permission denied");
    node.bayplan(&["exec", "x", "true"]).ok();
    node.close();
}

#[test]
fn a_user_that_is_not_there_is_refused_by_name() {
    let node = node();
    node.bayplan(&["run", "-d", IMAGE, "x"]).ok();
    node.bayplan(&["exec", "-u", "ghost", "x", "true"]).exits(125).says("user \"ghost\" is not in");
    node.bayplan(&["exec", "-u", "app:ghosts", "x", "true"]).exits(125).says("group \"ghosts\" is not in");
    node.bayplan(&["run", "--rm", "-u", "ghost", IMAGE, "y"]).exits(125).says("user \"ghost\" is not in");
    node.close();
}

#[test]
fn a_directory_to_work_in_that_is_not_there_is_refused_by_name() {
    let node = node();
    node.bayplan(&["run", "-d", IMAGE, "x"]).ok();
    node.bayplan(&["exec", "-w", "/nope", "x", "true"]).exits(125).says("/nope is not a directory inside");
    node.bayplan(&["exec", "-w", "/etc/passwd", "x", "true"]).exits(125).says("is not a directory inside");
    node.bayplan(&["exec", "-w", "tmp", "x", "true"]).exits(125).says("\"tmp\" is not absolute");
    node.close();
}

#[test]
fn a_source_to_mount_that_is_not_there_makes_nothing() {
    let node = node();
    node.bayplan(&["run", "-d", "-v", "/no/such/thing:/data", IMAGE, "y"]).exits(7).says("/no/such/thing");
    assert!(node.container("default", "y").is_none());
    node.close();
}

#[test]
fn what_is_read_only_is_not_written() {
    let node = node();
    node.bayplan(&["run", "--rm", "--read-only", IMAGE, "y", "touch", "/var/x"]).exits(1).says("Read-only file system");
    let mount = format!("{}:/data:ro", node.dir().display());
    node.bayplan(&["run", "--rm", "-v", &mount, IMAGE, "y", "touch", "/data/x"]).exits(1).says("Read-only file system");
    node.close();
}

#[test]
fn slips_are_explained() {
    let node = node();
    node.bayplan(&["run", "-d", IMAGE, "x"]).ok();
    node.bayplan(&["exec", "x"]).exits(2).says("COMMAND is missing");
    node.bayplan(&["exec", "--nope", "x", "true"]).exits(2).says("there is no flag --nope");
    node.bayplan(&["exec", "--cap-add", "NET_ADMNI", "x", "true"]).exits(125).says("did you mean NET_ADMIN?");
    node.bayplan(&["exec", "--exec-id", "a/b", "x", "true"]).exits(125).says("is not a process's id");
    node.close();
}

#[test]
fn a_frozen_container_stands_still_and_is_as_declared() {
    let mut node = node();
    node.manifest(
        "x.yaml",
        format!("apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: x}}\nspec: {{image: '{IMAGE}'}}\n"),
    );
    let inside = node.running("default", "x");
    let count = || {
        let text = fs::read_to_string(format!("/proc/{inside}/root/tmp/count")).unwrap_or_default();
        text.trim().parse::<u64>().ok()
    };
    let counted = |than: u64| eventually("it counts", 20, || count().filter(|count| *count > than));
    counted(0);
    node.bayplan(&["pause", "x"]).ok();
    node.bayplan(&["pause", "x"]).ok();
    let frozen = node.container("default", "x").unwrap();
    assert_eq!((&frozen["status"]["phase"], &frozen["status"]["ready"]), (&"Paused".into(), &false.into()));
    let before = count();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(count(), before, "it stands still");
    // Nobody takes it for something to be mended: no plan, no restart, through a new daemon too.
    node.converged();
    assert_eq!(node.bayplan(&["diff"]).ok().steps(), Vec::<String>::new());
    node.kill_daemon();
    node.start_daemon();
    node.converged();
    assert_eq!(node.container("default", "x").unwrap()["status"]["phase"], "Paused");
    let ps = node.bayplan(&["ps"]).ok();
    assert!(ps.stdout.lines().any(|line| line.contains('x') && line.contains("Paused")), "{}", ps.stdout);
    node.bayplan(&["exec", "x", "true"]).exits(125).says("bayplan -n default unpause x");
    node.bayplan(&["start", "x"]).exits(5).says("unpause");
    node.bayplan(&["unpause", "x"]).ok();
    node.bayplan(&["unpause", "x"]).exits(5).says("is not paused");
    assert_eq!(node.running("default", "x"), inside);
    counted(before.unwrap_or(0));
    node.bayplan(&["exec", "x", "true"]).ok();
    node.remove_manifest("x.yaml");
    eventually("it goes", 30, || node.container("default", "x").is_none().then_some(()));
    node.close();
}

#[test]
fn a_frozen_container_can_be_ended() {
    let node = node();
    for end in
        [&["stop", "x"][..], &["kill", "-s", "KILL", "x"], &["task", "kill", "-a", "-s", "9", "x"], &["rm", "-f", "x"]]
    {
        node.bayplan(&["run", "-d", IMAGE, "x"]).ok();
        let inside = node.running("default", "x");
        node.bayplan(&["task", "pause", "x"]).ok();
        node.bayplan(end).ok();
        eventually("it is dead", 20, || (!lives(inside)).then_some(()));
        if end[0] != "rm" {
            node.phase("default", "x", "Exited");
            node.bayplan(&["rm", "x"]).ok();
        }
    }
    // One that goes on is the same as before.
    node.bayplan(&["run", "-d", IMAGE, "x"]).ok();
    node.bayplan(&["task", "pause", "x"]).ok();
    node.bayplan(&["task", "resume", "x"]).ok();
    Run::exits(node.bayplan(&["stop", "x"]), 0);
    assert_eq!(node.phase("default", "x", "Exited")["status"]["exitCode"], 137, "the image's stop signal is SIGKILL");
    node.close();
}
