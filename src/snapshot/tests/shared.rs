//! Snapshots shared, interrupted, collected; writable layers.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Node;
use crate::image::Sweep;
use crate::image::tests::fixture::{LayerTar, noise};
use crate::snapshot::{Snapshots, chain_ids};

fn now() -> Sweep<'static> {
    Sweep::older_than(std::time::Duration::ZERO)
}

fn base() -> Vec<u8> {
    LayerTar::new().dir("./", 0o711).file("base", &noise(200_000, 1)).done()
}

fn top(mark: &str) -> Vec<u8> {
    LayerTar::new().file(mark, mark.as_bytes()).done()
}

#[test]
fn images_share_layers_and_concurrent_calls_apply_each_once() {
    let node = Node::new();
    let images =
        [node.image(&[base(), top("a")]), node.image(&[base(), top("b")]), node.image(&[base(), top("a"), top("c")])];
    let applied = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for n in 0..9 {
            let (node, image, applied) = (&node, &images[n % 3], &applied);
            scope.spawn(move || {
                let count = |_: &crate::oci::Digest| {
                    applied.fetch_add(1, Ordering::Relaxed);
                };
                node.snapshots.unpack(image, node.store(), &count).unwrap();
                assert!(node.snapshots.is_unpacked(image));
            });
        }
    });
    assert_eq!(applied.load(Ordering::Relaxed), 4);
    assert_eq!((node.names("l").len(), node.names("chains").len()), (4, 4));
    let bottoms: HashSet<_> = images.iter().map(|i| node.snapshots.lower_dirs(i).unwrap().pop()).collect();
    assert_eq!(bottoms.len(), 1);
}

#[test]
fn an_interrupted_apply_is_swept_and_never_taken_for_a_finished_one() {
    let node = Node::new();
    let image = node.image(&[base(), top("a")]);
    let snapshots = node.root.path().join("snapshots");
    // As kill -9 leaves it: a directory without a name, half full; a name that a crash of the disk took
    // the directory of; writable layers half made and half removed.
    fs::create_dir_all(snapshots.join("l/7/fs/etc")).unwrap();
    fs::write(snapshots.join("l/7/fs/etc/half"), "h").unwrap();
    let chain = chain_ids(&image.layers)[0].clone();
    std::os::unix::fs::symlink("../l/9", snapshots.join("chains").join(chain.hex())).unwrap();
    fs::create_dir_all(snapshots.join("w/.new-999999-1/upper")).unwrap();
    fs::create_dir_all(snapshots.join("w/.rm-999999-1/upper")).unwrap();
    let again = Snapshots::open(node.root.path()).unwrap();
    assert!(!again.is_unpacked(&image));
    assert!(node.names("l").is_empty() && node.names("chains").is_empty() && node.names("w").is_empty());
    again.unpack(&image, node.store(), &|_| {}).unwrap();
    assert!(again.is_unpacked(&image));
    assert_eq!(again.sweep().unwrap(), 0);
    assert!(node.snapshots.is_unpacked(&image));
}

#[test]
fn a_sweep_leaves_what_is_being_applied() {
    /// A source that sweeps while the layer is read.
    struct Sweeping<'a>(&'a Node, AtomicUsize);
    impl crate::snapshot::LayerSource for Sweeping<'_> {
        fn open(&self, layer: &crate::image::Layer) -> Result<crate::image::Packed, crate::image::ImageError> {
            let bytes = self.0.store().read(&layer.descriptor.digest, 1 << 30)?;
            let removed = Snapshots::open(self.0.root.path()).unwrap().sweep().unwrap();
            self.1.fetch_add(removed, Ordering::Relaxed);
            Ok(crate::image::Packed::verified(std::io::Cursor::new(bytes)))
        }
    }
    let node = Node::new();
    let image = node.image(&[base(), top("a"), top("b"), top("c")]);
    let source = Sweeping(&node, AtomicUsize::new(0));
    node.snapshots.unpack(&image, &source, &|_| {}).unwrap();
    assert_eq!(source.1.load(Ordering::Relaxed), 0);
    assert!(node.snapshots.is_unpacked(&image));
}

#[test]
fn a_writable_layer_is_the_same_at_every_call_and_looks_like_the_root_of_the_image() {
    let node = Node::new();
    let image = node.image(&[base(), top("a")]);
    assert!(node.snapshots.prepare("shop/1", &image).is_err());
    node.unpack(&image).unwrap();
    let mounts = node.snapshots.prepare("shop/1", &image).unwrap();
    let [mount] = &mounts[..] else { panic!() };
    assert_eq!((mount.kind.as_str(), mount.source.as_str()), ("overlay", "overlay"));
    let lower = node.snapshots.lower_dirs(&image).unwrap();
    assert_eq!(mount.options[0], format!("lowerdir={}:{}", lower[0].display(), lower[1].display()));
    let upper = mount.options[1].strip_prefix("upperdir=").unwrap();
    assert_eq!(fs::metadata(upper).unwrap().mode() & 0o7777, 0o711);
    fs::write(format!("{upper}/written"), "x").unwrap();
    assert_eq!(node.snapshots.prepare("shop/1", &image).unwrap(), mounts);
    assert!(fs::exists(format!("{upper}/written")).unwrap());
    node.snapshots.prepare("shop/2", &image).unwrap();
    assert_eq!(node.snapshots.keys().unwrap(), ["shop/1", "shop/2"]);
    node.snapshots.remove("shop/1").unwrap();
    node.snapshots.remove("shop/1").unwrap();
    assert_eq!(node.snapshots.keys().unwrap(), ["shop/2"]);
    assert_eq!(node.names("w").len(), 1);
    // An image without layers has one empty lower directory.
    let empty = node.image(&[]);
    node.unpack(&empty).unwrap();
    let mounts = node.snapshots.prepare("shop/3", &empty).unwrap();
    assert!(mounts[0].options[0].ends_with("/snapshots/empty"));
}

#[test]
fn collection_keeps_chains_that_are_named_and_those_below_them() {
    let node = Node::new();
    let (kept, other) = (node.image(&[base(), top("a")]), node.image(&[base(), top("b"), top("c")]));
    node.unpack(&kept).unwrap();
    node.unpack(&other).unwrap();
    let keep = HashSet::from([chain_ids(&kept.layers)[1].clone()]);
    assert_eq!(node.snapshots.gc(&keep, now()).unwrap().snapshots.len(), 2);
    assert!(node.snapshots.is_unpacked(&kept) && !node.snapshots.is_unpacked(&other));
    assert_eq!((node.names("l").len(), node.snapshots.list().unwrap().len()), (2, 2));
    node.unpack(&other).unwrap();
    let hour = std::time::Duration::from_secs(3600);
    assert_eq!(node.snapshots.gc(&HashSet::new(), Sweep::older_than(hour)).unwrap().snapshots.len(), 0);
    assert_eq!(node.snapshots.gc(&HashSet::new(), now()).unwrap().snapshots.len(), 4);
    assert!(node.names("l").is_empty());
}

#[test]
fn collection_beside_unpacking_never_breaks_an_image() {
    let node = Node::new();
    let images = [node.image(&[base(), top("a"), top("x")]), node.image(&[base(), top("b")])];
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                node.snapshots.gc(&HashSet::new(), now()).unwrap();
            }
        });
        let workers: Vec<_> = images
            .iter()
            .map(|image| {
                let node = &node;
                scope.spawn(move || {
                    for _ in 0..30 {
                        node.unpack(image).unwrap();
                    }
                })
            })
            .collect();
        let results: Vec<_> = workers.into_iter().map(|w| w.join()).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    for image in &images {
        node.unpack(image).unwrap();
        assert_eq!(node.snapshots.lower_dirs(image).unwrap().len(), image.layers.len());
    }
}

#[test]
fn files_of_an_image_are_read_as_a_fresh_container_sees_them() {
    let node = Node::new();
    let image = node.image(&[
        LayerTar::new().file("etc/passwd", b"old").file("etc/group", b"g").file("gone", b"1").file("o/x", b"1").done(),
        LayerTar::new()
            .file("etc/passwd", b"root:x:0:0")
            .file(".wh.gone", b"")
            .file("o/.wh..wh..opq", b"")
            .symlink("link", "/etc/passwd")
            .done(),
    ]);
    node.unpack(&image).unwrap();
    let read = |path: &str| node.snapshots.read(&image, path, 6).unwrap();
    assert_eq!(read("/etc/passwd").as_deref(), Some(&b"root:x"[..]));
    assert_eq!(read("etc/group").as_deref(), Some(&b"g"[..]));
    assert_eq!(read("link").as_deref(), Some(&b"root:x"[..]));
    for absent in ["gone", "o/x", "nowhere/at/all", "etc"] {
        assert_eq!(read(absent), None, "{absent}");
    }
}

#[test]
fn a_root_that_mount_options_cannot_carry_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = Snapshots::open(&dir.path().join("a:b")).err().unwrap();
    assert!(error.to_string().contains("':'"), "{error}");
}
