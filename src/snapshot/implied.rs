//! Directories that a layer needs and does not describe.
//!
//! `tmp/x` without `tmp/` would give `/tmp` the mode of a fresh directory, because overlayfs shows the
//! uppermost one. Such a directory is marked when it is made, and once the layers below are there it gets
//! their owner, mode, times and attributes, as containerd does it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr,
    fremovexattr, fsetxattr, fstat, futimens, openat, statat,
};
use rustix::io::Errno;

use super::beneath::{self, DIRECTORY, split};
use super::xattr;

/// The mark. It does not outlive the unpacking.
const MARK: &str = "trusted.bayplan.implied";
/// Bound of one attribute's value and of a list of names: the kernel's own.
const MAX_XATTR: usize = 64 << 10;

/// Marks a directory as implied.
pub fn mark(directory: impl AsFd) -> rustix::io::Result<()> {
    fsetxattr(directory, MARK, b"1", XattrFlags::empty())
}

/// Takes the mark away: the directory is described after all.
pub fn unmark(directory: impl AsFd) -> rustix::io::Result<()> {
    match fremovexattr(directory, MARK) {
        Err(Errno::NODATA) => Ok(()),
        other => other,
    }
}

fn is_marked(directory: impl AsFd) -> bool {
    fgetxattr(directory, MARK, &mut [0u8; 4]).is_ok()
}

/// Adds the path of a directory that was just made and marked.
pub fn record(spool: &mut impl Write, path: &[u8]) -> io::Result<()> {
    spool.write_all(&(path.len() as u32).to_le_bytes())?;
    spool.write_all(path)
}

/// Gives every implied directory of a layer the description of the one it covers. `lower` are the root
/// directories of the layers below, uppermost first.
pub fn settle(root: &OwnedFd, spool: &mut File, lower: &[PathBuf]) -> io::Result<()> {
    let lower: Vec<File> = lower.iter().map(File::open).collect::<io::Result<_>>()?;
    settle_one(root, b"", &lower)?;
    spool.rewind()?;
    let mut spool = BufReader::new(spool);
    let mut length = [0; 4];
    while !spool.fill_buf()?.is_empty() {
        spool.read_exact(&mut length)?;
        let mut path = vec![0; u32::from_le_bytes(length) as usize];
        spool.read_exact(&mut path)?;
        settle_one(root, &path, &lower)?;
    }
    Ok(())
}

fn settle_one(root: &OwnedFd, path: &[u8], lower: &[File]) -> io::Result<()> {
    let directory = match beneath::open(root, path, DIRECTORY | OFlags::NOFOLLOW) {
        // Replaced by a later entry.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        other => other?,
    };
    if !is_marked(&directory) {
        return Ok(());
    }
    if let Some(covered) = covered(path, lower)? {
        copy(&covered, &directory)?;
    }
    Ok(unmark(&directory)?)
}

/// The directory that overlayfs would merge with this one, if there is any.
fn covered(path: &[u8], lower: &[File]) -> io::Result<Option<OwnedFd>> {
    let (parent, name) = split(path);
    for layer in lower {
        let parent = match beneath::open(layer, parent, DIRECTORY) {
            Err(Errno::NOENT) => continue,
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            other => other?,
        };
        if name.is_empty() {
            return Ok(Some(parent));
        }
        match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(other) => return Err(other.into()),
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Ok(Some(openat(&parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?));
            }
            // Deleted, or something else: nothing is merged.
            Ok(_) => return Ok(None),
        }
    }
    Ok(None)
}

fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = fstat(from)?;
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    let mut names = vec![0u8; MAX_XATTR];
    let mut value = vec![0u8; MAX_XATTR];
    let length = match flistxattr(from, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    for name in names[..length].split(|b| *b == 0).filter(|n| xattr::is_taken(n) && *n != MARK.as_bytes()) {
        let length = fgetxattr(from, name, &mut value[..])?;
        fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 };
    futimens(to, &Timestamps { last_access: time, last_modification: time })?;
    Ok(())
}
