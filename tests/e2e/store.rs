//! Disk use: what is collected and what is not, what is wrong is found and repaired, and looking into images.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bayplan::oci::Digest;
use serde_json::Value;

use crate::image::Image;
use crate::node::{Run, TestNode};
use crate::registry::TestRegistry;
use crate::wait::eventually;

fn sleeper() -> Image {
    Image::busybox().script("exec sleep 100000")
}

fn blob(node: &TestNode, hex: &str) -> PathBuf {
    node.root().join("content/blobs/sha256").join(hex)
}

fn list(run: &Run) -> Vec<Value> {
    let list = run.json();
    assert_eq!(list["kind"], "List", "{list}");
    list["items"].as_array().unwrap().clone()
}

fn references(node: &TestNode) -> Vec<String> {
    let items = node.get("images").into_iter().chain(node.get("tags"));
    let mut names: Vec<String> = items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn what_is_wrong_is_found_and_repaired() {
    let registry = TestRegistry::new();
    let node = TestNode::new();
    let image = sleeper().noise(200_000, 1).noise(200_000, 2).noise(200_000, 3);
    let reference = registry.push(&image, "lab/box:1");
    let other = registry.push(&sleeper().noise(1000, 9), "lab/other:1");
    node.bayplan(&["pull", &reference, &other]).ok();
    node.bayplan(&["image", "check"]).ok();

    let layers = image.layer_blobs();
    let bytes = fs::read(blob(&node, &layers[1])).unwrap();
    let mut rotten = bytes.clone();
    rotten[1000] ^= 1;
    fs::write(blob(&node, &layers[1]), &rotten).unwrap();
    fs::write(blob(&node, &layers[2]), &bytes[..500]).unwrap();
    fs::remove_file(blob(&node, &layers[3])).unwrap();
    let run = node.bayplan(&["image", "check", "-o", "json"]).exits(1);
    let mut found: Vec<(String, String)> = run.json()["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].as_str().unwrap().to_owned(), one["fault"].as_str().unwrap().to_owned()))
        .collect();
    found.sort();
    let mut expected: Vec<(String, String)> = [(1, "corrupt"), (2, "truncated"), (3, "missing")]
        .map(|(at, fault)| (format!("sha256:{}", layers[at]), fault.to_owned()))
        .to_vec();
    expected.sort();
    assert_eq!(found, expected);
    // The other image shares nothing that is wrong.
    node.bayplan(&["image", "check", &other]).ok();
    node.bayplan(&["image", "check", &reference]).exits(1);
    node.bayplan(&["image", "check", "--repair"]).ok();
    node.bayplan(&["image", "check"]).ok();
    assert_eq!(fs::read(blob(&node, &layers[1])).unwrap(), bytes);

    // A snapshot whose record is another's, and one that is gone.
    let snapshots = node.root().join("snapshots");
    let top = fs::read_dir(snapshots.join("l")).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    fs::write(top.join("layer.json"), "{}").unwrap();
    let run = node.bayplan(&["image", "check"]).exits(1);
    assert!(run.stdout.contains("wrong record"), "{}", run.stdout);
    fs::remove_dir_all(&top).unwrap();
    // The next start finds the name without its directory; the image has a layer that is not unpacked.
    let run = node.bayplan(&["image", "check"]).exits(1);
    assert!(run.stdout.contains("not unpacked"), "{}", run.stdout);
    node.bayplan(&["image", "check", "--repair"]).ok();
    node.bayplan(&["run", "--rm", &reference, "x", "test", "-s", "/noise-3"]).ok();

    // What no registry has cannot be repaired, and says so.
    let archive = node.dir().join("a.tar");
    sleeper().noise(1000, 5).oci_archive(&archive, Some("registry.invalid/local:1"));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    fs::remove_file(blob(&node, &sleeper().noise(1000, 5).layer_blobs()[1])).unwrap();
    let run = node.bayplan(&["image", "check", "--repair"]).exits(1);
    assert!(
        run.stdout.contains("missing") && run.stderr.contains("registry.invalid"),
        "{}\n{}",
        run.stdout,
        run.stderr
    );
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node.bayplan(&["image", "check"]).ok();
    node.close();
}

#[test]
fn files_of_an_unpacked_layer_are_held_against_its_blob() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    let reference = registry.push(&sleeper().layer(|layer| layer.file("etc/motd", 0o644, b"hello")), "lab/files:1");
    node.bayplan(&["pull", &reference]).ok();
    let snapshots = node.root().join("snapshots/l");
    let motd = || {
        let layers = fs::read_dir(&snapshots).unwrap();
        let paths = layers.map(|entry| entry.unwrap().path().join("fs/etc/motd"));
        paths.into_iter().find(|path| path.exists())
    };
    fs::write(motd().unwrap(), "h").unwrap();
    let said = node.bayplan(&["image", "check", &reference]).exits(1);
    assert!(said.stderr.contains("etc/motd has 1 bytes, not 5"), "{}\n{}", said.stdout, said.stderr);
    node.bayplan(&["image", "check", "--repair"]).ok();
    assert_eq!(fs::read(motd().unwrap()).unwrap(), b"hello");

    // Nothing is pulled away from beneath a container that runs.
    node.start_daemon();
    node.bayplan(&["run", "-d", &reference, "c"]).ok();
    fs::remove_file(motd().unwrap()).unwrap();
    node.bayplan(&["image", "check", "--repair"]).exits(1).says("container default/c runs on it");
    node.running("default", "c");
    node.bayplan(&["rm", "-f", "c"]).ok();
    assert!(node.bayplan(&["image", "check", "--repair"]).ok().stdout.contains("repaired"));
    assert_eq!(fs::read(motd().unwrap()).unwrap(), b"hello");
    node.bayplan(&["image", "check"]).ok();
    node.close();
}

#[test]
fn prune_takes_what_is_neither_used_nor_declared() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    let push = |n: u64| registry.push(&sleeper().noise(300_000, n), &format!("lab/i{n}:1"));
    let [declared, used, spare, tagged] = [1, 2, 3, 4].map(push);
    node.manifest(
        "m.yaml",
        format!(
            "apiVersion: bayplan.dev/v1\nkind: Image\nmetadata: {{name: kept}}\nspec: {{reference: '{declared}'}}\n---\n\
             apiVersion: bayplan.dev/v1\nkind: Tag\nmetadata: {{name: stable}}\nspec: {{reference: registry.local/stable:1, source: '{tagged}'}}\n"
        ),
    );
    node.bayplan(&["pull", &tagged]).ok();
    node.start_daemon();
    node.converged();
    node.bayplan(&["pull", &used, &spare]).ok();
    node.bayplan(&["run", "-d", &used, "user"]).ok();

    node.bayplan(&["image", "prune", "--all"]).exits(2).says("--yes");
    let run = node.bayplan(&["image", "prune", "--all", "--dry-run"]).ok();
    assert!(
        run.stdout.contains(&spare) && !run.stdout.contains(&used) && !run.stdout.contains(&declared),
        "{}",
        run.stdout
    );
    let dry = node.bayplan(&["image", "prune", "--all", "--dry-run", "-o", "json"]).ok().json();
    assert_eq!(dry["references"].as_array().unwrap().len(), 1);
    // Its manifest, its configuration and the layer that is its own; what it shares stays.
    assert_eq!((dry["blobs"].as_array().unwrap().len(), dry["snapshots"].as_array().unwrap().len()), (3, 1));
    assert!(dry["snapshots"][0]["size"].as_u64().unwrap() >= 300_000, "{dry}");
    node.bayplan(&["image", "prune", "--all", "--older-than", "1h", "--yes"]).ok();
    assert!(references(&node).contains(&spare));
    let done = node.bayplan(&["image", "prune", "--all", "--yes", "-o", "json"]).ok().json();
    assert_eq!(done["blobs"], dry["blobs"], "a dry run tells what will be done");
    assert_eq!(done["snapshots"], dry["snapshots"]);
    let mut left = vec![declared, used, tagged, "registry.local/stable:1".to_owned()];
    left.sort();
    assert_eq!(references(&node), left);
    node.bayplan(&["image", "check"]).ok();
    assert!(
        list(&node.bayplan(&["content", "ls", "-o", "json"]).ok())
            .iter()
            .all(|blob| blob["usedBy"] != serde_json::json!([]))
    );
    node.close();
}

#[test]
fn names_go_by_reference_and_by_digest() {
    let registry = TestRegistry::new();
    let node = TestNode::new();
    let image = sleeper().noise(1000, 1);
    let reference = registry.push(&image, "lab/one:1");
    node.bayplan(&["pull", &reference]).ok();
    node.bayplan(&["tag", &reference, "registry.local/two:1"]).ok();
    let digest = image.digest();
    node.bayplan(&["rmi", &digest]).exits(5).says("registry.local/two:1");
    node.bayplan(&["run", "-d", &reference, "user"]).ok();
    node.bayplan(&["rmi", &reference]).exits(5).says("container user");
    node.bayplan(&["rm", "-f", "user"]).ok();
    node.bayplan(&["rmi", "sha256:0123456789"]).exits(4);
    node.bayplan(&["rmi", "-f", &digest[7..19]]).ok();
    assert_eq!(references(&node), Vec::<String>::new());
    assert_eq!(fs::read_dir(node.root().join("content/blobs/sha256")).unwrap().count(), 0, "freed at once");
    node.close();
}

#[test]
fn images_are_looked_into() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    let one = registry.push(&sleeper().noise(500_000, 1).noise(100_000, 2), "lab/one:1");
    let two = registry.push(&sleeper().noise(500_000, 1).noise(100_000, 3), "lab/two:1");
    node.start_daemon();
    node.bayplan(&["pull", &one, &two]).ok();
    let shown = node.bayplan(&["image", "inspect", &one]).ok().json();
    let layers = shown["image"]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 3);
    assert!(layers[1]["size"].as_u64().unwrap() > 490_000 && layers[1]["unpackedSize"].as_u64().unwrap() >= 500_000);
    assert_eq!(shown["image"]["target"], sleeper().noise(500_000, 1).noise(100_000, 2).digest());
    let tree = node.bayplan(&["image", "tree", "-o", "json"]).ok().json();
    assert_eq!(tree["roots"].as_array().unwrap().len(), 1, "both stand on one layer");
    assert_eq!(tree["roots"][0]["images"], 2);
    let unique = tree["images"][0]["uniqueSize"].as_u64().unwrap();
    assert!((90_000..120_000).contains(&unique), "{tree}");
    assert!(node.bayplan(&["image", "tree"]).ok().stdout.contains("2 images"));
    let wide = node.bayplan(&["image", "ls", "-o", "wide"]).ok();
    assert!(wide.stdout.lines().nth(1).unwrap().contains(" MB"), "{}", wide.stdout);
    assert!(node.bayplan(&["snapshot", "tree"]).ok().stdout.contains(&one));
    assert_eq!(list(&node.bayplan(&["snapshot", "ls", "-o", "json"]).ok()).len(), 4);

    // Other tools read the store while the daemon has it.
    let layout = node.root().join("content");
    let inspect =
        Command::new("skopeo").arg("inspect").arg(format!("oci:{}:{one}", layout.display())).output().unwrap();
    assert!(inspect.status.success(), "{}", String::from_utf8_lossy(&inspect.stderr));
    let listed = Command::new("umoci").args(["list", "--layout"]).arg(&layout).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&two), "{}", String::from_utf8_lossy(&listed.stderr));

    // Mounted, it stays whole though its name goes and everything is collected.
    let target = node.dir().join("view");
    fs::create_dir(&target).unwrap();
    let path = target.to_str().unwrap().to_owned();
    node.bayplan(&["image", "mount", &one, &path]).ok();
    node.bayplan(&["image", "mount", &two, &path]).exits(5).says(&one);
    assert!(fs::write(target.join("x"), "").is_err(), "read-only");
    node.bayplan(&["rmi", &one]).ok();
    node.bayplan(&["image", "prune", "--all", "--yes"]).ok();
    assert_eq!(fs::metadata(target.join("noise-2")).unwrap().len(), 100_000);
    assert!(fs::read_link(target.join("bin/sh")).is_ok());
    assert!(node.bayplan(&["image", "mount"]).ok().stdout.contains(&path));
    node.bayplan(&["image", "unmount", &path]).ok();
    node.bayplan(&["image", "unmount", &path]).exits(4);
    node.bayplan(&["pull", &two]).ok();
    node.bayplan(&["image", "mount", "--rw", &two, &path]).ok();
    fs::write(target.join("written"), "x").unwrap();
    node.bayplan(&["image", "unmount", &path]).ok();
    node.bayplan(&["image", "prune", "--all", "--yes"]).ok();
    assert_eq!(fs::read_dir(node.root().join("snapshots/l")).unwrap().count(), 0, "the mount's layers went at last");
    node.close();
}

#[test]
fn a_full_disk_lets_the_least_recently_used_go() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    fs::create_dir(node.root()).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=44m", "tmpfs"]).arg(node.root()).status().unwrap();
    assert!(mounted.success());
    node.configure("[gc]\ngrace = \"2s\"\nhigh_watermark = 60\nlow_watermark = 45\n");
    let push = |n: u64| registry.push(&sleeper().noise(4 << 20, n), &format!("lab/i{n}:1"));
    let [oldest, used, newest] = [1, 2, 3].map(push);
    node.start_daemon();
    node.bayplan(&["pull", &oldest]).ok();
    node.bayplan(&["pull", &used]).ok();
    node.bayplan(&["create", &used, "user"]).ok();
    eventually("the first image is old enough", 20, || {
        let args = ["image", "prune", "--all", "--older-than", "2s", "--dry-run", "-o", "name"];
        node.bayplan(&args).ok().stdout.contains(&oldest).then_some(())
    });
    node.bayplan(&["pull", &newest]).ok();
    let mut left = vec![used.clone(), newest];
    left.sort();
    assert_eq!(references(&node), left);
    let events = node.bayplan(&["events"]).ok().stdout;
    assert!(events.contains("Collected"), "{events}");
    // One is used, the other was pulled a moment ago: more cannot be done, and that is said.
    assert!(events.contains("DiskPressure") && events.contains("no unused image is left"), "{events}");
    node.bayplan(&["image", "check"]).ok();
    node.bayplan(&["rm", "-f", "user"]).ok();
    node.stop_daemon();
    rustix::mount::unmount(node.root(), rustix::mount::UnmountFlags::empty()).unwrap();
    node.close();
}

/// `BAYPLAN_GC_SECONDS=120` for the long version.
#[test]
fn collection_beside_pulls_and_removals_breaks_nothing() {
    let seconds = std::env::var("BAYPLAN_GC_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    // All of them share the lowest two layers, pairs of them a third.
    let images: Vec<Image> =
        (0..6).map(|n| sleeper().noise(100_000, 100).noise(200_000, 200 + n / 2).noise(300_000, 300 + n)).collect();
    let names: Vec<String> =
        images.iter().zip(0..).map(|(image, n)| registry.push(image, &format!("lab/i{n}:1"))).collect();
    let (declared, used, others) = (&names[0], &names[1], &names[2..]);
    node.manifest(
        "m.yaml",
        format!(
            "apiVersion: bayplan.dev/v1\nkind: Image\nmetadata: {{name: kept}}\nspec: {{reference: '{declared}'}}\n"
        ),
    );
    node.configure("[gc]\ngrace = \"100ms\"\n");
    node.start_daemon();
    node.converged();
    node.bayplan(&["run", "-d", used, "user"]).ok();
    let end = AtomicBool::new(false);
    let going = || !end.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        let node = &node;
        for part in others.chunks(2) {
            scope.spawn(move || {
                while going() {
                    for name in part {
                        node.bayplan(&["pull", "-q", name]).ok();
                        node.bayplan(&["tag", "--force", name, "registry.local/moving:1"]);
                        let status = node.bayplan(&["rmi", "-f", name]).status;
                        assert!(status == 0 || status == 4, "rmi {name}: {status}");
                    }
                }
            });
        }
        scope.spawn(move || {
            while going() {
                node.bayplan(&["image", "prune", "--all", "--yes"]).ok();
            }
        });
        // Watches, and ends it all however it goes.
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _over = Over(&end);
        let started = Instant::now();
        let mut rounds = 0;
        while started.elapsed() < Duration::from_secs(seconds) {
            node.bayplan(&["image", "check", "-o", "wide"]).ok();
            let run = node.bayplan(&["run", "--rm", declared, "probe", "sh", "-c", "wc -c </noise-300"]).ok();
            assert_eq!(run.stdout.trim(), "300000");
            rounds += 1;
        }
        assert!(rounds > 2, "only {rounds} rounds in {seconds} s");
    });
    node.converged();
    node.bayplan(&["image", "prune", "--all", "--yes"]).ok();
    let mut left = vec![declared.clone(), used.clone()];
    left.sort();
    assert_eq!(references(&node), left);
    // Two manifests, two configurations, two layers of all, one of the pair, two of their own.
    assert_eq!(list(&node.bayplan(&["content", "ls", "-o", "json"]).ok()).len(), 9);
    assert_eq!(fs::read_dir(node.root().join("snapshots/l")).unwrap().count(), 5);
    node.bayplan(&["image", "check"]).ok();
    node.bayplan(&["rm", "-f", "user"]).ok();
    node.close();
}

#[test]
fn blobs_are_fetched_read_and_removed_by_hand() {
    for with_daemon in [false, true] {
        let registry = TestRegistry::new();
        let mut node = TestNode::new();
        let image = sleeper().noise(200_000, 1);
        let reference = registry.push(&image, "lab/box:1");
        let layer = image.layer_blobs().pop().unwrap();
        if with_daemon {
            node.start_daemon();
        }
        let said = node.bayplan(&["content", "fetch", &reference]).ok();
        assert!(said.stderr.contains(&format!("{reference}: {} ", &layer[..12])), "{}", said.stderr);
        let shown = |node: &TestNode| node.get("images")[0]["status"]["unpacked"].clone();
        assert_eq!((shown(&node), fs::read_dir(node.root().join("snapshots/l")).unwrap().count()), (false.into(), 0));
        node.bayplan(&["image", "check"]).ok();

        let got = node.command(&["content", "get", &format!("sha256:{}", &layer[..7])]).output().unwrap();
        assert!(got.status.success() && Digest::of(&got.stdout).hex() == layer);
        node.bayplan(&["content", "get", &layer[..6]]).exits(2).says("at least 7");
        node.bayplan(&["content", "rm", &layer]).exits(5).says(&format!("needed by default/{reference}"));
        node.bayplan(&["content", "rm", "-f", &layer[..12], "0123456"])
            .exits(4)
            .says(&format!("not whole without it: default/{reference}"))
            .says("0123456 is not in the store");
        node.bayplan(&["content", "get", &layer]).exits(4);
        node.bayplan(&["image", "check"]).exits(1);

        // What is missing is fetched, and nothing else; and what was fetched is unpacked by whoever needs it.
        node.bayplan(&["content", "fetch", &reference]).ok();
        assert_eq!(registry.fetches(&layer), 2);
        node.bayplan(&["run", "--rm", &reference, "x", "true"]).ok();
        assert!(image.layer_blobs().iter().map(|blob| registry.fetches(blob)).sum::<usize>() == 3, "all was here");
        // What nobody ever declared goes like what was pulled by hand.
        node.bayplan(&["image", "prune", "--all", "--yes"]).ok();
        assert_eq!(references(&node), [""; 0]);
        node.close();
    }
}

#[test]
fn a_rotten_blob_is_told_at_its_end() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    let image = sleeper().noise(2_000_000, 1);
    let reference = registry.push(&image, "lab/box:1");
    node.bayplan(&["content", "fetch", &reference]).ok();
    let layer = image.layer_blobs().pop().unwrap();
    let mut bytes = fs::read(blob(&node, &layer)).unwrap();
    bytes[1000] ^= 1;
    fs::write(blob(&node, &layer), bytes).unwrap();
    node.bayplan(&["content", "get", &layer]).exits(1).says("is corrupt");
    node.start_daemon();
    node.bayplan(&["content", "get", &layer]).exits(1).says("is corrupt");
    node.bayplan(&["content", "rm", "-f", &layer]).ok();
    node.close();
}
