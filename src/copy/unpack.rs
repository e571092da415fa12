//! A tar stream → a tree beneath a descriptor.
//!
//! Directories that are there stay as they are; files are replaced by new ones, never written through a link. Devices
//! are not made. Names that lead out are refused before anything of them is made.

use std::fs::File;
use std::io::{self, BufRead};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode as Bits, OFlags, ResolveFlags, Timespec, Timestamps, Uid, chownat, fchmod, fchown,
    fstat, futimens, linkat, mkdirat, mknodat, openat, openat2, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::place::{Place, There, place};
use super::{CopyError, shown, trimmed};
use crate::image::tar::{Entry, Kind, Reader};
use crate::snapshot::beneath::{self, DIRECTORY, split};

/// Runs of zeros of at least so many bytes become holes.
const HOLE: usize = 64 << 10;
/// Bytes of a name.
const MAX_NAME: usize = 16 << 10;

/// What is done with the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It is one file or directory, as [`super::pack`] writes it, and goes where `cp` puts it.
    Place,
    /// Its entries go into a directory that is there, by their names.
    Extract,
}

/// How entries are made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What is done with the stream.
    pub mode: Mode,
    /// Owners, and the set-id bits that mean something by them, come along; else the owner is who runs this.
    pub owners: bool,
    /// Links in the tree that is there are followed, inside the root. Else one on the way is refused.
    pub follow: bool,
}

/// What was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Devices and what else is not made.
    pub skipped: u64,
}

/// Makes what the stream holds at `path` beneath `root`.
pub fn unpack(root: impl AsFd, path: &[u8], stream: impl BufRead, options: Options) -> Result<Report, CopyError> {
    let mut reader = Reader::over(stream);
    let mut first = reader.next().map_err(CopyError::Stream)?;
    if first.is_none() && options.mode == Mode::Place {
        return Err(CopyError::Stream(io::Error::new(io::ErrorKind::UnexpectedEof, "it is empty")));
    }
    let target = target(root.as_fd(), path, first.as_ref(), options)?;
    let base = beneath::open(&root, &target.base, DIRECTORY).map_err(|error| match error {
        Errno::NOTDIR => CopyError::refused(&target.base, "is no directory"),
        error => CopyError::system(&target.base)(error),
    })?;
    let mut unpacker = Unpacker {
        root: root.as_fd(),
        base,
        target,
        options,
        parent: None,
        times: Vec::new(),
        report: Report::default(),
    };
    while let Some(entry) = first {
        unpacker.entry(&entry, &mut reader)?;
        first = reader.next().map_err(CopyError::Stream)?;
    }
    // A writer that is cut off here would take it for a fault.
    reader.drain().map_err(CopyError::Stream)?;
    unpacker.finish()
}

/// Where entries go.
struct Target {
    /// A directory that is there.
    base: Vec<u8>,
    /// Stands for the first component of each name, or before it where the stream holds what is in a directory.
    rename: Option<Vec<u8>>,
    contents: bool,
    /// The one entry goes over this file.
    over: Option<OwnedFd>,
}

fn target(root: impl AsFd, path: &[u8], first: Option<&Entry>, options: Options) -> Result<Target, CopyError> {
    let slash = path.ends_with(b"/") || path.ends_with(b"/.");
    let (there, found) = match beneath::open(&root, path, OFlags::PATH) {
        Ok(found) => {
            let stat = fstat(&found).map_err(CopyError::system(path))?;
            let there = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => There::Directory,
                FileType::RegularFile => There::File,
                _ => There::Other,
            };
            (there, Some(found))
        }
        Err(Errno::NOENT) => (There::Nothing, None),
        Err(Errno::NOTDIR) if slash => (There::File, None),
        Err(error) => return Err(CopyError::system(path)(error)),
    };
    // Of what a directory holds, the first entry is `./`.
    let contents = first.is_some_and(|first| first.path.split(|byte| *byte == b'/').all(|c| matches!(c, b"" | b".")));
    let into = Target { base: path.to_vec(), rename: None, contents, over: None };
    let first = match (options.mode, first) {
        (Mode::Place, Some(first)) => first,
        _ if there == There::Directory => return Ok(into),
        _ if there == There::Nothing => return Err(CopyError::NotFound { path: shown(path) }),
        _ => return Err(CopyError::refused(path, "is no directory")),
    };
    match place(first.kind == Kind::Directory, there, slash).map_err(|why| CopyError::refused(path, why))? {
        Place::Into => Ok(into),
        Place::As => {
            let (parent, name) = split(trimmed(path));
            if matches!(name, b"" | b"." | b"..") {
                return Err(CopyError::NotFound { path: shown(path) });
            }
            // A link that leads to nothing gives way.
            Ok(Target { base: parent.to_vec(), rename: Some(name.to_vec()), contents, over: None })
        }
        Place::Over => {
            // The link that stands there leads to a file: that is what is meant. Any other file is replaced.
            let (parent, name) = split(path);
            let own = beneath::open(&root, parent, DIRECTORY)
                .and_then(|parent| statat(parent, name, AtFlags::SYMLINK_NOFOLLOW));
            let is_link = own.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
            Ok(Target { base: parent.to_vec(), rename: Some(name.to_vec()), contents, over: found.filter(|_| is_link) })
        }
    }
}

struct Unpacker<'a> {
    root: std::os::fd::BorrowedFd<'a>,
    base: OwnedFd,
    target: Target,
    options: Options,
    /// The directory of the last entry: mostly that of the next one.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// Directories that were made, and their times: making entries in them changes these.
    times: Vec<(Vec<u8>, Timestamps)>,
    report: Report,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &Entry, reader: &mut Reader<impl BufRead>) -> Result<(), CopyError> {
        let name = self.name(&entry.path)?;
        if name.is_empty() {
            // The directory itself, which is there.
            return Ok(());
        }
        let made = self.make(&name, entry, reader);
        made.map_err(|error| match error {
            Failure::Copy(error) => error,
            Failure::System(error) => CopyError::System { path: self.place_of(&name), source: error.into() },
        })
    }

    fn place_of(&self, name: &[u8]) -> String {
        let slash: &[u8] = if self.target.base.ends_with(b"/") { b"" } else { b"/" };
        shown(&[&self.target.base, slash, name].concat())
    }

    /// A clean name: no empty, `.` or `..` component; renamed.
    fn name(&self, path: &[u8]) -> Result<Vec<u8>, CopyError> {
        if path.len() > MAX_NAME {
            return Err(CopyError::refused(path, "has a name of more than 16384 bytes"));
        }
        let mut components: Vec<&[u8]> = Vec::new();
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(CopyError::refused(path, "leads out of its directory by ..")),
                component => components.push(component),
            }
        }
        if let Some(rename) = &self.target.rename {
            if self.target.contents {
                components.insert(0, rename);
            } else if let Some(first) = components.first_mut() {
                *first = rename;
            }
        }
        Ok(components.join(&b'/'))
    }

    /// The directory that an entry stands in, made with its own parents where a stream says nothing of them.
    fn parent(&mut self, path: &[u8]) -> Result<OwnedFd, Failure> {
        if let Some((last, directory)) = &self.parent
            && last == path
        {
            return Ok(directory.try_clone().map_err(|_| Errno::MFILE)?);
        }
        let directory = match self.open(path, DIRECTORY) {
            Err(Errno::NOENT) => {
                let mut made = Vec::new();
                for component in path.split(|byte| *byte == b'/') {
                    let above = self.open(&made, DIRECTORY)?;
                    match mkdirat(&above, component, Bits::from_raw_mode(0o755)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error.into()),
                    }
                    if !made.is_empty() {
                        made.push(b'/');
                    }
                    made.extend_from_slice(component);
                }
                self.open(path, DIRECTORY)?
            }
            Err(Errno::LOOP) if !self.options.follow => {
                return Err(CopyError::refused(path, "is a link, or lies behind one: it is not followed").into());
            }
            other => other?,
        };
        let kept = directory.try_clone().map_err(|_| Errno::MFILE)?;
        self.parent = Some((path.to_vec(), kept));
        Ok(directory)
    }

    fn open(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        if self.options.follow {
            let whole = if path.is_empty() {
                self.target.base.clone()
            } else {
                [&self.target.base, b"/".as_slice(), path].concat()
            };
            return beneath::open(self.root, &whole, flags);
        }
        let path = if path.is_empty() { b".".as_slice() } else { path };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(&self.base, path, flags | OFlags::CLOEXEC, Bits::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    fn make(&mut self, path: &[u8], entry: &Entry, reader: &mut Reader<impl BufRead>) -> Result<(), Failure> {
        let (above, name) = split(path);
        let parent = self.parent(above)?;
        match entry.kind {
            Kind::File => self.file(&parent, name, path, entry, reader)?,
            Kind::Directory => {
                match mkdirat(&parent, name, Bits::from_raw_mode(0o700)) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => {
                        return match self.open(path, DIRECTORY) {
                            Ok(_) => Ok(()),
                            Err(_) => Err(refused(self, path, "is there and no directory")),
                        };
                    }
                    Err(error) => return Err(error.into()),
                }
                let directory = openat(&parent, name, DIRECTORY | OFlags::NOFOLLOW, Bits::empty())?;
                self.describe(&directory, entry)?;
                self.times.push((path.to_vec(), times(entry)));
            }
            Kind::SymLink => {
                self.clear(&parent, name, path)?;
                symlinkat(entry.link.as_slice(), &parent, name)?;
                self.own_at(&parent, name, entry)?;
            }
            Kind::HardLink => {
                let target = self.name(&entry.link)?;
                let (from, file) = split(&target);
                let from = self.parent(from)?;
                self.clear(&parent, name, path)?;
                match linkat(&from, file, &parent, name, AtFlags::empty()) {
                    Err(Errno::NOENT) => return Err(refused(self, path, "is a hard link to a file that is not there")),
                    other => other?,
                }
            }
            Kind::Fifo => {
                self.clear(&parent, name, path)?;
                mknodat(&parent, name, FileType::Fifo, Bits::from_raw_mode(entry.mode & 0o777), 0)?;
                self.own_at(&parent, name, entry)?;
            }
            Kind::Char | Kind::Block | Kind::Other(_) => {
                self.report.skipped += 1;
                return Ok(());
            }
        }
        self.report.entries += 1;
        Ok(())
    }

    /// Takes away what stands in the way of anything but a directory.
    fn clear(&self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), Failure> {
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => Err(refused(self, path, "is a directory, and no directory comes")),
            Err(error) => Err(error.into()),
        }
    }

    fn file(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        path: &[u8],
        entry: &Entry,
        reader: &mut Reader<impl BufRead>,
    ) -> Result<(), Failure> {
        let existing = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match self.target.over.take() {
            // Opened again by the descriptor that was looked at.
            Some(found) => {
                use std::os::fd::AsRawFd as _;
                let own = format!("/proc/self/fd/{}", found.as_raw_fd());
                rustix::fs::open(own, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Bits::empty())?
            }
            None => match self.clear(parent, name, path) {
                // A file that is mounted there cannot be taken away; it can be written to.
                Err(Failure::System(Errno::BUSY)) => openat(parent, name, existing, Bits::empty())?,
                cleared => {
                    cleared?;
                    let flags = OFlags::CREATE | OFlags::EXCL | existing;
                    openat(parent, name, flags, Bits::from_raw_mode(0o600))?
                }
            },
        };
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(refused(self, path, "is no regular file"));
        }
        let file = File::from(file);
        let whole = [(0, entry.size)];
        let pieces = entry.pieces.as_deref().unwrap_or(&whole);
        let sized = |size| file.set_len(size).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
        sized(0)?;
        for (offset, length) in pieces {
            copy(reader, &file, *offset, *length)?;
        }
        sized(entry.size)?;
        self.report.bytes += pieces.iter().map(|(_, length)| length).sum::<u64>();
        self.describe(&file, entry)?;
        futimens(&file, &times(entry))?;
        Ok(())
    }

    /// Owner and mode, in the order that keeps set-id bits.
    fn describe(&self, file: impl AsFd, entry: &Entry) -> Result<(), Failure> {
        if let Some((uid, gid)) = self.owner(entry)? {
            fchown(file.as_fd(), Some(uid), Some(gid))?;
        }
        // What is set-id in one place is not so in another, where the owner is somebody else.
        let mask = if self.options.owners { 0o7777 } else { 0o1777 };
        fchmod(file.as_fd(), Bits::from_raw_mode(entry.mode & mask))?;
        Ok(())
    }

    fn own_at(&self, parent: &OwnedFd, name: &[u8], entry: &Entry) -> Result<(), Failure> {
        if let Some((uid, gid)) = self.owner(entry)? {
            chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        utimensat(parent, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(())
    }

    fn owner(&self, entry: &Entry) -> Result<Option<(Uid, Gid)>, Failure> {
        if !self.options.owners {
            return Ok(None);
        }
        // -1 means "leave as it is" to chown.
        let id = |number: u64| u32::try_from(number).ok().filter(|id| *id != u32::MAX);
        match (id(entry.uid), id(entry.gid)) {
            (Some(uid), Some(gid)) => Ok(Some((Uid::from_raw(uid), Gid::from_raw(gid)))),
            _ => Err(CopyError::refused(&entry.path, "has an owner that is no user ID").into()),
        }
    }

    fn finish(self) -> Result<Report, CopyError> {
        for (path, times) in self.times.iter().rev() {
            // One that was moved away meanwhile keeps the time it has.
            if let Ok(directory) = self.open(path, DIRECTORY) {
                let _ = futimens(&directory, times);
            }
        }
        Ok(self.report)
    }
}

/// Why one entry was not made.
enum Failure {
    System(Errno),
    Copy(CopyError),
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        Self::Copy(error)
    }
}

fn refused(unpacker: &Unpacker<'_>, path: &[u8], why: &str) -> Failure {
    CopyError::Refused { path: unpacker.place_of(path), why: why.to_owned() }.into()
}

fn times(entry: &Entry) -> Timestamps {
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: i64::from(entry.mtime.1) };
    Timestamps { last_access: time, last_modification: time }
}

/// Writes so many bytes of the entry; long runs of zeros are left out.
fn copy(reader: &mut Reader<impl BufRead>, file: &File, mut offset: u64, mut length: u64) -> Result<(), Failure> {
    while length > 0 {
        let piece = reader.piece(length).map_err(CopyError::Stream)?;
        let size = piece.len();
        if size == 0 {
            return Err(CopyError::Stream(io::ErrorKind::UnexpectedEof.into()).into());
        }
        let zeros = piece[0] == 0 && piece[1..] == piece[..size - 1];
        if size < HOLE || !zeros {
            file.write_all_at(piece, offset).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
        reader.consume(size);
        offset += size as u64;
        length -= size as u64;
    }
    Ok(())
}
