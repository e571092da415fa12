//! Which words run: ENTRYPOINT, CMD, and the words that replace them. Exit statuses of the foreground.

use nix::sys::signal::Signal;

use crate::image::Image;
use crate::node::{TestNode, signal};
use crate::wait::eventually;

const IMAGE: &str = "registry.local/lab/lister:1";

fn with_lister() -> TestNode {
    let node = TestNode::new();
    let archive = node.dir().join("lister.tar");
    Image::busybox().workdir("/etc").entrypoint(&["ls"]).cmd(&["/"]).oci_archive(&archive, Some(IMAGE));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node
}

#[test]
fn no_command_runs_entrypoint_with_cmd() {
    let node = with_lister();
    let run = node.bayplan(&["run", "--rm", "--net-host", IMAGE, "one"]).ok();
    assert!(
        run.stdout.lines().any(|line| line == "etc") && run.stdout.lines().any(|line| line == "proc"),
        "{}",
        run.stdout
    );
    node.close();
}

#[test]
fn a_command_replaces_both() {
    let node = with_lister();
    let run = node.bayplan(&["run", "--rm", "--net-host", IMAGE, "one", "ls"]).ok();
    assert!(run.stdout.lines().any(|line| line == "passwd"), "ls in WORKDIR /etc:\n{}", run.stdout);
    assert_eq!(node.bayplan(&["run", "--rm", "--net-host", IMAGE, "two", "pwd"]).ok().stdout, "/etc\n");
    assert_eq!(
        node.bayplan(&["run", "--rm", "--net-host", "--cwd", "/tmp", IMAGE, "three", "pwd"]).ok().stdout,
        "/tmp\n"
    );
    node.close();
}

#[test]
fn the_foreground_ends_with_the_process_own_status() {
    let mut node = with_lister();
    node.bayplan(&["run", "--rm", IMAGE, "seven", "sh", "-c", "exit 7"]).exits(7);
    let both = node.bayplan(&["run", "--rm", IMAGE, "streams", "sh", "-c", "echo out; echo err >&2"]).ok();
    assert_eq!((both.stdout.as_str(), both.stderr.trim_end()), ("out\n", "err"));
    node.bayplan(&["run", "--rm", IMAGE, "absent", "no-such-program"]).exits(127);
    node.bayplan(&["run", "--rm", IMAGE, "data", "/etc/passwd"]).exits(126);
    node.bayplan(&["run", "--rm", "registry.local/no/such:1", "none"]).exits(125);
    // Without a daemon the command holds the node's lock, and nobody could ask for the process.
    node.start_daemon();
    // A name that is given again brings its own exit, not the one before's.
    for (seconds, status) in [("0", 4), ("1", 5)] {
        let words = format!("sleep {seconds}; exit {status}");
        let again = node.bayplan(&["run", "--rm", IMAGE, "again", "sh", "-c", &words]).exits(status);
        assert_eq!(again.stderr, "");
    }
    // From outside: the kernel keeps process 1 from killing itself.
    let mut killed = node.command(&["run", "--rm", IMAGE, "killed", "sleep", "1000"]).spawn().unwrap();
    signal(node.running("default", "killed"), Signal::SIGKILL);
    let status = eventually("the command ends with its container", 20, || killed.try_wait().unwrap());
    assert_eq!(status.code(), Some(137));
    node.close();
}

#[test]
fn flags_reach_the_process() {
    let node = with_lister();
    let shared = node.dir().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("word"), "given").unwrap();
    let mount = format!("type=bind,src={},dst=/shared,options=rbind:ro", shared.display());
    let run = node
        .bayplan(&[
            "run",
            "--rm",
            "--env",
            "COLOUR=red",
            "--mount",
            &mount,
            IMAGE,
            "flags",
            "sh",
            "-c",
            "echo $COLOUR; cat /shared/word; echo; touch /shared/new 2>/dev/null || echo read-only",
        ])
        .ok();
    assert_eq!(run.stdout, "red\ngiven\nread-only\n");
    node.close();
}
