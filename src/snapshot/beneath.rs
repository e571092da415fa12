//! Paths resolved beneath a directory descriptor by the kernel (openat2(2)), never by string.
//!
//! Symlinks resolve as if the directory were `/`, so that a layer's own links work and none leads out.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, fchmod, mkdirat, openat, openat2, readlinkat, statat, unlinkat,
};
use rustix::io::Errno;

/// Bytes that one call takes, the terminating zero included.
const PATH_MAX: usize = 4096;
/// Directories whose descriptors are kept open.
const MAX_OPEN: usize = 128;
/// Symlinks followed for one directory that has to be made first; the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Flags of a directory that others are resolved from.
pub const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens `path` beneath `root`, symlinks resolved inside of it. What the kernel does not take at once is
/// walked from there on, where links are not followed.
pub fn open(root: impl AsFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    if path.len() < PATH_MAX {
        return open_short(root, path, flags);
    }
    let cut = path[..PATH_MAX].iter().rposition(|b| *b == b'/').ok_or(Errno::NAMETOOLONG)?;
    let (first, mut rest) = (&path[..cut], &path[cut + 1..]);
    let mut at = open_short(root, first, DIRECTORY)?;
    while let Some(slash) = rest.iter().position(|b| *b == b'/') {
        at = openat(&at, &rest[..slash], DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        rest = &rest[slash + 1..];
    }
    openat(&at, rest, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn open_short(root: impl AsFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    loop {
        match openat2(
            root.as_fd(),
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            // The kernel gives up on a rename elsewhere in the tree; it asks to be asked again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// Splits a cleaned path into its directory and its last component.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Directories beneath one root, opened, made when missing, and remembered.
pub struct Directories {
    root: Rc<OwnedFd>,
    open: HashMap<Vec<u8>, Rc<OwnedFd>>,
}

/// A directory that was made because an entry needed it, by its cleaned path.
pub type Made<'a> = &'a mut dyn FnMut(&[u8]) -> rustix::io::Result<()>;

impl Directories {
    /// Beneath `root`.
    pub fn new(root: OwnedFd) -> Self {
        Self { root: Rc::new(root), open: HashMap::new() }
    }

    /// The root itself.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Forgets descriptors: something on the way to one of them was replaced.
    pub fn forget(&mut self) {
        self.open.clear();
    }

    /// Remembers a directory that was just made or opened.
    pub fn remember(&mut self, path: &[u8], fd: Rc<OwnedFd>) {
        if self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
        self.open.insert(path.to_vec(), fd);
    }

    /// The directory at `path`, which is clean (no empty, `.` or `..` component); an error if there is none.
    pub fn existing(&mut self, path: &[u8]) -> rustix::io::Result<Rc<OwnedFd>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(fd) = self.open.get(path) {
            return Ok(Rc::clone(fd));
        }
        let fd = Rc::new(open(&self.root, path, DIRECTORY)?);
        self.remember(path, Rc::clone(&fd));
        Ok(fd)
    }

    /// The directory at `path`, made with its parents where it is missing; `made` hears of each. A
    /// whiteout in its place gives way and leaves an opaque directory behind.
    pub fn ensure(&mut self, path: &[u8], made: Made<'_>) -> rustix::io::Result<Rc<OwnedFd>> {
        match self.existing(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            // A link where a path too long for one call was walked.
            Err(Errno::LOOP) if path.len() >= PATH_MAX => {}
            other => return other,
        }
        let mut links = 0;
        // Components yet to go, the next one last.
        let mut todo: Vec<Vec<u8>> = path.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<u8> = Vec::new();
        while let Some(component) = todo.pop() {
            match component.as_slice() {
                b"" | b"." => continue,
                // From a link's target only; above the root is the root.
                b".." => {
                    at.truncate(split(&at).0.len());
                    continue;
                }
                _ => {}
            }
            let parent = self.existing(&at)?;
            let name = component.as_slice();
            match statat(&*parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {
                    self.make(&parent, name, &mut at, made)?;
                }
                Err(other) => return Err(other),
                Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => join(&mut at, name),
                    FileType::Symlink => {
                        links += 1;
                        if links > MAX_LINKS {
                            return Err(Errno::LOOP);
                        }
                        let target: CString = readlinkat(&*parent, name, Vec::new())?;
                        if target.as_bytes().first() == Some(&b'/') {
                            at.clear();
                        }
                        todo.extend(target.as_bytes().split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
                    }
                    FileType::CharacterDevice if stat.st_rdev == 0 => {
                        unlinkat(&*parent, name, AtFlags::empty())?;
                        let fd = self.make(&parent, name, &mut at, made)?;
                        super::xattr::set_opaque(&*fd)?;
                    }
                    _ => return Err(Errno::NOTDIR),
                },
            }
        }
        let fd = self.existing(&at)?;
        self.remember(path, Rc::clone(&fd));
        Ok(fd)
    }

    fn make(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        at: &mut Vec<u8>,
        made: Made<'_>,
    ) -> rustix::io::Result<Rc<OwnedFd>> {
        mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
        let fd = Rc::new(openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?);
        // Past the umask.
        fchmod(&*fd, Mode::from_raw_mode(0o755))?;
        super::implied::mark(&*fd)?;
        join(at, name);
        self.remember(at, Rc::clone(&fd));
        made(at)?;
        Ok(fd)
    }
}

fn join(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}
