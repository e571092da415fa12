//! Trees removed beneath a directory descriptor, however deep they are.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

/// Descriptors held open at once.
const MAX_DEPTH: usize = 64;

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Removes `name` in `directory` with all that is beneath it; what is not there is no error. Symlinks are
/// removed, not followed. A branch deeper than a few dozen levels is moved up into `directory` first, so
/// that neither descriptors nor stack grow with what a layer holds.
pub fn tree(directory: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
    let directory = directory.as_fd();
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(other) => return Err(other),
    }
    let mut queue = vec![name.to_vec()];
    while let Some(branch) = queue.pop() {
        let mut levels: Vec<(OwnedFd, CString)> = Vec::new();
        let top = CString::new(branch).map_err(|_| Errno::INVAL)?;
        levels.push((enter(directory, &top)?, top));
        while let Some((level, _)) = levels.last() {
            let deep = levels.len() >= MAX_DEPTH;
            match first_directory(level, deep.then_some((directory, &mut queue)))? {
                Some(child) => {
                    let fd = enter(level, &child)?;
                    levels.push((fd, child));
                }
                None => {
                    if let Some((_, name)) = levels.pop() {
                        let parent = levels.last().map_or(directory, |(fd, _)| fd.as_fd());
                        match unlinkat(parent, &name, AtFlags::REMOVEDIR) {
                            Ok(()) | Err(Errno::NOENT) => {}
                            Err(other) => return Err(other),
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

fn enter(parent: impl AsFd, name: &CString) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Removes what is no directory, and gives the first directory that is left. With `aside`, directories are
/// moved there and queued in place of being entered.
fn first_directory(
    level: &OwnedFd,
    mut aside: Option<(rustix::fd::BorrowedFd<'_>, &mut Vec<Vec<u8>>)>,
) -> rustix::io::Result<Option<CString>> {
    for entry in Dir::read_from(level)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match unlinkat(level, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // The file system gave no type and it is a directory after all.
                Err(Errno::ISDIR) => {}
                Err(other) => return Err(other),
            }
        }
        match &mut aside {
            Some((directory, queue)) => {
                let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
                let target = format!(".rm-deep-{}-{serial}", std::process::id()).into_bytes();
                renameat(level, name, *directory, target.as_slice())?;
                queue.push(target);
            }
            None => return Ok(Some(name.to_owned())),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_the_descriptor_limit_goes_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        std::fs::write(dir.path().join("kept"), "x").unwrap();
        std::fs::create_dir(dir.path().join("t")).unwrap();
        std::os::unix::fs::symlink("../kept", dir.path().join("t/link")).unwrap();
        let mut fd = openat(&root, "t", OFlags::DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&fd, "d", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&fd, "e", Mode::RWXU).unwrap();
            fd = openat(&fd, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        drop(fd);
        tree(&root, b"t").unwrap();
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["kept"]);
    }
}
