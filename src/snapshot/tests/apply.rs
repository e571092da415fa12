//! What a layer's entries become.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::{Node, is_whiteout, xattr};
use crate::image::tests::fixture::LayerTar;

#[test]
fn files_keep_mode_owner_time_attributes_and_links() {
    // cap_net_raw=ep, as setcap writes it.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = LayerTar::new()
        .dir("bin", 0o755)
        .raw(tar::EntryType::Regular, "bin/su", "", 0o4755, b"suid")
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability),
            ("mtime", b"1500000000.25"),
            ("uid", b"1234"),
            ("gid", b"70000"),
        ])
        .file("bin/ping", b"ping")
        .hard_link("bin/ping6", "bin/ping")
        .symlink("sbin", "/bin")
        .pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/x"), ("SCHILY.xattr.trusted.kept", b"v")])
        .dir("d", 0o1777)
        .raw(tar::EntryType::Fifo, "d/fifo", "", 0o622, b"")
        .raw(tar::EntryType::Char, "d/null", "", 0o666, b"")
        .done();
    let fs = Node::new();
    let root = fs.layers(&[tar])[0].clone();
    let su = fs::metadata(root.join("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.mtime()), (0o4755, 1_600_000_000));
    let ping = fs::metadata(root.join("bin/ping")).unwrap();
    assert_eq!(
        (ping.uid(), ping.gid(), ping.nlink(), ping.mtime(), ping.mtime_nsec()),
        (1234, 70000, 2, 1_500_000_000, 250_000_000)
    );
    assert_eq!(xattr(&root.join("bin/ping"), "security.capability").unwrap(), capability);
    assert_eq!(fs::metadata(root.join("bin/ping6")).unwrap().ino(), ping.ino());
    assert_eq!(fs::read_link(root.join("sbin")).unwrap().to_str(), Some("/bin"));
    let d = fs::metadata(root.join("d")).unwrap();
    // Its time is the archive's although entries were made in it since.
    assert_eq!((d.mode() & 0o7777, d.mtime()), (0o1777, 1_600_000_000));
    assert_eq!(xattr(&root.join("d"), "trusted.kept").unwrap(), b"v");
    assert_eq!(xattr(&root.join("d"), "trusted.overlay.redirect"), None);
    assert!(fs::symlink_metadata(root.join("d/fifo")).unwrap().file_type().is_fifo());
    let null = fs::symlink_metadata(root.join("d/null")).unwrap();
    assert_eq!(
        (null.file_type().is_char_device(), null.rdev(), null.mode() & 0o777),
        (true, rustix::fs::makedev(1, 3), 0o666)
    );
}

#[test]
fn deletions_become_whiteouts_and_opaque_directories() {
    let tar = LayerTar::new()
        .dir("d", 0o755)
        .file("d/.wh.gone", b"")
        .dir("o", 0o755)
        .file("o/new", b"1")
        .file("o/.wh..wh..opq", b"")
        .file(".wh.again", b"")
        .dir("again", 0o700)
        .file("again/x", b"1")
        .file(".wh.path", b"")
        .file("path/below", b"1")
        .dir("kept", 0o755)
        .file("kept/x", b"1")
        .file(".wh.kept", b"")
        .file(".wh..wh.plnk", b"")
        .done();
    let node = Node::new();
    let root = node.layers(&[tar])[0].clone();
    assert!(is_whiteout(&root.join("d/gone")));
    for opaque in ["o", "again", "path", "kept"] {
        assert_eq!(xattr(&root.join(opaque), "trusted.overlay.opaque").as_deref(), Some(&b"y"[..]), "{opaque}");
    }
    assert_eq!(xattr(&root.join("d"), "trusted.overlay.opaque"), None);
    assert!(root.join("o/new").exists() && root.join("kept/x").exists() && root.join("path/below").exists());
    let mut names: Vec<_> = fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["again", "d", "kept", "o", "path"]);
}

#[test]
fn a_directory_that_a_layer_does_not_describe_looks_like_the_one_below() {
    let base = LayerTar::new()
        .dir("./", 0o750)
        .dir("tmp", 0o1777)
        .pax(&[("uid", b"7"), ("SCHILY.xattr.user.note", b"n")])
        .dir("home", 0o700)
        .done();
    let upper = LayerTar::new().file("tmp/x", b"1").file("home/deep/er/x", b"1").file("new/x", b"1").done();
    // Described after all, later in the same layer.
    let top = LayerTar::new().file("tmp/y", b"1").dir("tmp", 0o711).done();
    let node = Node::new();
    let layers = node.layers(&[base, upper, top]);
    let [top, upper, _] = &layers[..] else { panic!() };
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!((mode(&upper.join("tmp")), fs::metadata(upper.join("tmp")).unwrap().mtime()), (0o1777, 1_600_000_000));
    assert_eq!((mode(&upper.join("home")), fs::metadata(upper.join("home")).unwrap().uid()), (0o700, 7));
    assert_eq!(xattr(&upper.join("home"), "user.note").as_deref(), Some(&b"n"[..]));
    assert_eq!((mode(&upper.join("home/deep")), mode(&upper.join("new"))), (0o755, 0o755));
    assert_eq!(mode(&top.join("tmp")), 0o711);
    assert_eq!((mode(upper), mode(top)), (0o750, 0o750));
    for path in [&upper.join("tmp"), &upper.join("home/deep"), &top.join("tmp"), upper] {
        assert_eq!(xattr(path, "trusted.bayplan.implied"), None);
    }
}

#[test]
fn of_duplicates_the_last_stands_and_a_directory_keeps_what_is_in_it() {
    let tar = LayerTar::new()
        .file("f", b"old")
        .raw(tar::EntryType::Regular, "f", "", 0o600, b"new")
        .dir("d", 0o755)
        .file("d/x", b"1")
        .dir("d", 0o700)
        .symlink("l", "d")
        .file("l", b"a file now")
        .dir("t", 0o755)
        .file("t/a/b/c", b"1")
        .file("t", b"a file now")
        .file("u", b"a file")
        .dir("u", 0o755)
        .file("u/x", b"1")
        .done();
    let node = Node::new();
    let root = node.layers(&[tar])[0].clone();
    assert_eq!(
        (fs::read(root.join("f")).unwrap(), fs::metadata(root.join("f")).unwrap().permissions().mode() & 0o777),
        (b"new".to_vec(), 0o600)
    );
    assert!(root.join("d/x").exists());
    assert_eq!(fs::metadata(root.join("d")).unwrap().mode() & 0o777, 0o700);
    assert_eq!(fs::read(root.join("l")).unwrap(), b"a file now");
    assert_eq!(fs::read(root.join("t")).unwrap(), b"a file now");
    assert!(root.join("u/x").exists());
}

#[test]
fn entries_below_a_link_go_where_it_leads_inside_of_the_layer() {
    let tar = LayerTar::new()
        .dir("usr", 0o755)
        .dir("usr/bin", 0o755)
        .symlink("bin", "usr/bin")
        .file("bin/sh", b"1")
        .symlink("abs", "/usr/lib")
        .file("abs/so", b"1")
        .hard_link("abs/so2", "bin/sh")
        .done();
    let node = Node::new();
    let root = node.layers(&[tar])[0].clone();
    assert!(root.join("usr/bin/sh").exists() && root.join("usr/lib/so").exists());
    assert!(fs::symlink_metadata(root.join("bin")).unwrap().is_symlink());
    assert_eq!(fs::metadata(root.join("usr/lib/so2")).unwrap().nlink(), 2);
}

#[test]
fn sparse_files_of_gnu_tar_come_back_with_their_holes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse");
    let file = fs::File::create(&path).unwrap();
    use std::os::unix::fs::FileExt;
    file.write_all_at(b"begin", 0).unwrap();
    file.write_all_at(b"middle", 5 << 20).unwrap();
    file.set_len(9 << 20).unwrap();
    let expected = fs::read(&path).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=pax"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=0.0"],
    ] {
        let out = std::process::Command::new("tar")
            .args(format)
            .args(["-S", "-c", "-C"])
            .arg(dir.path())
            .arg("sparse")
            .output()
            .unwrap();
        assert!(out.status.success() && out.stdout.len() < 1 << 20);
        let node = Node::new();
        let root = node.layers(&[out.stdout])[0].clone();
        assert!(fs::read(root.join("sparse")).unwrap() == expected, "{format:?}");
        assert!(fs::metadata(root.join("sparse")).unwrap().blocks() * 512 < 1 << 20, "{format:?}");
    }
}

#[test]
fn names_that_are_not_utf_8_are_kept() {
    use std::os::unix::ffi::OsStrExt;
    let tar = LayerTar::new().pax(&[("path", b"caf\xe9")]).file("x", b"1").done();
    let node = Node::new();
    let root = node.layers(&[tar])[0].clone();
    assert!(root.join(std::ffi::OsStr::from_bytes(b"caf\xe9")).exists());
}
