//! Files out of containers and into them, of those that run and of those that do not.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Stdio;

use crate::image::Image;
use crate::node::TestNode;

const IMAGE: &str = "registry.local/box:1";

fn node() -> TestNode {
    let node = TestNode::new();
    let archive = node.dir().join("box.tar");
    Image::busybox().script("exec sleep 1000").oci_archive(&archive, Some(IMAGE));
    node.bayplan(&["load", archive.to_str().unwrap()]).ok();
    node
}

/// A tree of the host's.
fn tree(at: &Path) {
    fs::create_dir_all(at.join("sub")).unwrap();
    fs::write(at.join("file"), "text\n").unwrap();
    // In this order: a new owner takes set-id bits away.
    chown(at.join("file"), Some(1000), Some(1000)).unwrap();
    fs::set_permissions(at.join("file"), Permissions::from_mode(0o4640)).unwrap();
    symlink("../file", at.join("sub/link")).unwrap();
    fs::hard_link(at.join("file"), at.join("sub/again")).unwrap();
    let big = File::create(at.join("big")).unwrap();
    big.set_len(1 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&big, b"end", (1 << 30) - 3).unwrap();
}

#[test]
fn trees_go_in_and_come_out_of_what_runs_and_what_does_not() {
    let node = node();
    let path = |name: &str| node.dir().join(name).to_str().unwrap().to_owned();
    tree(&node.dir().join("tree"));
    node.bayplan(&["create", IMAGE, "web"]).ok();
    for (round, start) in ["start", "stop", "start"].into_iter().enumerate() {
        // First of one that never ran.
        node.bayplan(&["cp", &path("tree"), &format!("web:/in-{round}")]).ok();
        node.bayplan(&["cp", "-a", &path("tree"), &format!("web:/owned-{round}")]).ok();
        let out = path(&format!("out-{round}"));
        node.bayplan(&["cp", &format!("web:/in-{round}"), &out]).ok();
        let out = Path::new(&out);
        assert_eq!(fs::read(out.join("file")).unwrap(), b"text\n");
        assert_eq!(fs::read_link(out.join("sub/link")).unwrap(), Path::new("../file"));
        let meta = |path: &Path| fs::symlink_metadata(path).unwrap();
        assert_eq!(meta(&out.join("file")).ino(), meta(&out.join("sub/again")).ino());
        let big = meta(&out.join("big"));
        assert!(big.len() == 1 << 30 && big.blocks() * 512 < 1 << 20, "holes stay holes: {} blocks", big.blocks());
        let list = path(&format!("list-{round}"));
        node.bayplan(&["cp", "-a", &format!("web:/owned-{round}/."), &list]).ok();
        for (place, owner, mode) in [(out, 0, 0o640), (Path::new(&list), 1000, 0o4640)] {
            let file = meta(&place.join("file"));
            assert_eq!((file.uid(), file.mode() & 0o7777), (owner, mode), "{}", place.display());
        }
        node.bayplan(&[start, "web"]).ok();
        if start == "start" {
            let seen = node.bayplan(&["exec", "web", "stat", "-c", "%u %a", &format!("/in-{round}/file")]).ok();
            assert_eq!(seen.stdout, "0 640\n");
        }
    }
    node.bayplan(&["rm", "-f", "web"]).ok();
    node.close();
}

#[test]
fn mounts_are_seen_as_from_inside() {
    let node = node();
    let host = node.dir().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("kept"), "kept").unwrap();
    let mount = format!("{}:/data", host.display());
    node.bayplan(&["run", "-d", "--mount", &mount, "--mount", "type=tmpfs,dst=/scratch", IMAGE, "web"]).ok();
    let out = node.dir().join("out").to_str().unwrap().to_owned();
    let small = node.file("small", "small");
    for stopped in [false, true] {
        if stopped {
            node.bayplan(&["stop", "web"]).ok();
        }
        node.bayplan(&["cp", "web:/data/kept", &out]).ok();
        assert_eq!(fs::read(&out).unwrap(), b"kept");
        node.bayplan(&["cp", &small, &format!("web:/data/new-{stopped}")]).ok();
        assert_eq!(fs::read(host.join(format!("new-{stopped}"))).unwrap(), b"small");
        if !stopped {
            node.bayplan(&["cp", &small, "web:/scratch"]).ok();
            assert_eq!(node.bayplan(&["exec", "web", "cat", "/scratch/small"]).ok().stdout, "small");
            // One that is mounted itself is written in place.
            node.bayplan(&["cp", &small, "web:/etc/hostname"]).ok();
            assert_eq!(node.bayplan(&["exec", "web", "cat", "/etc/hostname"]).ok().stdout, "small");
        }
    }
    node.bayplan(&["rm", "-f", "web"]).ok();
    node.close();
}

#[test]
fn a_stream_is_a_tar_file_both_ways_and_a_hostile_one_does_no_harm() {
    let mut node = node();
    node.start_daemon();
    node.bayplan(&["run", "-d", IMAGE, "web"]).ok();
    let mut out = node.command(&["cp", "web:/etc/.", "-"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut bytes = Vec::new();
    out.stdout.take().unwrap().read_to_end(&mut bytes).unwrap();
    assert!(out.wait().unwrap().success());
    let mut names: Vec<String> = tar::Archive::new(&bytes[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    names.sort();
    assert!(names.contains(&"./passwd".to_owned()) || names.contains(&"passwd".to_owned()), "{names:?}");

    let feed = |archive: &[u8], target: &str| {
        let mut child = node
            .command(&["cp", "-", target])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // One that refuses the rest closes the pipe.
        let _ = child.stdin.take().unwrap().write_all(archive);
        let output = child.wait_with_output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(feed(&bytes, "web:/tmp").0, 0);
    assert_eq!(
        node.bayplan(&["exec", "web", "cat", "/tmp/passwd"]).ok().stdout.lines().next(),
        Some("root:x:0:0:root:/root:/bin/sh")
    );
    assert_eq!(feed(&bytes, "web:/none").0, 4);
    assert_eq!(feed(b"this is no archive", "web:/tmp").0, 3);

    let escape = node.dir().join("escaped");
    let mut hostile = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    header.set_mode(0o777);
    hostile.append_link(&mut header, "l", node.dir()).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    hostile.append_data(&mut header, "l/escaped", &b"bad"[..]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(3);
    header.set_mode(0o644);
    header.as_old_mut().name[..13].copy_from_slice(b"../../escaped");
    header.set_cksum();
    hostile.append(&header, &b"bad"[..]).unwrap();
    let (status, said) = feed(&hostile.into_inner().unwrap(), "web:/tmp");
    assert!(status != 0 && !escape.exists(), "{said}");

    // A link in the container that names a file of the node leads nowhere from outside, too.
    let secret = node.file("secret", "secret");
    node.bayplan(&[
        "exec",
        "web",
        "sh",
        "-c",
        &format!("mv /bin/busybox /b; /b ln -s {secret} /tmp/s; /b mv /b /bin/busybox"),
    ]);
    let out = node.dir().join("stolen").to_str().unwrap().to_owned();
    node.bayplan(&["cp", "web:/tmp/s", &out]).exits(4);
    assert!(!Path::new(&out).exists());
    node.bayplan(&["rm", "-f", "web"]).ok();
    node.close();
}

#[test]
fn what_cannot_be_copied_says_why() {
    let node = node();
    node.bayplan(&["run", "-d", IMAGE, "web"]).ok();
    let file = node.file("file", "x");
    for (args, status, says) in [
        (["web:/none", "x"], 4, "container default/web: /none is not there"),
        (["web:/etc/passwd", "no/where"], 4, "is not there"),
        (["none:/etc", "x"], 4, "none"),
        (["x", "y"], 2, "neither of the two is in a container"),
        (["web:", "y"], 2, "names no path"),
        (["nothing", "web:/"], 4, "nothing"),
        ([file.as_str(), "web:/new/"], 5, "is no directory"),
        ([file.as_str(), "web:/dev/null"], 5, "neither a file nor a directory"),
        (["web:/dev/null", "x"], 5, "neither a file nor a directory"),
    ] {
        node.bayplan(&["cp", args[0], args[1]]).exits(status).says(says);
    }
    node.bayplan(&["rm", "-f", "web"]).ok();
    node.close();
}

#[test]
fn between_two_attempts_files_are_those_of_the_next() {
    let mut node = node();
    node.start_daemon();
    let manifest = format!(
        "apiVersion: bayplan.dev/v1\nkind: Container\nmetadata: {{name: web}}\nspec: {{image: '{IMAGE}', command: [sh, -c, \
         'cat /said; exit 1'], backoff: {{initial: 2s, max: 2s}}}}\n"
    );
    node.bayplan(&["apply", "-f", &node.file("web.yaml", manifest)]).ok();
    node.phase("default", "web", "BackOff");
    node.bayplan(&["cp", &node.file("said", "from outside"), "web:/said"]).ok();
    crate::wait::eventually("the next attempt finds it", 30, || {
        let said = |args: &[&str]| node.bayplan(args).stdout == "from outside\n";
        (said(&["logs", "web"]) || said(&["logs", "-p", "web"])).then_some(())
    });
    node.bayplan(&["delete", "container", "web"]).ok();
    node.close();
}
