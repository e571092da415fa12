//! A tree → a tar stream: ustar with GNU's long names and sparse files.
//!
//! A file that changes while it is read has the size that it had when it was opened: what is missing is zeros.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, fstat, fstatfs, openat, readlinkat, seek, statat,
};
use rustix::io::Errno;
use tar::{EntryType, GnuExtSparseHeader, Header};

use super::{CopyError, base_name, means_contents};
use crate::snapshot::beneath::{self, DIRECTORY};

/// Directories within directories. Each is a descriptor while what it holds is copied.
const DEEPEST: usize = 512;
/// Bytes that a header of its own must take over (ustar).
const NAME: usize = 100;
/// Bytes that are written at a time.
const BUFFER: usize = 128 << 10;
/// Pieces of a sparse file; one with more is copied whole.
const PIECES: usize = 8 << 10;

/// Writes what `path` beneath `root` is. Its first entry is named as `path` ends, or `./` where `path` means what a
/// directory holds (`dir/.`). A link that `path` itself is is followed; others are copied as they are. Of file systems
/// that only the kernel fills (`/proc`) the directory alone comes.
pub fn pack(root: impl AsFd, path: &[u8], out: impl Write) -> Result<(), CopyError> {
    let at = CopyError::system(path);
    // A pipe or device is not opened to be looked at, and not waited for.
    let found = beneath::open(&root, path, OFlags::PATH).map_err(|error| match error {
        Errno::NOTDIR => CopyError::refused(path, "is no directory"),
        error => at(error),
    })?;
    let stat = fstat(&found).map_err(&at)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::Directory && (path.ends_with(b"/") || path.ends_with(b"/.")) {
        return Err(CopyError::refused(path, "is no directory"));
    }
    let name = if means_contents(path) { b"./".to_vec() } else { base_name(path).to_vec() };
    let mut packer = Packer { out: BufWriter::with_capacity(BUFFER, out), seen: HashMap::new() };
    match kind {
        FileType::Directory => {
            let directory = beneath::open(&root, path, DIRECTORY).map_err(&at)?;
            packer.tree(directory, name)?;
        }
        FileType::RegularFile => {
            let file = beneath::open(&root, path, OFlags::RDONLY | OFlags::NONBLOCK).map_err(&at)?;
            packer.file(file.into(), &name)?;
        }
        _ => return Err(CopyError::refused(path, "is neither a file nor a directory")),
    }
    packer.write(&[0; 1024])?;
    packer.out.flush().map_err(|_| CopyError::Gone)
}

struct Packer<W: Write> {
    out: BufWriter<W>,
    /// Files with several names, by device and inode: under which name each came.
    seen: HashMap<(u64, u64), Vec<u8>>,
}

/// A directory that is being copied.
struct Level {
    directory: OwnedFd,
    entries: Dir,
    name: Vec<u8>,
    device: u64,
}

impl<W: Write> Packer<W> {
    fn tree(&mut self, directory: OwnedFd, name: Vec<u8>) -> Result<(), CopyError> {
        let stat = fstat(&directory).map_err(CopyError::system(&name))?;
        self.entry(&name, &stat, EntryType::Directory, None)?;
        let mut levels = vec![level(directory, name, stat.st_dev)?];
        while let Some(top) = levels.last_mut() {
            let Some(entry) = top.entries.read() else {
                levels.pop();
                continue;
            };
            let entry = entry.map_err(CopyError::system(&top.name))?;
            let own = entry.file_name().to_bytes();
            if matches!(own, b"." | b"..") {
                continue;
            }
            let mut name = top.name.clone();
            if !name.ends_with(b"/") {
                name.push(b'/');
            }
            name.extend_from_slice(own);
            let stat = match statat(&top.directory, own, AtFlags::SYMLINK_NOFOLLOW) {
                // Gone since it was listed.
                Err(Errno::NOENT) => continue,
                other => other.map_err(CopyError::system(&name))?,
            };
            if let Some(deeper) = self.one(top, own, name, &stat)? {
                if levels.len() >= DEEPEST {
                    return Err(CopyError::refused(&deeper.name, "lies deeper than 512 directories"));
                }
                levels.push(deeper);
            }
        }
        Ok(())
    }

    /// One entry of a directory; what is to be gone through next if it is one itself.
    fn one(&mut self, top: &Level, own: &[u8], name: Vec<u8>, stat: &Stat) -> Result<Option<Level>, CopyError> {
        let failed = CopyError::system(&name);
        let again = stat.st_nlink > 1 && FileType::from_raw_mode(stat.st_mode) != FileType::Directory;
        if again {
            if let Some(first) = self.seen.get(&(stat.st_dev, stat.st_ino)).cloned() {
                self.entry(&name, stat, EntryType::Link, Some(&first))?;
                return Ok(None);
            }
            self.seen.insert((stat.st_dev, stat.st_ino), name.clone());
        }
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let directory = match openat(&top.directory, own, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()) {
                    // It became something else, or went.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                    other => other.map_err(&failed)?,
                };
                let stat = fstat(&directory).map_err(&failed)?;
                self.entry(&name, &stat, EntryType::Directory, None)?;
                if stat.st_dev != top.device && is_the_kernels(&directory) {
                    return Ok(None);
                }
                return level(directory, name, stat.st_dev).map(Some);
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(&top.directory, own, flags, Mode::empty()) {
                    Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => {}
                    other => self.file(other.map_err(&failed)?.into(), &name)?,
                }
            }
            FileType::Symlink => match readlinkat(&top.directory, own, Vec::new()) {
                Err(Errno::NOENT | Errno::INVAL) => {}
                other => self.entry(&name, stat, EntryType::Symlink, Some(other.map_err(&failed)?.as_bytes()))?,
            },
            FileType::Fifo => self.entry(&name, stat, EntryType::Fifo, None)?,
            FileType::CharacterDevice => self.entry(&name, stat, EntryType::Char, None)?,
            FileType::BlockDevice => self.entry(&name, stat, EntryType::Block, None)?,
            // A socket is its process'.
            _ => {}
        }
        Ok(None)
    }

    /// An entry without bytes.
    fn entry(&mut self, name: &[u8], stat: &Stat, kind: EntryType, link: Option<&[u8]>) -> Result<(), CopyError> {
        let mut header = header(stat, kind);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            header.set_device_major(major).map_err(CopyError::Stream)?;
            header.set_device_minor(minor).map_err(CopyError::Stream)?;
        }
        self.put(header, name, link)
    }

    fn file(&mut self, file: File, name: &[u8]) -> Result<(), CopyError> {
        let failed = CopyError::system(name);
        let stat = fstat(&file).map_err(&failed)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let mut header = header(&stat, EntryType::Regular);
        let held = u64::try_from(stat.st_blocks).unwrap_or(u64::MAX).saturating_mul(512);
        let pieces = if held < size { pieces(&file, size) } else { None };
        let Some(pieces) = pieces else {
            header.set_size(size);
            self.put(header, name, None)?;
            return self.data(&file, &[(0, size)], name);
        };
        // GNU's sparse files: the map stands in the header and in blocks behind it, before the data, and does not count
        // into the size.
        header.set_entry_type(EntryType::GNUSparse);
        header.set_size(pieces.iter().map(|(_, length)| length).sum());
        let mut map: Vec<u8> = Vec::new();
        if let Some(gnu) = header.as_gnu_mut() {
            gnu.set_real_size(size);
            let (first, more) = pieces.split_at(pieces.len().min(gnu.sparse.len()));
            for (field, (offset, length)) in gnu.sparse.iter_mut().zip(first) {
                field.set_offset(*offset);
                field.set_length(*length);
            }
            gnu.set_is_extended(!more.is_empty());
            let mut parts = more.chunks(21).peekable();
            while let Some(part) = parts.next() {
                let mut block = GnuExtSparseHeader::new();
                for (field, (offset, length)) in block.sparse.iter_mut().zip(part) {
                    field.set_offset(*offset);
                    field.set_length(*length);
                }
                block.set_is_extended(parts.peek().is_some());
                map.extend_from_slice(block.as_bytes());
            }
        }
        self.put(header, name, None)?;
        self.write(&map)?;
        self.data(&file, &pieces, name)
    }

    fn data(&mut self, file: &File, pieces: &[(u64, u64)], name: &[u8]) -> Result<(), CopyError> {
        let mut buffer = vec![0; 64 << 10];
        let mut stored = 0;
        for (offset, length) in pieces {
            let mut part = Part { file, offset: *offset, left: *length };
            loop {
                let count =
                    part.read(&mut buffer).map_err(|source| CopyError::System { path: super::shown(name), source })?;
                if count == 0 {
                    break;
                }
                self.write(&buffer[..count])?;
            }
            stored += length;
        }
        self.pad(stored)
    }

    /// A header, behind those that hold what does not fit into it.
    fn put(&mut self, mut header: Header, name: &[u8], link: Option<&[u8]>) -> Result<(), CopyError> {
        let slash = header.entry_type() == EntryType::Directory && !name.ends_with(b"/");
        let name = if slash { [name, b"/"].concat() } else { name.to_vec() };
        for (kind, text) in [(EntryType::GNULongName, Some(name.as_slice())), (EntryType::GNULongLink, link)] {
            let Some(text) = text.filter(|text| text.len() > NAME) else { continue };
            let mut long = Header::new_gnu();
            long.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
            long.set_entry_type(kind);
            long.set_mode(0o644);
            long.set_uid(0);
            long.set_gid(0);
            long.set_mtime(0);
            long.set_size(text.len() as u64 + 1);
            long.set_cksum();
            self.write(long.as_bytes())?;
            self.write(text)?;
            self.write(&[0])?;
            self.pad(text.len() as u64 + 1)?;
        }
        let fill = |field: &mut [u8; NAME], text: &[u8]| {
            let length = text.len().min(NAME);
            field[..length].copy_from_slice(&text[..length]);
        };
        fill(&mut header.as_old_mut().name, &name);
        fill(&mut header.as_old_mut().linkname, link.unwrap_or_default());
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn pad(&mut self, written: u64) -> Result<(), CopyError> {
        let padding = written.next_multiple_of(512) - written;
        self.write(&[0; 512][..padding as usize])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CopyError> {
        self.out.write_all(bytes).map_err(|_| CopyError::Gone)
    }
}

fn level(directory: OwnedFd, name: Vec<u8>, device: u64) -> Result<Level, CopyError> {
    let entries = Dir::read_from(&directory).map_err(CopyError::system(&name))?;
    Ok(Level { directory, entries, name, device })
}

/// Whether nothing in it is anybody's data.
fn is_the_kernels(directory: &OwnedFd) -> bool {
    // linux/magic.h: proc, sysfs, cgroup, cgroup2, devpts, debugfs, tracefs, bpf, securityfs, mqueue.
    const MAGIC: [u64; 10] = [
        0x9fa0,
        0x6265_6572,
        0x0027_e0eb,
        0x6367_7270,
        0x1cd1,
        0x6462_6720,
        0x7472_6163,
        0xcafe_4a11,
        0x7363_6673,
        0x1980_0202,
    ];
    fstatfs(directory).is_ok_and(|stat| MAGIC.contains(&(stat.f_type as u64)))
}

/// Where a file has data; `None` where the file system does not say, or too finely.
fn pieces(file: &File, size: u64) -> Option<Vec<(u64, u64)>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let begin = match seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin.min(size),
            Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        let end = seek(file, SeekFrom::Hole(begin)).ok()?.min(size);
        if begin < end {
            pieces.push((begin, end - begin));
        }
        at = end;
        if pieces.len() > PIECES || end <= begin {
            return None;
        }
    }
    // The end of the file is said by a last piece of no length, as GNU tar has it.
    if pieces.last().is_none_or(|(begin, length)| begin + length < size) {
        pieces.push((size, 0));
    }
    Some(pieces)
}

/// A part of a file, and zeros where it ends early.
struct Part<'a> {
    file: &'a File,
    offset: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let mut count = self.file.read_at(&mut buffer[..wanted], self.offset)?;
        if count == 0 {
            buffer[..wanted].fill(0);
            count = wanted;
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

fn header(stat: &Stat, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(stat.st_mode & 0o7777);
    header.set_uid(u64::from(stat.st_uid));
    header.set_gid(u64::from(stat.st_gid));
    header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
    header
}
