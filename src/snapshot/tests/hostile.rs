//! Layers that want out. Each is refused or harmless, and nothing of a refused one stays.

use std::fs;

use super::Node;
use crate::image::tests::fixture::LayerTar;

/// Unpacks a layer beside a victim; its error, and a check that nothing outside changed.
fn refused(tar: Vec<u8>) -> String {
    let node = Node::new();
    let victim = node.root.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let image = node.image(&[tar]);
    let error = node.unpack(&image).unwrap_err();
    assert_eq!(fs::read(&victim).unwrap(), b"untouched");
    assert!(!node.snapshots.is_unpacked(&image));
    assert!(node.names("l").is_empty() && node.names("chains").is_empty());
    let layer = image.layers[0].descriptor.digest.to_string();
    error.to_string().replace(&layer, "LAYER")
}

#[test]
fn layers_that_want_out_are_refused_each_with_its_words() {
    let tar = LayerTar::new;
    let out = || tar().symlink("a", "/etc");
    let long = "x".repeat(300);
    let rows: Vec<(&str, LayerTar)> = vec![
        ("a name that begins with ..", tar().file("../victim", b"x")),
        ("a name that leads out by ..", tar().dir("a", 0o755).file("a/../../victim", b"x")),
        ("a directory named ..", tar().dir("a/..", 0o777)),
        ("a hard link to what is outside", tar().hard_link("x", "../victim")),
        ("a hard link to what is outside, by a link out of the root", out().hard_link("x", "a/passwd")),
        (
            "a hard link to a link to what is outside, by way of another",
            out().symlink("b", "a").hard_link("x", "b/passwd"),
        ),
        ("a hard link to a file that is not there", tar().hard_link("x", "nothing")),
        ("a hard link to a directory", tar().dir("d", 0o755).hard_link("x", "d")),
        ("a whiteout of ..", tar().file("a/.wh...", b"")),
        ("a whiteout of .", tar().file("a/.wh..", b"")),
        ("a whiteout of nothing", tar().file("a/.wh.", b"")),
        ("a link in place of the root", tar().symlink("./", "/etc")),
        ("links that go round", tar().symlink("a", "b").symlink("b", "a").file("a/x", b"1")),
        ("a file in place of a directory", tar().file("f", b"1").file("f/x", b"1")),
        ("a name of 300 bytes without a slash", tar().pax(&[("path", long.as_bytes())]).file("x", b"1")),
    ];
    let words: Vec<_> = rows.into_iter().map(|(row, tar)| format!("{row}\n  {}", refused(tar.done()))).collect();
    insta::assert_snapshot!(words.join("\n").replace(&long, "LONG"));
}

#[test]
fn absolute_names_are_relative_to_the_layer() {
    let node = Node::new();
    let outside = node.root.path().join("outside/x");
    let name = outside.to_str().unwrap();
    let root = node.layers(&[LayerTar::new().file(name, b"1").symlink("/abs", "/etc").done()])[0].clone();
    assert!(root.join(name.trim_start_matches('/')).exists() && root.join("abs").is_symlink());
    assert!(!outside.exists() && !std::path::Path::new("/abs").exists());
}

#[test]
fn links_lead_nowhere_outside() {
    let node = Node::new();
    let outside = node.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "untouched").unwrap();
    let up = "../".repeat(12) + outside.strip_prefix("/").unwrap().to_str().unwrap();
    let tar = LayerTar::new()
        // Short links to a long one: the header has a hundred bytes.
        .symlink("a", outside.to_str().unwrap())
        .file("a/victim", b"x")
        .symlink("b", &up)
        .file("b/victim", b"y")
        .symlink("c", "a")
        .file("c/deep/victim", b"z")
        .symlink("d", "a/victim")
        .raw(tar::EntryType::Regular, "d", "", 0o644, b"replaced")
        .done();
    let root = node.layers(&[tar])[0].clone();
    assert_eq!(fs::read(outside.join("victim")).unwrap(), b"untouched");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    // They went where the links lead inside of the layer.
    let inside = root.join(outside.strip_prefix("/").unwrap());
    assert_eq!(fs::read(inside.join("victim")).unwrap(), b"y");
    assert!(inside.join("deep/victim").exists());
    assert_eq!(fs::read(root.join("d")).unwrap(), b"replaced");
}

#[test]
fn a_directory_replaced_by_a_link_between_entries_leads_nowhere_outside() {
    let node = Node::new();
    let outside = node.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let tar = LayerTar::new()
        .dir("d", 0o755)
        .file("d/x", b"1")
        .symlink("d", outside.to_str().unwrap())
        .file("d/y", b"2")
        .raw(tar::EntryType::Regular, "d/.wh.z", "", 0o644, b"")
        .hard_link("h", "d/y")
        .done();
    let root = node.layers(&[tar])[0].clone();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(fs::read(root.join("h")).unwrap(), b"2");
}

#[test]
fn bytes_behind_the_end_belong_to_the_diff_id_and_do_no_harm() {
    let tar = LayerTar::new().file("a", &[7; 100_000]).done();
    let node = Node::new();
    let root = node.layers(&[[&tar[..], &[1; 5000]].concat()])[0].clone();
    assert_eq!(fs::metadata(root.join("a")).unwrap().len(), 100_000);
}

#[test]
fn one_bad_layer_publishes_none() {
    let node = Node::new();
    let good = LayerTar::new().file("a", b"1").done();
    let image = node.image(&[good.clone(), LayerTar::new().file("../x", b"1").done(), good]);
    node.unpack(&image).unwrap_err();
    assert!(node.names("l").is_empty() && node.names("chains").is_empty());
}
