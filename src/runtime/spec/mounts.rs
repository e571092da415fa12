//! Mounts: containerd's default ones, the manifest's, and the checks of their sources.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime as oci;

use super::{Problem, SpecError};
use crate::manifest::{Mount, MountKind};
use crate::runtime::{CgroupMode, HostFacts};

/// The directory and its contents, not seen from outside: what Kubernetes and podman do by default.
const RECURSION: [&str; 2] = ["bind", "rbind"];
const PROPAGATION: [&str; 8] =
    ["private", "rprivate", "shared", "rshared", "slave", "rslave", "unbindable", "runbindable"];

fn mount(target: impl Into<PathBuf>, kind: &str, source: impl Into<PathBuf>, options: Vec<String>) -> oci::Mount {
    let mut mount = oci::Mount::default();
    mount
        .set_destination(target.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options));
    mount
}

fn options(list: &str) -> Vec<String> {
    list.split(',').map(str::to_owned).collect()
}

/// A bind mount of one file or directory of ours.
pub(super) fn bind(target: &str, source: &Path, read_only: bool) -> oci::Mount {
    mount(target, "bind", source, options(if read_only { "rbind,rprivate,ro" } else { "rbind,rprivate,rw" }))
}

/// What every container has, as containerd mounts it (without its `/run`).
pub(super) fn defaults(privileged: bool, host: &HostFacts) -> Vec<oci::Mount> {
    let sys = if privileged { "nosuid,noexec,nodev,rw" } else { "nosuid,noexec,nodev,ro" };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", options("nosuid,noexec,nodev")),
        mount("/dev", "tmpfs", "tmpfs", options("nosuid,strictatime,mode=755,size=65536k")),
        mount("/dev/pts", "devpts", "devpts", options("nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5")),
        mount("/dev/shm", "tmpfs", "shm", options("nosuid,noexec,nodev,mode=1777,size=65536k")),
        mount("/dev/mqueue", "mqueue", "mqueue", options("nosuid,noexec,nodev")),
        mount("/sys", "sysfs", "sysfs", options(sys)),
    ];
    if host.cgroup != CgroupMode::V1 || !host.cgroup_mounts.v1.is_empty() {
        let cgroup = if privileged { "nosuid,noexec,nodev,relatime,rw" } else { "nosuid,noexec,nodev,relatime,ro" };
        mounts.push(mount("/sys/fs/cgroup", "cgroup", "cgroup", options(cgroup)));
    }
    mounts
}

/// The manifest's mounts in the spec's form, in the order written. Sources are looked at only for whether
/// they are given; [`check_sources`] looks whether they are there.
pub(super) fn wanted(mounts: &[Mount]) -> Result<Vec<oci::Mount>, Problem> {
    let mut targets = BTreeSet::new();
    let mut built = Vec::with_capacity(mounts.len());
    for wanted in mounts {
        let target = target(&wanted.target)?;
        if !targets.insert(target.clone()) {
            return Err(Problem::MountTwice(target));
        }
        built.push(match wanted.kind {
            MountKind::Bind => mount(target, "bind", source(wanted)?, bind_options(wanted)),
            MountKind::Tmpfs => mount(target, "tmpfs", "tmpfs", tmpfs_options(wanted)),
        });
    }
    Ok(built)
}

/// Absolute, without `..`, not the root; `//` and `.` are cleaned away.
fn target(written: &str) -> Result<PathBuf, Problem> {
    let path = Path::new(written);
    let wrong = || Problem::MountTarget(written.to_owned());
    if !path.is_absolute() || written.contains('\0') || path.components().any(|part| part == Component::ParentDir) {
        return Err(wrong());
    }
    let clean: PathBuf = path.components().collect();
    if clean.parent().is_none() { Err(wrong()) } else { Ok(clean) }
}

fn source(wanted: &Mount) -> Result<PathBuf, Problem> {
    let target = || wanted.target.clone();
    let source = wanted.source.as_deref().filter(|source| !source.is_empty());
    let source = source.ok_or_else(|| Problem::NoSource { target: target() })?;
    if !source.starts_with('/') || source.contains('\0') {
        return Err(Problem::RelativeSource { source_path: source.to_owned(), target: target() });
    }
    Ok(PathBuf::from(source))
}

fn bind_options(wanted: &Mount) -> Vec<String> {
    let given = |names: &[&str]| wanted.options.iter().any(|option| names.contains(&option.as_str()));
    let mut built = Vec::with_capacity(wanted.options.len() + 3);
    if !given(&RECURSION) {
        built.push("rbind".to_owned());
    }
    if !given(&PROPAGATION) {
        built.push("rprivate".to_owned());
    }
    access(wanted, &mut built);
    // What is mounted beneath is read-only too, as in Docker: mount_setattr(2), Linux 5.12, runc 1.1.
    if built.iter().any(|option| option == "ro") && !given(&["bind"]) {
        built.push("rro".to_owned());
    }
    built
}

/// Docker's defaults for tmpfs, each of which an option can turn.
fn tmpfs_options(wanted: &Mount) -> Vec<String> {
    let mut built = Vec::with_capacity(wanted.options.len() + 4);
    for (default, opposite) in [("nosuid", "suid"), ("nodev", "dev"), ("noexec", "exec")] {
        if !wanted.options.iter().any(|option| option == default || option == opposite) {
            built.push(default.to_owned());
        }
    }
    if !wanted.options.iter().any(|option| option.starts_with("mode=")) {
        built.push("mode=1777".to_owned());
    }
    access(wanted, &mut built);
    built
}

/// `ro` or `rw` once, and every other option as written.
fn access(wanted: &Mount, built: &mut Vec<String>) {
    let read_only = wanted.read_only || wanted.options.iter().any(|option| option == "ro");
    built.push(if read_only { "ro" } else { "rw" }.to_owned());
    built.extend(wanted.options.iter().filter(|option| !matches!(option.as_str(), "ro" | "rw")).cloned());
}

/// All mounts in the order they are made: one that the manifest wants takes the place of a default at the
/// same target, and outer targets come before inner ones, so that nothing is shadowed (as in Kubernetes).
pub(super) fn ordered(defaults: Vec<oci::Mount>, wanted: Vec<oci::Mount>) -> Vec<oci::Mount> {
    let replaced: BTreeSet<PathBuf> = wanted.iter().map(|mount| mount.destination().clone()).collect();
    let mut all: Vec<_> = defaults.into_iter().filter(|mount| !replaced.contains(mount.destination())).collect();
    all.extend(wanted);
    all.sort_by_key(|mount| mount.destination().components().count());
    all
}

/// Checks that every bind source is there, and makes those that `create` asks for as directories (0755).
/// To be called before each start: sources come and go without a manifest changing.
pub fn check_sources(mounts: &[Mount]) -> Result<(), SpecError> {
    for wanted in mounts.iter().filter(|wanted| wanted.kind == MountKind::Bind) {
        let source_path = source(wanted)?;
        let target = wanted.target.clone();
        match fs::metadata(&source_path) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound && wanted.create => {
                let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(&source_path);
                made.map_err(|error| Problem::Source { source_path, target, error })?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Problem::SourceMissing { source_path, target }.into());
            }
            Err(error) => return Err(Problem::Source { source_path, target, error }.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::spec::tests::host;

    fn bind_of(source: &str, target: &str) -> Mount {
        Mount {
            kind: MountKind::Bind,
            source: Some(source.into()),
            target: target.into(),
            read_only: false,
            options: vec![],
            create: false,
        }
    }

    fn shown(mounts: &[oci::Mount]) -> Vec<String> {
        let line = |mount: &oci::Mount| {
            format!("{} {}", mount.destination().display(), mount.options().as_ref().unwrap().join(","))
        };
        mounts.iter().map(line).collect()
    }

    #[test]
    fn bind_options_default_to_rbind_and_rprivate() {
        for (read_only, options, expected) in [
            (false, vec![], "rbind,rprivate,rw"),
            (true, vec![], "rbind,rprivate,ro,rro"),
            (false, vec!["ro", "noexec"], "rbind,rprivate,ro,noexec,rro"),
            (true, vec!["rbind"], "rprivate,ro,rbind,rro"),
            (true, vec!["bind", "rslave"], "ro,bind,rslave"),
        ] {
            let mut mount = bind_of("/a", "/b");
            mount.read_only = read_only;
            mount.options = options.into_iter().map(str::to_owned).collect();
            assert_eq!(bind_options(&mount).join(","), expected);
        }
    }

    #[test]
    fn tmpfs_is_harmless_unless_options_say_otherwise() {
        let mut mount = bind_of("", "/tmp");
        mount.kind = MountKind::Tmpfs;
        mount.source = None;
        assert_eq!(tmpfs_options(&mount).join(","), "nosuid,nodev,noexec,mode=1777,rw");
        mount.options = options("exec,size=64m,mode=0700");
        assert_eq!(tmpfs_options(&mount).join(","), "nosuid,nodev,rw,exec,size=64m,mode=0700");
    }

    #[test]
    fn targets_are_cleaned_or_refused() {
        for (written, clean) in [("/a/", "/a"), ("//a/./b", "/a/b")] {
            assert_eq!(target(written).unwrap(), PathBuf::from(clean));
        }
        for written in ["", "a", "/", "/..", "/a/../b", "//", "/a\0"] {
            assert!(target(written).is_err(), "{written}");
        }
        let twice = wanted(&[bind_of("/a", "/x"), bind_of("/b", "/x/")]).unwrap_err();
        assert_eq!(twice.to_string(), "two mounts have the target /x");
        assert!(wanted(&[bind_of("a", "/x")]).is_err());
        assert!(wanted(&[bind_of("", "/x")]).is_err());
    }

    #[test]
    fn outer_mounts_come_first_and_the_manifest_replaces_defaults() {
        let mut shm = bind_of("", "/dev/shm");
        shm.kind = MountKind::Tmpfs;
        shm.options = options("size=1g");
        let wanted = wanted(&[bind_of("/1", "/data/in/side"), bind_of("/2", "/data"), shm]).unwrap();
        let all = ordered(defaults(false, &host()), wanted);
        assert_eq!(
            shown(&all),
            [
                "/proc nosuid,noexec,nodev",
                "/dev nosuid,strictatime,mode=755,size=65536k",
                "/sys nosuid,noexec,nodev,ro",
                "/data rbind,rprivate,rw",
                "/dev/pts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
                "/dev/mqueue nosuid,noexec,nodev",
                "/dev/shm nosuid,nodev,noexec,mode=1777,rw,size=1g",
                "/sys/fs/cgroup nosuid,noexec,nodev,relatime,ro",
                "/data/in/side rbind,rprivate,rw",
            ]
        );
    }

    #[test]
    fn a_missing_source_is_refused_or_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let mut mount = bind_of(path.to_str().unwrap(), "/b");
        let error = check_sources(std::slice::from_ref(&mount)).unwrap_err();
        assert_eq!(error.to_string(), format!("the source {} of the mount at /b is not there", path.display()));
        mount.create = true;
        check_sources(std::slice::from_ref(&mount)).unwrap();
        assert!(path.is_dir());
        check_sources(&[mount]).unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let mut below = bind_of(dir.path().join("file/x").to_str().unwrap(), "/b");
        below.create = true;
        assert!(matches!(check_sources(&[below]).unwrap_err().problem, Problem::Source { .. }));
    }
}
