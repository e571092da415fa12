//! Layers that want more than there is: memory, time, disk. And damaged ones, each with its words.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::{Duration, Instant};

use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use super::Node;
use crate::image::tests::fixture::{LayerTar, SmallDisk, gzip, noise, zstd};
use crate::oci::Digest;
use crate::snapshot::Snapshots;

/// The error of unpacking this, with the blob's digest taken out of it; nothing of the layer is left.
fn told(node: &Node, blob: Vec<u8>, diff_id: &Digest) -> String {
    let image = node.image_of(blob, diff_id);
    let error = node.unpack(&image).unwrap_err();
    assert!(!node.snapshots.is_unpacked(&image));
    assert!(node.names("l").is_empty() && node.names("chains").is_empty());
    error.to_string().replace(&image.layers[0].descriptor.digest.to_string(), "LAYER")
}

/// Whether this is the process for it: one that runs the named test alone, with so many bytes of memory
/// (`RLIMIT_DATA`) for everything, the test's own included. Whoever is not, waits for that one to succeed.
fn is_bounded(test: &str, mebibytes: u64) -> bool {
    const NAME: &str = "BAYPLAN_TEST_BOUNDED";
    if std::env::var_os(NAME).is_some_and(|name| name == *test) {
        return true;
    }
    let out = Command::new("prlimit")
        .arg(format!("--data={}", mebibytes << 20))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("snapshot::tests::bounds::{test}"), "--test-threads", "1"])
        .env(NAME, test)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && told.contains("1 passed"), "{told}{}", String::from_utf8_lossy(&out.stderr));
    false
}

/// A header with a size that nothing follows.
fn header(kind: tar::EntryType, name: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_path(name).unwrap();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    header
}

#[test]
fn bombs_and_damage_are_refused_each_with_its_words() {
    let node = Node::new();
    let tar = LayerTar::new().file("a", &noise(100_000, 1)).done();
    let right = Digest::of(&tar);
    let packed = gzip(&tar);
    let plain = |tar: Vec<u8>| (gzip(&tar), Digest::of(&tar));
    let record = [b"65000 SCHILY.xattr.user.x=".to_vec(), vec![b'v'; 64_973], b"\n".to_vec()].concat();
    let attributes = (0..60).fold(LayerTar::new(), |tar, _| tar.raw(tar::EntryType::XHeader, "x", "", 0o644, &record));
    let overlap = LayerTar::new()
        .pax(&[("GNU.sparse.size", b"100"), ("GNU.sparse.map", b"0,60,50,50")])
        .file("x", &[1; 110])
        .done();
    let huge = LayerTar::new()
        .pax(&[("GNU.sparse.size", b"1000000000000"), ("GNU.sparse.map", b"0,1")])
        .file("sparse", b"1")
        .done();
    let rows: Vec<(&str, (Vec<u8>, Digest))> = vec![
        ("a pax header of 10 GiB", plain(header(tar::EntryType::XHeader, "x", 10 << 30).as_bytes().to_vec())),
        ("sixty pax headers of 64 KB for one entry", plain(attributes.file("a", b"").done())),
        ("a sparse file of 1 TB", plain(huge)),
        ("pieces of a sparse file that overlap", plain(overlap)),
        ("gzip that is cut", (packed[..packed.len() / 2].to_vec(), right.clone())),
        ("gzip with a wrong checksum", {
            let mut wrong = packed.clone();
            let at = wrong.len() - 6;
            wrong[at] ^= 1;
            (wrong, right.clone())
        }),
        ("gzip with something behind it", ([&packed[..], b"something"].concat(), right.clone())),
        ("zstd that is cut", (zstd(&tar)[..5000].to_vec(), right.clone())),
        ("a tar archive that is cut", plain(tar[..50_000].to_vec())),
        ("no tar archive", plain(b"<html>".repeat(200))),
        ("nothing at all", (Vec::new(), right.clone())),
        ("another diff ID", (packed.clone(), Digest::of(b"other"))),
        ("a name of 20,000 bytes", {
            plain(LayerTar::new().pax(&[("path", "d/".repeat(10_000).as_bytes())]).file("x", b"1").done())
        }),
    ];
    let words: Vec<String> = rows
        .into_iter()
        .map(|(row, (blob, diff_id))| {
            let text = told(&node, blob, &diff_id);
            format!("{row}\n  {}", text.replace(&diff_id.to_string(), "DIFF").replace(&right.to_string(), "RIGHT"))
        })
        .collect();
    insta::assert_snapshot!(words.join("\n"));
}

#[test]
fn gzip_members_and_skippable_zstd_frames_are_one_layer() {
    let node = Node::new();
    let tar = LayerTar::new().file("a", &noise(100_000, 1)).done();
    let members = tar.chunks(30_000).map(gzip).collect::<Vec<_>>().concat();
    // A skippable frame before, between and behind, as zstd:chunked has its table of contents.
    let frame = [&0x184d_2a50u32.to_le_bytes()[..], &5u32.to_le_bytes(), b"table"].concat();
    let (one, two) = tar.split_at(70_000);
    let chunked = [frame.clone(), zstd(one), frame.clone(), zstd(two), frame].concat();
    for blob in [members, chunked, tar.clone()] {
        let image = node.image_of(blob, &Digest::of(&tar));
        node.unpack(&image).unwrap();
        assert!(fs::read(node.snapshots.lower_dirs(&image).unwrap()[0].join("a")).unwrap() == noise(100_000, 1));
        let now = crate::image::Sweep::older_than(std::time::Duration::ZERO);
        node.snapshots.gc(&std::collections::HashSet::new(), now).unwrap();
    }
}

#[test]
fn names_of_five_thousand_bytes_are_kept() {
    let node = Node::new();
    let deep = "d/".repeat(2_500);
    let (name, other) = (format!("{deep}file"), format!("{deep}other"));
    let tar = LayerTar::new()
        .pax(&[("path", name.as_bytes())])
        .file("x", b"deep")
        .pax(&[("path", other.as_bytes()), ("linkpath", name.as_bytes())])
        .hard_link("x", "y")
        .pax(&[("path", deep.as_bytes())])
        .dir("x", 0o750)
        .done();
    let root = node.layers(&[tar])[0].clone();
    let mut at = fs::File::open(&root).map(std::os::fd::OwnedFd::from).unwrap();
    for _ in 0..2_500 {
        at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    }
    let stat = rustix::fs::statat(&at, "other", rustix::fs::AtFlags::empty()).unwrap();
    assert_eq!((stat.st_size, stat.st_nlink), (4, 2));
    let stat = rustix::fs::fstat(&at).unwrap();
    assert_eq!((stat.st_mode & 0o777, stat.st_mtime), (0o750, 1_600_000_000));
    drop(node);
}

/// Gzip members of a beginning, so many times a piece, and the end of an archive; with the diff ID.
fn repeated(start: &[u8], piece: &[u8], times: usize) -> (Vec<u8>, Digest) {
    let pack = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let mut hasher = Sha256::new();
    hasher.update(start);
    (0..times).for_each(|_| hasher.update(piece));
    hasher.update([0; 1024]);
    let blob = [pack(start), pack(piece).repeat(times), pack(&[0; 1024])].concat();
    (blob, Digest::from_sha256(&hasher.finalize()))
}

#[test]
fn ten_gibibytes_of_zeros_in_ten_mebibytes_take_no_disk_and_can_be_refused() {
    if !is_bounded("ten_gibibytes_of_zeros_in_ten_mebibytes_take_no_disk_and_can_be_refused", 96) {
        return;
    }
    const SIZE: u64 = 10 << 30;
    const PIECE: usize = 16 << 20;
    // More than eleven octal digits: base 256.
    let start = header(tar::EntryType::Regular, "zeros", SIZE);
    let (blob, diff_id) = repeated(start.as_bytes(), &vec![0; PIECE], SIZE as usize / PIECE);
    assert!(blob.len() < 12 << 20, "{}", blob.len());
    let node = Node::new();
    let image = node.image_of(blob, &diff_id);
    let limited = Snapshots::open_limited(node.root.path(), 1 << 30).unwrap();
    let begun = Instant::now();
    let error = limited.unpack(&image, node.store(), &|_| {}).unwrap_err().to_string();
    assert!(error.ends_with("entry \"zeros\": it is larger than a whole layer may be"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(node.names("l").is_empty());
    node.unpack(&image).unwrap();
    let file = fs::metadata(node.snapshots.lower_dirs(&image).unwrap()[0].join("zeros")).unwrap();
    assert_eq!(file.len(), SIZE);
    assert!(file.blocks() * 512 < 1 << 20, "{} blocks", file.blocks());
}

#[test]
fn pax_headers_by_the_hundred_take_the_memory_of_one() {
    if !is_bounded("pax_headers_by_the_hundred_take_the_memory_of_one", 48) {
        return;
    }
    // A mebibyte of comments before each of 200 entries, nearly nothing as it is packed.
    let record = [b"1000 comment=".to_vec(), vec![b'c'; 986], b"\n".to_vec()].concat().repeat(1040);
    let comments = LayerTar::new().raw(tar::EntryType::XHeader, "x", "", 0o644, &record).file("a", b"1").done();
    let (blob, diff_id) = repeated(&[], &comments[..comments.len() - 1024], 200);
    assert!(blob.len() < 2 << 20, "{}", blob.len());
    let node = Node::new();
    let image = node.image_of(blob, &diff_id);
    node.unpack(&image).unwrap();
    assert_eq!(fs::read(node.snapshots.lower_dirs(&image).unwrap()[0].join("a")).unwrap(), b"1");
}

#[test]
fn more_than_a_layer_may_hold_is_refused_when_it_has_come() {
    let node = Node::new();
    let tar = (0..40).fold(LayerTar::new(), |tar, n| tar.file(&format!("f{n}"), &[n; 100_000])).done();
    let image = node.image(&[tar]);
    let limited = Snapshots::open_limited(node.root.path(), 3 << 20).unwrap();
    let error = limited.unpack(&image, node.store(), &|_| {}).unwrap_err().to_string();
    let layer = image.layers[0].descriptor.digest.to_string();
    insta::assert_snapshot!(error.replace(&layer, "LAYER"), @r#"layer LAYER: entry "f31": it unpacks to more than 3145728 bytes"#);
    assert!(node.names("l").is_empty());
}

#[test]
fn a_million_entries_are_applied_in_bounded_memory() {
    // A million names would be more than this.
    if !is_bounded("a_million_entries_are_applied_in_bounded_memory", 64) {
        return;
    }
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut hasher = Sha256::new();
    let mut header = header(tar::EntryType::Regular, "f", 0);
    for n in 0..1_000_000u32 {
        let name = format!("{}/{}", n / 1000, n % 1000);
        let field = &mut header.as_gnu_mut().unwrap().name;
        field.fill(0);
        field[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        hasher.update(header.as_bytes());
        encoder.write_all(header.as_bytes()).unwrap();
    }
    let node = Node::new();
    let image = node.image_of(encoder.finish().unwrap(), &Digest::from_sha256(&hasher.finalize()));
    node.unpack(&image).unwrap();
    let root = node.snapshots.lower_dirs(&image).unwrap().remove(0);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 1000);
    assert_eq!(fs::read_dir(root.join("999")).unwrap().count(), 1000);
}

#[test]
fn a_disk_that_is_full_in_the_middle_of_a_layer_is_told_and_gets_its_space_back() {
    let disk = SmallDisk::new(8);
    let node = Node::at(disk.root());
    let pattern = (0..20_000_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>();
    let tar = LayerTar::new().file("small", b"1").file("large", &pattern).done();
    let image = node.image(&[tar]);
    let before = disk.free();
    let error = node.unpack(&image).unwrap_err();
    let layer = image.layers[0].descriptor.digest.to_string();
    insta::assert_snapshot!(
        error.to_string().replace(&layer, "LAYER"),
        @r#"write "large" of layer LAYER: No space left on device (os error 28)"#
    );
    let fault = crate::error::Fault::from(error);
    assert_eq!(fault.help.as_deref(), Some(crate::image::MAKE_ROOM));
    assert!(node.names("l").is_empty());
    assert_eq!(disk.free(), before);
}

#[test]
fn devices_and_set_id_files_are_kept_where_only_root_gets_at_them() {
    let tar = LayerTar::new()
        .raw(tar::EntryType::Regular, "su", "", 0o6755, b"x")
        .raw(tar::EntryType::Char, "null", "", 0o666, b"")
        .done();
    let node = Node::new();
    let root = node.layers(&[tar])[0].clone();
    assert_eq!(fs::metadata(root.join("su")).unwrap().mode() & 0o7777, 0o6755);
    assert_eq!(fs::symlink_metadata(root.join("null")).unwrap().rdev(), rustix::fs::makedev(1, 3));
    // The directory above is root's alone: no user of the host can run or open them.
    assert_eq!(fs::metadata(root.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
}
