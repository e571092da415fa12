//! Pruning, checking, and looking into images.

use super::*;
use crate::api::*;

fn freed(letter: char, size: u64) -> Freed {
    Freed { digest: fake::digest(letter), size }
}

fn pruned() -> PruneReport {
    PruneReport {
        references: vec![PrunedReference {
            namespace: "shop".into(),
            reference: "registry.local/old:1".into(),
            digest: fake::digest('b'),
            size: 12_345_678,
            last_used: fake::ago(90_000),
        }],
        blobs: vec![freed('b', 1_000), freed('c', 9_000_000)],
        snapshots: vec![freed('d', 21_000_000)],
        kept: Vec::new(),
    }
}

#[test]
fn prune_shows_what_goes_and_asks_nobody_without_a_terminal() {
    let bench = Bench::new(|node| node.pruned = pruned());
    insta::assert_snapshot!(bench.run("image prune --all").all(), @r"
    --- err
    error: without a terminal nobody can be asked whether to remove
      help: give --yes, or look first with --dry-run
    === exit 2
    ");
    assert!(bench.calls().is_empty());
    insta::assert_snapshot!(bench.run("image prune --all --dry-run -n shop").all(), @r"
    --- out
    KIND       NAME                        SIZE      LAST USED
    image      shop/registry.local/old:1   12.3 MB   25h ago
    blob       bbbbbbbbbbbb                1 kB      -
    blob       cccccccccccc                9 MB      -
    snapshot   dddddddddddd                21 MB     -
    30.0 MB would be freed: 1 references, 2 blobs, 1 snapshots
    === exit 0
    ");
    insta::assert_snapshot!(bench.run("image prune --older-than 12h --yes -A").out.lines().last().unwrap(), @"30.0 MB freed: 1 references, 2 blobs, 1 snapshots");
    insta::assert_snapshot!(bench.calls().join("\n"), @r#"
    prune Some("shop") all=true older=None dry=true
    prune None all=false older=Some(43200000) dry=false
    "#);
    assert_eq!(bench.run("image prune --all --dangling --yes").status, 2);
    insta::assert_snapshot!(Bench::new(|_| {}).run("image prune --yes").all(), @r"
    --- err
    nothing to remove
    === exit 0
    ");
}

#[test]
fn check_tells_what_is_wrong_and_whether_it_was_repaired() {
    let finding = |letter, fault, repaired| Finding {
        object: StoredObject::Blob,
        name: fake::digest(letter).to_string(),
        fault,
        message: "it has 500 bytes, not 1000".into(),
        images: vec!["shop/registry.local/web:1".into()],
        repaired,
        failure: None,
    };
    let report = CheckReport { references: 3, blobs: 12, bytes: 80_000_000, snapshots: 7, findings: Vec::new() };
    let bench = Bench::new(|node| node.checked = report.clone());
    insta::assert_snapshot!(bench.run("image check").all(), @r"
    --- out
    all is well: 3 references, 12 blobs of 80 MB, 7 snapshots
    === exit 0
    ");
    bench.node.state().checked.findings =
        vec![finding('b', FindingKind::Truncated, false), finding('c', FindingKind::Corrupt, false)];
    insta::assert_snapshot!(bench.run("image check registry.local/web:1 -n shop").all(), @r"
    --- out
    KIND   NAME           WRONG       NEEDED BY
    blob   bbbbbbbbbbbb   truncated   shop/registry.local/web:1
    blob   cccccccccccc   corrupt     shop/registry.local/web:1
    2 wrong in 3 references, 12 blobs of 80 MB, 7 snapshots
    --- err
    bayplan image check --repair fetches and unpacks again what is wrong
    === exit 1
    ");
    bench.node.state().checked.findings[1].repaired = true;
    bench.node.state().checked.findings[0].failure = Some("registry.local answers 404; pull another".into());
    insta::assert_snapshot!(bench.run("image check --repair").all(), @r"
    --- out
    KIND   NAME           WRONG       NEEDED BY                   NOW
    blob   bbbbbbbbbbbb   truncated   shop/registry.local/web:1   still wrong
    blob   cccccccccccc   corrupt     shop/registry.local/web:1   repaired
    1 wrong in 3 references, 12 blobs of 80 MB, 7 snapshots
    --- err
    bbbbbbbbbbbb: registry.local answers 404; pull another
    === exit 1
    ");
    let json: serde_json::Value = serde_json::from_str(&bench.run("image check -o json").out).unwrap();
    assert_eq!((&json["findings"][0]["fault"], &json["findings"][1]["repaired"]), (&"truncated".into(), &true.into()));
}

#[test]
fn tree_and_mounts_are_shown() {
    let node = |letter, images, ends: &[&str], children| TreeNode {
        chain_id: fake::digest(letter),
        digest: fake::digest(letter),
        size: 4_000_000,
        unpacked_size: Some(9_000_000),
        images,
        ends: ends.iter().map(|&end| end.to_owned()).collect(),
        children,
    };
    let image = |name: &str, unique_size| TreeImage {
        digest: fake::digest('a'),
        references: vec![name.into()],
        layers: 2,
        size: 8_000_000,
        unique_size,
    };
    let (one, two) = ("shop/registry.local/one:1", "shop/registry.local/two:1");
    let bench = Bench::new(|state| {
        state.tree = TreeReport {
            roots: vec![node('a', 2, &[], vec![node('b', 1, &[one], vec![]), node('c', 1, &[two], vec![])])],
            images: vec![image(one, 4_000_000), image(two, 4_000_000)],
            size: 12_000_000,
            shared_size: 4_000_000,
            unpacked_size: 27_000_000,
            shared_unpacked_size: 9_000_000,
        };
    });
    insta::assert_snapshot!(bench.run("image tree -n shop").all(), @r"
    --- out
    aaaaaaaaaaaa  4 MB, 9 MB unpacked, 2 images
      bbbbbbbbbbbb  4 MB, 9 MB unpacked
        = shop/registry.local/one:1
      cccccccccccc  4 MB, 9 MB unpacked
        = shop/registry.local/two:1

    IMAGE                       LAYERS   SIZE    SHARED   UNIQUE
    shop/registry.local/one:1   2        8 MB    4 MB     4 MB
    shop/registry.local/two:1   2        8 MB    4 MB     4 MB
    all, each layer once        -        12 MB   4 MB     8 MB
    unpacked 27 MB, of which shared 9 MB
    === exit 0
    ");
    let path = bench.directory.path().display().to_string();
    insta::assert_snapshot!(bench.run(&format!("image mount registry.local/one:1 {path} -n shop")).all(), @r"
    --- out
    DIR
    === exit 0
    ");
    assert_eq!(bench.run("image mount registry.local/one:1").status, 2, "where?");
    assert_eq!(bench.run(&format!("image unmount {path}")).status, 4);
}
