//! What is asked of running containers: what they use, their processes, their spec; and limits that change meanwhile.

use serde_json::Value;

use crate::image::Image;
use crate::node::{TestNode, environment, lives, pid, signal};
use crate::terminal::Terminal;
use crate::wait::eventually;

const IMAGE: &str = "registry.local/box:1";

fn node() -> TestNode {
    let mut node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox()
        .layer(|layer| layer.file("bin/bash", 0o755, b"#!/bin/sh\nexec sh \"$@\"\n"))
        .layer(|layer| layer.file("run.sh", 0o755, b"test -e /host-etc/passwd && echo $PASSWORD && sleep 1000\n"))
        .script("exec sleep 1000")
        .oci_archive(&archive, Some(IMAGE));
    node.start_daemon();
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node.bayplan(&["-n", "k8s.io", "load", archive.to_str().unwrap()]).ok();
    node
}

fn stats(node: &TestNode, names: &[&str]) -> Vec<Value> {
    let run = node.bayplan(&[&["stats", "--no-stream", "--interval", "200ms", "-o", "json"], names].concat()).ok();
    run.json()["items"].as_array().unwrap().clone()
}

#[test]
fn on_a_terminal_stats_is_one_table_that_is_drawn_anew() {
    let node = node();
    node.bayplan(&["run", "-d", IMAGE, "first"]).ok();
    let mut table = Terminal::open(&node, &["stats", "-i", "100ms"]);
    for _ in 0..3 {
        table.expect("NAME");
        table.expect("first");
        // Back up to where it began.
        table.expect("\u{1b}[");
    }
    node.bayplan(&["run", "-d", IMAGE, "second"]).ok();
    table.expect("second");
    table.send("\u{3}");
    assert_eq!(table.ends(), 130, "{}", table.screen());
    node.close();
}

#[test]
fn stats_and_processes_are_what_the_kernel_counts() {
    let node = node();
    let busy = "while :; do :; done";
    node.bayplan(&["run", "-d", "--memory-limit", "64Mi", "--pids-limit", "50", IMAGE, "busy", "sh", "-c", busy]).ok();
    node.bayplan(&["run", "-d", "--user", "1000", IMAGE, "calm"]).ok();
    node.bayplan(&["create", IMAGE, "never"]).ok();
    let all = stats(&node, &[]);
    let names: Vec<&str> = all.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["busy", "calm"]);
    let number = |one: &Value, field: &str| one[field].as_f64().unwrap_or_else(|| panic!("{field}: {one}"));
    assert!(number(&all[0], "cpuPercent") > 5.0 && number(&all[1], "cpuPercent") < 5.0, "{all:?}");
    assert_eq!((all[0]["memoryLimit"].as_u64(), all[0]["pidsLimit"].as_u64()), (Some(64 << 20), Some(50)));
    assert!(number(&all[0], "memory") > 0.0 && number(&all[0], "pids") == 1.0 && all[1]["memoryLimit"].is_null());
    let table = node.bayplan(&["stats", "--no-stream", "--interval", "100ms", "busy"]).ok().stdout;
    assert!(table.starts_with("NAME") && table.contains("67.1 MB") && table.lines().count() == 2, "{table}");
    node.bayplan(&["stats", "--no-stream", "never"]).exits(5).says("has no running task");
    node.bayplan(&["stats", "--no-stream", "none"]).exits(4);

    let metrics = node.bayplan(&["task", "metrics", "busy"]).ok().stdout;
    assert!(metrics.contains("METRIC") && metrics.contains("pids.current"), "{metrics}");
    let calm = u64::from(node.running("default", "calm"));
    let top = node.bayplan(&["top", "calm"]).ok().stdout;
    assert!(top.lines().nth(1).is_some_and(|line| line.starts_with("app ") && line.ends_with("sleep 1000")), "{top}");
    let processes = node.bayplan(&["t", "ps", "calm", "-o", "json"]).ok().json();
    assert_eq!((&processes["items"][0]["pid"], &processes["items"][0]["innerPid"]), (&calm.into(), &1.into()));
    node.bayplan(&["top", "calm", "nonsense"]).exits(2).says("columns are");
    for name in ["busy", "calm", "never"] {
        node.bayplan(&["rm", "-f", name]).ok();
    }
    node.close();
}

#[test]
fn limits_change_while_it_runs_and_the_next_attempt_has_them() {
    let node = node();
    let manifest = |memory: &str, restart: &str| {
        format!(
            "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: web}}\nspec: {{image: '{IMAGE}', restart: \
             {restart}, backoff: {{initial: 10ms, max: 10ms}}, resources: {{limits: {{memory: {memory}}}}}}}\n"
        )
    };
    node.bayplan(&["apply", "-f", &node.file("web.yaml", manifest("64Mi", "Always"))]).ok();
    let first = node.running("default", "web");
    let limit = || stats(&node, &["web"])[0]["memoryLimit"].as_u64();
    assert_eq!(limit(), Some(64 << 20));
    node.bayplan(&["apply", "-f", &node.file("web.yaml", manifest("96Mi", "Always"))]).ok();
    assert_eq!((limit(), node.running("default", "web")), (Some(96 << 20), first));
    signal(first, nix::sys::signal::Signal::SIGKILL);
    let second = eventually("it is started again", 30, || {
        let web = node.container("default", "web")?;
        (web["status"]["phase"] == "Running" && web["status"]["pid"].as_u64()? != u64::from(first)).then(|| pid(&web))
    });
    assert_eq!(limit(), Some(96 << 20), "the next attempt has what was changed");
    // Told while it runs that nothing follows.
    node.bayplan(&["apply", "-f", &node.file("web.yaml", manifest("96Mi", "Never"))]).ok();
    assert!(lives(second));
    signal(second, nix::sys::signal::Signal::SIGKILL);
    node.phase("default", "web", "Exited");
    node.bayplan(&["delete", "container", "web"]).ok();
    node.close();
}

#[test]
fn inspect_has_the_runtime_spec_of_what_runs_and_of_what_would() {
    let node = node();
    node.bayplan(&["create", "--env", "A=b", "--cwd", "/tmp", IMAGE, "web", "sleep", "77"]).ok();
    let inspect = || node.bayplan(&["container", "info", "web"]).ok().json();
    let before = inspect()["runtimeSpec"].clone();
    assert_eq!(before["process"]["args"], serde_json::json!(["sleep", "77"]));
    assert_eq!(before["process"]["cwd"], "/tmp");
    node.bayplan(&["start", "web"]).ok();
    assert_eq!(inspect()["runtimeSpec"], before, "it is started by what was shown");
    node.bayplan(&["stop", "web"]).ok();
    assert_eq!(inspect()["runtimeSpec"], before);
    let yaml = node.bayplan(&["inspect", "web", "-o", "yaml"]).ok().stdout;
    assert!(yaml.contains("ociVersion"), "{yaml}");
    node.bayplan(&["rm", "web"]).ok();
    node.close();
}

#[test]
fn the_users_lines_work_word_for_word() {
    let node = node();
    let shell = |line: &str| {
        let words: Vec<String> = line.split_whitespace().map(|word| word.replace("IMAGE", IMAGE)).collect();
        node.bayplan(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    shell("-n k8s.io run --null-io --net-host -d --env PASSWORD=geheim --mount type=bind,src=/etc,dst=/host-etc,options=rbind:rw IMAGE sysreport bash /run.sh").ok();
    let pid = node.running("k8s.io", "sysreport");
    assert_eq!(environment(pid, "PASSWORD").as_deref(), Some("geheim"));
    let logs = || node.bayplan(&["-n", "k8s.io", "logs", "sysreport"]).ok().stdout;
    eventually("its script has seen the mount", 30, || (logs() == "geheim\n").then_some(()));
    shell("run -d --pid-file x.pid --label a=b --cap-drop ALL --cap-add CHOWN --cpus 500m --read-only IMAGE x").ok();
    assert_eq!(std::fs::read_to_string(node.dir().join("x.pid")).unwrap(), node.running("default", "x").to_string());
    shell("task ls").ok();
    // Refused while its task lives, with the command to use.
    shell("container rm x").exits(5).says("rm -f x");
    shell("task kill -a -s 9 x").ok();
    node.phase("default", "x", "Exited");
    shell("c rm x").ok();
    shell("run -d -p 80:80 IMAGE x").exits(2).says("networks");
    // Several at once: what can be done is done, and the first that cannot decides.
    shell("run -d IMAGE x").ok();
    let partly = shell("stop none x").exits(4);
    assert_eq!(partly.stdout, "x\n");
    shell("c delete x").ok();
    shell("-n k8s.io c rm -f sysreport").ok();
    node.close();
}
