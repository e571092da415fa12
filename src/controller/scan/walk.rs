//! One walk over the tree: real directories first, then what links inside the tree lead to.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};

use super::lease::open_for_writing;
use super::{
    Blind, Cached, Content, GRANULARITY, MAX_BYTES, MAX_DEPTH, MAX_FILES, RootIdentity, RootState, SETTLE, Scan,
    ScannedFile, Stamp, is_manifest,
};
use crate::oci::Digest;

type Cache = HashMap<String, Cached>;

pub(super) fn walk(root: &Path, before: Cache, writing: &BTreeSet<PathBuf>, now: SystemTime) -> (Scan, Cache) {
    let empty = |state| Scan { root: state, files: BTreeMap::new(), blind: BTreeSet::new(), recheck: None };
    let opened = root.canonicalize().and_then(|real| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&real, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&fd)?;
        Ok((real, fd, RootIdentity { dev: stat.st_dev, ino: stat.st_ino }))
    });
    let (real, fd, identity) = match opened {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return (empty(RootState::Missing), Cache::new()),
        Err(error) => return (empty(RootState::Unreadable(error.to_string())), Cache::new()),
    };
    let mut walk = Walk {
        shown_root: root,
        real_root: &real,
        root: fd,
        before,
        after: Cache::new(),
        writing,
        now,
        scan: empty(RootState::Present(identity)),
        directories: HashSet::new(),
        regular: HashSet::new(),
        links: VecDeque::new(),
        full: false,
    };
    if let Err(error) = walk.directory("", Path::new(""), 0) {
        return (empty(RootState::Unreadable(error.to_string())), Cache::new());
    }
    while let Some(link) = walk.links.pop_front() {
        walk.link(&link);
    }
    (walk.scan, walk.after)
}

/// A link, by the name it was found under and where it really is.
struct Link {
    shown: String,
    real: PathBuf,
    depth: usize,
}

struct Walk<'a> {
    shown_root: &'a Path,
    real_root: &'a Path,
    root: OwnedFd,
    before: Cache,
    after: Cache,
    writing: &'a BTreeSet<PathBuf>,
    now: SystemTime,
    scan: Scan,
    /// Directories walked, so that links cannot lead in circles.
    directories: HashSet<(u64, u64)>,
    /// Files found under a name of their own, so that a link to one is not a second declaration.
    regular: HashSet<(u64, u64)>,
    links: VecDeque<Link>,
    full: bool,
}

impl Walk<'_> {
    /// Opens what is at `real`, relative to the root, where no part of the way may be a link.
    fn open(&self, real: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = if real.as_os_str().is_empty() { Path::new(".") } else { real };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        Ok(rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }

    fn directory(&mut self, shown: &str, real: &Path, depth: usize) -> io::Result<()> {
        let fd = self.open(real, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let stat = rustix::fs::fstat(&fd)?;
        if !self.directories.insert((stat.st_dev, stat.st_ino)) {
            return Ok(());
        }
        let mut names: Vec<OsString> = Vec::new();
        for entry in Dir::read_from(&fd)? {
            names.push(OsString::from_vec(entry?.file_name().to_bytes().to_vec()));
        }
        names.retain(|name| !name.as_bytes().starts_with(b"."));
        names.sort();
        for name in names {
            let shown = match shown {
                "" => name.to_string_lossy().into_owned(),
                dir => format!("{dir}/{}", name.to_string_lossy()),
            };
            self.entry(fd.as_fd(), &name, shown, real.join(&name), depth);
        }
        Ok(())
    }

    fn entry(&mut self, dir: impl AsFd, name: &OsStr, shown: String, real: PathBuf, depth: usize) {
        let manifest = is_manifest(name.as_bytes());
        let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // Gone since it was listed.
            Err(rustix::io::Errno::NOENT) => return,
            Err(error) if manifest => return self.bad(shown, format!("cannot be read: {error}")),
            Err(_) => return,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => self.links.push_back(Link { shown, real, depth }),
            FileType::Directory if manifest => self.bad(shown, "is a directory, not a regular file".into()),
            FileType::Directory => self.below(shown, &real, depth + 1),
            _ if !manifest => {}
            FileType::RegularFile => {
                self.regular.insert((stat.st_dev, stat.st_ino));
                self.file(dir, name, shown, &stat);
            }
            other => self.bad(shown, format!("is {}, not a regular file", word(other))),
        }
    }

    fn below(&mut self, shown: String, real: &Path, depth: usize) {
        let reason = if depth > MAX_DEPTH {
            format!("is nested deeper than {MAX_DEPTH} directories and is not read")
        } else {
            match self.directory(&shown, real, depth) {
                Ok(()) => return,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return,
                Err(error) => format!("cannot be read: {error}"),
            }
        };
        self.scan.blind.insert(Blind { dir: shown, reason });
    }

    fn link(&mut self, link: &Link) {
        let manifest = link.real.file_name().is_some_and(|name| is_manifest(name.as_bytes()));
        let shown = link.shown.clone();
        let at = self.real_root.join(&link.real);
        let points = || std::fs::read_link(&at).unwrap_or_default().display().to_string();
        let target = match at.canonicalize() {
            Ok(target) => target,
            Err(_) if !manifest => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Swapped away since it was listed, or dangling.
                if std::fs::symlink_metadata(&at).is_ok() {
                    self.bad(shown, format!("is a link to {}, which does not exist", points()));
                }
                return;
            }
            Err(error) => {
                return self.bad(shown, format!("is a link to {} that cannot be followed: {error}", points()));
            }
        };
        let Ok(real) = target.strip_prefix(self.real_root).map(Path::to_path_buf) else {
            if manifest || target.is_dir() {
                self.bad(shown, format!("is a link to {}, outside the manifest directory", points()));
            }
            return;
        };
        let parent = real.parent().unwrap_or(Path::new(""));
        let name = real.file_name().unwrap_or(OsStr::new("."));
        let found = self
            .open(parent, OFlags::RDONLY | OFlags::DIRECTORY)
            .and_then(|dir| Ok((rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?, dir)));
        match found {
            Err(error) if manifest => self.bad(shown, format!("cannot be read: {error}")),
            Err(_) => {}
            Ok((stat, dir)) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => self.below(shown, &real, link.depth + 1),
                _ if !manifest => {}
                FileType::RegularFile if self.regular.contains(&(stat.st_dev, stat.st_ino)) => {}
                FileType::RegularFile => self.file(dir, name, shown, &stat),
                other => self.bad(shown, format!("is a link to {}, not to a regular file", word(other))),
            },
        }
    }

    fn file(&mut self, dir: impl AsFd, name: &OsStr, shown: String, stat: &Stat) {
        if self.is_full() {
            return;
        }
        let stamp = stamp(stat);
        if let Some(cached) = self.before.get(&shown).filter(|cached| cached.trusted && cached.stamp == stamp) {
            let content = Content::Read { hash: cached.hash.clone(), text: None };
            self.after.insert(shown.clone(), cached.clone());
            return self.put(shown, content);
        }
        match self.read(dir, name, &shown) {
            Ok(content) => self.put(shown, content),
            // Gone since it was listed: not here.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.bad(shown, format!("cannot be read: {error}")),
        }
    }

    fn read(&mut self, dir: impl AsFd, name: &OsStr, shown: &str) -> io::Result<Content> {
        // NONBLOCK: should it have become a FIFO since, opening it must not wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mut file = std::fs::File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?);
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(Content::Bad("is not a regular file".into()));
        }
        let too_large =
            |size: u64| Content::Bad(format!("is {size} bytes long; a manifest holds at most {} MiB", MAX_BYTES >> 20));
        let stamp = stamp(&stat);
        let mut text = Vec::new();
        if stamp.size <= MAX_BYTES {
            (&mut file).take(MAX_BYTES + 1).read_to_end(&mut text)?;
        }
        // Asked after reading: a writer that came while we read is seen, here or by the changed times.
        let after = rustix::fs::fstat(&file)?;
        let open = open_for_writing(&file);
        let writing = open.unwrap_or_else(|| self.writing.contains(Path::new(shown)) || self.is_fresh(&stamp));
        if writing || self::stamp(&after) != stamp {
            // Its close is an event. Where nobody is known to have it open, none may come.
            if open != Some(true) {
                self.scan.recheck = Some(SETTLE);
            }
            return Ok(Content::Writing);
        }
        let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if stamp.size > MAX_BYTES || length > MAX_BYTES {
            return Ok(too_large(stamp.size.max(length)));
        }
        let hash = Digest::of(&text);
        let known = self.before.get(shown).is_some_and(|cached| cached.hash == hash);
        let trusted = self.age(&stamp).is_some_and(|age| age > GRANULARITY);
        self.after.insert(shown.to_owned(), Cached { stamp, hash: hash.clone(), trusted });
        Ok(Content::Read { hash, text: (!known).then_some(text) })
    }

    /// Time since the last change; `None` when it is in the future.
    fn age(&self, stamp: &Stamp) -> Option<Duration> {
        let changed = stamp.mtime.max(stamp.ctime);
        let seconds = Duration::from_secs(u64::try_from(changed.0).ok()?);
        let changed = SystemTime::UNIX_EPOCH + seconds + Duration::from_nanos(u64::try_from(changed.1).ok()?);
        self.now.duration_since(changed).ok()
    }

    fn is_fresh(&self, stamp: &Stamp) -> bool {
        // A time in the future would never become old: another host's clock, or a restored backup.
        self.age(stamp).is_some_and(|age| age < SETTLE)
    }

    fn bad(&mut self, shown: String, why: String) {
        if !self.is_full() {
            self.put(shown, Content::Bad(why));
        }
    }

    fn is_full(&mut self) -> bool {
        let full = self.scan.files.len() >= MAX_FILES;
        if full && !std::mem::replace(&mut self.full, true) {
            let reason = format!("holds more than {MAX_FILES} manifests; the others are not read");
            self.scan.blind.insert(Blind { dir: String::new(), reason });
        }
        full
    }

    fn put(&mut self, shown: String, content: Content) {
        let path = self.shown_root.join(&shown);
        self.scan.files.insert(shown, ScannedFile { path, content });
    }
}

#[allow(clippy::cast_sign_loss)] // Sizes are never negative.
fn stamp(stat: &Stat) -> Stamp {
    Stamp {
        dev: stat.st_dev,
        ino: stat.st_ino,
        size: stat.st_size as u64,
        mtime: (stat.st_mtime, stat.st_mtime_nsec as i64),
        ctime: (stat.st_ctime, stat.st_ctime_nsec as i64),
    }
}

fn word(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Directory => "a directory",
        FileType::Symlink => "a link",
        _ => "something else",
    }
}
