//! Runtimes that hang, shout, break or are not there: each harms its own container only, and not for long.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::image::Image;
use crate::node::{Run, TestNode, lives};
use crate::wait::{eventually, patience};

/// What an end may take though the runtime hangs: half a second for the start, five for a clean-up, and the rest.
fn promptly() -> Duration {
    Duration::from_secs(10) * patience()
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// A node with the image `registry.local/box:1` and the runtime `odd`, which is this script.
fn node(odd: &str) -> TestNode {
    let node = TestNode::new();
    let path = node.dir().join("odd");
    script(&path, odd);
    node.configure(&format!("[runtimes.odd]\npath = \"{}\"\n", path.display()));
    let archive = node.dir().join("box.tar");
    Image::busybox().script("exec sleep 100000").oci_archive(&archive, Some("registry.local/box:1"));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node
}

/// Hangs in `create` when runc has done its work, having said so in a file; other verbs are runc's.
fn hangs(dir_file: &str) -> String {
    format!(
        "case \"$*\" in *\" create \"*) runc \"$@\"; sleep 100000 & echo $! > \"$(dirname \"$0\")/{dir_file}\"; wait;; esac\n\
         exec runc \"$@\""
    )
}

/// The process of the runtime that hangs now.
fn hanging(node: &TestNode) -> u32 {
    let file = node.dir().join("hanging");
    let pid = eventually("the runtime hangs", 30, || fs::read_to_string(&file).ok()?.trim().parse().ok());
    fs::remove_file(file).unwrap();
    pid
}

fn container(name: &str, fields: &str) -> String {
    format!(
        "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: {name}}}\n\
         spec: {{image: 'registry.local/box:1', imagePullPolicy: Never, {fields}}}\n"
    )
}

fn spawn(node: &TestNode, args: &[&str]) -> Child {
    node.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn said(child: Child) -> (i32, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_hangs_while_it_is_made_is_stopped_removed_and_replaced_all_the_same() {
    let mut node = node(&hangs("hanging"));
    node.start_daemon();

    // By hand: `rm -f` gets through, and who waited for the start is told.
    let run = spawn(&node, &["run", "-d", "--runtime", "odd", "registry.local/box:1", "byhand"]);
    let process = hanging(&node);
    let began = Instant::now();
    node.bayplan(&["rm", "-f", "byhand"]).ok();
    assert!(began.elapsed() < promptly(), "rm -f took {:?}", began.elapsed());
    let (status, stderr) = said(run);
    assert!(status != 0 && stderr.contains("its end is wanted"), "{status}: {stderr}");
    assert!(!lives(process) && node.container("default", "byhand").is_none());

    // By manifest: the file goes, and so does the container.
    node.manifest("one.yaml", container("one", "runtime: odd"));
    let process = hanging(&node);
    let began = Instant::now();
    node.remove_manifest("one.yaml");
    eventually("a removal by manifest", 30, || node.container("default", "one").is_none().then_some(()));
    assert!(began.elapsed() < promptly(), "the removal took {:?}", began.elapsed());
    assert!(!lives(process));

    // The manifest is mended: the container is made by another runtime, nobody waits for this one.
    node.manifest("two.yaml", container("two", "runtime: odd"));
    let process = hanging(&node);
    let began = Instant::now();
    node.manifest("two.yaml", container("two", "env: {MENDED: 'yes'}"));
    node.running("default", "two");
    assert!(began.elapsed() < promptly(), "the replacement took {:?}", began.elapsed());
    assert!(!lives(process));
    node.converged();

    // Stopped by hand: it stays down, and that is no failure. Who waits for it, before or after, is told.
    node.manifest("three.yaml", container("three", "runtime: odd"));
    let process = hanging(&node);
    let began = Instant::now();
    let waited = std::thread::scope(|scope| {
        let waits = scope.spawn(|| node.exit_of("three", 1));
        node.bayplan(&["stop", "three"]).ok();
        waits.join().unwrap()
    });
    for waited in [waited, node.exit_of("three", 1)] {
        let fault = waited.unwrap_err();
        assert!(fault.message.contains("attempt 1 of container default/three never ran"), "{}", fault.message);
    }
    assert!(began.elapsed() < promptly(), "stop took {:?}", began.elapsed());
    assert!(!lives(process));
    node.converged();
    assert_eq!(node.container("default", "three").unwrap()["status"]["phase"], "Created", "it never ran");
    node.close();
}

#[test]
fn a_daemon_that_died_while_its_runtime_hung_leaves_nothing_in_the_next_ones_way() {
    let mut node = node(&hangs("hanging"));
    node.start_daemon();
    node.manifest("one.yaml", container("one", "runtime: odd"));
    let process = hanging(&node);
    node.kill_daemon();
    assert!(lives(process));
    // The runtime is well again.
    script(&node.dir().join("odd"), "exec runc \"$@\"");
    let began = Instant::now();
    node.start_daemon();
    node.running("default", "one");
    assert!(began.elapsed() < promptly(), "{:?}", began.elapsed());
    assert!(!lives(process));
    node.converged();
    node.close();
}

#[test]
fn a_runtime_that_shouts_holds_up_no_foreground_and_nothing_of_it_is_lost() {
    let shout = "case \"$*\" in *\" create \"*) head -c 300000 /dev/zero | tr '\\0' o; head -c 300000 /dev/zero | tr '\\0' e >&2;; esac\n\
                 exec runc \"$@\"";
    let mut node = node(shout);
    for daemon in [false, true] {
        if daemon {
            node.start_daemon();
        }
        let run = node.bayplan(&[
            "run",
            "--rm",
            "--runtime",
            "odd",
            "registry.local/box:1",
            "loud",
            "sh",
            "-c",
            "echo out; echo err >&2; exit 7",
        ]);
        assert_eq!(run.status, 7, "{}", run.stderr.trim_start_matches('e'));
        assert_eq!(run.stdout.len(), 300_000 + "out\n".len(), "standard output, daemon: {daemon}");
        assert!(run.stdout.ends_with("oout\n"));
        assert_eq!(run.stderr.len(), 300_000 + "err\n".len(), "standard error, daemon: {daemon}");
        assert!(run.stderr.ends_with("eerr\n"));
    }
    node.close();
}

#[test]
fn a_runtime_that_breaks_is_quoted() {
    let node = node("echo 'odd: error while loading shared libraries: libodd.so.1' >&2; exit 127");
    let run: Run = node.bayplan(&["run", "-d", "--runtime", "odd", "registry.local/box:1", "broken"]);
    run.exits(7)
        .says("container default/broken")
        .says("exited with status 127 and said: odd: error while loading shared");
    assert!(node.container("default", "broken").is_none());
    node.close();
}

#[test]
fn what_runs_a_container_is_missed_before_anything_is_made_or_taken_away() {
    let mut node = node("exec runc \"$@\"");
    let run = |node: &TestNode, runtime: &str| {
        let run = node.bayplan(&["run", "-d", "--runtime", runtime, "registry.local/box:1", "none"]);
        assert!(node.container("default", "none").is_none());
        assert!(!node.state().join("tasks/default").exists(), "a bundle was made");
        run
    };
    run(&node, "io.containerd.nosuch.v2")
        .exits(7)
        .says("the shim containerd-shim-nosuch-v2 of runtime io.containerd.nosuch.v2 is not there")
        .says("help: ");
    // One that is there and does not start leaves nothing either.
    let foreign = node.dir().join("containerd-shim-other-v2");
    script(&foreign, "echo out of order >&2; exit 1");
    run(&node, foreign.to_str().unwrap()).exits(7).says("shim of default/none: start: out of order");
    run(&node, "crun2").exits(3).says("runtime crun2 is not configured").says("[runtimes.crun2]");

    node.configure("[runtimes.runc]\npath = \"/nowhere/runc\"\n");
    run(&node, "runc").exits(7).says("/nowhere/runc is not there").says("apt-get install runc");
    node.configure("[shim]\npath = \"/nowhere/bayplan-shim\"\n");
    run(&node, "runc").exits(7).says("the shim /nowhere/bayplan-shim is not there").says("[shim] path");

    // What worked is not taken down for what cannot work.
    node.configure("");
    node.start_daemon();
    node.manifest("one.yaml", container("one", "env: {A: '1'}"));
    let pid = node.running("default", "one");
    node.manifest("one.yaml", container("one", "env: {A: '2'}, runtime: io.containerd.nosuch.v2"));
    eventually("the failure is told", 30, || {
        node.bayplan(&["status"]).stdout.contains("containerd-shim-nosuch-v2").then_some(())
    });
    assert!(lives(pid), "the container that worked goes on");
    node.close();
}
