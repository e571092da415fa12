//! Whether what is in the store is what it should be: every blob of an image there, whole, and of its digest.

use std::collections::{HashMap, HashSet};
use std::io::Read;

use sha2::{Digest as _, Sha256};

use super::document::Document;
use super::pull::stored;
use super::{ContentStore, Images, index};
use crate::oci::{Digest, Platform};

/// What is wrong with a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BlobFault {
    /// It is not there.
    Missing,
    /// Fewer or more bytes than its descriptor says.
    Size {
        /// By the descriptor.
        expected: u64,
        /// On disk.
        actual: u64,
    },
    /// Its bytes have another digest.
    Corrupt {
        /// Their digest.
        actual: Digest,
    },
    /// The file system did not give it.
    Unreadable(String),
}

/// A blob that an image needs or has.
#[derive(Debug, Clone)]
pub struct Part {
    /// Which.
    pub digest: Digest,
    /// Its size in bytes by its descriptor; `None` for a target, of which a record knows it.
    pub size: Option<u64>,
    /// Whether the image cannot do without; others were not asked for, and may be missing.
    pub needed: bool,
}

/// Verdicts on blobs, each read once however many images have it.
#[derive(Debug, Default)]
pub struct Verdicts {
    known: HashMap<Digest, Result<u64, BlobFault>>,
}

impl Verdicts {
    /// What is wrong with a blob. Reads all of it at the first call for it. Blocking.
    pub fn of(&mut self, store: &ContentStore, part: &Part) -> Option<BlobFault> {
        let verdict = self.known.entry(part.digest.clone()).or_insert_with(|| examine(store, &part.digest)).clone();
        if verdict == Err(BlobFault::Missing) {
            return part.needed.then_some(BlobFault::Missing);
        }
        // Too short or too long says more than another digest does.
        if let (Some(expected), Some(actual)) = (part.size, store.size(&part.digest))
            && expected != actual
        {
            return Some(BlobFault::Size { expected, actual });
        }
        verdict.err()
    }

    /// Forgets all, after a repair.
    pub fn clear(&mut self) {
        self.known.clear();
    }

    /// How many blobs were read, and their bytes.
    pub fn read(&self) -> (u64, u64) {
        self.known.values().flatten().fold((0, 0), |(count, bytes), size| (count + 1, bytes + size))
    }
}

/// The blob's size, if its bytes have its digest.
fn examine(store: &ContentStore, digest: &Digest) -> Result<u64, BlobFault> {
    if !store.has(digest) {
        return Err(BlobFault::Missing);
    }
    let unreadable = |error: &dyn std::fmt::Display| BlobFault::Unreadable(error.to_string());
    let mut file = match store.open_blob(digest) {
        Ok(file) => file,
        // Collected since the look above.
        Err(_) if !store.has(digest) => return Err(BlobFault::Missing),
        Err(error) => return Err(unreadable(&error)),
    };
    let (mut hasher, mut size) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(&error)),
        }
    }
    match Digest::from_sha256(&hasher.finalize()) {
        actual if actual == *digest => Ok(size),
        actual => Err(BlobFault::Corrupt { actual }),
    }
}

impl Images {
    /// Everything that a target is made of: what its image for `wanted` needs, and what of other platforms is
    /// here. Documents that cannot be read hide what lies below them.
    pub fn parts(&self, target: &Digest, size: Option<u64>, wanted: &Platform) -> Vec<Part> {
        let mut parts = vec![Part { digest: target.clone(), size, needed: true }];
        let way: HashSet<Digest> = self.way_to(target, wanted).into_iter().collect();
        let mut seen = HashSet::from([target.clone()]);
        let mut stack = vec![(target.clone(), true, 0)];
        while let Some((digest, needed, depth)) = stack.pop() {
            let mut add = |descriptor: &super::Descriptor, needed: bool| {
                let fresh = seen.insert(descriptor.digest.clone());
                if fresh {
                    parts.push(Part { digest: descriptor.digest.clone(), size: Some(descriptor.size), needed });
                }
                fresh
            };
            match stored(self.store(), &digest) {
                Ok((_, Document::Manifest { config, layers })) => {
                    for descriptor in std::iter::once(&config).chain(&layers) {
                        add(descriptor, needed);
                    }
                }
                Ok((_, Document::Index(children))) if depth < index::MAX_DEPTH => {
                    // What is needed first: of what several have, it counts.
                    let (first, others): (Vec<_>, Vec<_>) =
                        children.iter().partition(|child| way.contains(&child.descriptor.digest));
                    for (child, needed) in others.iter().map(|c| (c, false)).chain(first.iter().map(|c| (c, needed))) {
                        if add(&child.descriptor, needed) {
                            stack.push((child.descriptor.digest.clone(), needed, depth + 1));
                        }
                    }
                }
                _ => {}
            }
        }
        parts
    }

    /// The platforms of an index whose manifests are here, whether what they need is, too.
    pub fn held_platforms(&self, target: &Digest) -> Vec<Platform> {
        let Ok((_, Document::Index(children))) = stored(self.store(), target) else { return Vec::new() };
        let held = children.into_iter().filter(|child| !child.attached && self.store().has(&child.descriptor.digest));
        held.filter_map(|child| child.platform).collect()
    }

    /// Bytes of all that is here of a target, whatever platform it is for, each blob once.
    pub fn size_on_disk(&self, target: &Digest) -> u64 {
        let all = self.reachable(&HashSet::from([target.clone()]), &mut Vec::new());
        all.iter().filter_map(|digest| self.store().size(digest)).sum()
    }
}
