//! Layers that want out. Each is refused or harmless, and nothing of a refused one stays.

use std::fs;

use super::Node;
use crate::image::tests::fixture::{Blobs, LayerTar, gzip};
use crate::oci::Digest;
use crate::snapshot::SnapshotError;

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
fn names_with_dot_dot_are_refused_and_absolute_ones_are_relative() {
    assert_eq!(
        refused(LayerTar::new().file("../victim", b"x").done()),
        "layer LAYER: entry \"../victim\": it leads out of its directory by .."
    );
    assert_eq!(
        refused(LayerTar::new().dir("a", 0o755).file("a/../../victim", b"x").done()),
        "layer LAYER: entry \"a/../../victim\": it leads out of its directory by .."
    );
    refused(LayerTar::new().hard_link("x", "../victim").done());
    refused(LayerTar::new().file("a/.wh...", b"").done());
    refused(LayerTar::new().file("a/.wh.", b"").done());
    refused(LayerTar::new().symlink("./", "/etc").done());
    let node = Node::new();
    let root = node.layers(&[LayerTar::new().file("/abs/x", b"1").done()])[0].clone();
    assert!(root.join("abs/x").exists() && !std::path::Path::new("/abs/x").exists());
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
fn links_that_go_round_and_files_in_the_way_are_errors() {
    let text = refused(LayerTar::new().symlink("a", "b").symlink("b", "a").file("a/x", b"1").done());
    assert!(text.starts_with("layer LAYER: entry \"a/x\": "), "{text}");
    let text = refused(LayerTar::new().file("f", b"1").file("f/x", b"1").done());
    assert!(text.contains("Not a directory"), "{text}");
    let text = refused(LayerTar::new().hard_link("x", "nothing").done());
    assert!(text.contains("hard link to a file that its layer does not hold"), "{text}");
    let long = "x".repeat(300);
    let text = refused(LayerTar::new().pax(&[("path", long.as_bytes())]).file("x", b"1").done());
    assert!(text.contains("File name too long"), "{text}");
}

#[test]
fn damaged_and_wrong_layers_leave_nothing() {
    let tar = LayerTar::new().file("a", &[7; 100_000]).done();
    let text = refused(tar[..50_000].to_vec());
    assert_eq!(text, "layer LAYER: entry \"a\": the archive is cut short");
    // Bytes behind the end belong to the diff ID, and do no harm.
    Node::new().layers(&[[&tar[..], &[1; 5000]].concat()]);
    // Another diff ID than the configuration's.
    let node = Node::new();
    let mut blobs = Blobs::default();
    let layer = blobs.add(&format!("{}+gzip", crate::image::descriptor::OCI_LAYER), gzip(&tar));
    let target = blobs.image_of("amd64", vec![layer], &[Digest::of(b"other")]);
    for bytes in blobs.0.values() {
        node.store().put(bytes).unwrap();
    }
    let image = node.images.load_image(&target.digest, &"linux/amd64".parse().unwrap()).unwrap();
    let error = node.unpack(&image).unwrap_err();
    assert!(matches!(&error, SnapshotError::DiffId { actual, .. } if *actual == Digest::of(&tar)), "{error}");
    assert!(node.names("l").is_empty());
}

#[test]
fn one_bad_layer_publishes_none() {
    let node = Node::new();
    let good = LayerTar::new().file("a", b"1").done();
    let image = node.image(&[good.clone(), LayerTar::new().file("../x", b"1").done(), good]);
    node.unpack(&image).unwrap_err();
    assert!(node.names("l").is_empty() && node.names("chains").is_empty());
}
