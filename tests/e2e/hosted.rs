//! Debian's containerd drives our shim: `ctr run --runtime io.containerd.bayplan.v1`, and everything a person does with
//! `ctr` after that.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::containerd::Containerd;
use crate::image::Image;
use crate::node::{Run, lives, signal};
use crate::registry::TestRegistry;
use crate::wait::eventually;

const IMAGE: &str = "registry.local/box:1";
const OURS: &str = "io.containerd.bayplan.v1";

fn with_box() -> Containerd {
    let containerd = Containerd::start();
    containerd.import(&Image::busybox(), IMAGE);
    containerd
}

impl Containerd {
    /// `ctr run FLAGS IMAGE ID sh -c SCRIPT` by our shim.
    fn run_ours(&self, flags: &[&str], id: &str, script: &str) -> Run {
        self.run(&[&["run", "--runtime", OURS], flags, &[IMAGE, id, "sh", "-c", script]].concat())
    }

    /// `ctr task rm ID`, which tells a status other than 0.
    #[track_caller]
    fn deleted(&self, id: &str, status: u32) {
        self.run(&["task", "rm", id]).ok().says(&format!("exit with non-zero exit code {status}"));
    }

    /// The command of `args` behind a terminal.
    fn on_a_terminal(&self, args: &[&str]) -> Run {
        let command = self.command(args);
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''")))
            // Behind timeout(1) in the foreground, so that it may read the terminal.
            .enumerate()
            .flat_map(|(n, word)| if n == 1 { vec!["--foreground".to_owned(), word] } else { vec![word] })
            .collect();
        Run::of(Command::new("script").args(["-qec", &words.join(" "), "/dev/null"]).stdin(Stdio::piped()))
    }
}

#[test]
fn ctr_pulls_and_runs_tasks_with_their_output_and_their_statuses() {
    let containerd = with_box();
    let registry = TestRegistry::new();
    let pulled = registry.push(&Image::busybox().env("COLOUR", "red").cmd(&["sh", "-c", "echo $COLOUR"]), "lab/red:1");
    containerd.ctr(&["images", "pull", "--plain-http", &pulled]);
    assert_eq!(containerd.ctr(&["run", "--rm", "--runtime", OURS, &pulled, "red"]), "red\n");
    let run = containerd.run_ours(&["--rm"], "a", "echo out; echo err >&2; exit 3").exits(3);
    assert_eq!(run.stdout, "out\n");
    assert!(run.stderr.contains("err\n"), "{}", run.stderr);
    containerd.nothing_is_left();

    containerd.run_ours(&["-d"], "b", "trap 'exit 5' TERM; while :; do sleep 0.1; done").ok();
    containerd.run_ours(&["-d"], "c", "exec sleep 100000").ok();
    let (b, c) = (containerd.until("b", "RUNNING"), containerd.until("c", "RUNNING"));
    assert!(containerd.ctr(&["task", "ps", "c"]).contains(&c.to_string()));
    containerd.ctr(&["task", "kill", "-s", "TERM", "b"]);
    containerd.until("b", "STOPPED");
    assert!(!lives(b) && lives(c), "one container's end is not the other's");
    containerd.deleted("b", 5);
    containerd.ctr(&["container", "rm", "b"]);
    containerd.ctr(&["task", "kill", "-a", "-s", "9", "c"]);
    containerd.until("c", "STOPPED");
    containerd.deleted("c", 137);
    containerd.ctr(&["container", "rm", "c"]);
    containerd.nothing_is_left();

    // What cannot be started says why and leaves nothing.
    let words = ["run", "--runtime", OURS, IMAGE, "d", "no-such-program"];
    containerd.run(&words).exits(1).says("executable file not found");
    containerd.run(&["container", "rm", "d"]);
    containerd.nothing_is_left();
}

#[test]
fn terminals_and_further_processes() {
    let containerd = with_box();
    let args = [
        "run",
        "-t",
        "--rm",
        "--runtime",
        OURS,
        IMAGE,
        "t",
        "sh",
        "-c",
        "test -t 0 && test -t 1 && echo terminal; exit 4",
    ];
    let run = containerd.on_a_terminal(&args).exits(4);
    assert!(run.stdout.contains("terminal\r"), "{}", run.stdout);
    containerd.nothing_is_left();

    containerd.run_ours(&["-d"], "x", "exec sleep 100000").ok();
    let exec = |id: &str, script: &str| containerd.run(&["task", "exec", "--exec-id", id, "x", "sh", "-c", script]);
    let run = exec("one", "echo $$; echo err >&2; exit 6").exits(6);
    assert_ne!(run.stdout.trim(), "1");
    assert!(run.stderr.contains("err\n"), "{}", run.stderr);
    // The id is free again, and a program that is not there is an error of this process alone.
    exec("one", "true").ok();
    assert_ne!(containerd.run(&["task", "exec", "--exec-id", "two", "x", "no-such-program"]).status, 0);
    let args = ["task", "exec", "-t", "--exec-id", "three", "x", "sh", "-c", "test -t 0 && echo terminal; exit 8"];
    let run = containerd.on_a_terminal(&args).exits(8);
    assert!(run.stdout.contains("terminal\r"), "{}", run.stdout);
    containerd.until("x", "RUNNING");
    containerd.ctr(&["task", "kill", "-s", "9", "x"]);
    containerd.until("x", "STOPPED");
    containerd.deleted("x", 137);
    containerd.nothing_is_left();
}

#[test]
fn pause_resume_and_metrics() {
    let containerd = with_box();
    containerd
        .run_ours(&["-d", "--memory-limit", "67108864"], "p", "n=0; while :; do n=$((n+1)); echo $n > /n; done")
        .ok();
    let process = containerd.until("p", "RUNNING");
    let count = || fs::read_to_string(format!("/proc/{process}/root/n")).ok()?.trim().parse::<u64>().ok();
    let seen = eventually("it counts", 10, count);
    containerd.ctr(&["task", "pause", "p"]);
    containerd.until("p", "PAUSED");
    let frozen = count();
    let stat = || fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let ticks = stat().split(' ').nth(13).unwrap().to_owned();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!((count(), stat().split(' ').nth(13).unwrap()), (frozen, ticks.as_str()), "nothing moves");
    containerd.ctr(&["task", "resume", "p"]);
    containerd.until("p", "RUNNING");
    eventually("it goes on", 10, || count().filter(|count| *count > seen + 10));
    let metrics = containerd.ctr(&["task", "metrics", "p"]);
    assert!(metrics.contains("memory") && metrics.contains("67108864"), "{metrics}");
    let cpu = metrics.lines().any(|line| line.contains("cpuacct.usage ") || line.contains("cpu.usage_usec"));
    assert!(cpu, "{metrics}");
    // The end of a frozen task.
    containerd.ctr(&["task", "pause", "p"]);
    containerd.until("p", "PAUSED");
    containerd.run(&["task", "rm", "-f", "p"]);
    eventually("it ends", 10, || (!lives(process)).then_some(()));
    containerd.nothing_is_left();
}

#[test]
fn logs_by_fifo_file_and_logger() {
    let containerd = with_box();
    let dir = containerd.dir().to_owned();
    let script = "echo out; echo err >&2; seq 20000";
    let expected = || (1..=20_000).map(|n| n.to_string());
    // FIFOs are what `ctr run` reads in the foreground.
    let run = containerd.run_ours(&["--rm"], "f", "seq 20000").ok();
    assert!(run.stdout.lines().map(str::to_owned).eq(expected()), "{} lines", run.stdout.lines().count());

    let file = dir.join("log.txt");
    containerd.run_ours(&["-d", "--log-uri", &format!("file://{}", file.display())], "g", script).ok();
    containerd.until("g", "STOPPED");
    containerd.run(&["task", "rm", "g"]).ok();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("out\n") && text.contains("err\n"), "{text:.200}");
    // Two streams in one file: what came on one may stand in the middle of a line of the other.
    let text = text.replacen("err\n", "", 1);
    assert!(text.lines().filter(|line| line.parse::<u32>().is_ok()).map(str::to_owned).eq(expected()));

    // Our own logger, as containerd starts any.
    let uri =
        format!("binary://{}?log={}&attempt=1&files=2", crate::node::shim().display(), dir.join("logs").display());
    containerd.run_ours(&["-d", "--log-uri", &uri], "h", script).ok();
    containerd.until("h", "STOPPED");
    containerd.run(&["task", "rm", "h"]).ok();
    let text = eventually("the logger has written everything", 10, || {
        let text = fs::read_to_string(dir.join("logs/1.log")).ok()?;
        text.contains("stdout F 20000\n").then_some(text)
    });
    assert!(text.contains("stdout F out\n") && text.contains("stderr F err\n"), "{text:.200}");
    containerd.nothing_is_left();
}

#[test]
fn containerd_killed_and_started_again_finds_its_tasks() {
    let mut containerd = with_box();
    containerd.run_ours(&["-d"], "x", "trap 'exit 9' TERM; while :; do sleep 0.1; done").ok();
    containerd.run_ours(&["-d"], "y", "exec sleep 100000").ok();
    let (x, y) = (containerd.until("x", "RUNNING"), containerd.until("y", "RUNNING"));
    let shims = (containerd.shim("x"), containerd.shim("y"));
    containerd.kill_and_start_again();
    assert_eq!((containerd.until("x", "RUNNING"), containerd.until("y", "RUNNING")), (x, y));
    assert_eq!((containerd.shim("x"), containerd.shim("y")), shims);
    containerd.run(&["task", "exec", "--exec-id", "e", "x", "sh", "-c", "exit 2"]).exits(2);
    containerd.ctr(&["task", "kill", "-s", "TERM", "x"]);
    containerd.until("x", "STOPPED");
    containerd.deleted("x", 9);
    containerd.run(&["task", "rm", "-f", "y"]);
    eventually("it ends", 10, || (!lives(y)).then_some(()));
    containerd.nothing_is_left();
}

#[test]
fn a_killed_shim_is_cleaned_up_after_by_containerd() {
    let containerd = with_box();
    containerd.run_ours(&["-d"], "x", "setsid sleep 100000 & exec sleep 100000").ok();
    containerd.run_ours(&["-d"], "y", "exec sleep 100000").ok();
    let (x, y) = (containerd.until("x", "RUNNING"), containerd.until("y", "RUNNING"));
    signal(containerd.shim("x"), Signal::SIGKILL);
    eventually("its processes are ended", 20, || (!lives(x)).then_some(()));
    assert!(lives(y), "another shim's container is not touched");
    eventually("containerd forgets the task", 20, || containerd.task("x").is_none().then_some(()));
    // The name is free.
    containerd.ctr(&["container", "rm", "x"]);
    containerd.run_ours(&["--rm"], "x", "true").ok();
    containerd.run(&["task", "rm", "-f", "y"]);
    eventually("it ends", 10, || (!lives(y)).then_some(()));
    containerd.nothing_is_left();
}

/// `ctr events`, written to a file; ends when dropped.
struct Events(Child);

impl Events {
    fn start(containerd: &Containerd, file: &Path) -> Self {
        let mut command = containerd.command(&["events"]);
        Self(command.stdout(fs::File::create(file).unwrap()).spawn().unwrap())
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // To timeout(1), which passes it on.
        signal(self.0.id(), Signal::SIGTERM);
        self.0.wait().ok();
    }
}

#[test]
fn events_tell_of_everything() {
    let containerd = with_box();
    let file = containerd.dir().join("events");
    let _events = Events::start(&containerd, &file);
    let topics = || -> Vec<String> {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let topics = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
        topics.filter(|topic| topic.starts_with("/tasks/")).map(str::to_owned).collect()
    };
    // An event of somebody else's shows that it listens.
    eventually("it listens", 10, || {
        containerd.run(&["namespaces", "label", containerd.namespace(), &format!("n={}", std::process::id())]);
        fs::metadata(&file).is_ok_and(|file| file.len() > 0).then_some(())
    });
    let is_told = |wanted: &[&str]| {
        eventually(&format!("{wanted:?} among {:?}\n{}", topics(), containerd.log()), 10, || {
            let topics = topics();
            let mut at = 0;
            for topic in wanted {
                at += topics[at..].iter().position(|seen| seen == &format!("/tasks/{topic}"))? + 1;
            }
            Some(())
        });
    };
    containerd.run_ours(&["-d"], "x", "exec sleep 100000").ok();
    is_told(&["create", "start"]);
    containerd.run(&["task", "exec", "--exec-id", "e", "x", "true"]).ok();
    is_told(&["create", "start", "exec-added", "exec-started", "exit"]);
    containerd.ctr(&["task", "pause", "x"]);
    containerd.ctr(&["task", "resume", "x"]);
    containerd.ctr(&["task", "kill", "-s", "9", "x"]);
    containerd.until("x", "STOPPED");
    containerd.deleted("x", 137);
    is_told(&["exec-started", "exit", "paused", "resumed", "exit", "delete"]);
    let flags = ["-d", "--memory-limit", "16777216"];
    containerd.run_ours(&flags, "y", "exec dd if=/dev/zero of=/dev/null bs=64M count=1").ok();
    is_told(&["resumed", "delete", "create", "start", "oom", "exit"]);
    containerd.until("y", "STOPPED");
    containerd.deleted("y", 137);
    containerd.nothing_is_left();
}
