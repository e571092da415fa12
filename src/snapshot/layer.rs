//! One layer's tar stream applied to an empty directory, as overlayfs wants a lower directory: deletions
//! become whiteouts, so that layers need not know each other.
//!
//! Every name is resolved beneath the directory's descriptor. Memory does not grow with the layer: what has
//! to be known at its end is spooled to files.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chmodat, chownat, fchmod, fchown, futimens,
    linkat, makedev, mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::beneath::{DIRECTORY, Directories, split};
use super::error::SnapshotError;
use super::writeback::Writeback;
use super::{implied, remove, xattr};
use crate::image::tar::{Entry, Kind, Reader};
use crate::oci::Digest;

/// Runs of zeros of at least so many bytes become holes.
const HOLE: usize = 64 << 10;
/// Bytes of a name: more than the kernel takes at once, and few enough to be walked.
const MAX_NAME: usize = 16 << 10;
/// Prefix of a deletion, as image-spec "Whiteouts" defines it.
const WHITEOUT: &[u8] = b".wh.";
/// Deletion of all that lies below a directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What came of a layer.
#[derive(Debug)]
pub struct Applied {
    /// Directories that the layer needed and did not describe.
    pub implied: File,
    /// Entries that could not be made and do no harm by that: devices without permission, unknown kinds.
    pub skipped: u64,
}

/// Applies the unpacked bytes of `layer` to the empty directory `root`, and reads them to their end. `spool`
/// gives anonymous files, `limit` bounds one file in bytes. For a thread whose umask is its own and 0.
pub fn apply(
    layer: &Digest,
    root: OwnedFd,
    stream: &mut impl BufRead,
    spool: impl Fn() -> io::Result<File>,
    limit: u64,
    writeback: &Writeback,
) -> Result<Applied, SnapshotError> {
    let spooled = || spool().map_err(|e| SnapshotError::io(format!("make a spool file for layer {layer}"), e));
    implied::mark(&root).map_err(|e| SnapshotError::io(format!("set attributes for layer {layer}"), e))?;
    let mut applier = Applier {
        layer,
        directories: Directories::new(root),
        times: BufWriter::new(spooled()?),
        implied: BufWriter::new(spooled()?),
        inherits: false,
        skipped: 0,
        limit,
        writeback,
    };
    let mut reader = Reader::over(stream);
    let broken = |e: io::Error| SnapshotError::Stream { layer: layer.clone(), why: e.to_string() };
    while let Some(entry) = reader.next().map_err(broken)? {
        applier.entry(&entry, &mut reader)?;
    }
    reader.drain().map_err(broken)?;
    let (implied, skipped) = applier.finish()?;
    Ok(Applied { implied, skipped })
}

struct Applier<'a> {
    layer: &'a Digest,
    directories: Directories,
    /// Times of directories: set at the end, for making entries changes them.
    times: BufWriter<File>,
    implied: BufWriter<File>,
    /// A directory passes its group or an access list on to what is made in it.
    inherits: bool,
    skipped: u64,
    /// Bytes that one file may have, holes included.
    limit: u64,
    /// Is told of every file.
    writeback: &'a Writeback,
}

/// Why one entry was not made.
enum Failure {
    /// The file system.
    System(Errno),
    /// The stream.
    Stream(io::Error),
    /// The entry itself.
    Refused(&'static str),
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

fn system(error: io::Error) -> Failure {
    Failure::System(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// A name without empty and `.` components. Absolute names are relative to the root, as tar has it; `..` is
/// refused.
fn clean(path: &[u8]) -> Result<Vec<u8>, Failure> {
    if path.len() > MAX_NAME {
        return Err(Failure::Refused("its name is longer than 16384 bytes"));
    }
    let mut cleaned = Vec::with_capacity(path.len());
    for component in path.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err(Failure::Refused("it leads out of its directory by ..")),
            component => {
                if !cleaned.is_empty() {
                    cleaned.push(b'/');
                }
                cleaned.extend_from_slice(component);
            }
        }
    }
    Ok(cleaned)
}

fn id(number: u64) -> Result<u32, Failure> {
    // -1 means "leave as it is" to chown.
    u32::try_from(number).ok().filter(|n| *n != u32::MAX).ok_or(Failure::Refused("its owner or group is no user ID"))
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: i64::from(entry.mtime.1) };
    Timestamps { last_access: time, last_modification: time }
}

impl Applier<'_> {
    fn entry(&mut self, entry: &Entry, reader: &mut Reader<impl BufRead>) -> Result<(), SnapshotError> {
        let failure = match self.make(entry, reader) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        let layer = self.layer.clone();
        let name = String::from_utf8_lossy(&entry.path).chars().take(300).collect::<String>();
        Err(match failure {
            Failure::Stream(error) => SnapshotError::Stream { layer, why: format!("entry {name:?}: {error}") },
            Failure::Refused(why) => SnapshotError::Entry { layer, entry: name, why: why.to_owned() },
            Failure::System(
                error @ (Errno::NOSPC
                | Errno::DQUOT
                | Errno::IO
                | Errno::ROFS
                | Errno::NOMEM
                | Errno::MFILE
                | Errno::NFILE
                | Errno::NOSYS),
            ) => SnapshotError::io(format!("write {name:?} of layer {layer}"), error),
            Failure::System(error) => {
                SnapshotError::Entry { layer, entry: name, why: io::Error::from(error).to_string() }
            }
        })
    }

    fn make(&mut self, entry: &Entry, reader: &mut Reader<impl BufRead>) -> Result<(), Failure> {
        let path = clean(&entry.path)?;
        let (parent, name) = split(&path);
        if name.starts_with(WHITEOUT) {
            return self.whiteout(parent, name);
        }
        if path.is_empty() {
            return match entry.kind {
                Kind::Directory => self.root(entry),
                _ => Err(Failure::Refused("it would replace the root directory")),
            };
        }
        let parent = self.parent(parent)?;
        match entry.kind {
            Kind::File => self.file(&parent, name, entry, reader),
            Kind::Directory => self.directory(&parent, name, &path, entry),
            Kind::SymLink => {
                let made = || symlinkat(entry.link.as_slice(), &*parent, name);
                self.replacing(&parent, name, made)?;
                self.describe_at(&parent, name, entry, None)
            }
            Kind::HardLink => self.hard_link(&parent, name, entry),
            Kind::Char | Kind::Block | Kind::Fifo => {
                let (kind, device) = match entry.kind {
                    Kind::Char => (FileType::CharacterDevice, makedev(entry.device.0, entry.device.1)),
                    Kind::Block => (FileType::BlockDevice, makedev(entry.device.0, entry.device.1)),
                    _ => (FileType::Fifo, 0),
                };
                let mode = Mode::from_raw_mode(0o600);
                match self.replacing(&parent, name, || mknodat(&*parent, name, kind, mode, device)) {
                    // Inside a container or a user namespace nobody may make devices; images live without.
                    Err(Failure::System(Errno::PERM)) => {
                        self.skipped += 1;
                        return Ok(());
                    }
                    other => other?,
                }
                self.describe_at(&parent, name, entry, Some(entry.mode))
            }
            Kind::Other(_) => {
                self.skipped += 1;
                Ok(())
            }
        }
    }

    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Failure> {
        let implied = &mut self.implied;
        let mut failed = None;
        let mut made = |path: &[u8]| match implied::record(implied, path) {
            Ok(()) => Ok(()),
            Err(error) => {
                failed = Some(error);
                Err(Errno::IO)
            }
        };
        let result = self.directories.ensure(path, &mut made);
        if let Some(error) = failed {
            return Err(system(error));
        }
        let fd = result?;
        Ok(fd)
    }

    /// Does what makes `name`; what stands in its way is removed first.
    fn replacing<T>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, Failure> {
        match make() {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
        let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        // Only these can be on the way to a directory that is held open.
        if matches!(FileType::from_raw_mode(stat.st_mode), FileType::Directory | FileType::Symlink) {
            self.directories.forget();
        }
        remove::tree(parent, name)?;
        Ok(make()?)
    }

    fn file(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        reader: &mut Reader<impl BufRead>,
    ) -> Result<(), Failure> {
        if entry.size > self.limit {
            return Err(Failure::Refused("it is larger than a whole layer may be"));
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let make = || openat(parent, name, flags, Mode::from_raw_mode(entry.mode & 0o777));
        let file = File::from(self.replacing(parent, name, make)?);
        match &entry.pieces {
            None => {
                let hole = copy(reader, &file, 0, entry.size)?;
                if hole {
                    file.set_len(entry.size).map_err(system)?;
                }
            }
            Some(pieces) => {
                file.set_len(entry.size).map_err(system)?;
                for (offset, length) in pieces {
                    copy(reader, &file, *offset, *length)?;
                }
            }
        }
        // Most files are root's and have no special bits: as they were made.
        let plain = entry.uid == 0 && entry.gid == 0 && entry.mode & !0o777 == 0 && entry.xattrs.is_empty();
        if !plain || self.inherits {
            describe(&file, entry)?;
        }
        futimens(&file, &times(entry))?;
        self.writeback.wrote(entry.size);
        Ok(())
    }

    fn root(&mut self, entry: &Entry) -> Result<(), Failure> {
        self.inherits |= passes_on(entry);
        implied::unmark(self.directories.root())?;
        describe(self.directories.root(), entry)?;
        self.spool_times(b"", entry)
    }

    fn directory(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8], entry: &Entry) -> Result<(), Failure> {
        let make = || mkdirat(parent, name, Mode::from_raw_mode(0o700));
        let open = || openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        let fd = match make() {
            Ok(()) => open()?,
            Err(Errno::EXIST) => {
                let stat = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    // A directory stays, with what it holds, and gets the later description.
                    FileType::Directory => {
                        let fd = open()?;
                        implied::unmark(&fd)?;
                        fd
                    }
                    // Deleted below and made anew: nothing of the lower one shines through.
                    FileType::CharacterDevice if stat.st_rdev == 0 => {
                        unlinkat(parent, name, AtFlags::empty())?;
                        make()?;
                        let fd = open()?;
                        xattr::set_opaque(&fd)?;
                        fd
                    }
                    _ => {
                        self.replacing(parent, name, make)?;
                        open()?
                    }
                }
            }
            Err(other) => return Err(other.into()),
        };
        self.inherits |= passes_on(entry);
        describe(&fd, entry)?;
        self.directories.remember(path, Rc::new(fd));
        self.spool_times(path, entry)
    }

    fn hard_link(&mut self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), Failure> {
        let target = clean(&entry.link)?;
        let (directory, file) = split(&target);
        if file.is_empty() {
            return Err(Failure::Refused("it is a hard link to nothing"));
        }
        let gone = Failure::Refused("it is a hard link to a file that its layer does not hold before it");
        let from = match self.directories.existing(directory) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(gone),
            other => other?,
        };
        let link = || linkat(&*from, file, parent, name, AtFlags::empty());
        match link() {
            Err(Errno::NOENT) => Err(gone),
            Err(Errno::EXIST) => {
                let there = statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                match statat(&*from, file, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => return Err(gone),
                    Err(other) => return Err(other.into()),
                    // The same file already, under whatever spelling.
                    Ok(stat) if (stat.st_dev, stat.st_ino) == (there.st_dev, there.st_ino) => return Ok(()),
                    Ok(_) => {}
                }
                self.replacing(parent, name, link)
            }
            other => Ok(other?),
        }
    }

    /// A deletion. One of a name that the same layer holds hides only what lies below.
    fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Result<(), Failure> {
        if name == OPAQUE {
            let parent = self.parent(parent)?;
            xattr::set_opaque(&*parent)?;
            return Ok(());
        }
        // What aufs kept for itself.
        if name.starts_with(b".wh..wh.") {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(Failure::Refused("it deletes what is not in its directory"));
        }
        let parent = self.parent(parent)?;
        match mknodat(&*parent, hidden, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::EXIST) => {
                let stat = statat(&*parent, hidden, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    let fd = openat(&*parent, hidden, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
                    xattr::set_opaque(&fd)?;
                }
                Ok(())
            }
            other => Ok(other?),
        }
    }

    /// Owner, mode, attributes and times of what is not opened. `mode` is `None` for links, which have none.
    fn describe_at(&self, parent: &OwnedFd, name: &[u8], entry: &Entry, mode: Option<u32>) -> Result<(), Failure> {
        let (uid, gid) = (Uid::from_raw(id(entry.uid)?), Gid::from_raw(id(entry.gid)?));
        chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if let Some(mode) = mode {
            // Follows links, and this is none: it was made a moment ago where nobody else writes.
            chmodat(parent, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
        }
        xattr::apply_at(parent, name, &entry.xattrs)?;
        utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn spool_times(&mut self, path: &[u8], entry: &Entry) -> Result<(), Failure> {
        let mut write = || -> io::Result<()> {
            self.times.write_all(&(path.len() as u32).to_le_bytes())?;
            self.times.write_all(path)?;
            self.times.write_all(&entry.mtime.0.to_le_bytes())?;
            self.times.write_all(&entry.mtime.1.to_le_bytes())
        };
        write().map_err(system)
    }

    /// Sets the times of directories; gives the spool of implied ones and the number of skipped entries.
    fn finish(mut self) -> Result<(File, u64), SnapshotError> {
        let layer = self.layer;
        let what = || format!("set the times of directories of layer {layer}");
        let failed = |e: io::Error| SnapshotError::io(what(), e);
        let mut spool = self.times.into_inner().map_err(|e| failed(e.into_error()))?;
        spool.rewind().map_err(failed)?;
        let mut spool = BufReader::new(spool);
        let mut length = [0; 4];
        while !spool.fill_buf().map_err(failed)?.is_empty() {
            spool.read_exact(&mut length).map_err(failed)?;
            let mut path = vec![0; u32::from_le_bytes(length) as usize];
            let (mut seconds, mut nanos) = ([0; 8], [0; 4]);
            spool.read_exact(&mut path).map_err(failed)?;
            spool.read_exact(&mut seconds).map_err(failed)?;
            spool.read_exact(&mut nanos).map_err(failed)?;
            let time = Timespec { tv_sec: i64::from_le_bytes(seconds), tv_nsec: i64::from(u32::from_le_bytes(nanos)) };
            let times = Timestamps { last_access: time, last_modification: time };
            let (parent, name) = split(&path);
            let set = match self.directories.existing(parent) {
                Ok(fd) if name.is_empty() => futimens(&*fd, &times),
                Ok(fd) => match openat(&*fd, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
                    Ok(fd) => futimens(&fd, &times),
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            match set {
                // Replaced by a later entry.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                other => other.map_err(|e| failed(e.into()))?,
            }
        }
        let implied = self.implied.into_inner().map_err(|e| failed(e.into_error()))?;
        Ok((implied, self.skipped))
    }
}

/// Whether what is made in this directory does not simply belong to who makes it.
fn passes_on(directory: &Entry) -> bool {
    directory.mode & 0o2000 != 0 || directory.xattrs.iter().any(|(name, _)| name.starts_with(b"system.posix_acl_"))
}

/// Writes `length` bytes of the entry. `true` when a run of zeros was left out and the file may be too short.
fn copy(reader: &mut Reader<impl BufRead>, file: &File, mut offset: u64, mut length: u64) -> Result<bool, Failure> {
    let mut hole = false;
    while length > 0 {
        let piece = reader.piece(length).map_err(Failure::Stream)?;
        let size = piece.len();
        if size == 0 {
            return Err(Failure::Stream(io::ErrorKind::UnexpectedEof.into()));
        }
        if size >= HOLE && is_zero(piece) {
            hole = true;
        } else {
            file.write_all_at(piece, offset).map_err(system)?;
        }
        reader.consume(size);
        offset += size as u64;
        length -= size as u64;
    }
    Ok(hole)
}

fn is_zero(bytes: &[u8]) -> bool {
    // The first is zero and each is like the one before it: a comparison of memory, which is fast however we are built.
    bytes.split_first().is_none_or(|(first, rest)| *first == 0 && *rest == bytes[..rest.len()])
}

/// Owner, mode and attributes, in the order that keeps set-id bits and capabilities.
fn describe(file: impl AsFd, entry: &Entry) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(id(entry.uid)?), Gid::from_raw(id(entry.gid)?));
    fchown(file.as_fd(), Some(uid), Some(gid))?;
    fchmod(file.as_fd(), Mode::from_raw_mode(entry.mode))?;
    xattr::apply(file, &entry.xattrs)?;
    Ok(())
}
