//! A tar stream, entry by entry, in bounded memory: POSIX ustar and pax, GNU long names and sparse files.
//!
//! Names are bytes, not UTF-8, and come out as they stand in the archive: whoever uses one resolves it
//! beneath a directory descriptor. Numbers are not trusted to fit anything.

use std::io::{self, BufRead, BufReader, Read};

const BLOCK: usize = 512;
/// Bound of one pax header or long name in bytes, as Go's archive/tar has it.
const MAX_SPECIAL: u64 = 1 << 20;
/// Bound of the pieces of one sparse file.
const MAX_PIECES: usize = 1 << 16;
/// Read buffer in bytes.
const BUFFER: usize = 256 << 10;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name of an earlier file, given by the link.
    HardLink,
    /// A symbolic link.
    SymLink,
    /// A directory.
    Directory,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A FIFO.
    Fifo,
    /// None of these, by its type byte.
    Other(u8),
}

/// One entry. Its bytes are read from the [`Reader`].
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its name as it stands.
    pub path: Vec<u8>,
    /// What a link points to.
    pub link: Vec<u8>,
    /// Permission bits, set-id and sticky bits included.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes of the file once it is made; for a sparse file more than the archive holds.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, from `SCHILY.xattr.` records.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Offset and length of the pieces of a sparse file, ascending.
    pub pieces: Option<Vec<(u64, u64)>>,
}

/// Reads entries one after the other.
pub struct Reader<R> {
    inner: R,
    left: u64,
    padding: u64,
}

/// What extended headers said about the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    sparse_major: Option<u64>,
    offsets: Vec<u64>,
    lengths: Vec<u64>,
}

fn bad(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

impl<R: Read> Reader<BufReader<R>> {
    /// Over the unpacked bytes of an archive.
    pub fn new(inner: R) -> Self {
        Self::over(BufReader::with_capacity(BUFFER, inner))
    }
}

impl<R: BufRead> Reader<R> {
    /// Over unpacked bytes that are buffered already.
    pub fn over(inner: R) -> Self {
        Self { inner, left: 0, padding: 0 }
    }

    /// The next bytes of the current entry, at most `max`, as they lie in the buffer; none at its end. To be
    /// followed by [`Reader::consume`].
    pub fn piece(&mut self, max: u64) -> io::Result<&[u8]> {
        let max = usize::try_from(self.left.min(max)).unwrap_or(usize::MAX);
        if max == 0 {
            return Ok(&[]);
        }
        let ready = self.inner.fill_buf()?;
        if ready.is_empty() {
            return Err(truncated(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(&ready[..ready.len().min(max)])
    }

    /// So many bytes of the piece were used.
    pub fn consume(&mut self, bytes: usize) {
        let bytes = bytes.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.inner.consume(bytes);
        self.left -= bytes as u64;
    }

    /// The next entry; `None` after the end of the archive. What was not read of the last one is skipped.
    #[expect(clippy::should_implement_trait, reason = "an entry borrows the stream in spirit: no iterator")]
    pub fn next(&mut self) -> io::Result<Option<Entry>> {
        let (left, padding) = (std::mem::take(&mut self.left), std::mem::take(&mut self.padding));
        self.skip(left)?;
        // Some writers (`umoci insert`) end with the last file's last byte; Go's archive/tar takes it, too.
        match self.skip(padding) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            skipped => skipped?,
        }
        let mut extended = Extended::default();
        let mut special = 0;
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            let size = number(&header[124..136])?;
            let size = u64::try_from(size).map_err(|_| bad("an entry has a negative size"))?;
            if matches!(header[156], b'L' | b'K' | b'x') {
                // Together: many small ones would hold as much memory as a large one.
                special += size.min(MAX_SPECIAL) + BLOCK as u64;
                if special > 2 * MAX_SPECIAL {
                    return Err(bad(format!("an entry has more than {} bytes of extended headers", 2 * MAX_SPECIAL)));
                }
            }
            match header[156] {
                b'L' => extended.path = Some(cut(self.special(size)?)),
                b'K' => extended.link = Some(cut(self.special(size)?)),
                b'x' => {
                    let records = self.special(size)?;
                    pax(&records, &mut extended)?;
                }
                // Global headers carry comments (git archive); containerd passes them over, too.
                b'g' => drop(self.special(size)?),
                _ => return self.entry(&header, size, extended).map(Some),
            }
        }
    }

    /// Everything behind the end of the archive, up to the end of the stream, read and dropped: the digest
    /// covers it.
    pub fn drain(&mut self) -> io::Result<()> {
        io::copy(&mut self.inner, &mut io::sink()).map(|_| ())
    }

    fn header(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        // Two zero blocks end the archive; a lone one is passed over, as GNU tar does.
        for _ in 0..2 {
            let mut header = [0; BLOCK];
            if self.inner.fill_buf()?.is_empty() {
                return Ok(None);
            }
            self.block(&mut header)?;
            if header != [0; BLOCK] {
                check(&header)?;
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    fn block(&mut self, block: &mut [u8; BLOCK]) -> io::Result<()> {
        self.inner.read_exact(block).map_err(truncated)
    }

    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let ready = self.inner.fill_buf()?.len() as u64;
            if ready == 0 {
                return Err(truncated(io::ErrorKind::UnexpectedEof.into()));
            }
            let n = ready.min(bytes);
            self.inner.consume(n as usize);
            bytes -= n;
        }
        Ok(())
    }

    fn special(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_SPECIAL {
            return Err(bad(format!("an extended header has {size} bytes; {MAX_SPECIAL} are allowed")));
        }
        let mut bytes = vec![0; size as usize];
        self.inner.read_exact(&mut bytes).map_err(truncated)?;
        self.skip(size.next_multiple_of(BLOCK as u64) - size)?;
        Ok(bytes)
    }

    fn entry(&mut self, header: &[u8; BLOCK], size: u64, extended: Extended) -> io::Result<Entry> {
        let plain = |bytes: &[u8]| cut(bytes.to_vec());
        let ustar = &header[257..263] == b"ustar\0";
        let mut path = plain(&header[0..100]);
        if ustar && header[345] != 0 {
            path = [plain(&header[345..500]), vec![b'/'], path].concat();
        }
        let path = extended.sparse_name.or(extended.path).unwrap_or(path);
        let link = extended.link.unwrap_or_else(|| plain(&header[157..257]));
        let mut kind = match header[156] {
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::SymLink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        if kind == Kind::File && path.ends_with(b"/") {
            kind = Kind::Directory;
        }
        let stored = match kind {
            Kind::File | Kind::Other(_) => extended.size.unwrap_or(size),
            // As Go's archive/tar: these have no bytes whatever their header says.
            _ => 0,
        };
        self.left = stored;
        self.padding =
            stored.checked_next_multiple_of(BLOCK as u64).ok_or_else(|| bad("an entry is too large"))? - stored;
        let id = |field: &[u8]| number(field).map(|n| n.max(0) as u64);
        let mut entry = Entry {
            kind,
            path,
            link,
            mode: number(&header[100..108])? as u32 & 0o7777,
            uid: extended.uid.map_or_else(|| id(&header[108..116]), Ok)?,
            gid: extended.gid.map_or_else(|| id(&header[116..124]), Ok)?,
            mtime: extended.mtime.map_or_else(|| number(&header[136..148]).map(|n| (n, 0)), Ok)?,
            size: stored,
            device: (0, 0),
            xattrs: extended.xattrs,
            pieces: None,
        };
        if matches!(kind, Kind::Char | Kind::Block) {
            entry.device = (number(&header[329..337])? as u32, number(&header[337..345])? as u32);
        }
        if kind == Kind::File {
            if header[156] == b'S' {
                entry.pieces = Some(self.old_sparse(header)?);
                entry.size = number(&header[483..495])?.max(0) as u64;
            } else if extended.sparse_major == Some(1) {
                entry.pieces = Some(self.map_in_data()?);
                entry.size = extended.sparse_size.unwrap_or(stored);
            } else if extended.sparse_size.is_some() && !extended.offsets.is_empty() {
                if extended.offsets.len() != extended.lengths.len() {
                    return Err(bad("a sparse map has more offsets than lengths, or fewer"));
                }
                entry.pieces = Some(extended.offsets.into_iter().zip(extended.lengths).collect());
                entry.size = extended.sparse_size.unwrap_or(stored);
            }
            if let Some(pieces) = &entry.pieces {
                check_pieces(pieces, entry.size, self.left)?;
            }
        }
        Ok(entry)
    }

    /// GNU's own sparse format: four pieces in the header, 21 in each block that follows.
    fn old_sparse(&mut self, header: &[u8; BLOCK]) -> io::Result<Vec<(u64, u64)>> {
        let mut pieces = Vec::new();
        let mut read = |fields: &[u8]| -> io::Result<()> {
            for field in fields.as_chunks::<24>().0 {
                let (offset, length) = (&field[..12], &field[12..]);
                if offset[0] == 0 && length[0] == 0 {
                    break;
                }
                pieces.push((number(offset)?.max(0) as u64, number(length)?.max(0) as u64));
            }
            if pieces.len() > MAX_PIECES {
                return Err(bad(format!("a sparse file has more than {MAX_PIECES} pieces")));
            }
            Ok(())
        };
        read(&header[386..482])?;
        let mut more = header[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            self.inner.read_exact(&mut block).map_err(truncated)?;
            read(&block[..504])?;
            more = block[504] != 0;
        }
        Ok(pieces)
    }

    /// GNU sparse format 1.0: the map is the first blocks of the data, as decimal lines.
    fn map_in_data(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut used = 0u64;
        let mut line = |reader: &mut Self| -> io::Result<u64> {
            let mut value = 0u64;
            loop {
                let mut byte = [0];
                if reader.read(&mut byte)? == 0 {
                    return Err(bad("a sparse map ends early"));
                }
                used += 1;
                match byte[0] {
                    b'\n' => return Ok(value),
                    digit @ b'0'..=b'9' => {
                        value = value
                            .checked_mul(10)
                            .and_then(|v| v.checked_add(u64::from(digit - b'0')))
                            .ok_or_else(|| bad("a number in a sparse map is too large"))?;
                    }
                    _ => return Err(bad("a sparse map holds something other than numbers")),
                }
            }
        };
        let count = line(self)?;
        if count > MAX_PIECES as u64 {
            return Err(bad(format!("a sparse file has more than {MAX_PIECES} pieces")));
        }
        let mut pieces = Vec::new();
        for _ in 0..count {
            pieces.push((line(self)?, line(self)?));
        }
        let rest = used.next_multiple_of(BLOCK as u64) - used;
        if rest > self.left {
            return Err(bad("a sparse map ends early"));
        }
        self.skip(rest)?;
        self.left -= rest;
        Ok(pieces)
    }
}

impl<R: BufRead> Read for Reader<R> {
    /// The bytes of the current entry.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if ready == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buffer[..ready])?;
        if n == 0 {
            return Err(truncated(io::ErrorKind::UnexpectedEof.into()));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

fn truncated(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut short"),
        _ => error,
    }
}

fn check_pieces(pieces: &[(u64, u64)], size: u64, stored: u64) -> io::Result<()> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for (offset, length) in pieces {
        let next = offset.checked_add(*length).filter(|next| *offset >= end && *next <= size);
        end = next.ok_or_else(|| bad("the pieces of a sparse file overlap or lie outside of it"))?;
        sum += length;
    }
    if sum == stored { Ok(()) } else { Err(bad("a sparse file has not the bytes that its map promises")) }
}

/// Up to the first NUL.
fn cut(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// The header's checksum, over unsigned or, as some old tars had it, signed bytes.
fn check(header: &[u8; BLOCK]) -> io::Result<()> {
    let not_tar = || bad("it is not a tar archive, or a damaged one");
    let wanted = number(&header[148..156]).map_err(|_| not_tar())?;
    let bytes = || header.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { b' ' } else { *b });
    let unsigned: i64 = bytes().map(i64::from).sum();
    let signed: i64 = bytes().map(|b| i64::from(b as i8)).sum();
    if wanted == unsigned || wanted == signed { Ok(()) } else { Err(not_tar()) }
}

/// An octal number padded by blanks and NULs, or GNU's base 256.
fn number(field: &[u8]) -> io::Result<i64> {
    let [first, rest @ ..] = field else { return Ok(0) };
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let mut value: i128 = if negative { i128::from(*first as i8) } else { i128::from(first & 0x7f) };
        for byte in rest {
            value = (value << 8) | i128::from(*byte);
            if value > i128::from(i64::MAX) || value < i128::from(i64::MIN) {
                return Err(bad("a number in a header is too large"));
            }
        }
        return i64::try_from(value).map_err(|_| bad("a number in a header is too large"));
    }
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|b| *b == 0 || *b == b' ').unwrap_or(digits.len());
    let mut value = 0i64;
    for digit in &digits[..end] {
        if !(b'0'..=b'7').contains(digit) {
            return Err(bad("a header holds something other than an octal number"));
        }
        value = (value << 3) | i64::from(digit - b'0');
    }
    Ok(value)
}

/// `LENGTH KEY=VALUE\n`, as POSIX pax has it; values may hold any byte.
fn pax(mut records: &[u8], extended: &mut Extended) -> io::Result<()> {
    let broken = || bad("an extended header is malformed");
    while !records.is_empty() {
        let blank = records.iter().position(|b| *b == b' ').ok_or_else(broken)?;
        let length = decimal(&records[..blank]).ok_or_else(broken)? as usize;
        if length <= blank + 1 || length > records.len() || records[length - 1] != b'\n' {
            return Err(broken());
        }
        let record = &records[blank + 1..length - 1];
        records = &records[length..];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(broken)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        let count = |value: &[u8]| decimal(value).ok_or_else(broken);
        match key {
            // An empty value takes back what was said before.
            b"path" => extended.path = (!value.is_empty()).then(|| cut(value.to_vec())),
            b"linkpath" => extended.link = (!value.is_empty()).then(|| cut(value.to_vec())),
            b"size" if !value.is_empty() => extended.size = Some(count(value)?),
            b"uid" if !value.is_empty() => extended.uid = Some(count(value)?),
            b"gid" if !value.is_empty() => extended.gid = Some(count(value)?),
            b"mtime" if !value.is_empty() => extended.mtime = Some(time(value).ok_or_else(broken)?),
            b"GNU.sparse.name" => extended.sparse_name = Some(cut(value.to_vec())),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => extended.sparse_size = Some(count(value)?),
            b"GNU.sparse.major" => extended.sparse_major = Some(count(value)?),
            b"GNU.sparse.offset" => extended.offsets.push(count(value)?),
            b"GNU.sparse.numbytes" => extended.lengths.push(count(value)?),
            b"GNU.sparse.map" => {
                for (at, part) in value.split(|b| *b == b',').filter(|p| !p.is_empty()).enumerate() {
                    let list = if at % 2 == 0 { &mut extended.offsets } else { &mut extended.lengths };
                    list.push(count(part)?);
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    extended.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        if extended.offsets.len() > MAX_PIECES || extended.lengths.len() > MAX_PIECES {
            return Err(bad(format!("a sparse file has more than {MAX_PIECES} pieces")));
        }
    }
    Ok(())
}

fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok().filter(|t| t.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// `-1.5` → (-2, 500000000).
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    Some(if negative && nanos > 0 { (seconds.checked_sub(1)?, 1_000_000_000 - nanos) } else { (seconds, nanos) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl FnOnce(&mut ::tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = ::tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn file(path: &str, bytes: &[u8]) -> Vec<u8> {
        archive(|b| {
            let mut header = ::tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o4755);
            header.set_mtime(7);
            b.append_data(&mut header, path, bytes).unwrap();
        })
    }

    #[test]
    fn entries_come_with_their_bytes_and_long_names() {
        let long = "d/".repeat(150) + "f";
        let bytes = [file("a", b"one")[..1024].to_vec(), file(&long, &[9; 700])].concat();
        let mut reader = Reader::new(&bytes[..]);
        let first = reader.next().unwrap().unwrap();
        assert_eq!((first.kind, first.mode, first.mtime, first.size), (Kind::File, 0o4755, (7, 0), 3));
        let second = reader.next().unwrap().unwrap();
        assert_eq!(second.path, long.as_bytes());
        let mut data = Vec::new();
        reader.read_to_end(&mut data).unwrap();
        assert_eq!(data, [9; 700]);
        assert!(reader.next().unwrap().is_none());
    }

    #[test]
    fn truncated_and_damaged_archives_are_errors() {
        let whole = file("a", &[1; 5000]);
        let mut unpadded = Reader::new(&whole[..512 + 5000]);
        assert_eq!(unpadded.next().unwrap().unwrap().size, 5000);
        assert!(unpadded.next().unwrap().is_none(), "its last byte is the end");
        let mut reader = Reader::new(&whole[..3000]);
        reader.next().unwrap().unwrap();
        assert!(reader.next().is_err());
        let mut damaged = whole.clone();
        damaged[3] ^= 1;
        assert!(Reader::new(&damaged[..]).next().is_err());
        assert!(Reader::new(&[b'x'; 2000][..]).next().is_err());
    }

    #[test]
    fn only_the_padding_behind_the_last_file_may_be_missing() {
        let whole = file("a", &[1; 700]);
        let mut reader = Reader::new(&whole[..512 + 700]);
        reader.next().unwrap().unwrap();
        assert!(reader.next().unwrap().is_none());
        let mut reader = Reader::new(&whole[..512 + 699]);
        reader.next().unwrap().unwrap();
        assert!(reader.next().is_err());
    }

    #[test]
    fn a_pax_bomb_is_refused_before_it_is_read() {
        let mut header = ::tar::Header::new_ustar();
        header.set_entry_type(::tar::EntryType::XHeader);
        header.set_size(10 << 30);
        header.set_cksum();
        let error = Reader::new(&header.as_bytes()[..]).next().unwrap_err();
        assert!(error.to_string().contains("extended header"), "{error}");
    }

    #[test]
    fn times_before_1970_and_fractions() {
        assert_eq!(time(b"1.5"), Some((1, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"x"), None);
    }

    proptest::proptest! {
        #[test]
        fn rubbish_never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..4096)) {
            let mut reader = Reader::new(&bytes[..]);
            while let Ok(Some(_)) = reader.next() {}
            let mut extended = Extended::default();
            let _ = pax(&bytes, &mut extended);
        }
    }
}
