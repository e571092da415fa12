//! A slow or failing pull never lengthens an outage: what runs goes on until what replaces it is ready.

use std::time::{Duration, Instant};

use crate::gate::Gate;
use crate::node::{TestNode, lives};
use crate::registry::TestRegistry;
use crate::seeing::heavy;
use crate::wait::{eventually, patience};

fn manifest(reference: &str) -> String {
    format!("apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: web}}\nspec: {{image: '{reference}'}}\n")
}

#[test]
fn the_old_process_lives_until_the_new_image_is_ready() {
    let registry = TestRegistry::new();
    let mut node = TestNode::alone();
    let gate = Gate::before(&registry.host());
    for seed in [11, 12] {
        registry.push(&heavy(seed), &format!("lab/web:{seed}"));
    }
    node.manifest("web.yaml", manifest(&gate.reference("lab/web:11")));
    node.start_daemon();
    let old = node.running("default", "web");
    gate.hold_after(2 << 20);
    node.manifest("web.yaml", manifest(&gate.reference("lab/web:12")));
    eventually("the new image is on its way", 30, || {
        let item = node.container("default", "web")?;
        let progress = item["status"].get("progress")?.clone();
        assert_eq!(item["status"]["phase"], "Running", "it serves while its next image comes");
        (progress["done"].as_u64()? > 1 << 20).then_some(())
    });
    // As long as the image is not here, nothing happens to what runs.
    let until = Instant::now() + Duration::from_millis(700);
    while Instant::now() < until {
        assert!(lives(old), "the old process was stopped before the new image was ready");
        std::thread::sleep(Duration::from_millis(5));
    }
    let image = heavy(12).digest();
    gate.open();
    let gone = eventually("the old process ends", 30, || (!lives(old)).then(Instant::now));
    let item = node.container("default", "web").unwrap();
    eventually("the new process runs", 30, || {
        let item = node.container("default", "web")?;
        (item["status"]["phase"] == "Running" && item["status"]["imageDigest"] == image.as_str()).then_some(())
    });
    let gap = gone.elapsed();
    println!("gap between the old process and the new: {gap:?}");
    assert!(gap < Duration::from_secs(2) * patience(), "{gap:?}, after {item}");
    node.close();
}

#[test]
fn a_pull_that_fails_leaves_what_runs_alone_and_is_taken_up_again() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    node.configure("[controller]\nbackoff_initial = \"100ms\"\nbackoff_max = \"500ms\"\n");
    let gate = Gate::before(&registry.host());
    for seed in [13, 14] {
        registry.push(&heavy(seed), &format!("lab/web:{seed}"));
    }
    node.manifest("web.yaml", manifest(&gate.reference("lab/web:13")));
    node.start_daemon();
    let old = node.running("default", "web");
    node.manifest("web.yaml", manifest(&gate.reference("lab/web:99")));
    eventually("the failure is told", 60, || {
        let run = node.bayplan(&["status"]);
        (run.status == 1 && run.stdout.contains("lab/web:99")).then_some(())
    });
    assert!(lives(old), "an image that is nowhere stops nothing");
    // The connection breaks in the middle of the next one, again and again.
    gate.hold_after(2 << 20);
    node.manifest("web.yaml", manifest(&gate.reference("lab/web:14")));
    eventually("it is on its way", 60, || {
        node.container("default", "web")?["status"].get("progress")?["done"].as_u64().filter(|done| *done > 1 << 20)
    });
    for _ in 0..3 {
        gate.hold_after(64 << 10);
        gate.cut();
        assert!(lives(old), "a broken pull stops nothing");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(node.running("default", "web"), old);
    gate.open();
    gate.cut();
    eventually("the new image runs", 90, || {
        let item = node.container("default", "web")?;
        (item["status"]["imageDigest"] == heavy(14).digest().as_str() && item["status"]["phase"] == "Running")
            .then_some(())
    });
    assert!(!lives(old));
    node.close();
}
