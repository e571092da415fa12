//! The namespaces themselves. Blocking; a creation takes about a millisecond.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::{NetworkError, loopback};

/// The magic number of the file system behind `/proc/*/ns` (include/uapi/linux/magic.h).
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// Where the namespace of a container is pinned, whether it exists or not.
pub fn path(state: &Path, namespace: &str, id: &str) -> Result<PathBuf, NetworkError> {
    for name in [namespace, id] {
        if name.is_empty() || name.len() > 120 || name.starts_with('.') || name.contains(['/', '\0']) {
            return Err(NetworkError::BadName(name.to_owned()));
        }
    }
    if namespace.contains('_') {
        return Err(NetworkError::BadName(namespace.to_owned()));
    }
    Ok(state.join("netns").join(format!("{namespace}_{id}")))
}

/// Makes a namespace with loopback up and pins it. One that is pinned already is taken as it is.
pub fn create(state: &Path, namespace: &str, id: &str) -> Result<PathBuf, NetworkError> {
    let path = path(state, namespace, id)?;
    let failed = |doing, source| NetworkError::Kernel { path: path.clone(), doing, source };
    if is_pinned(&path).map_err(|error| failed("looking at it", error))? {
        return Ok(path);
    }
    if let Some(directory) = path.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| failed("making its directory", error))?;
    }
    place(&path).map_err(|error| failed("making its file", error))?;
    // A namespace belongs to a thread: one that ends with it, so that none of ours is left in it.
    let target = path.clone();
    let pinned = thread::Builder::new().name("netns".into()).spawn(move || pin(&target));
    let joined = pinned.map(thread::JoinHandle::join).map_err(|error| failed("starting a thread", error))?;
    joined
        .unwrap_or(Err(("making it", io::Error::other("its thread panicked"))))
        .map_err(|(doing, error)| failed(doing, error))?;
    Ok(path)
}

/// On a thread of its own: the pin comes last, so that what is pinned is ready.
fn pin(target: &Path) -> Result<(), (&'static str, io::Error)> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| ("making it", error.into()))?;
    loopback::up().map_err(|error| ("bringing up its loopback", error))?;
    mount_bind("/proc/thread-self/ns/net", target).map_err(|error| ("pinning it", error.into()))
}

/// An empty file to mount on. What a crash before the mount left is as good; anything else is replaced.
fn place(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => return Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    OpenOptions::new().write(true).create_new(true).mode(0o400).open(path).map(drop)
}

fn is_pinned(path: &Path) -> io::Result<bool> {
    match rustix::fs::statfs(path) {
        // The field's type differs by architecture.
        #[allow(clippy::unnecessary_cast)]
        Ok(stat) => Ok(stat.f_type as i64 == NSFS_MAGIC),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Unpins a namespace; the kernel frees it when its last process is gone. None there is success.
pub fn remove(state: &Path, namespace: &str, id: &str) -> Result<(), NetworkError> {
    let path = path(state, namespace, id)?;
    let failed = |doing, source: io::Error| NetworkError::Kernel { path: path.clone(), doing, source };
    while is_pinned(&path).map_err(|error| failed("looking at it", error))? {
        unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .map_err(|error| failed("unpinning it", error.into()))?;
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("removing its file", error)),
        _ => Ok(()),
    }
}

/// Namespace and id of each one below a state directory, also of those that a crash left half made.
pub fn list(state: &Path) -> Result<Vec<(String, String)>, NetworkError> {
    let directory = state.join("netns");
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(NetworkError::Kernel { path: directory, doing: "reading", source }),
    };
    let name = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let (namespace, id) = name.split_once('_')?;
        Some((namespace.to_owned(), id.to_owned()))
    };
    Ok(entries.flatten().filter_map(name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    fn root() -> bool {
        rustix::process::geteuid().is_root()
    }

    #[test]
    fn a_namespace_is_pinned_with_loopback_up_found_again_and_removed() {
        if !root() {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let before = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        let path = create(state.path(), "shop", "web").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        assert_ne!(inode, before);
        assert_eq!(fs::metadata("/proc/thread-self/ns/net").unwrap().ino(), before);
        assert_eq!(create(state.path(), "shop", "web").unwrap(), path);
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert_eq!(list(state.path()).unwrap(), [("shop".to_owned(), "web".to_owned())]);
        // Somebody inside reaches 127.0.0.1: connection refused, not network unreachable.
        let inside = Command::new("nsenter")
            .arg(format!("--net={}", path.display()))
            .args(["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9"])
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&inside.stderr).contains("refused"), "{inside:?}");
        remove(state.path(), "shop", "web").unwrap();
        remove(state.path(), "shop", "web").unwrap();
        assert!(!path.exists());
        assert_eq!(list(state.path()).unwrap(), []);
    }

    #[test]
    fn what_a_crash_left_in_the_way_is_replaced() {
        if !root() {
            return;
        }
        let state = tempfile::tempdir().unwrap();
        let path = path(state.path(), "shop", "web").unwrap();
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "").unwrap();
        assert_eq!(list(state.path()).unwrap().len(), 1);
        create(state.path(), "shop", "web").unwrap();
        assert!(is_pinned(&path).unwrap());
        remove(state.path(), "shop", "web").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        create(state.path(), "shop", "web").unwrap();
        assert!(is_pinned(&path).unwrap());
        remove(state.path(), "shop", "web").unwrap();
        assert!(Path::new("/etc/passwd").exists());
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (namespace, id) in [("", "a"), ("a", ""), ("..", "a"), ("a/b", "c"), ("a_b", "c"), ("a", "../c")] {
            assert!(path(Path::new("/s"), namespace, id).is_err(), "{namespace} {id}");
        }
        assert_eq!(path(Path::new("/s"), "k8s.io", "a").unwrap(), Path::new("/s/netns/k8s.io_a"));
    }
}
