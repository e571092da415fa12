//! What is asked of running containers, and files out of them and into them.

use super::*;
use crate::api::{ProcessInfo, TaskStats};

fn sample(name: &str, memory_limit: Option<u64>) -> TaskStats {
    TaskStats {
        namespace: "shop".into(),
        name: name.into(),
        pid: Some(4711),
        time: fake::now(),
        cpu: 1_000_000_000,
        memory: 12_345_678,
        memory_limit,
        pids: 3,
        pids_limit: None,
        block_read: Some(1_000_000),
        block_written: Some(0),
        network_received: None,
        network_sent: None,
        all: [("memory.usage".to_owned(), 12_345_678), ("pids.current".to_owned(), 3)].into(),
    }
}

#[test]
fn stats_are_of_an_interval() {
    let bench = Bench::shop();
    bench.node.state().stats = vec![sample("web", Some(64 << 20)), sample("db", None)];
    insta::assert_snapshot!(bench.run("stats --no-stream --interval 50ms -n shop").all(), @r"
    --- out
    NAME   CPU %   MEMORY / LIMIT      MEM %   PIDS   BLOCK I/O    NET I/O
    web    50.00   12.3 MB / 67.1 MB   18.40   3      1 MB / 0 B   -
    db     50.00   12.3 MB / -         -       3      1 MB / 0 B   -
    === exit 0
    ");
    let list: serde_json::Value =
        serde_json::from_str(&bench.run("stats --no-stream --interval 50ms -n shop web -o json").out).unwrap();
    let one = &list["items"][0];
    assert_eq!(
        (&one["kind"], &one["cpuPercent"], &one["memory"]),
        (&"ContainerStats".into(), &50.0.into(), &12_345_678.into())
    );
    insta::assert_snapshot!(bench.run("tasks metrics web -n shop").all(), @r"
    --- out
    ID    TIMESTAMP
    web   2026-11-23T12:00:04Z

    METRIC         VALUE
    memory.usage   12345678
    pids.current   3
    === exit 0
    ");
}

#[test]
fn top_has_the_columns_asked_for() {
    let bench = Bench::shop();
    bench.node.state().processes = vec![ProcessInfo {
        pid: 4711,
        inner_pid: 1,
        parent: 4700,
        uid: 101,
        user: Some("www".into()),
        state: "S".into(),
        age_ms: 90_000,
        cpu_ms: 4_500,
        resident: 2_000_000,
        virtual_size: 9_000_000,
        threads: 2,
        terminal: None,
        program: "nginx".into(),
        command: "nginx -g daemon off;".into(),
        exec_id: None,
    }];
    insta::assert_snapshot!(bench.run("top web -n shop").all(), @r"
    --- out
    USER   PID    PPID   %CPU   ELAPSED   TTY   TIME       COMMAND
    www    4711   4700   5.0    90s       ?     00:00:04   nginx -g daemon off;
    === exit 0
    ");
    // What exec began is shown where all about a container is.
    let mut shell = bench.node.state().processes[0].clone();
    (shell.pid, shell.exec_id, shell.command) = (4801, Some("shell".into()), "sh -i".into());
    bench.node.state().processes.push(shell);
    let described = bench.run("-n shop describe container web").out;
    let execs = "Execs:\n  EXEC ID   PID    USER   AGE   COMMAND\n  shell     4801   www    90s   sh -i\n";
    assert!(described.contains(execs), "{described}");
    assert!(bench.run("-n shop top web execid").out.ends_with("-\nshell\n"));
    bench.node.state().processes.pop();
    insta::assert_snapshot!(bench.run("-n shop top web -eo pid,nspid,comm").all(), @r"
    --- out
    PID    NSPID   COMMAND
    4711   1       nginx
    === exit 0
    ");
    assert_eq!(bench.run("t ps nil").status, 4);
}

#[test]
fn files_are_copied_in_and_out() {
    let bench = Bench::shop();
    let file = bench.file("motd", "hello");
    let ran = bench.run(&format!("cp -a {} web:/etc/motd -n shop", file.display()));
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    let out = bench.directory.path().join("out");
    assert_eq!(bench.run(&format!("cp web:/etc/motd {} -n shop", out.display())).status, 0);
    assert_eq!(std::fs::read_to_string(out).unwrap(), "hello");
    assert_eq!(
        bench.calls(),
        ["copy into shop/web /etc/motd extract=false owners=true", "copy from shop/web /etc/motd"]
    );
    insta::assert_snapshot!(bench.run("cp a b").all(), @r"
    --- err
    error: neither of the two is in a container
      help: write one as NAME:PATH, such as web:/etc/motd
    === exit 2
    ");
}

#[test]
fn words_of_other_engines_are_answered() {
    let bench = Bench::shop();
    for (line, says) in [
        ("network ls", "networks come later"),
        ("port web", "ports are not published yet"),
        ("task checkpoint web", "writable layer"),
        ("t checkpoint web", "writable layer"),
        ("snapshots rm x", "bayplan rmi"),
        ("containers restore x y", "writable layer"),
        ("images convert a b", "skopeo"),
        ("content ingest x", "bayplan load"),
        ("contanier ls", "did you mean bayplan container?"),
        ("run -d -p 80:80 docker.io/a/b:1 web", "networks"),
        ("run --gpus all docker.io/a/b:1 web", "--privileged"),
    ] {
        let ran = bench.run(line);
        assert!(ran.status == 2 && ran.err.contains(says), "{line}: {}", ran.err);
    }
}

#[test]
fn ctrs_spelling_is_accepted() {
    let bench = Bench::shop();
    for line in [
        "c ls -q",
        "containers list",
        "containers info web",
        "c delete web",
        "c del -f web",
        "t ls -q",
        "tasks list",
        "t kill -a -s 9 web",
        "t kill -s SIGRTMIN+1 web",
        "t del -f web",
        "tasks rm web -f",
        "t metric web",
        "i ls -q",
        "images check",
        "images list",
        "i label registry.local/web:1 a=b",
        "ns c new a=b",
        "namespaces create other",
        "ns ls -q",
        "snapshots ls",
        "snapshot list",
        "content ls -q",
        "event",
        "ps -a",
    ] {
        let ran = bench.run(&format!("-n shop {line}"));
        assert!(ran.status == 0 || line == "t metric web", "{line}: {}", ran.err);
    }
}
