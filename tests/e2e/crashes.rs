//! kill -9 at any instant of what works on the store: it stays sound, what was fetched is not fetched again, what was
//! sent is not sent again, and nothing is left over. The instants are random, one in each of equal parts of the time
//! that the work takes, and every second one meets a daemon at it instead of the command itself.

use std::fs;
use std::time::{Duration, Instant};

use crate::image::Image;
use crate::node::TestNode;
use crate::registry::TestRegistry;
use crate::wire::Wire;

/// Pulls that are killed.
const PULLS: u32 = 14;
/// Imports that are, and pushes and prunes each.
const OTHERS: u32 = 8;
/// What a manifest, a configuration and the headers of some requests may take on the wire.
const SMALL_TALK: u64 = 64 << 10;

fn large() -> Image {
    Image::busybox().noise(3 << 20, 1).noise(3 << 20, 2).noise(2 << 20, 3).script("exec sleep 100000")
}

/// Instants spread at random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = std::env::var("BAYPLAN_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or(u64::from(now.subsec_nanos()) | 1);
        eprintln!("BAYPLAN_TEST_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 % 1000).unwrap()
    }

    /// An instant in part `round` of `rounds` of a time.
    fn within(&mut self, time: Duration, round: u32, rounds: u32) -> Duration {
        time * (round * 1000 + self.next()) / (rounds * 1000)
    }
}

/// How long it takes from its beginning to its end.
fn whole(node: &TestNode, args: &[&str]) -> Duration {
    let started = Instant::now();
    node.bayplan(args).ok();
    started.elapsed()
}

/// Begins this and kills who does it at that instant.
fn strike(node: &mut TestNode, args: &[&str], round: u32, at: Duration) {
    let by_daemon = round % 2 == 1;
    if by_daemon {
        node.start_daemon();
    }
    let mut client = node.bare(args).spawn().unwrap();
    // Not a wait for a condition: the instant is what varies.
    std::thread::sleep(at);
    if by_daemon {
        node.kill_daemon();
    } else {
        client.kill().ok();
    }
    client.wait().unwrap();
}

/// The store is sound, by its own examination and from outside.
#[track_caller]
fn assert_sound(node: &TestNode) {
    node.bayplan(&["image", "check", "-o", "wide"]).ok();
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(node.root().join("content/index.json")).unwrap()).unwrap();
    for entry in index["manifests"].as_array().unwrap() {
        let hex = entry["digest"].as_str().unwrap().trim_start_matches("sha256:");
        assert!(node.root().join("content/blobs/sha256").join(hex).exists(), "index.json names {hex}, which is gone");
    }
}

fn names(node: &TestNode, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(node.root().join(directory)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

/// No part of a blob, no layer without a name, no temporary file.
#[track_caller]
fn assert_nothing_left(node: &TestNode) {
    assert_eq!(names(node, "content/ingest"), Vec::<String>::new());
    assert_eq!(names(node, "snapshots/l").len(), names(node, "snapshots/chains").len(), "layers without a name");
    assert_eq!(names(node, "snapshots/w"), Vec::<String>::new());
}

/// Bytes of layers that need not cross the wire again.
fn kept_bytes(node: &TestNode, image: &Image) -> u64 {
    let size =
        |directory: &str, hex: &String| fs::metadata(node.root().join(directory).join(hex)).map_or(0, |m| m.len());
    image.layer_blobs().iter().map(|hex| size("content/blobs/sha256", hex) + size("content/ingest", hex)).sum()
}

fn empty(node: &TestNode) {
    node.bayplan(&["image", "prune", "--all", "--yes"]).ok();
    assert_eq!(names(node, "content/blobs/sha256"), Vec::<String>::new());
    assert_eq!(names(node, "snapshots/chains"), Vec::<String>::new());
    assert_nothing_left(node);
}

#[test]
fn a_killed_pull_is_gone_on_with() {
    let registry = TestRegistry::new();
    let image = large();
    registry.push(&image, "lab/large:1");
    // Slow enough that most of the time is spent on the wire.
    let wire = Wire::to(&registry.host(), 5 << 20);
    let reference = wire.reference("lab/large:1");
    let mut node = TestNode::new();
    let mut dice = Dice::new();
    let before = wire.bytes();
    let first = whole(&node, &["pull", &reference]);
    let all = wire.bytes() - before;
    assert!(all > 8 << 20, "the image crossed the wire: {all} bytes");
    empty(&node);
    let duration = first.min(whole(&node, &["pull", &reference]));
    let mut taken_up = 0;
    for round in 0..PULLS {
        empty(&node);
        let at = dice.within(duration, round, PULLS);
        strike(&mut node, &["pull", &reference], round, at);
        // Before anybody opens the store again: no start may throw it away.
        let kept = kept_bytes(&node, &image);
        assert_sound(&node);
        let before = wire.bytes();
        node.bayplan(&["pull", &reference]).ok();
        let fetched = wire.bytes() - before;
        assert!(
            fetched + kept <= all + SMALL_TALK,
            "round {round}, killed after {at:?}: {kept} bytes were here, {fetched} crossed the wire again of {all}"
        );
        taken_up += u32::from(kept > 0 && kept < 8 << 20);
        assert_sound(&node);
        assert_nothing_left(&node);
    }
    assert!(taken_up > 0, "no kill came in the middle of a pull");
    empty(&node);
    node.close();
}

#[test]
fn a_killed_import_leaves_nothing() {
    let mut node = TestNode::new();
    let archive = node.dir().join("large.tar");
    large().oci_archive(&archive, Some("registry.local/large:1"));
    let load = ["load", archive.to_str().unwrap()];
    let mut dice = Dice::new();
    let first = whole(&node, &load);
    empty(&node);
    let duration = first.min(whole(&node, &load));
    for round in 0..OTHERS {
        empty(&node);
        let at = dice.within(duration, round, OTHERS);
        strike(&mut node, &load, round, at);
        assert_sound(&node);
        node.bayplan(&load).ok();
        assert_sound(&node);
        assert_nothing_left(&node);
    }
    empty(&node);
    node.close();
}

#[test]
fn a_killed_push_is_gone_on_with() {
    let registry = TestRegistry::new();
    let mut node = TestNode::new();
    let mut dice = Dice::new();
    // Another image and another repository each time: what a registry has anywhere need not be sent.
    let load = |node: &TestNode, name: &str, seed: u64| {
        let image = (0..4).fold(Image::busybox(), |image, n| image.noise(2 << 20, 100 + seed * 10 + n));
        let archive = node.dir().join("pushed.tar");
        image.oci_archive(&archive, Some(name));
        node.bayplan(&["load", archive.to_str().unwrap()]).ok();
        image
    };
    let measured = ["registry.local/measured:1", "registry.local/measured:2"];
    let durations = measured.iter().zip(0..).map(|(name, seed)| {
        load(&node, name, seed);
        whole(&node, &["push", name, &registry.reference(&format!("lab/measured-{seed}:1"))])
    });
    let duration = durations.min().unwrap();
    let mut broken = 0;
    for round in 0..OTHERS {
        let name = format!("registry.local/pushed:{round}");
        let image = load(&node, &name, 2 + u64::from(round));
        let before = (names(&node, "content/blobs/sha256").len(), names(&node, "snapshots/chains").len());
        let repository = format!("lab/pushed-{round}");
        let target = registry.reference(&format!("{repository}:1"));
        let push = ["push", &name, &target];
        let at = dice.within(duration, round, OTHERS);
        strike(&mut node, &push, round, at);
        let uploads = || image.layer_blobs().iter().map(|hex| registry.uploads(&repository, hex)).collect::<Vec<_>>();
        // Those that the registry finishes from here on, it may be sent again or not.
        let there = uploads();
        broken += u32::from(there.contains(&0));
        assert_sound(&node);
        node.bayplan(&push).ok();
        let then = uploads();
        let again = there.iter().zip(&then).any(|(before, after)| *before > 0 && after > before);
        assert!(!again, "round {round}, killed after {at:?}: sent {there:?} times, and then {then:?}");
        assert_eq!(registry.digest(&target), image.digest());
        assert_eq!((names(&node, "content/blobs/sha256").len(), names(&node, "snapshots/chains").len()), before);
        assert_sound(&node);
        assert_nothing_left(&node);
    }
    assert!(broken > 0, "no kill came before the end of a push");
    empty(&node);
    node.close();
}

#[test]
fn a_killed_prune_breaks_nothing_and_is_gone_on_with() {
    let mut node = TestNode::new();
    let archives: Vec<String> = (0..4)
        .map(|n| {
            let path = node.dir().join(format!("i{n}.tar"));
            let image = Image::busybox().noise(1 << 20, 7).noise(1 << 20, 10 + n).script("exec sleep 100000");
            image.oci_archive(&path, Some(&format!("registry.local/i{n}:1")));
            path.to_str().unwrap().to_owned()
        })
        .collect();
    let fill = |node: &TestNode| archives.iter().for_each(|path| drop(node.bayplan(&["load", path]).ok()));
    let prune = ["image", "prune", "--all", "--yes"];
    fill(&node);
    // In use, and so to be left alone by every one of them.
    node.bayplan(&["create", "registry.local/i0:1", "user"]).ok();
    let mut dice = Dice::new();
    let first = whole(&node, &prune);
    fill(&node);
    let duration = first.min(whole(&node, &prune));
    for round in 0..OTHERS {
        fill(&node);
        let at = dice.within(duration, round, OTHERS);
        strike(&mut node, &prune, round, at);
        assert_sound(&node);
        node.bayplan(&prune).ok();
        let left = node.get("images");
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(left[0]["metadata"]["name"], "registry.local/i0:1");
        // Its manifest, its configuration and three layers.
        assert_eq!(names(&node, "content/blobs/sha256").len(), 5);
        assert_eq!(names(&node, "snapshots/chains").len(), 3);
        assert_nothing_left(&node);
    }
    node.bayplan(&["start", "user"]).ok();
    node.running("default", "user");
    node.bayplan(&["rm", "-f", "user"]).ok();
    empty(&node);
    node.close();
}
