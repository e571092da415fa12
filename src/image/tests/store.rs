//! The store by itself: crashes, corruption, collection.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use super::fixture::{Blobs, LayerTar};
use super::registry::Node;
use crate::image::{ContentStore, ImageError, Sweep};

#[test]
fn a_blob_has_its_name_only_when_its_digest_matched() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    let mode = std::fs::metadata(store.root()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "nobody else reads or writes here");
    let digest = crate::oci::Digest::of(b"right");
    let mut ingest = store.resume(&digest).unwrap().unwrap();
    ingest.write(b"wrong").unwrap();
    assert!(matches!(ingest.commit(Some((&digest, 5))), Err(ImageError::Digest { .. })));
    let mut ingest = store.resume(&digest).unwrap().unwrap();
    ingest.write(b"rig").unwrap();
    drop(ingest);
    assert!(!store.has(&digest));
    let mut ingest = store.resume(&digest).unwrap().unwrap();
    assert_eq!(ingest.written(), 3);
    ingest.write(b"ht").unwrap();
    ingest.commit(Some((&digest, 5))).unwrap();
    assert_eq!(store.read(&digest, 10).unwrap(), b"right");
    assert!(matches!(store.read(&digest, 4), Err(ImageError::TooLarge { .. })));
    // Rot on disk is noticed.
    std::fs::write(store.path(&digest), b"rught").unwrap();
    assert!(matches!(store.read(&digest, 10), Err(ImageError::Digest { .. })));
}

#[test]
fn a_sweep_leaves_what_is_being_written_and_what_can_be_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    let ingest = dir.path().join("content/ingest");
    let old = SystemTime::now() - Duration::from_secs(7200);
    let digest = crate::oci::Digest::of(b"x");
    let leave = |name: &str, time: SystemTime| {
        std::fs::write(ingest.join(name), b"part").unwrap();
        std::fs::File::open(ingest.join(name)).unwrap().set_modified(time).unwrap();
    };
    leave("999999-1", SystemTime::now() - Duration::from_secs(60));
    leave(digest.hex(), SystemTime::now());
    leave(crate::oci::Digest::of(b"y").hex(), old);
    let busy = store.ingest().unwrap();
    for entry in std::fs::read_dir(&ingest).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains(&std::process::id().to_string()) {
            std::fs::File::open(&path).unwrap().set_modified(old).unwrap();
        }
    }
    assert_eq!(store.sweep_ingest(Duration::from_secs(3600)).unwrap(), 2);
    assert!(ingest.join(digest.hex()).exists());
    drop(busy);
    assert_eq!(std::fs::read_dir(&ingest).unwrap().count(), 1);
}

#[test]
fn collection_keeps_what_is_reachable_and_what_is_young() {
    let node = Node::plain();
    let mut blobs = Blobs::default();
    let kept = blobs.image("amd64", &[LayerTar::new().file("a", b"1").done()]);
    let other = blobs.image("arm64", &[LayerTar::new().file("a", b"2").done()]);
    let index = blobs.index(&[(&kept, Some("amd64"))]);
    for bytes in blobs.0.values() {
        node.images.store().put(bytes).unwrap();
    }
    let broken = node.images.store().put(b"{ not json").unwrap();
    let roots: HashSet<_> = [index.digest.clone(), broken.clone()].into();
    // All of it is young.
    assert_eq!(node.images.gc(&roots, Sweep::older_than(Duration::from_secs(60))).unwrap().blobs.len(), 0);
    let report = node.images.gc(&roots, Sweep::older_than(Duration::ZERO)).unwrap();
    // The other image's manifest, configuration and layer; the unreadable root is reported and stays.
    assert_eq!((report.blobs.len(), report.problems.len()), (3, 1));
    assert!(!node.images.store().has(&other.digest) && node.images.store().has(&broken));
    node.images.load_image(&index.digest, &"linux/amd64".parse().unwrap()).unwrap();
    // What goes is forgotten by the cache, too.
    node.images.gc(&HashSet::new(), Sweep::older_than(Duration::ZERO)).unwrap();
    assert!(node.images.load_image(&index.digest, &"linux/amd64".parse().unwrap()).is_err());
    assert!(node.images.store().digests().unwrap().is_empty());
}
