//! What a container writes, read while it writes: nothing lost and nothing twice, over rotations and restarts.

use std::fs;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::image::Image;
use crate::node::{TestNode, signal};
use crate::wait::eventually;

const IMAGE: &str = "registry.local/box:1";
/// Lines of one attempt.
const LINES: usize = 120_000;

fn node() -> TestNode {
    let mut node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox().script("echo up; exec sleep 1000").oci_archive(&archive, Some(IMAGE));
    node.start_daemon();
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node
}

/// One that writes as fast as it can when it finds `/go`, three times, into small files of which four are kept.
fn writer(node: &TestNode) {
    let script =
        format!("while [ ! -e /go ]; do sleep 0.02; done; seq 1 {LINES}; echo end of it >&2; sleep 0.3; exit 1");
    let manifest = format!(
        "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: web}}\nspec:\n  image: '{IMAGE}'\n  \
         command: [sh, -c, '{script}']\n  restart: OnFailure\n  restartLimit: 2\n  backoff: {{initial: 10ms, max: 10ms}}\n  \
         logs: {{maxSize: 1Mi, maxFiles: 4}}\n"
    );
    node.bayplan(&["apply", "-f", &node.file("web.yaml", manifest)]).ok();
    node.running("default", "web");
}

#[test]
fn every_line_of_a_fast_writer_comes_once_over_rotations_and_restarts() {
    let node = node();
    writer(&node);
    let (out, err) = (node.dir().join("out"), node.dir().join("err"));
    let mut follow = node
        .command(&["logs", "-f", "web"])
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(&err).unwrap())
        .spawn()
        .unwrap();
    // It follows before there is anything: its watch on the directory is what it waits by.
    let daemon = node.daemon_pid();
    eventually("the log is watched", 30, || {
        let inotify = |entry: fs::DirEntry| {
            let info = fs::read_to_string(format!("/proc/{daemon}/fdinfo/{}", entry.file_name().to_str()?)).ok()?;
            // IN_MODIFY and IN_CREATE; what the manifests are watched by has more.
            info.lines().any(|line| line.starts_with("inotify ") && line.contains("mask:102")).then_some(())
        };
        fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().filter_map(Result::ok).find_map(inotify)
    });
    let go = node.file("go", "");
    node.bayplan(&["cp", &go, "web:/go"]).ok();
    let status = eventually("following ends with the container", 120, || follow.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    let text = fs::read_to_string(&out).unwrap();
    let numbers: Vec<usize> = text.lines().map(|line| line.parse().unwrap()).collect();
    let wrong = numbers.iter().enumerate().find(|(at, number)| **number != at % LINES + 1);
    assert_eq!((wrong, numbers.len()), (None, 3 * LINES));
    assert_eq!(fs::read_to_string(&err).unwrap(), "end of it\n".repeat(3));

    // What is kept of the last attempt, and of the one before it.
    let last = |args: &[&str]| node.bayplan(&[&["logs"], args, &["web"]].concat()).ok();
    let tail = last(&["--tail", "3"]);
    // Two pipes have no order between them: the other stream's line is among these or just before them.
    assert_eq!(tail.stdout.lines().count() + tail.stderr.lines().count(), 3);
    assert!(tail.stdout.ends_with(&format!("\n{LINES}\n")), "{}", tail.stdout);
    assert!(last(&[]).stdout.ends_with(&format!("\n{LINES}\n")));
    assert!(last(&["--previous"]).stdout.ends_with(&format!("\n{LINES}\n")));
    assert_eq!(last(&["--since", "2999-01-01T00:00:00Z"]).stdout, "");
    assert_eq!(last(&["--until", "1999-01-01T00:00:00Z"]).stdout, "");
    let both = last(&["--since", "1h", "--tail", "2"]);
    assert_eq!(both.stdout.lines().count() + both.stderr.lines().count(), 2);
    let timed = last(&["-t", "--tail", "2"]).stdout;
    assert!(timed.contains("Z ") && timed.trim_end().ends_with(&LINES.to_string()), "{timed}");
    node.bayplan(&["delete", "container", "web"]).ok();
    node.close();
}

#[test]
fn files_that_rotated_away_while_the_reader_stood_still_are_counted_where_they_were() {
    const LAST: usize = 250_000;
    const SIZE: usize = 1 << 20;
    let node = node();
    let marks = node.dir().join("marks");
    fs::create_dir(&marks).unwrap();
    let script = format!("echo begin; while [ ! -e /marks/go ]; do sleep 0.02; done; seq 1 {LAST}; exec sleep 1000");
    let manifest = format!(
        "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: web}}\nspec:\n  image: '{IMAGE}'\n  \
         command: [sh, -c, '{script}']\n  mounts: ['{}:/marks']\n  logs: {{maxSize: 1Mi, maxFiles: 3}}\n",
        marks.display()
    );
    node.bayplan(&["apply", "-f", &node.file("web.yaml", manifest)]).ok();
    node.running("default", "web");
    let log = node.container("default", "web").unwrap()["status"]["logPath"].as_str().unwrap().to_owned();
    let (out, err) = (node.dir().join("out"), node.dir().join("err"));
    let mut follow = node
        .command(&["logs", "-f", "web"])
        .stdout(fs::File::create(&out).unwrap())
        .stderr(fs::File::create(&err).unwrap())
        .spawn()
        .unwrap();
    let has = |path: &std::path::Path, end: &str| fs::read_to_string(path).unwrap().ends_with(end).then_some(());
    eventually("what is there is read", 30, || has(&out, "begin\n"));
    signal(node.daemon_pid(), Signal::SIGSTOP);
    fs::write(marks.join("go"), "").unwrap();
    let last = format!(" F {LAST}\n");
    eventually("all is written", 60, || fs::read_to_string(&log).ok()?.ends_with(&last).then_some(()));
    signal(node.daemon_pid(), Signal::SIGCONT);
    eventually("the last line is read", 30, || has(&out, &format!("\n{LAST}\n")));

    let text = fs::read_to_string(&out).unwrap();
    let numbers: Vec<usize> = text.lines().skip(1).map(|line| line.parse().unwrap()).collect();
    let gaps: Vec<usize> = (1..numbers.len()).filter(|at| numbers[*at] != numbers[at - 1] + 1).collect();
    assert_eq!((gaps.len(), numbers[0]), (1, 1), "one gap, behind the file that was open: {gaps:?}");
    // Each file is filled up to the last line that it takes.
    let bytes: usize = (numbers[gaps[0] - 1] + 1..numbers[gaps[0]]).map(|number| 41 + number.to_string().len()).sum();
    let files = bytes.div_ceil(SIZE);
    assert!(files > 5, "{files}");
    let told = format!("bayplan: {files} log files were rotated away here before they could be read\n");
    assert_eq!(fs::read_to_string(&err).unwrap(), told);
    node.bayplan(&["rm", "-f", "web"]).ok();
    eventually("following ends", 30, || follow.try_wait().unwrap());
    node.close();
}

#[test]
fn following_ends_when_the_container_is_removed_and_has_all_that_it_wrote() {
    let node = node();
    let script = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.01; done";
    node.bayplan(&["run", "-d", IMAGE, "web", "sh", "-c", script]).ok();
    let mut follow = node.command(&["logs", "-f", "--tail", "all", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    eventually("it has written", 30, || node.bayplan(&["logs", "web"]).stdout.contains("line 20\n").then_some(()));
    let before = node.bayplan(&["logs", "web"]).ok().stdout;
    node.bayplan(&["rm", "-f", "web"]).ok();
    let status = eventually("following ends", 30, || follow.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    let seen = std::io::read_to_string(follow.stdout.take().unwrap()).unwrap();
    assert!(seen.starts_with(&before), "what was there before its removal is missing");
    node.close();
}

#[test]
fn output_goes_where_log_uri_says() {
    let node = node();
    let log = node.dir().join("logs/xx.log");
    let uri = format!("file://{}", log.display());
    node.bayplan(&["run", "-d", "--log-uri", &uri, IMAGE, "x", "sh", "-c", "echo one; echo two >&2; sleep 1000"]).ok();
    eventually("the file has it", 30, || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        (text.contains("one\n") && text.contains("two\n")).then_some(())
    });
    node.bayplan(&["logs", "x"]).exits(5).says(&log.display().to_string());
    assert_eq!(node.container("default", "x").unwrap()["status"]["logPath"], log.display().to_string());
    node.bayplan(&["run", "--log-uri", "xx.log", IMAGE, "y"]).exits(2).says("file:///");
    // In the foreground it is not shown, and its status is.
    let run = node.bayplan(&["run", "--rm", "--log-uri", &uri, IMAGE, "y", "sh", "-c", "echo three; exit 7"]).exits(7);
    assert_eq!(run.stdout, "");
    assert!(fs::read_to_string(&log).unwrap().contains("three\n"));
    node.close();
}

#[test]
fn a_reader_that_stands_still_holds_up_nobody() {
    let node = node();
    let script = "while :; do seq 1 2000; sleep 0.01; done";
    node.bayplan(&["run", "-d", IMAGE, "web", "sh", "-c", script]).ok();
    // Nobody reads what it is given.
    let mut still = node.bare(&["logs", "-f", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    let seen = || node.bayplan(&["logs", "--tail", "1", "-t", "web"]).ok().stdout;
    let before = seen();
    eventually("the container goes on writing, and others read it", 30, || (seen() != before).then_some(()));
    node.bayplan(&["rm", "-f", "web"]).ok();
    still.kill().unwrap();
    still.wait().unwrap();
    node.close();
}
