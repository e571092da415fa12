//! Images from archives: OCI layouts and Docker archives as tar files, packed by gzip or zstd or not.
//!
//! One pass over the stream: files are set aside (see [`super::spool`]) while their digests are computed, the small
//! documents stay in memory until the end, when it is known what they are about and which files are blobs. Of what
//! turns out to be no archive, or a broken one, nothing is kept. The same pass without a store tells the digests
//! that an import would give.

mod docker;
mod oci;
mod write;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

pub use write::{Export, ExportOptions, Format};

use super::compression::Compression;
use super::descriptor::Descriptor;
use super::document::MAX_CONFIG;
use super::error::ImageError;
use super::reading::{Counted, Counter, Reading, Telling};
use super::spool::{Aside, Spool};
use super::store::ContentStore;
use super::tar::{Entry, Kind, Reader};
use super::{Images, compression};
use crate::oci::{Digest, Reference};

/// Where an OCI layout's blobs lie.
const BLOBS: &str = "blobs/";
/// Bound of a document inside an archive in bytes.
const MAX_DOCUMENT: u64 = 8 << 20;
/// Bound of all documents and names of one archive in bytes.
const MAX_DOCUMENTS: u64 = 64 << 20;

/// Characters of what is said about an archive.
const MAX_WORDS: usize = 800;

/// One image of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Its name, where the archive has a full one.
    pub reference: Option<Reference>,
    /// The name as it stands in the archive, full or not.
    pub name: Option<String>,
    /// Its index or manifest.
    pub target: Descriptor,
}

/// What one pass over an archive found.
#[derive(Default)]
struct Contents {
    /// Blobs and files by their cleaned name: digest, size and packing.
    files: BTreeMap<String, Found>,
    /// Small documents by name.
    documents: BTreeMap<String, Vec<u8>>,
    /// Links by name, with their target as it stands.
    links: BTreeMap<String, String>,
}

/// A file that was hashed, and stored if there is a store.
#[derive(Clone)]
struct Found {
    digest: Digest,
    size: u64,
    compression: Compression,
    /// Its bytes, where they are kept and the store has them not.
    aside: Option<Aside>,
}

/// Where the bytes of files go.
enum Sink<'a> {
    Store(&'a ContentStore, Spool),
    Hash,
}

/// What an archive turned out to be.
struct Archived {
    images: Vec<Imported>,
    /// Files that are blobs of its images.
    blobs: HashSet<Digest>,
    /// Documents that were made because it has none of the kind.
    made: Vec<Vec<u8>>,
}

/// What archives hold, by what tells one version of a file from another.
#[derive(Default)]
pub(super) struct Cache(Mutex<HashMap<PathBuf, Known>>);

/// An archive's images as of a version of its file.
type Known = (Stamp, Arc<Vec<Imported>>);

/// Device, inode, size, and modification time in seconds and nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);

/// Archives whose contents are remembered.
const MAX_CACHED: usize = 256;

fn stamp(file: &File) -> io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let m = file.metadata()?;
    if !m.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok((m.dev(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
}

impl Images {
    /// Imports every image of an archive file. Blocking.
    pub fn import_file(&self, path: &Path) -> Result<Vec<Imported>, ImageError> {
        self.import_file_telling(path, &|_| {})
    }

    /// The same; `tell` hears how far it is.
    pub fn import_file_telling(&self, path: &Path, tell: Telling<'_>) -> Result<Vec<Imported>, ImageError> {
        let shown = path.display().to_string();
        let file = File::open(path).map_err(ImageError::at("open archive", path))?;
        let stamp = stamp(&file).map_err(ImageError::at("open archive", path))?;
        let images = self.import_telling(&shown, Counted::new(file, Some(stamp.2), tell), tell)?;
        self.inner.archives.put(path, stamp, Arc::new(images.clone()));
        Ok(images)
    }

    /// Imports every image of an archive that comes from a stream; `shown` names it in errors. Blocking.
    pub fn import(&self, shown: &str, stream: impl Read + Send) -> Result<Vec<Imported>, ImageError> {
        self.import_telling(shown, stream, &|_| {})
    }

    /// The same; `tell` hears how far the files in it are.
    pub fn import_telling(
        &self,
        shown: &str,
        stream: impl Read + Send,
        tell: Telling<'_>,
    ) -> Result<Vec<Imported>, ImageError> {
        read(shown, stream, &mut Sink::Store(self.store(), Spool::new(self.store())?), tell)
    }

    /// The names and digests of an archive's images, as an import would give them, without importing.
    /// Remembered until the file changes. Blocking at the first call for a file.
    pub fn archive_images(&self, path: &Path) -> Result<Vec<Imported>, ImageError> {
        let shown = path.display().to_string();
        let file = File::open(path).map_err(ImageError::at("open archive", path))?;
        let stamp = stamp(&file).map_err(ImageError::at("open archive", path))?;
        if let Some(known) = self.inner.archives.get(path, stamp) {
            return Ok(known.to_vec());
        }
        let images = read(&shown, file, &mut Sink::Hash, &|_| {})?;
        self.inner.archives.put(path, stamp, Arc::new(images.clone()));
        Ok(images)
    }
}

impl Cache {
    fn get(&self, path: &Path, stamp: Stamp) -> Option<Arc<Vec<Imported>>> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(path).filter(|(known, _)| *known == stamp).map(|(_, images)| Arc::clone(images))
    }

    fn put(&self, path: &Path, stamp: Stamp, images: Arc<Vec<Imported>>) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= MAX_CACHED {
            map.clear();
        }
        map.insert(path.to_owned(), (stamp, images));
    }
}

fn read(
    shown: &str,
    stream: impl Read + Send,
    sink: &mut Sink<'_>,
    tell: Telling<'_>,
) -> Result<Vec<Imported>, ImageError> {
    found(shown, stream, sink, tell).map_err(|error| blame(shown, error))
}

/// What is wrong with something inside of an archive is wrong with the archive.
fn blame(shown: &str, error: ImageError) -> ImageError {
    if matches!(error, ImageError::Io { .. } | ImageError::Full { .. }) {
        return error;
    }
    let text = error.to_string();
    let text = text.strip_prefix("image ").unwrap_or(&text);
    let why = shortened(text.strip_prefix(&format!("archive {shown}: ")).unwrap_or(text));
    ImageError::Archive { archive: shown.to_owned(), why }
}

/// Its beginning and its end: names in an archive may have a million bytes.
fn shortened(text: &str) -> String {
    let count = text.chars().count();
    if count <= MAX_WORDS {
        return text.to_owned();
    }
    let (head, tail) = (text.chars().take(MAX_WORDS / 2), text.chars().skip(count - MAX_WORDS / 2));
    head.chain(['…']).chain(tail).collect()
}

fn found(
    shown: &str,
    stream: impl Read + Send,
    sink: &mut Sink<'_>,
    tell: Telling<'_>,
) -> Result<Vec<Imported>, ImageError> {
    let broken = |why: &str| ImageError::Archive { archive: shown.to_owned(), why: why.to_owned() };
    let contents = scan(shown, stream, sink, tell)?;
    // Docker since 25 writes both; its OCI side keeps the digests of the registry.
    let archived = if contents.documents.contains_key("index.json") {
        oci::images(shown, &contents, sink)?
    } else if contents.documents.contains_key("manifest.json") {
        docker::images(shown, &contents)?
    } else if contents.documents.contains_key("repositories") {
        return Err(broken("it is a Docker archive from before Docker 1.10, without a manifest.json; save it again"));
    } else {
        return Err(broken("it has neither index.json (OCI layout) nor manifest.json (Docker archive)"));
    };
    if archived.images.is_empty() {
        return Err(broken("it holds no image"));
    }
    if let Sink::Store(store, spool) = sink {
        keep(store, spool, &contents, &archived, tell)?;
    }
    Ok(archived.images)
}

/// Makes blobs of what the images need; all of it is durable then.
fn keep(
    store: &ContentStore,
    spool: &Spool,
    contents: &Contents,
    archived: &Archived,
    tell: Telling<'_>,
) -> Result<(), ImageError> {
    let mut kept = HashSet::new();
    for (name, Found { digest, size, aside, .. }) in &contents.files {
        if !archived.blobs.contains(digest) || !kept.insert(digest) {
            continue;
        }
        if let Some(aside) = aside {
            spool.keep(aside, digest)?;
        }
        store.touch(digest);
        if !name.starts_with(BLOBS) {
            tell(Reading::Ended { name, digest, size: *size, known: aside.is_none() });
        }
    }
    for document in &archived.made {
        store.put(document)?;
    }
    store.sync_names()
}

/// One pass: hashes, sets aside, remembers.
fn scan(shown: &str, stream: impl Read + Send, sink: &mut Sink<'_>, tell: Telling<'_>) -> Result<Contents, ImageError> {
    let failed = |error: io::Error| ImageError::Archive { archive: shown.to_owned(), why: unreadable(&error) };
    let mut reader = Reader::new(compression::reader(stream).map_err(failed)?);
    let mut contents = Contents::default();
    let mut held = 0;
    while let Some(entry) = reader.next().map_err(failed)? {
        let name = clean(&String::from_utf8_lossy(&entry.path));
        held += name.len() as u64 + 256;
        match entry.kind {
            Kind::File => {
                let member = Member { shown, name: &name, entry: &entry };
                if let Some(found) = member.read(&mut reader, sink, &mut contents.documents, &mut held, tell)? {
                    contents.files.insert(name, found);
                }
            }
            Kind::SymLink | Kind::HardLink => {
                contents.links.insert(name, String::from_utf8_lossy(&entry.link).into_owned());
            }
            _ => {}
        }
        if held > MAX_DOCUMENTS {
            return Err(failed(io::Error::other("it has too many or too large documents")));
        }
    }
    // A packed archive that is cut behind its last block is noticed here.
    reader.drain().map_err(failed)?;
    Ok(contents)
}

/// Why a tar file cannot be read on. Inflaters have words of their own for an early end.
pub(super) fn unreadable(error: &io::Error) -> String {
    let text = error.to_string();
    if error.kind() == io::ErrorKind::UnexpectedEof && !text.contains("cut short") {
        return format!("it is cut short ({text})");
    }
    text
}

fn is_document(name: &str) -> bool {
    matches!(name, "index.json" | "manifest.json" | "repositories" | "oci-layout")
        || (name.ends_with(".json") && !name.contains('/'))
}

/// Whether the store has a blob, and keeps it now.
fn holds(store: &ContentStore, digest: &Digest, size: u64) -> bool {
    store.size(digest) == Some(size) && store.touch(digest)
}

/// A regular file of an archive.
struct Member<'a> {
    shown: &'a str,
    name: &'a str,
    entry: &'a Entry,
}

impl Member<'_> {
    /// Reads it to its end: a document into memory, anything else into the sink. `None` for what is nothing to us.
    fn read(
        &self,
        reader: &mut Reader<impl BufRead>,
        sink: &mut Sink<'_>,
        documents: &mut BTreeMap<String, Vec<u8>>,
        held: &mut u64,
        tell: Telling<'_>,
    ) -> Result<Option<Found>, ImageError> {
        let Self { shown, name, entry } = *self;
        let broken = |why: String| ImageError::Archive { archive: shown.to_owned(), why };
        if entry.pieces.is_some() {
            return Err(broken(format!("{name} is a sparse file")));
        }
        if is_document(name) {
            if entry.size > MAX_DOCUMENT {
                return Err(broken(format!("{name} is larger than {MAX_DOCUMENT} bytes")));
            }
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map_err(|e| broken(format!("{name}: {e}")))?;
            *held += bytes.len() as u64;
            documents.insert(name.to_owned(), bytes);
            return Ok(None);
        }
        let expected: Option<Digest> = match name.strip_prefix(BLOBS) {
            Some(blob) => match blob.replacen('/', ":", 1).parse() {
                Ok(digest) => Some(digest),
                Err(_) => return Ok(None),
            },
            // What `docker save` once kept beside each layer.
            None if name.ends_with("/VERSION") || name.ends_with("/json") => return Ok(None),
            // Only manifest.json tells which are layers and configurations; their names are anything.
            None => None,
        };
        // What is in the store is hashed all the same: the archive's copy may differ.
        let mut writing = match sink {
            Sink::Store(store, _) if expected.as_ref().is_some_and(|digest| holds(store, digest, entry.size)) => None,
            Sink::Store(_, spool) => Some(spool.file()?),
            Sink::Hash => None,
        };
        let (mut hasher, mut size, mut first) = (Sha256::new(), 0u64, Vec::new());
        let mut counter = Counter::new(tell);
        let mut buffer = vec![0; 256 << 10];
        let mut document = (entry.size <= MAX_CONFIG).then(Vec::new);
        loop {
            let n = reader.read(&mut buffer).map_err(|e| broken(format!("{name}: {}", unreadable(&e))))?;
            if n == 0 {
                break;
            }
            if first.len() < 4 {
                first.extend_from_slice(&buffer[..n.min(4)]);
            }
            size += n as u64;
            if expected.is_some() {
                counter.add(n, |done| Reading::Member { name, done, total: entry.size });
            }
            // An OCI layout's documents lie among the blobs; layers do not begin with a brace.
            match &mut document {
                Some(bytes) if matches!(first.trim_ascii_start().first(), None | Some(b'{')) => {
                    bytes.extend_from_slice(&buffer[..n]);
                }
                _ => document = None,
            }
            match &mut writing {
                Some(writing) => writing.write(&buffer[..n])?,
                None => hasher.update(&buffer[..n]),
            }
        }
        let (aside, digest) = match writing {
            Some(writing) => {
                let (aside, digest) = writing.done();
                (Some(aside), digest)
            }
            None => (None, Digest::from_sha256(&hasher.finalize())),
        };
        let is_blob = expected.is_some();
        if let Some(expected) = expected.filter(|e| *e != digest) {
            return Err(ImageError::Digest { what: format!("blob {expected}"), expected, actual: digest });
        }
        let known = matches!(sink, Sink::Store(store, _) if holds(store, &digest, size));
        if let Some(bytes) = document {
            *held += bytes.len() as u64;
            documents.insert(name.to_owned(), bytes);
        }
        // Of others it is not known yet whether they are of an image.
        if is_blob {
            tell(Reading::Ended { name, digest: &digest, size, known });
        }
        Ok(Some(Found { digest, size, compression: Compression::of(&first), aside: aside.filter(|_| !known) }))
    }
}

/// A name relative to the archive's root, without `.`, `..` and empty parts.
fn clean(name: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

impl Contents {
    /// A file by name, through the links that `docker save` makes between equal layers. A link that leaves
    /// the archive leads nowhere.
    fn file(&self, shown: &str, name: &str) -> Result<&Found, ImageError> {
        let broken = |why: String| ImageError::Archive { archive: shown.to_owned(), why };
        let mut at = clean(name);
        for _ in 0..8 {
            if let Some(found) = self.files.get(&at) {
                return Ok(found);
            }
            let Some(link) = self.links.get(&at) else {
                return Err(broken(format!("{name} is named in its manifest and is not there")));
            };
            let parent = at.rsplit_once('/').map_or("", |(parent, _)| parent);
            // A hard link names its target from the root; docker save makes symlinks only.
            let next = if self.files.contains_key(&clean(link)) {
                clean(link)
            } else {
                let depth = parent.split('/').filter(|p| !p.is_empty()).count();
                let ups = link.split('/').filter(|p| *p == "..").count();
                if link.starts_with('/') || ups > depth {
                    return Err(broken(format!("{at} is a link out of the archive, to {link}")));
                }
                clean(&format!("{parent}/{link}"))
            };
            at = next;
        }
        Err(broken(format!("{name} is a link that leads to itself")))
    }
}
