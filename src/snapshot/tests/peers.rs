//! The same image unpacked by us, by umoci and by podman is the same tree.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Node, xattr};
use crate::image::tests::fixture::{Blobs, LayerTar, noise};

/// An overlay mount that goes when dropped.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn of(options: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let out =
            Command::new("mount").args(["-t", "overlay", "overlay", "-o", options]).arg(dir.path()).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Self(dir)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// Everything that can be said of a tree, by relative path.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let whole = root.join(&path);
        let meta = fs::symlink_metadata(&whole).unwrap();
        let mut text = format!("{:o} {}:{} rdev {}", meta.mode(), meta.uid(), meta.gid(), meta.rdev());
        // The root of an overlay has a time of its own.
        if !path.as_os_str().is_empty() {
            text += &format!(" mtime {}.{}", meta.mtime(), meta.mtime_nsec());
        }
        for name in xattr_names(&whole) {
            text += &format!(" {name}={:?}", xattr(&whole, &name));
        }
        if meta.is_symlink() {
            text += &format!(" -> {:?}", fs::read_link(&whole).unwrap().as_os_str().as_bytes());
        } else if meta.is_file() {
            // The size first: a difference there says more than one of digests.
            let digest = crate::oci::Digest::of(&fs::read(&whole).unwrap());
            text += &format!(" {} bytes {digest} nlink {}", meta.len(), meta.nlink());
            if meta.nlink() > 1 {
                text += &format!(" = {}", inodes.entry(meta.ino()).or_insert_with(|| path.clone()).display());
            }
        } else if meta.is_dir() {
            let mut children: Vec<_> =
                fs::read_dir(&whole).unwrap().map(|e| path.join(e.unwrap().file_name())).collect();
            children.sort();
            todo.extend(children.into_iter().rev());
        }
        found.insert(path, text);
    }
    found
}

fn xattr_names(path: &Path) -> Vec<String> {
    let mut names = vec![0; 4096];
    let size = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..size].split(|b| *b == 0).filter(|name| !name.is_empty());
    let mut names: Vec<_> = names.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect();
    names.sort();
    names
}

fn run(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Where podman unpacks the image `layout:x` of a directory to. Its driver that copies every layer works on any
/// file system.
fn by_podman(dir: &Path) -> PathBuf {
    let podman = |args: &[&str]| {
        let mut command = Command::new("podman");
        // It makes a name of what is after `oci:`, and its temporary files elsewhere.
        command.current_dir(dir).env("TMPDIR", dir);
        command.arg("--root").arg(dir.join("podman")).arg("--runroot").arg(dir.join("podman-run"));
        run(command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]).args(args))
    };
    let id = podman(&["pull", "-q", "oci:layout:x"]);
    podman(&["image", "mount", &id]).into()
}

#[track_caller]
fn assert_same(who: &str, ours: &BTreeMap<PathBuf, String>, theirs: &BTreeMap<PathBuf, String>) {
    for (path, text) in theirs {
        assert_eq!(ours.get(path), Some(text), "{} by {who}", path.display());
    }
    assert_eq!(ours.len(), theirs.len(), "{who}");
}

/// The merged view by us equals umoci's and podman's.
#[track_caller]
fn same(tars: &[Vec<u8>]) {
    let node = Node::new();
    let image = node.image(tars);
    node.unpack(&image).unwrap();
    let mounts = node.snapshots.prepare("t/1", &image).unwrap();
    let dir = tempfile::tempdir().unwrap();
    // Overlayfs does not take an upper directory on overlayfs, which tests may run on; the lower ones do.
    let mut lower = mounts[0].options[0].clone();
    if tars.len() == 1 {
        lower += &format!(":{}", node.root.path().join("snapshots/empty").display());
    }
    let mounted = Mounted::of(&lower);
    let mut blobs = Blobs::default();
    let target = blobs.gzip_image(tars);
    blobs.layout(&dir.path().join("layout"), &[("x", &target)]);
    let layout = format!("{}:x", dir.path().join("layout").display());
    run(Command::new("umoci").args(["unpack", "--image", &layout]).arg(dir.path().join("bundle")));
    let ours = tree(mounted.0.path());
    assert_same("umoci", &ours, &tree(&dir.path().join("bundle/rootfs")));
    assert_same("podman", &ours, &tree(&by_podman(dir.path())));
}

#[test]
fn an_image_of_127_layers_mounts_by_relative_names() {
    let node = Node::new();
    let layers: Vec<_> = (0..127).map(|n| LayerTar::new().file(&format!("f{n}"), b"1").done()).collect();
    let image = node.image(&layers);
    node.unpack(&image).unwrap();
    let snapshots = node.root.path().join("snapshots").canonicalize().unwrap();
    let lower = node.snapshots.lower_dirs(&image).unwrap();
    let relative: Vec<_> = lower.iter().map(|p| p.strip_prefix(&snapshots).unwrap().to_str().unwrap()).collect();
    let options = format!("lowerdir={}", relative.join(":"));
    // A page is what mount(2) takes.
    assert!(options.len() < 2048, "{}", options.len());
    let mounted = tempfile::tempdir().unwrap();
    let mount = |options: &str| {
        let mut command = Command::new("mount");
        command.args(["-t", "overlay", "overlay", "-o", options]).arg(mounted.path()).current_dir(&snapshots);
        command.output().unwrap()
    };
    let out = mount(&options);
    let _umount = Mounted(mounted);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert_eq!(fs::read_dir(_umount.0.path()).unwrap().count(), 127);
}

/// A tar made by GNU tar of a directory that `make` fills.
fn packed(make: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let out = Command::new("sh").args(["-ec", make]).current_dir(dir.path()).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let out = Command::new("tar")
        .args(["--format=pax", "--xattrs", "--xattrs-include=*", "--sort=name", "--mtime=@1600000000", "-c", "."])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

#[test]
fn an_image_with_deletions_links_attributes_and_many_files_is_the_same_tree() {
    let base = packed(
        "mkdir -p etc usr/bin usr/lib var/cache home; ln -s usr/bin bin; ln -s /usr/lib lib
         for n in $(seq 300); do echo $n > var/cache/$n; done
         echo a > usr/bin/a; ln usr/bin/a usr/bin/b; chmod 4755 usr/bin/a; chown 12:34 var/cache/7
         setfattr -n user.note -v hello etc 2>/dev/null || true; mkfifo home/fifo; chmod 1777 var
         mknod home/null c 1 3; echo old > etc/conf; mkdir -p srv/gone/deep; echo x > srv/gone/deep/x",
    );
    let second = LayerTar::new()
        .dir("./", 0o755)
        // Without it podman keeps the lower layer's and the others do not.
        .pax(&[("SCHILY.xattr.user.note", b"hello")])
        .dir("etc", 0o755)
        .file("etc/conf", b"new")
        .file("etc/.wh.absent", b"")
        .dir("var", 0o1777)
        .dir("var/cache", 0o755)
        .file("var/cache/.wh.1", b"")
        .file("var/cache/.wh.2", b"")
        .file(".wh.srv", b"")
        .done();
    let third = LayerTar::new()
        .dir("./", 0o755)
        .dir("var", 0o1777)
        .dir("var/cache", 0o700)
        .file("var/cache/.wh..wh..opq", b"")
        .file("var/cache/only", &noise(50_000, 3))
        .dir("srv", 0o755)
        .file("srv/back", b"1")
        .hard_link("srv/back2", "srv/back")
        .done();
    same(std::slice::from_ref(&base));
    same(&[base.clone(), second.clone()]);
    same(&[base, second, third]);
}

/// What Debian's packages put onto this machine, as paths from `/`.
fn files_of(packages: &str) -> String {
    format!(
        "for f in $(dpkg-query -L {packages} 2>/dev/null | sort -u); do
           if [ -e \"$f\" ] || [ -L \"$f\" ]; then echo \".$f\"; fi; done | grep -v '^./\\.$' |
           sed -E 's#^[.]/(bin|sbin|lib|lib64)/#./usr/\\1/#' | sort -u >list
         tar -C / --no-recursion -cf - -T list | tar -xf - ; rm list"
    )
}

#[test]
fn a_busybox_image_is_the_same_tree() {
    let base = packed(
        "mkdir -p bin etc tmp; cp \"$(command -v busybox)\" bin/busybox; chmod 1777 tmp; chmod 4755 bin/busybox
         for applet in $(bin/busybox --list); do [ $applet = busybox ] || ln bin/busybox bin/$applet; done",
    );
    same(&[base, LayerTar::new().dir("etc", 0o755).file("etc/motd", b"hello").done()]);
}

#[test]
fn a_debian_image_is_the_same_tree() {
    let base = packed(&files_of("base-files libc6 libc-bin bash coreutils dash login passwd util-linux"));
    let more = packed(&files_of("perl-base apt dpkg tar gzip mawk"));
    same(&[base, more]);
}

#[test]
fn hard_links_by_the_hundred_are_the_same_tree() {
    let farm = packed(
        "mkdir -p a/b c; for n in $(seq 40); do echo $n >a/$n; chmod 0$((n % 8))44 a/$n
           for m in 1 2 3 4 5; do ln a/$n c/$n-$m; done; ln a/$n a/b/$n; done
         ln -s ../a/1 c/symlink; ln c/symlink a/b/linked-symlink; mkfifo c/fifo; ln c/fifo a/b/fifo",
    );
    // Not over names of the lower layer: overlayfs counts the links of a file that it hides.
    let upper = LayerTar::new()
        .dir("a", 0o755)
        .raw(tar::EntryType::Regular, "a/new", "", 0o600, b"new")
        // Of another mode here podman makes the file's.
        .raw(tar::EntryType::Link, "a/newer", "a/new", 0o600, b"")
        .done();
    same(&[farm, upper]);
}

#[test]
fn attributes_and_capabilities_are_the_same_tree() {
    let base = packed(
        "mkdir d; echo x >d/ping; echo y >d/plain; chown 12:34 d/ping; chmod 2755 d
         setfattr -n user.note -v hello d/plain; setfattr -n user.long -v $(head -c 2000 /dev/zero | tr '\\0' x) d/plain
         setfattr -n trusted.kept -v yes d; setfattr -n user.note -v dir d
         setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 d/ping",
    );
    same(&[base]);
}

#[test]
fn sparse_files_are_the_same_tree() {
    let dir = tempfile::tempdir().unwrap();
    let make = "truncate -s 9M a; printf begin | dd of=a conv=notrunc status=none
        printf middle | dd of=a bs=1M seek=5 conv=notrunc status=none; truncate -s 3M empty
        head -c 200000 /dev/zero >zeros; echo tail >>zeros; tar --format=pax -S --mtime=@1600000000 -cf ../sparse.tar .";
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    assert!(Command::new("sh").args(["-ec", make]).current_dir(&tree).status().unwrap().success());
    same(&[fs::read(dir.path().join("sparse.tar")).unwrap()]);
}

#[test]
fn long_and_odd_names_are_the_same_tree() {
    let base = packed(
        "long=$(head -c 200 /dev/zero | tr '\\0' n); mkdir -p $long/$long/$long; echo 1 >$long/$long/$long/$long
         ln -s /$long/$long/$long/$long $long/link; ln $long/$long/$long/$long $long/hard
         printf x >\"$(printf 'line\\nfeed')\"; printf x >\"$(printf 'caf\\351')\"; printf x >'a b'; printf x >'*'; touch -d '1969-12-31 12:00 UTC' old",
    );
    same(&[base]);
}
