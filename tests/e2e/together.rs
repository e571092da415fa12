//! Eight processes apply at once, the same file and different ones, with a daemon and without.

use std::collections::BTreeSet;

use crate::image::Image;
use crate::node::{Run, TestNode};

const IMAGE: &str = "registry.local/box:1";
const MANY: usize = 8;

fn node() -> TestNode {
    let node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox().script("exec sleep 100000").oci_archive(&archive, Some(IMAGE));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node
}

fn container(name: &str) -> String {
    format!(
        "---\napiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: {name}}}\n\
         spec: {{image: '{IMAGE}', terminationGracePeriodSeconds: 1}}\n"
    )
}

/// All at once; each file by a process of its own.
fn apply(node: &TestNode, files: &[String]) -> Vec<Run> {
    std::thread::scope(|scope| {
        let runs: Vec<_> =
            files.iter().map(|file| scope.spawn(move || node.bayplan(&["apply", "-f", file, "--wait"]))).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    })
}

/// With a daemon every one is done. Without, the node is one process's at a time: who waited too long is told whose it
/// is, and has changed nothing; given again it is done.
fn all_done(node: &TestNode, files: &[String], daemon: bool) {
    let mut left = files.to_vec();
    while !left.is_empty() {
        let runs = apply(node, &left);
        let before = left.len();
        let mut refused = Vec::new();
        for (file, run) in left.iter().zip(runs) {
            if run.status == 5 && !daemon {
                assert!(run.says("process").stdout.is_empty(), "who is refused has done nothing");
                refused.push(file.clone());
            } else {
                let run = run.ok();
                assert!(run.stdout.contains("0 failed"), "{}", run.stdout);
            }
        }
        assert!(refused.len() < before, "somebody has the node");
        left = refused;
    }
}

fn check(daemon: bool) {
    let mut node = node();
    if daemon {
        node.start_daemon();
    }
    // The same file: made once.
    let same = node.file("same.yaml", container("x") + &container("y"));
    all_done(&node, &vec![same.clone(); MANY], daemon);
    let made: BTreeSet<(String, u64)> = node
        .get("containers")
        .iter()
        .map(|item| {
            (item["metadata"]["name"].as_str().unwrap().to_owned(), item["metadata"]["revision"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(made, BTreeSet::from([("x".to_owned(), 1), ("y".to_owned(), 1)]));
    let x = node.running("default", "x");

    // Different files: all of them.
    let files: Vec<String> = (0..MANY).map(|n| node.file(&format!("f{n}.yaml"), container(&format!("c{n}")))).collect();
    all_done(&node, &files, daemon);
    for n in 0..MANY {
        node.running("default", &format!("c{n}"));
    }
    assert_eq!(node.running("default", "x"), x);
    node.bayplan(&["diff", "-f", &same]).ok();
    node.converged();

    // The same name declared eight ways: one of them is in force, whole, and nothing oscillates.
    let ways: Vec<String> = (0..MANY)
        .map(|n| {
            node.file(&format!("w{n}.yaml"), container("x").replace("spec: {", &format!("spec: {{env: {{N: '{n}'}}, ")))
        })
        .collect();
    all_done(&node, &ways, daemon);
    node.converged();
    let x = node.container("default", "x").unwrap();
    let n = x["spec"]["env"]["N"].as_str().unwrap().to_owned();
    let pid = node.running("default", "x");
    assert_eq!(crate::node::environment(pid, "N"), Some(n));
    node.close();
}

#[test]
fn with_a_daemon() {
    check(true);
}

#[test]
fn without_one() {
    check(false);
}
