//! Two trees compared as unpacking makes them: names, kinds, modes, owners, times, links, attributes, bytes.
//!
//! Descriptors do not grow with the depth: the way back up is `..`, which nobody moves meanwhile.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fgetxattr, flistxattr, fstat, openat, readlinkat, statat,
};
use rustix::io::Errno;

/// Differences that are named; of more it is only known that there are.
pub const NAMED: usize = 16;
/// Bound of one attribute's value and of a list of names: the kernel's own.
const MAX_XATTR: usize = 64 << 10;
/// The root directory's name.
const ROOT: &str = "/";
/// What is said of what has another time, and nothing else wrong with it.
const CHANGED: &str = "was changed";
/// Bytes compared at once.
const CHUNK: usize = 256 << 10;

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Its name from the root, as far as it is UTF-8.
    pub path: String,
    /// What is wrong with it, to be read behind its name.
    pub what: String,
}

impl Difference {
    fn parent(&self) -> &str {
        match self.path.rsplit_once('/') {
            Some((parent, _)) => parent,
            None => ROOT,
        }
    }
}

/// What of `actual` is not as in `expected`, which was unpacked from this time on (in seconds since 1970). At most
/// [`NAMED`] things, sorted.
pub fn trees(expected: OwnedFd, actual: OwnedFd, since: i64) -> io::Result<Vec<Difference>> {
    let mut found = Found { since, path: Vec::new(), differences: Vec::new() };
    if let Some(what) = found.described(&fstat(&expected)?, &fstat(&actual)?) {
        found.note(None, what);
    }
    let mut at = (expected, actual);
    found.attributes(&at.0, &at.1)?;
    let mut levels = vec![found.level(&at)?];
    while let Some(level) = levels.last_mut() {
        if found.differences.len() >= NAMED {
            break;
        }
        match level.pop() {
            Some(name) => {
                at = (enter(&at.0, &name)?, enter(&at.1, &name)?);
                found.path.push(name);
                found.attributes(&at.0, &at.1)?;
                levels.push(found.level(&at)?);
            }
            None => {
                levels.pop();
                if !levels.is_empty() {
                    found.path.pop();
                    at = (enter(&at.0, c"..")?, enter(&at.1, c"..")?);
                }
            }
        }
    }
    let mut differences = found.differences;
    // What was made or removed in a directory changed the directory's time, too: said once.
    let parents: HashSet<String> = differences.iter().map(|one| one.parent().to_owned()).collect();
    differences.retain(|one| one.what != CHANGED || !parents.contains(&one.path));
    differences.sort();
    Ok(differences)
}

fn enter(directory: &OwnedFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    openat(directory, name, super::beneath::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// Names in a directory, as they come.
fn names(directory: &OwnedFd) -> rustix::io::Result<impl Iterator<Item = rustix::io::Result<CString>>> {
    let named = |entry: rustix::io::Result<rustix::fs::DirEntry>| entry.map(|entry| entry.file_name().to_owned());
    let is_other =
        |name: &rustix::io::Result<CString>| !name.as_ref().is_ok_and(|name| matches!(name.to_bytes(), b"." | b".."));
    Ok(Dir::read_from(directory)?.map(named).filter(is_other))
}

fn look(directory: &OwnedFd, name: &CString) -> rustix::io::Result<Option<Stat>> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        other => other.map(Some),
    }
}

struct Found {
    /// Seconds since 1970. What has a time of its own from then on has one that no layer describes: directories
    /// that a layer implies, deletions.
    since: i64,
    /// Names from the root to where we are.
    path: Vec<CString>,
    differences: Vec<Difference>,
}

impl Found {
    fn note(&mut self, name: Option<&CString>, what: impl Into<String>) {
        let parts: Vec<_> = self.path.iter().chain(name).map(|name| name.to_string_lossy()).collect();
        let path = if parts.is_empty() { ROOT.to_owned() } else { parts.join("/") };
        self.differences.push(Difference { path, what: what.into() });
    }

    /// Compares what lies in a directory; gives the directories in it that both have, still to be entered. Holds
    /// no list of the others, of which there may be a million.
    fn level(&mut self, (expected, actual): &(OwnedFd, OwnedFd)) -> io::Result<Vec<CString>> {
        let mut directories = Vec::new();
        for name in names(expected)? {
            let name = name?;
            if self.differences.len() >= NAMED {
                return Ok(Vec::new());
            }
            let (Some(wanted), seen) = (look(expected, &name)?, look(actual, &name)?) else { continue };
            let kind = FileType::from_raw_mode(wanted.st_mode);
            match seen {
                None => self.note(Some(&name), "is missing"),
                Some(seen) if kind != FileType::from_raw_mode(seen.st_mode) => {
                    self.note(Some(&name), "is of another kind");
                }
                Some(seen) => {
                    if let Some(what) = self.described(&wanted, &seen) {
                        self.note(Some(&name), what);
                    } else if let Some(what) = content((expected, actual), &name, kind)? {
                        self.note(Some(&name), what);
                    }
                    if kind == FileType::Directory {
                        directories.push(name);
                    }
                }
            }
        }
        for name in names(actual)? {
            let name = name?;
            if self.differences.len() < NAMED && look(expected, &name)?.is_none() {
                self.note(Some(&name), "does not belong there");
            }
        }
        Ok(directories)
    }

    fn attributes(&mut self, expected: &OwnedFd, actual: &OwnedFd) -> io::Result<()> {
        if xattrs(expected)? != xattrs(actual)? {
            self.note(None, "has other attributes");
        }
        Ok(())
    }

    /// What differs of what a file system says of two things of one kind.
    fn described(&self, wanted: &Stat, seen: &Stat) -> Option<String> {
        let is_directory = FileType::from_raw_mode(wanted.st_mode) == FileType::Directory;
        if !is_directory && wanted.st_size != seen.st_size {
            return Some(format!("has {} bytes, not {}", seen.st_size, wanted.st_size));
        }
        if wanted.st_mode != seen.st_mode {
            return Some(format!("has mode {:o}, not {:o}", seen.st_mode & 0o7777, wanted.st_mode & 0o7777));
        }
        if (wanted.st_uid, wanted.st_gid) != (seen.st_uid, seen.st_gid) {
            let (uid, gid) = (wanted.st_uid, wanted.st_gid);
            return Some(format!("belongs to {}:{}, not {uid}:{gid}", seen.st_uid, seen.st_gid));
        }
        if wanted.st_rdev != seen.st_rdev {
            return Some("is another device".into());
        }
        if !is_directory && wanted.st_nlink != seen.st_nlink {
            return Some(format!("has {} names, not {}", seen.st_nlink, wanted.st_nlink));
        }
        let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
        (wanted.st_mtime < self.since && time(wanted) != time(seen)).then(|| CHANGED.into())
    }
}

fn content(
    (expected, actual): (&OwnedFd, &OwnedFd),
    name: &CString,
    kind: FileType,
) -> io::Result<Option<&'static str>> {
    if kind == FileType::Symlink {
        let same = readlinkat(expected, name, Vec::new())? == readlinkat(actual, name, Vec::new())?;
        return Ok((!same).then_some("leads elsewhere"));
    }
    if kind != FileType::RegularFile {
        return Ok(None);
    }
    let open = |at: &OwnedFd| {
        openat(at, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map(File::from)
    };
    let (mut wanted, mut seen) = (open(expected)?, open(actual)?);
    if xattrs(&wanted)? != xattrs(&seen)? {
        return Ok(Some("has other attributes"));
    }
    let (mut left, mut right) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
    loop {
        left.clear();
        right.clear();
        wanted.by_ref().take(CHUNK as u64).read_to_end(&mut left)?;
        match seen.by_ref().take(CHUNK as u64).read_to_end(&mut right) {
            // A bad sector is this file's, and no reason not to look at the others.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                return Ok(Some("cannot be read"));
            }
            other => drop(other?),
        }
        if left != right {
            return Ok(Some("has other bytes"));
        }
        if left.is_empty() {
            return Ok(None);
        }
    }
}

/// Attributes by name, those of overlayfs included.
fn xattrs(file: impl std::os::fd::AsFd) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0u8; MAX_XATTR];
    let length = match flistxattr(file.as_fd(), &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        other => other?,
    };
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // The host's policy, which may change.
        if name != b"security.selinux" {
            let mut value = vec![0u8; MAX_XATTR];
            let length = fgetxattr(file.as_fd(), name, &mut value[..])?;
            found.insert(name.to_vec(), value[..length].to_vec());
        }
    }
    Ok(found)
}
