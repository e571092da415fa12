//! An unpacked layer held against its blob.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::Node;
use crate::image::Image;
use crate::image::tests::fixture::{LayerTar, noise};

/// Two layers with all that unpacking does something of its own about.
fn image(node: &Node) -> Image {
    let lower = LayerTar::new()
        .dir("tmp", 0o1777)
        .dir("etc", 0o755)
        .file("etc/passwd", b"root:x:0:0")
        .file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh")
        .dir("lib", 0o755)
        .file("lib/a", &noise(400_000, 1))
        .hard_link("lib/b", "lib/a")
        .file("lib/zeros", &[0; 300_000])
        .symlink("bin", "/lib")
        .file("bin/through-a-link", b"1");
    let upper = LayerTar::new()
        .file("etc/.wh.passwd", b"")
        .file("tmp/implied", b"2")
        .file("new/implied/too", b"3")
        .dir("opaque", 0o755)
        .file("opaque/.wh..wh..opq", b"")
        .pax(&[("SCHILY.xattr.user.colour", b"red")])
        .file("opaque/file", b"4");
    node.image(&[lower.done(), upper.done()])
}

/// What is wrong with a layer once `harm` was done to its files.
fn after(at: usize, harm: impl FnOnce(&Path)) -> String {
    let node = Node::new();
    let image = image(&node);
    node.unpack(&image).unwrap();
    let mut roots = node.snapshots.lower_dirs(&image).unwrap();
    roots.reverse();
    harm(&roots[at]);
    let found = node.snapshots.compare(&image, at, node.store()).unwrap();
    assert_eq!(node.names("l").len(), 2, "what was unpacked to compare is gone");
    found.into_iter().map(|one| format!("{} {}", one.path, one.what)).collect::<Vec<_>>().join("; ")
}

#[test]
fn what_was_unpacked_is_as_its_blob_also_a_while_later() {
    assert_eq!(after(0, |_| {}), "");
    // Directories that no layer describes, and deletions, have the time at which they were made.
    assert_eq!(after(1, |_| std::thread::sleep(std::time::Duration::from_millis(2100))), "");
}

#[test]
fn each_harm_is_found_and_named() {
    assert_eq!(after(0, |root| fs::remove_file(root.join("etc/passwd")).unwrap()), "etc/passwd is missing");
    assert_eq!(after(0, |root| fs::write(root.join("etc/passwd"), "root").unwrap()), "etc/passwd has 4 bytes, not 29");
    let flip = |root: &Path| {
        let path = root.join("lib/a");
        let (mut bytes, time) = (fs::read(&path).unwrap(), fs::metadata(&path).unwrap().modified().unwrap());
        bytes[399_999] ^= 1;
        fs::write(&path, bytes).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    };
    assert_eq!(after(0, flip), "lib/a has other bytes; lib/b has other bytes");
    assert_eq!(
        after(0, |root| fs::set_permissions(root.join("tmp"), Permissions::from_mode(0o755)).unwrap()),
        "tmp has mode 755, not 1777"
    );
    let relink = |root: &Path| {
        fs::remove_file(root.join("bin")).unwrap();
        symlink("/tmp", root.join("bin")).unwrap();
    };
    assert!(after(0, relink).starts_with("bin "), "a link that leads elsewhere");
    let unlink = |root: &Path| {
        fs::remove_dir_all(root.join("lib")).unwrap();
        fs::write(root.join("lib"), "").unwrap();
    };
    assert!(after(0, unlink).contains("lib is of another kind"));
    assert_eq!(after(1, |root| fs::remove_file(root.join("etc/passwd")).unwrap()), "etc/passwd is missing");
    assert_eq!(
        after(1, |root| rustix::fs::removexattr(root.join("opaque/file"), "user.colour").unwrap()),
        "opaque/file has other attributes"
    );
    assert_eq!(
        after(1, |root| rustix::fs::removexattr(root.join("opaque"), "trusted.overlay.opaque").unwrap()),
        "opaque has other attributes"
    );
    let stray = |root: &Path| fs::write(root.join("new/stray"), "").unwrap();
    assert_eq!(after(1, stray), "new/stray does not belong there");
}

#[test]
fn a_layer_that_is_all_wrong_is_told_in_few_words() {
    let found = after(0, |root| {
        for entry in fs::read_dir(root).unwrap() {
            let path = entry.unwrap().path();
            fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path)).unwrap();
        }
        for n in 0..1000 {
            fs::write(root.join(format!("stray-{n}")), "").unwrap();
        }
    });
    assert_eq!(found.split("; ").count(), crate::snapshot::NAMED);
}
