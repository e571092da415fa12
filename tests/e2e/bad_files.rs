//! Bad files harm only themselves: each is reported once, and mending it acts.

use std::fs;
use std::os::unix::fs::symlink;

use crate::image::Image;
use crate::node::TestNode;
use crate::wait::eventually;

fn container(name: &str) -> String {
    format!(
        "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: {name}}}\nspec: {{image: 'registry.local/box:1'}}\n"
    )
}

fn with_image() -> TestNode {
    let node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox().script("exec sleep 100000").oci_archive(&archive, None);
    node.manifest(
        "good.yaml",
        format!(
            "apiVersion: bayplan.dev/v1\nkind: Image\nmetadata: {{name: box}}\nspec: {{archive: {}, reference: 'registry.local/box:1'}}\n---\n{}",
            archive.display(),
            container("good")
        ),
    );
    node
}

/// A bad file's name, what it holds, and the line and column that its report must name (none: the file only).
type BadFile = (&'static str, Vec<u8>, Option<(u32, u32)>);

fn bad() -> Vec<BadFile> {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let row = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &format!("a{level}: &a{level} [{row}]\n");
    }
    let unknown_field = container("typo") + "  imagee: x\n";
    vec![
        ("truncated.yaml", b"apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {name: cut".to_vec(), None),
        ("binary.yaml", (0..=255).cycle().take(4096).collect(), None),
        ("huge.yaml", vec![b'#'; 11 << 20], None),
        ("bomb.yaml", bomb.into_bytes(), None),
        (
            "kind.yaml",
            b"apiVersion: bayplan.dev/v1\nkind: Contaner\nmetadata: {name: x}\nspec: {}\n".to_vec(),
            Some((2, 7)),
        ),
        ("tabs.yaml", b"apiVersion: bayplan.dev/v1\nkind: Container\nmetadata:\n\tname: x\n".to_vec(), Some((4, 1))),
        (
            "field.yaml",
            unknown_field
                .replace("spec: {image: 'registry.local/box:1'}", "spec:\n  image: 'registry.local/box:1'")
                .into_bytes(),
            Some((6, 3)),
        ),
        ("twice-a.yaml", container("twice").into_bytes(), None),
        ("twice-b.yaml", container("twice").into_bytes(), None),
    ]
}

#[test]
fn beside_every_kind_of_bad_file_the_good_one_runs() {
    let mut node = with_image();
    for (name, bytes, _) in bad() {
        node.manifest(name, bytes);
    }
    let manifests = node.manifests();
    for ignored in [".good.yaml.swp", "good.yaml~", "#good.yaml#", ".hidden.yaml", "notes.txt"] {
        fs::write(manifests.join(ignored), container("ignored")).unwrap();
    }
    symlink("nowhere.yaml", manifests.join("dangling.yaml")).unwrap();
    symlink("loop.yaml", manifests.join("loop.yaml")).unwrap();
    nix::unistd::mkfifo(&manifests.join("fifo.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(manifests.join("directory.yaml")).unwrap();

    node.start_daemon();
    let pid = node.running("default", "good");

    let status = eventually("status reports all of them", 30, || {
        let run = node.bayplan(&["status"]);
        bad().iter().all(|(name, _, _)| run.stdout.contains(name)).then_some(run)
    })
    .exits(1);
    for (name, _, place) in bad() {
        let pointer = format!("--> {name}");
        let reports: Vec<_> = status.stdout.lines().map(str::trim).filter(|line| line.starts_with(&pointer)).collect();
        if name.starts_with("twice") {
            assert!(status.stdout.contains(name), "both places are named:\n{}", status.stdout);
            continue;
        }
        assert_eq!(reports.len(), 1, "{name} is reported once:\n{}", status.stdout);
        if let Some((line, column)) = place {
            assert_eq!(reports[0], format!("{pointer}:{line}:{column}"));
        }
    }
    for odd in ["dangling.yaml", "loop.yaml", "fifo.yaml", "directory.yaml"] {
        let pointer = format!("--> {odd}");
        let reports = status.stdout.lines().filter(|line| line.trim() == pointer).count();
        assert_eq!(reports, 1, "{odd} is reported once:\n{}", status.stdout);
    }
    for ignored in [".good.yaml.swp", "good.yaml~", "#good.yaml#", ".hidden.yaml", "notes.txt"] {
        assert!(!status.stdout.contains(ignored), "{ignored} is none of our business:\n{}", status.stdout);
    }
    assert_eq!(node.get("containers").len(), 1, "neither of the two that are declared twice was taken");

    // Reported once, however often the directory is read again.
    node.bayplan(&["sync"]);
    node.bayplan(&["sync"]);
    let events = node.bayplan(&["events", "-o", "json"]).ok().json();
    let about =
        events["items"].as_array().unwrap().iter().filter(|event| event.to_string().contains("kind.yaml")).count();
    assert!(about <= 1, "{about} events for a file that stays as bad as it was");

    // Mending each acts, without a restart.
    for (name, _, _) in bad() {
        let own = name.trim_end_matches(".yaml");
        node.manifest(name, container(own));
    }
    for (name, _, _) in bad() {
        node.running("default", name.trim_end_matches(".yaml"));
    }
    assert_eq!(node.running("default", "good"), pid);
    node.close();
}

#[test]
fn a_file_that_breaks_keeps_its_last_good_resources_across_restarts() {
    let mut node = with_image();
    node.manifest("more.yaml", container("more"));
    node.start_daemon();
    let (good, more) = (node.running("default", "good"), node.running("default", "more"));
    node.manifest("more.yaml", "apiVersion: bayplan.dev/v1\nkind: [");
    eventually("it is reported", 20, || node.bayplan(&["status"]).stdout.contains("more.yaml").then_some(()));
    assert_eq!(node.running("default", "more"), more);
    node.kill_daemon();
    node.start_daemon();
    eventually("it is reported again", 20, || node.bayplan(&["status"]).stdout.contains("more.yaml").then_some(()));
    assert_eq!((node.running("default", "good"), node.running("default", "more")), (good, more));
    // A removal of the broken file is a removal.
    node.remove_manifest("more.yaml");
    eventually("more is gone", 40, || node.container("default", "more").is_none().then_some(()));
    assert_eq!(node.running("default", "good"), good);
    node.close();
}

#[test]
fn validate_names_file_line_and_column_without_a_node() {
    let node = TestNode::new();
    for (name, bytes, place) in bad() {
        if name.starts_with("twice") {
            continue;
        }
        let path = node.file(name, bytes);
        let run = node.bayplan(&["validate", "-f", &path]).exits(3).says(name);
        if let Some((line, column)) = place {
            run.says(&format!("{name}:{line}:{column}"));
        }
    }
    let fine = node.file("fine.yaml", container("fine"));
    node.bayplan(&["validate", "-f", &fine]).ok();
    assert!(!node.root().exists() && !node.state().exists(), "validate makes nothing");
    node.close();
}
