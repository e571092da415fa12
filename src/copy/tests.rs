//! Trees in and out, and what somebody hostile makes of either side.

use std::fs::{self, File, Permissions};
use std::io::{Cursor, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

const COPY: Options = Options { mode: Mode::Place, owners: false, follow: true };

fn packed(root: &Path, path: &str) -> Result<Vec<u8>, CopyError> {
    let mut stream = Vec::new();
    pack(File::open(root).unwrap(), path.as_bytes(), &mut stream)?;
    Ok(stream)
}

fn unpacked(root: &Path, path: &str, stream: &[u8], options: Options) -> Result<Report, CopyError> {
    unpack(File::open(root).unwrap(), path.as_bytes(), Cursor::new(stream), options)
}

/// `cp from:SRC to:DST`.
fn copy(from: &Path, source: &str, to: &Path, target: &str) -> Result<Report, CopyError> {
    unpacked(to, target, &packed(from, source)?, COPY)
}

fn tree(root: &Path) {
    let long = "n".repeat(120);
    fs::create_dir_all(root.join("d/sub").join(&long)).unwrap();
    fs::write(root.join("d/file"), "text").unwrap();
    fs::set_permissions(root.join("d/file"), Permissions::from_mode(0o640)).unwrap();
    fs::write(root.join("d/sub").join(&long).join("deep"), "deep").unwrap();
    fs::hard_link(root.join("d/file"), root.join("d/sub/again")).unwrap();
    symlink("../nowhere/./x", root.join("d/link")).unwrap();
    symlink(format!("/{}", "t".repeat(200)), root.join("d/long-link")).unwrap();
    let sparse = File::create(root.join("d/sparse")).unwrap();
    for piece in 0..30 {
        sparse.write_all_at(b"data", piece << 20).unwrap();
    }
    sparse.set_len(40 << 20).unwrap();
    fs::set_permissions(root.join("d/sub"), Permissions::from_mode(0o1750)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for path in ["d/file", "d/sub"] {
        File::open(root.join(path)).unwrap().set_modified(time).unwrap();
    }
}

#[test]
fn a_tree_arrives_as_it_was() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    tree(from.path());
    let report = copy(from.path(), "/d", to.path(), "/new").unwrap();
    let new = to.path().join("new");
    assert_eq!((report.entries, report.skipped), (9, 0));
    let meta = |path: &str| fs::symlink_metadata(new.join(path)).unwrap();
    assert_eq!((meta("file").mode() & 0o7777, meta("file").mtime()), (0o640, 1_000_000_000));
    assert_eq!((meta("sub").mode() & 0o7777, meta("sub").mtime()), (0o1750, 1_000_000_000));
    assert_eq!(meta("file").ino(), meta("sub/again").ino());
    assert_eq!(fs::read_link(new.join("link")).unwrap(), Path::new("../nowhere/./x"));
    assert_eq!(fs::read_link(new.join("long-link")).unwrap().as_os_str().len(), 201);
    assert_eq!(fs::read(new.join("sub").join("n".repeat(120)).join("deep")).unwrap(), b"deep");
    let (was, is) = (fs::read(from.path().join("d/sparse")).unwrap(), fs::read(new.join("sparse")).unwrap());
    assert!(was == is && meta("sparse").blocks() * 512 < 8 << 20, "{} blocks", meta("sparse").blocks());
}

#[test]
fn the_stream_is_one_that_tar_reads() {
    let from = tempfile::tempdir().unwrap();
    tree(from.path());
    let mut tar = std::process::Command::new("tar")
        .args(["-tf", "-"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let stream = packed(from.path(), "d").unwrap();
    std::thread::spawn({
        let mut stdin = tar.stdin.take().unwrap();
        move || drop(stdin.write_all(&stream))
    });
    let output = tar.wait_with_output().unwrap();
    let names = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && names.starts_with("d/\n") && names.contains("d/sparse\n"), "{names}");
}

#[test]
fn where_it_goes_is_as_with_podman() {
    let from = tempfile::tempdir().unwrap();
    fs::create_dir_all(from.path().join("d")).unwrap();
    fs::write(from.path().join("d/f"), "f").unwrap();
    symlink("d/f", from.path().join("l")).unwrap();
    let try_it = |source: &str, target: &str| {
        let to = tempfile::tempdir().unwrap();
        fs::create_dir(to.path().join("dir")).unwrap();
        fs::write(to.path().join("file"), "old").unwrap();
        symlink("/dir", to.path().join("to-dir")).unwrap();
        symlink("file", to.path().join("to-file")).unwrap();
        let outcome = copy(from.path(), source, to.path(), target).map_err(|error| error.to_string());
        let mut made = Vec::new();
        for path in ["new", "new/f", "new/d", "dir/f", "dir/d/f", "dir/l", "d/f"] {
            if to.path().join(path).exists() {
                made.push(path);
            }
        }
        if fs::read(to.path().join("file")).unwrap() == b"f" {
            made.push("file");
        }
        let link_stays = to.path().join("to-file").is_symlink();
        outcome.map(|_| (made.join(" "), link_stays))
    };
    for (source, target, expected) in [
        ("d/f", "new", "new"),
        ("d/f", "dir", "dir/f"),
        ("d/f", "dir/", "dir/f"),
        ("d/f", "to-dir", "dir/f"),
        ("d/f", "file", "file"),
        ("d/f", "to-file", "file"),
        ("l", "dir", "dir/l"),
        ("d", "new", "new new/f"),
        ("d", "new/", "new new/f"),
        ("d/.", "new", "new new/f"),
        ("d", "dir", "dir/d/f"),
        ("d/.", "dir", "dir/f"),
        ("d/", "dir", "dir/d/f"),
        (".", "dir", "dir/d/f dir/l"),
        ("d", "/", "d/f"),
    ] {
        assert_eq!(try_it(source, target), Ok((expected.to_owned(), true)), "{source} to {target}");
    }
    for (source, target, why) in [
        ("d/f", "new/", "new/ is no directory: it is not there"),
        ("d/f", "file/", "file/ is no directory"),
        ("d", "file", "file is no directory, and a directory cannot be copied over it"),
        ("d/f", "no/new", "no is not there"),
        ("d/f/", "new", "d/f/ is no directory"),
        ("none", "new", "none is not there"),
    ] {
        assert_eq!(try_it(source, target), Err(why.to_owned()), "{source} to {target}");
    }
}

/// A stream of one file by that name, behind a link `l` → `link`.
fn hostile(link: &str, name: &str) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut put = |kind: tar::EntryType, name: &str, link: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o4755);
        header.set_uid(12345);
        header.set_gid(12345);
        header.set_mtime(0);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        stream.extend_from_slice(header.as_bytes());
        stream.extend_from_slice(data);
        stream.resize(stream.len().next_multiple_of(512), 0);
    };
    put(tar::EntryType::Symlink, "l", link, b"");
    put(tar::EntryType::Regular, name, "", b"bad");
    stream.resize(stream.len() + 1024, 0);
    stream
}

#[test]
fn no_name_and_no_link_of_a_stream_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    let top = outside.path().join("root");
    let aim = outside.path().to_str().unwrap();
    for follow in [true, false] {
        for (link, name) in
            [("x", "../out"), ("x", "/a/../../out"), (aim, "l/out"), ("..", "l/out"), ("../..", "l/out")]
        {
            let _ = fs::remove_dir_all(&top);
            fs::create_dir_all(top.join("in")).unwrap();
            let options = Options { mode: Mode::Extract, follow, owners: false };
            let outcome = unpacked(&top, "in", &hostile(link, name), options);
            assert!(!outside.path().join("out").exists(), "{link} {name}");
            // Beneath a root that is the container's, a link leads to where it leads for the container.
            assert!(outcome.is_err() || follow, "{link} {name}");
        }
    }
    let _ = fs::remove_dir_all(&top);
    fs::create_dir_all(&top).unwrap();
    unpacked(&top, "/", &hostile("x", "/plain"), Options { mode: Mode::Extract, ..COPY }).unwrap();
    let plain = fs::metadata(top.join("plain")).unwrap();
    assert_eq!(plain.mode() & 0o7777, 0o755, "set-id bits belong to an owner");
    unpacked(&top, "/", &hostile("x", "plain"), Options { mode: Mode::Extract, owners: true, follow: true }).unwrap();
    let plain = fs::metadata(top.join("plain")).unwrap();
    assert_eq!((plain.uid(), plain.mode() & 0o7777), (12345, 0o4755));
}

#[test]
fn who_swaps_directories_for_links_meanwhile_gains_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (secret, root, from) = (dir.path().join("secret"), dir.path().join("root"), dir.path().join("from"));
    for path in [&secret, &root.join("a"), &from.join("s")] {
        fs::create_dir_all(path).unwrap();
    }
    fs::write(secret.join("f"), "classified").unwrap();
    fs::write(root.join("a/f"), "own").unwrap();
    for number in 0..20 {
        fs::write(from.join(format!("s/{number}")), "new").unwrap();
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (own, away) = (root.join("a"), root.join("b"));
            while !done.load(Ordering::Relaxed) {
                // The other side may have made a directory of that name meanwhile.
                fs::rename(&own, &away).unwrap();
                let _ = symlink(&secret, &own);
                while fs::rename(&away, &own).is_err() {
                    let _ = fs::remove_dir_all(&own);
                }
            }
        });
        for _ in 0..100 {
            for path in ["/", "/a", "/a/f"] {
                if let Ok(stream) = packed(&root, path) {
                    assert!(!String::from_utf8_lossy(&stream).contains("classified"), "read from outside");
                }
            }
            let _ = copy(&from, "s/.", &root, "/a");
            let _ = copy(&from, "s", &root, "/a");
        }
        done.store(true, Ordering::Relaxed);
    });
    let left: Vec<_> = fs::read_dir(&secret).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["f"], "written outside");
}

#[test]
fn a_stream_that_is_cut_short_or_none_says_so() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("f"), vec![b'x'; 5000]).unwrap();
    let stream = packed(from.path(), "f").unwrap();
    for (bytes, why) in [(&stream[..2000], "cut short"), (b"", "empty"), (&[b'x'; 600], "not a tar archive")] {
        let error = unpacked(to.path(), "new", bytes, COPY).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
