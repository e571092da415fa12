//! Layers: the tar reader by itself, and what it writes to disk. Nothing that a layer says may change anything
//! outside of its directory, and of a refused one nothing stays.

use std::collections::HashSet;
use std::fs;
use std::io::{Cursor, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bayplan::image::tar::Reader;
use bayplan::image::{Descriptor, Image, ImageError, Layer, Packed, Sweep, compression};
use bayplan::oci::{Digest, Platform};
use bayplan::snapshot::{LayerSource, SnapshotError, Snapshots};
use tar::{Builder, EntryType, Header};

use super::{OWN, Target};

pub const BLOCK: usize = 512;
/// What a layer may unpack to here.
const LIMIT: u64 = 16 << 20;
/// Where links lead that want out: from the root of all, and relative from anywhere in a layer.
const OUTSIDE: &str = "/mnt/outside";
const UP: &str = "../../../../../../../../../../mnt/outside";

const WORDS: &[&str] = &[
    "../",
    "/",
    "./",
    "..",
    ".wh.",
    ".wh..wh..opq",
    ".wh...",
    OUTSIDE,
    UP,
    "/mnt/outside/victim",
    "d/",
    "d",
    "a",
    "l",
    "ustar\0",
    "ustar  \0",
    "11 path=d\n",
    "30 SCHILY.xattr.user.x=vvvvv\n",
    "22 GNU.sparse.major=1\n",
    "23 GNU.sparse.size=999\n",
    "24 GNU.sparse.map=0,1,\n",
    "19 size=7777777777\n",
    "77777777777",
    "\u{80}",
    "\0\0\0\0",
    "\x1f\u{8b}",
];

fn entry(builder: &mut Builder<Vec<u8>>, kind: EntryType, path: &str, link: &str, data: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o6755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_600_000_000);
    header.set_size(data.len() as u64);
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    let gnu = header.as_gnu_mut().unwrap();
    gnu.name[..path.len()].copy_from_slice(path.as_bytes());
    gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, data).unwrap();
}

pub fn seeds() -> Vec<Vec<u8>> {
    use EntryType as E;
    let tar = |entries: &[(E, &str, &str, &[u8])]| {
        let mut builder = Builder::new(Vec::new());
        entries.iter().for_each(|(kind, path, link, data)| entry(&mut builder, *kind, path, link, data));
        builder.into_inner().unwrap()
    };
    let plain = tar(&[
        (E::Directory, "d", "", b""),
        (E::Regular, "d/a", "", b"hello"),
        (E::Symlink, "l", "d/a", b""),
        (E::Link, "h", "d/a", b""),
        (E::Char, "null", "", b""),
        (E::Fifo, "fifo", "", b""),
        (E::Regular, "d/.wh.b", "", b""),
        (E::Regular, "d/.wh..wh..opq", "", b""),
    ]);
    let out = tar(&[
        (E::Symlink, "l", OUTSIDE, b""),
        (E::Regular, "l/victim", "", b"x"),
        (E::Symlink, "up", UP, b""),
        (E::Regular, "up/victim", "", b"x"),
        (E::Link, "h", "l/victim", b""),
        (E::Directory, "l", "", b""),
        (E::Regular, "up/.wh.victim", "", b""),
        (E::Regular, "up/.wh..wh..opq", "", b""),
    ]);
    let replaced = tar(&[
        (E::Directory, "d", "", b""),
        (E::Regular, "d/a", "", b"1"),
        (E::Symlink, "d", OUTSIDE, b""),
        (E::Regular, "d/victim", "", b"2"),
        (E::Directory, "d", "", b""),
    ]);
    let mut extended = Builder::new(Vec::new());
    let records: [(&str, &[u8]); 4] =
        [("path", b"d/long"), ("mtime", b"1.5"), ("SCHILY.xattr.user.x", b"v"), ("uid", b"4294967294")];
    extended.append_pax_extensions(records).unwrap();
    entry(&mut extended, E::Regular, "x", "", b"1234567890");
    let sparse: [(&str, &[u8]); 2] = [("GNU.sparse.size", b"100000"), ("GNU.sparse.map", b"0,5,99990,5")];
    extended.append_pax_extensions(sparse).unwrap();
    entry(&mut extended, E::Regular, "sparse", "", b"1234567890");
    entry(&mut extended, E::GNULongName, "././@LongLink", "", "n/".repeat(200).as_bytes());
    entry(&mut extended, E::Regular, "n", "", b"long");
    let extended = extended.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&extended[..], 1).unwrap();
    vec![plain, out, replaced, extended, gzip, zstd]
}

/// Writes the checksums of headers anew.
pub fn mend(input: &mut [u8]) {
    for block in input.chunks_exact_mut(BLOCK).filter(|block| block[257..].starts_with(b"ustar")) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

/// Entries in bounded memory, whatever their headers say.
pub const TAR: Target = Target { name: "tar", seeds, words: WORDS, longest: 256 << 10, mend, make: || Box::new(read) };

fn read(input: &[u8]) -> String {
    let Ok(stream) = compression::reader(Cursor::new(input.to_vec())) else { return "not readable".into() };
    let mut reader = Reader::new(stream.take(LIMIT));
    let mut kinds = String::new();
    loop {
        match reader.next() {
            Ok(None) => return reader.drain().map_or_else(|error| error.to_string(), |()| kinds),
            Ok(Some(entry)) => {
                kinds += &format!("{:?}", entry.kind);
                if let Some(pieces) = &entry.pieces {
                    let mut end = 0;
                    for (offset, length) in pieces {
                        assert!(*offset >= end, "pieces overlap: {pieces:?}");
                        end = offset + length;
                    }
                    assert!(end <= entry.size, "pieces outside of {} bytes: {pieces:?}", entry.size);
                }
            }
            Err(error) => return format!("{kinds} {error}"),
        }
    }
}

/// Layers unpacked beside a sentinel.
pub const LAYER: Target = Target {
    name: "layer",
    seeds,
    words: WORDS,
    longest: 256 << 10,
    mend,
    make: || {
        let mut unpacker = Unpacker::new();
        Box::new(move |input| unpacker.unpack(input))
    },
};

struct Bytes(Vec<u8>);

impl LayerSource for Bytes {
    fn open(&self, _: &Layer) -> Result<Packed, ImageError> {
        Ok(Packed::verified(Cursor::new(self.0.clone())))
    }
}

struct Unpacker {
    work: PathBuf,
    snapshots: Snapshots,
    sentinel: Vec<String>,
    turns: usize,
}

/// What is there, directory and victim, with all that a layer could change of them.
fn look(directory: &Path) -> Vec<String> {
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.push(directory.to_owned());
    let describe = |path: &PathBuf| {
        let data = fs::symlink_metadata(path).unwrap();
        let times = (data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec());
        let text = fs::read(path).unwrap_or_default();
        format!("{path:?} {:o} {}:{} {} {times:?} {text:?}", data.mode(), data.uid(), data.gid(), data.nlink())
    };
    paths.iter().map(describe).collect()
}

impl Unpacker {
    fn new() -> Self {
        let work = Path::new(OWN).join("layers");
        fs::create_dir_all(work.join("root")).unwrap();
        fs::create_dir(OUTSIDE).unwrap();
        fs::write(Path::new(OUTSIDE).join("victim"), "untouched").unwrap();
        let snapshots = Snapshots::open_limited(&work.join("root"), LIMIT).unwrap();
        Self { work, snapshots, sentinel: look(Path::new(OUTSIDE)), turns: 0 }
    }

    fn unpack(&mut self, input: &[u8]) -> String {
        self.turns += 1;
        // A diff ID that is not the layer's ends it before anything is made durable, which takes far longer.
        let right = self.turns.is_multiple_of(64);
        let diff_id = if right { Digest::of(input) } else { Digest::of(b"another") };
        let descriptor =
            Descriptor { media_type: String::new(), digest: Digest::of(b"blob"), size: input.len() as u64 };
        let image = Image {
            target: descriptor.clone(),
            manifest: descriptor.clone(),
            platform: Platform::host(),
            config: Default::default(),
            layers: vec![Layer { descriptor, diff_id }],
            size: 0,
        };
        let result = self.snapshots.unpack(&image, &Bytes(input.to_vec()), &|_| {});
        assert_eq!(look(Path::new(OUTSIDE)), self.sentinel, "something outside was changed");
        assert_eq!(fs::read_dir(&self.work).unwrap().count(), 1, "something was made beside the root");
        let snapshots = self.work.join("root/snapshots");
        if result.is_ok() {
            assert!(self.snapshots.is_unpacked(&image));
            self.snapshots.gc(&HashSet::new(), Sweep::older_than(Duration::ZERO)).unwrap();
        }
        for directory in ["l", "chains", "w"] {
            assert_eq!(fs::read_dir(snapshots.join(directory)).unwrap().count(), 0, "left in {directory}");
        }
        // With the kinds of entries, so that layers that are applied to their end are not all one outcome.
        match result {
            Ok(()) | Err(SnapshotError::DiffId { .. }) => format!("unpacked {}", read(input)),
            Err(error) => error.to_string(),
        }
    }
}
