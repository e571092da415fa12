//! The same commands with no daemon: done all the same, and containers live on after the command.

use std::io::Read as _;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::image::Image;
use crate::node::{TestNode, lives, pid, signal};
use crate::wait::eventually;

const IMAGE: &str = "registry.local/box:1";

fn bare() -> TestNode {
    let node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox()
        .script("trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done")
        .oci_archive(&archive, Some(IMAGE));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node
}

fn manifest(node: &TestNode, name: &str) -> String {
    node.file(
        &format!("{name}.yaml"),
        format!("apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: {name}}}\nspec: {{image: '{IMAGE}', backoff: {{initial: 10ms, max: 10ms}}}}\n"),
    )
}

#[test]
fn what_is_applied_lives_on_and_is_kept_alive() {
    let node = bare();
    node.bayplan(&["apply", "-f", &manifest(&node, "one"), "--wait"]).ok();
    let first = pid(&node.phase("default", "one", "Running"));
    assert!(lives(first));
    let parent = std::fs::read_to_string(format!(
        "/proc/{}/status",
        node.container("default", "one").unwrap()["status"]["shimPid"]
    ))
    .unwrap();
    assert!(parent.lines().any(|line| line == "PPid:\t1"), "the shim's parent is init:\n{parent}");

    signal(first, Signal::SIGKILL);
    let one = eventually("its shim starts it again", 30, || {
        let one = node.container("default", "one")?;
        (one["status"]["phase"] == "Running" && one["status"]["pid"].as_u64()? != u64::from(first)).then_some(one)
    });
    assert_eq!(one["status"]["restarts"], 1);
    node.bayplan(&["delete", "-f", &manifest(&node, "one")]).ok();
    assert!(node.get("containers").is_empty() && !lives(pid(&one)));
    node.close();
}

#[test]
fn a_daemon_that_comes_later_adopts_it() {
    let mut node = bare();
    node.bayplan(&["apply", "-f", &manifest(&node, "one")]).ok();
    let first = node.running("default", "one");
    node.start_daemon();
    assert_eq!(node.running("default", "one"), first);
    node.converged();
    assert_eq!(
        node.container("default", "one").unwrap()["metadata"]["source"].as_str().map(|text| &text[..6]),
        Some("apply:")
    );
    node.close();
}

#[test]
fn by_hand_run_stop_start_rm() {
    let node = bare();
    node.bayplan(&["run", "-d", IMAGE, "hand"]).ok();
    let one = node.phase("default", "hand", "Running");
    assert_eq!(one["metadata"]["source"], "cli");
    node.bayplan(&["run", "-d", IMAGE, "hand"]).exits(5);
    node.bayplan(&["rm", "hand"]).exits(5);
    node.bayplan(&["stop", "hand"]).ok();
    assert!(!lives(pid(&one)));
    assert_ne!(node.container("default", "hand").unwrap()["status"]["phase"], "Running");
    node.bayplan(&["start", "hand"]).ok();
    let again = node.running("default", "hand");
    assert!(lives(again));
    let ps = node.bayplan(&["ps"]).ok();
    assert!(ps.stdout.lines().any(|line| line.contains("hand")), "{}", ps.stdout);
    node.bayplan(&["rm", "-f", "hand"]).ok();
    assert!(!lives(again) && node.get("containers").is_empty());
    node.bayplan(&["rm", "hand"]).exits(4);
    node.close();
}

#[test]
fn stopping_by_hand_stays_stopped_across_daemons() {
    let mut node = bare();
    node.manifest("one.yaml", std::fs::read_to_string(manifest(&node, "one")).unwrap());
    node.start_daemon();
    let first = node.running("default", "one");
    node.bayplan(&["stop", "one"]).ok();
    assert!(!lives(first));
    node.bayplan(&["sync"]);
    assert!(node.container("default", "one").unwrap()["status"]["pid"].is_null());
    node.kill_daemon();
    node.start_daemon();
    node.bayplan(&["sync"]);
    assert!(node.container("default", "one").unwrap()["status"]["pid"].is_null(), "a person stopped it");
    node.bayplan(&["start", "one"]).ok();
    node.running("default", "one");
    node.close();
}

#[test]
fn wait_ends_when_the_condition_comes_about() {
    let mut node = bare();
    node.start_daemon();
    let mut waiting =
        node.command(&["wait", "container/late", "--for", "running", "--timeout", "60s"]).spawn().unwrap();
    node.manifest("late.yaml", std::fs::read_to_string(manifest(&node, "late")).unwrap());
    let status = eventually("wait ends", 60, || waiting.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    node.bayplan(&["wait", "container/late", "--for", "exited", "--timeout", "100ms"]).exits(1);
    node.remove_manifest("late.yaml");
    node.bayplan(&["wait", "container/late", "--for", "deleted", "--timeout", "60s"]).ok();
    node.close();
}

#[test]
fn exit_statuses_and_machine_readable_output() {
    let node = bare();
    node.bayplan(&["no-such-verb"]).exits(2);
    node.bayplan(&["get", "container/none"]).exits(4);
    node.bayplan(&["describe", "container", "none"]).exits(4);
    let bad = node.file("bad.yaml", "kind: Nothing\n");
    node.bayplan(&["apply", "-f", &bad]).exits(3);
    node.bayplan(&["version", "-o", "json"]).ok().json();
    node.bayplan(&["info"]).ok();
    let default = node.bayplan(&["config", "default"]).ok();
    let path = node.file("default.toml", default.stdout);
    node.bayplan(&["--config", &path, "config", "check"]);
    node.bayplan(&["explain", "container.restart"]).ok();
    node.bayplan(&["schema", "container"]).ok().json();
    node.bayplan(&["apply", "-f", &manifest(&node, "one")]).ok();
    let names = node.bayplan(&["get", "containers", "-o", "name"]).ok();
    assert_eq!(names.stdout, "container/one\n");
    // What `-o yaml` prints can be applied.
    let yaml = node.bayplan(&["get", "container/one", "-o", "yaml"]).ok().stdout;
    assert!(yaml.contains("kind: Container"), "{yaml}");
    node.close();
}

#[test]
fn a_foreground_whose_reader_goes_ends_its_task() {
    let node = bare();
    let talk = "while :; do echo y; done";
    for (remove, name) in [(true, "gone"), (false, "stays")] {
        let flags: &[&str] = if remove { &["run", "--rm"] } else { &["run"] };
        let line = [flags, &[IMAGE, name, "sh", "-c", talk]].concat();
        let mut run = node.command(&line).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut first = [0; 2];
        run.stdout.take().unwrap().read_exact(&mut first).unwrap();
        let status = eventually("the command ends", 30, || run.try_wait().unwrap());
        assert_eq!((status.code(), &first), (Some(141), b"y\n"));
        let left = node.container("default", name);
        assert_eq!(left.is_none(), remove);
        assert!(left.is_none_or(|left| left["status"]["pid"].is_null()));
    }
    node.bayplan(&["rm", "stays"]).ok();
    node.close();
}

#[test]
fn what_a_killed_foreground_left_is_swept() {
    let node = bare();
    let mut run = node.command(&["run", "--rm", IMAGE, "job"]).stdout(Stdio::piped()).spawn().unwrap();
    run.stdout.take().unwrap().read_exact(&mut [0; 3]).unwrap();
    let pipes = || std::fs::read_dir(node.state().join("fifo")).unwrap().count();
    assert_eq!(pipes(), 1);
    // Who holds the lock is told, without what may be secret.
    let holder = std::fs::read_to_string(node.state().join("lock")).unwrap();
    let holder = holder.strip_suffix(" (bayplan run)\n").and_then(|holder| holder.strip_prefix("process ")).unwrap();
    signal(holder.parse().unwrap(), Signal::SIGKILL);
    run.wait().unwrap();
    node.bayplan(&["rm", "-f", "job"]).ok();
    assert_eq!(pipes(), 0);
    node.close();
}

#[test]
fn a_foreground_that_bayplan_cannot_begin_exits_with_125() {
    let node = bare();
    node.bayplan(&["run", IMAGE]).exits(2);
    node.configure("nonsense = true\n");
    node.bayplan(&["run", IMAGE, "job"]).exits(125);
    node.bayplan(&["task", "start", "job"]).exits(125);
    node.bayplan(&["run", "-d", IMAGE, "job"]).exits(3);
    node.configure("");
    node.close();
}
