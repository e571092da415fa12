//! What people do to running containers by hand, at a terminal of their own.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::image::Image;
use crate::node::{TestNode, environment, lives};
use crate::terminal::Terminal;
use crate::wait::eventually;

pub const IMAGE: &str = "registry.local/box:1";

/// A shell for what is typed, `bash` for what expects one, and something that stays.
pub fn node_with_daemon() -> TestNode {
    let mut node = without_daemon(&["default"]);
    node.start_daemon();
    node
}

pub fn without_daemon(namespaces: &[&str]) -> TestNode {
    let node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox()
        .layer(|layer| {
            for applet in ["stty", "tty"] {
                layer.link(&format!("bin/{applet}"), "busybox");
            }
            layer.file("bin/bash", 0o755, b"#!/bin/sh\nexec sh \"$@\"\n");
            layer.file("run.sh", 0o755, b"echo reporting; touch /host-etc/written 2>/dev/null; exec sleep 100000\n");
        })
        .script("trap 'exit 3' TERM; while :; do sleep 0.1; done")
        .oci_archive(&archive, Some(IMAGE));
    for namespace in namespaces {
        node.bayplan(&["-n", namespace, "load", archive.to_str().unwrap()]).ok();
    }
    node
}

pub fn sessions(node: &TestNode) -> usize {
    fs::read_dir(node.state().join("fifo")).map_or(0, Iterator::count)
}

/// Prompts of busybox' shell end so.
pub const PROMPT: &str = "# ";

#[test]
fn the_users_line_is_a_shell_at_a_terminal() {
    let node = node_with_daemon();
    let mut shell = Terminal::open(&node, &["run", "-t", "--rm", IMAGE, "down", "sh"]);
    shell.expect(PROMPT);
    shell.becomes_raw(true);
    let inside = node.running("default", "down");
    assert_eq!(environment(inside, "TERM").as_deref(), Some("xterm"));
    // The window's size, from the first moment and at every change.
    shell.send("stty size\r");
    shell.expect("24 80");
    shell.resize(132, 43);
    eventually("the new size arrives", 20, || {
        shell.send("stty size\r");
        shell.expect(PROMPT);
        shell.screen().contains("43 132").then_some(())
    });
    // ^C goes to what runs there, by its own terminal; ^D and ^Z are no keys of ours.
    shell.send("sleep 1000; echo status=$?\r");
    eventually("it sleeps", 20, || node.bayplan(&["exec", "down", "ps"]).stdout.contains("sleep 1000").then_some(()));
    shell.send("\x03");
    shell.expect("^C");
    shell.expect(PROMPT);
    shell.send("echo $((6*7)); tty\r");
    shell.expect("42");
    shell.expect("/dev/pts/");
    shell.send("exit 7\r");
    assert_eq!(shell.ends(), 7, "{}", shell.screen());
    assert!(node.container("default", "down").is_none(), "--rm");
    assert_eq!(sessions(&node), 0);
    node.close();
}

#[test]
fn closing_the_terminal_ends_its_task() {
    let node = node_with_daemon();
    let mut shell = Terminal::open(&node, &["run", "-t", "--rm", IMAGE, "down", "sh"]);
    shell.expect(PROMPT);
    let inside = node.running("default", "down");
    shell.close();
    shell.ends();
    assert!(!lives(inside));
    eventually("it is gone", 20, || node.container("default", "down").is_none().then_some(()));
    assert_eq!(sessions(&node), 0);
    node.close();
}

#[test]
fn the_terminal_is_given_back_whatever_happens() {
    let node = node_with_daemon();
    let mut shell = Terminal::open(&node, &["run", "-t", "--rm", IMAGE, "down", "sh"]);
    shell.expect(PROMPT);
    shell.becomes_raw(true);
    shell.signal(Signal::SIGTSTP);
    shell.becomes_raw(false);
    let state = || fs::read_to_string(format!("/proc/{}/stat", shell.pid())).unwrap();
    eventually("it is stopped", 20, || state().contains(") T ").then_some(()));
    shell.signal(Signal::SIGCONT);
    shell.becomes_raw(true);
    shell.send("echo on-we-go\r");
    shell.expect("on-we-go");
    // A shell as the first process does not hear SIGTERM: it is ended all the same.
    shell.signal(Signal::SIGTERM);
    assert_ne!(shell.ends(), 0);
    eventually("it is gone", 20, || node.container("default", "down").is_none().then_some(()));
    assert_eq!(sessions(&node), 0);
    node.close();
}

#[test]
fn the_report_runs_as_it_is_written() {
    let mut node = without_daemon(&["k8s.io"]);
    node.start_daemon();
    let password = "hunter 2";
    let written = Path::new("/etc/written");
    assert!(!written.exists());
    // As a person types it; only the quotes are the shell's.
    let line = format!(
        "-n k8s.io run --null-io --net-host -d --env|PASSWORD={password}|--mount type=bind,src=/etc,dst=/host-etc,options=rbind:rw {IMAGE} sysreport bash /run.sh"
    );
    let words: Vec<&str> = line
        .split('|')
        .enumerate()
        .flat_map(|(at, part)| if at == 1 { vec![part] } else { part.split(' ').collect() })
        .collect();
    node.bayplan(&words).ok();
    let inside = node.running("k8s.io", "sysreport");
    assert_eq!(environment(inside, "PASSWORD").as_deref(), Some(password));
    eventually("the host's directory is its own", 20, || written.exists().then_some(()));
    fs::remove_file(written).unwrap();
    let of = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    assert_eq!(of(inside, "net"), of(std::process::id(), "net"));
    assert_ne!(of(inside, "pid"), of(std::process::id(), "pid"));
    node.bayplan(&["-n", "k8s.io", "exec", "sysreport", "sh", "-c", "test \"$PASSWORD\" = 'hunter 2'"]).ok();
    node.close();
}

#[test]
fn tasks_are_seen_entered_killed_and_removed_as_by_ctr() {
    let node = node_with_daemon();
    node.bayplan(&["run", "-d", IMAGE, "x"]).ok();
    let inside = node.running("default", "x");
    let mut shell = Terminal::open(&node, &["task", "exec", "--exec-id", "0", "-t", "x", "sh"]);
    shell.expect(PROMPT);
    shell.send("stty size; id -u\r");
    shell.expect("24 80");
    shell.resize(100, 50);
    eventually("the new size arrives", 20, || {
        shell.send("stty size\r");
        shell.expect(PROMPT);
        shell.screen().contains("50 100").then_some(())
    });
    node.bayplan(&["task", "exec", "--exec-id", "0", "x", "true"]).exits(125).says("a process 0 in it already");
    let ls = node.bayplan(&["task", "ls"]).ok();
    assert!(ls.stdout.lines().any(|line| line.starts_with('x') && line.contains(&inside.to_string())), "{}", ls.stdout);
    shell.send("exit 4\r");
    assert_eq!(shell.ends(), 4, "{}", shell.screen());
    // Its id is free again.
    node.bayplan(&["task", "exec", "--exec-id", "0", "x", "true"]).ok();
    node.bayplan(&["container", "rm", "x"]).exits(5).says("bayplan -n default stop x");
    let mut entered = Terminal::open(&node, &["exec", "-t", "x", "sh"]);
    entered.expect(PROMPT);
    node.bayplan(&["task", "kill", "-a", "-s", "9", "x"]).ok();
    assert_eq!(entered.ends(), 137, "{}", entered.screen());
    eventually("it is dead", 20, || (!lives(inside)).then_some(()));
    node.phase("default", "x", "Exited");
    node.bayplan(&["exec", "x", "true"]).exits(125).says("bayplan -n default start x");
    node.bayplan(&["container", "rm", "x"]).ok();
    assert_eq!(sessions(&node), 0);
    node.close();
}

#[test]
pub fn sessions_survive_the_end_of_the_daemon() {
    let mut node = node_with_daemon();
    let mut run = Terminal::open(&node, &["run", "-t", "--rm", IMAGE, "down", "sh"]);
    run.expect(PROMPT);
    let mut exec = Terminal::open(&node, &["exec", "-t", "down", "sh"]);
    exec.expect(PROMPT);
    node.kill_daemon();
    exec.send("echo nobody-there\r");
    exec.expect("nobody-there");
    run.send("echo still-here\r");
    run.expect("still-here");
    run.expect("its end is waited for");
    node.start_daemon();
    exec.send("exit 5\r");
    assert_eq!(exec.ends(), 5, "{}", exec.screen());
    node.kill_daemon();
    // It ends while nobody looks: the next daemon knows how.
    run.send("exit 6\r");
    node.start_daemon();
    assert_eq!(run.ends(), 6, "{}", run.screen());
    eventually("it is gone", 20, || node.container("default", "down").is_none().then_some(()));
    assert_eq!(sessions(&node), 0);
    node.close();
}

#[test]
fn with_no_daemon_a_terminal_is_the_same() {
    let node = without_daemon(&["default"]);
    node.bayplan(&["run", "-d", "-t", IMAGE, "down", "sh"]).ok();
    let mut exec = Terminal::open(&node, &["exec", "-t", "down", "sh"]);
    exec.expect(PROMPT);
    exec.send("stty size\r");
    exec.expect("24 80");
    exec.send("exit 3\r");
    assert_eq!(exec.ends(), 3, "{}", exec.screen());
    node.bayplan(&["stop", "-t", "0", "down"]).ok();
    // Its terminal is part of what it is.
    let mut again = Terminal::open(&node, &["start", "-a", "down"]);
    again.expect(PROMPT);
    again.send("exit 8\r");
    assert_eq!(again.ends(), 8, "{}", again.screen());
    node.close();
}

#[test]
fn a_terminal_without_one_on_this_side_works_through_pipes() {
    let node = node_with_daemon();
    let typed = node.file("typed", "stty size; tty; echo done=$((1+1))\nexit 11\n");
    let mut command = node.command(&["run", "-t", "--rm", IMAGE, "down", "sh"]);
    let run = crate::node::Run::of(command.stdin(fs::File::open(&typed).unwrap())).exits(11);
    assert!(run.stdout.contains("done=2") && run.stdout.contains("/dev/pts/"), "{}", run.stdout);
    // The end of input is the end for a shell, as ^D is.
    let typed = node.file("typed", "echo fin\n");
    let mut command = node.command(&["run", "-t", "--rm", IMAGE, "down", "sh"]);
    let run = crate::node::Run::of(command.stdin(fs::File::open(&typed).unwrap())).ok();
    assert!(run.stdout.contains("fin"), "{}", run.stdout);
    // Also where the shell begins to edit lines after it came, and so does not see it.
    let mut command = node.command(&["run", "-t", "--rm", IMAGE, "down", "sh", "-c", "sleep 0.5; exec sh"]);
    let run = crate::node::Run::of(command.stdin(fs::File::open(&typed).unwrap())).ok();
    assert!(run.stdout.contains("fin"), "{}", run.stdout);
    node.close();
}
