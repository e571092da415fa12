//! People who come to what runs already, and leave it running.

use std::io::Write as _;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::interactive::{IMAGE, PROMPT, node_with_daemon, sessions, without_daemon};
use crate::node::lives;
use crate::terminal::Terminal;
use crate::wait::eventually;

#[test]
fn who_leaves_by_the_keys_comes_back_by_attach() {
    let node = node_with_daemon();
    let mut shell = Terminal::open(&node, &["run", "-t", "--rm", IMAGE, "down", "sh"]);
    shell.expect(PROMPT);
    shell.send("A=kept\r");
    shell.expect(PROMPT);
    shell.send("\x10\x11");
    assert_eq!(shell.ends(), 0);
    assert!(shell.screen().contains("bayplan -n default attach down"), "{}", shell.screen());
    let inside = node.running("default", "down");
    assert_eq!(sessions(&node), 0);

    // Two at once see the same; other keys leave by themselves.
    let mut one = Terminal::open(&node, &["attach", "down"]);
    one.send("\r");
    one.expect(PROMPT);
    let mut two = Terminal::open(&node, &["task", "attach", "--detach-keys", "ctrl-a,d", "down"]);
    two.becomes_raw(true);
    eventually("both are there", 20, || (sessions(&node) == 2).then_some(()));
    one.send("echo A is $A\r");
    one.expect("A is kept");
    two.expect("A is kept");
    two.send("\x01d");
    assert_eq!(two.ends(), 0);
    one.send("exit 9\r");
    assert_eq!(one.ends(), 9, "{}", one.screen());
    assert!(!lives(inside));
    assert_eq!(sessions(&node), 0);
    node.close();
}

#[test]
fn a_guest_whose_terminal_goes_only_goes() {
    let node = node_with_daemon();
    node.bayplan(&["run", "-d", "-t", IMAGE, "stays", "sh"]).ok();
    let inside = node.running("default", "stays");
    for ending in ["closed", "terminated", "left"] {
        let mut guest = Terminal::open(&node, &["attach", "stays"]);
        guest.send("\r");
        guest.expect(PROMPT);
        match ending {
            "closed" => guest.close(),
            "terminated" => guest.signal(Signal::SIGTERM),
            _ => guest.send("\x10\x11"),
        }
        assert_eq!(guest.ends(), 0, "{ending}");
        assert_eq!(node.running("default", "stays"), inside);
    }
    assert_eq!(sessions(&node), 0);
    node.close();
}

#[test]
fn without_a_terminal_a_guest_sees_what_is_written_and_how_it_ends() {
    let node = node_with_daemon();
    let script = "trap 'echo told; exit 12' INT; while :; do echo tick; sleep 0.1; done";
    node.bayplan(&["run", "-d", IMAGE, "ticks", "sh", "-c", script]).ok();
    let log = node.dir().join("seen");
    let mut guest = node.bare(&["attach", "ticks"]);
    let mut guest = guest.stdout(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    let seen =
        |text: &str| eventually(text, 20, || std::fs::read_to_string(&log).unwrap().contains(text).then_some(()));
    seen("tick");
    crate::node::signal(guest.id(), Signal::SIGINT);
    assert_eq!(guest.wait().unwrap().code(), Some(12));
    seen("told");
    // Its log has it as well.
    let logs = node.bayplan(&["logs", "ticks"]).ok().stdout;
    assert!(logs.contains("tick") && logs.contains("told"), "{logs}");
    node.bayplan(&["attach", "ticks"]).exits(125).says("bayplan -n default start ticks");
    node.bayplan(&["attach", "ghost"]).exits(125).says("ghost");
    assert_eq!(sessions(&node), 0);
    node.close();
}

#[test]
fn what_is_open_for_input_takes_it_from_whoever_comes() {
    let node = node_with_daemon();
    let script = "while read line; do echo got $line; done; echo over";
    node.bayplan(&["run", "-d", "-i", IMAGE, "reads", "sh", "-c", script]).ok();
    let inside = node.running("default", "reads");
    assert_eq!(node.container("default", "reads").unwrap()["spec"]["stdin"], true);
    let log = node.dir().join("seen");
    for word in ["one", "two"] {
        let mut guest = node.bare(&["attach", "reads"]);
        let mut guest = guest.stdin(Stdio::piped()).stdout(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        writeln!(guest.stdin.as_mut().unwrap(), "{word}").unwrap();
        let got = format!("got {word}\n");
        eventually("it reads", 20, || (std::fs::read_to_string(&log).unwrap() == got).then_some(()));
        // Neither the end of a guest's input nor its own is the end of the process's.
        drop(guest.stdin.take());
        guest.kill().unwrap();
        guest.wait().unwrap();
        assert_eq!(node.running("default", "reads"), inside);
    }
    assert_eq!(node.bayplan(&["logs", "reads"]).ok().stdout, "got one\ngot two\n");
    node.bayplan(&["rm", "-f", "reads"]).ok();

    // Whoever starts it with an input of its own owns the end as well.
    node.bayplan(&["create", "-i", IMAGE, "once", "sh", "-c", script]).ok();
    let mut once = node.command(&["start", "-i", "once"]);
    let mut once = once.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    once.stdin.take().unwrap().write_all(b"three\n").unwrap();
    let output = once.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()),
        (Some(0), "got three\nover\n")
    );
    let foreign = ["run", "-d", "-i", "--runtime", "io.containerd.runc.v2", IMAGE, "other", "sleep", "9"];
    node.bayplan(&foreign).exits(5).says("leave `stdin` out");
    node.close();
}

#[test]
fn with_no_daemon_a_guest_is_the_same() {
    let node = without_daemon(&["default"]);
    node.bayplan(&["run", "-d", "-t", IMAGE, "down", "sh"]).ok();
    let inside = node.running("default", "down");
    let mut guest = Terminal::open(&node, &["attach", "down"]);
    guest.send("\r");
    guest.expect(PROMPT);
    guest.send("\x10\x11");
    assert_eq!(guest.ends(), 0);
    assert!(lives(inside));
    node.close();
}
