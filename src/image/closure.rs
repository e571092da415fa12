//! Everything that an image reaches: what a push sends and an archive holds.
//!
//! Documents are read for what they point at and nothing else, so that attestations and artifacts inside of
//! an index move with it; they are never written anew.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;

use super::Images;
use super::descriptor::Descriptor;
use super::document::MAX_MANIFEST;
use super::error::ImageError;
use super::index::{self, MAX_DEPTH};
use super::store::ContentStore;
use crate::oci::{Digest, Platform};

/// Documents that one image may reach.
const MAX_DOCUMENTS: usize = 2000;

/// Which part of an image moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// What is here.
    Here,
    /// Everything that its index names; less is an error.
    All,
    /// The image of one platform, by itself.
    Platform(Platform),
}

/// What an image reaches in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closure {
    /// The document at the top.
    pub root: Descriptor,
    /// Configurations, layers and the like, each once, in the order in which they are named.
    pub blobs: Vec<Descriptor>,
    /// Manifests and indexes, each behind everything that it names; the root is the last.
    pub documents: Vec<Descriptor>,
    /// What documents name and the store has not.
    pub missing: Vec<Digest>,
}

impl Closure {
    /// Bytes of it all.
    pub fn size(&self) -> u64 {
        self.blobs.iter().chain(&self.documents).map(|d| d.size).sum()
    }
}

/// The pointers of a document of any kind.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Pointers {
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
    blobs: Vec<Descriptor>,
}

/// What a document names, whatever kind of document it is.
pub(super) struct Named {
    /// Manifests and indexes.
    pub(super) documents: Vec<Descriptor>,
    /// Configuration, layers and the like.
    pub(super) blobs: Vec<Descriptor>,
}

impl Named {
    /// Reads a document for its pointers alone.
    pub(super) fn by(document: &[u8]) -> serde_json::Result<Self> {
        let Pointers { manifests, config, layers, blobs } = serde_json::from_slice(document)?;
        Ok(Self { documents: manifests, blobs: config.into_iter().chain(layers).chain(blobs).collect() })
    }
}

struct Walk<'a> {
    store: &'a ContentStore,
    /// Whether something of the document can be used.
    seen: HashMap<Digest, bool>,
    blobs: HashSet<Digest>,
    found: Closure,
}

impl Walk<'_> {
    fn visit(&mut self, document: &Descriptor, depth: usize) -> Result<bool, ImageError> {
        if let Some(usable) = self.seen.get(&document.digest) {
            return Ok(*usable);
        }
        let what = || format!("image {}", self.found.root.digest);
        if depth > MAX_DEPTH || self.seen.len() >= MAX_DOCUMENTS {
            let why = format!("it nests indexes more than {MAX_DEPTH} deep, or names more than {MAX_DOCUMENTS}");
            return Err(ImageError::Malformed { what: what(), why });
        }
        self.seen.insert(document.digest.clone(), false);
        if self.store.size(&document.digest) != Some(document.size) {
            self.found.missing.push(document.digest.clone());
            return Ok(false);
        }
        let bytes = self.store.read(&document.digest, MAX_MANIFEST)?;
        let Named { documents, blobs: own } = Named::by(&bytes).map_err(|e| ImageError::Malformed {
            what: format!("{}: {}", what(), document.digest),
            why: e.to_string(),
        })?;
        let absent: Vec<_> = own.iter().filter(|d| self.store.size(&d.digest) != Some(d.size)).collect();
        self.found.missing.extend(absent.iter().map(|d| d.digest.clone()));
        let mut usable = absent.is_empty() && (!own.is_empty() || documents.is_empty());
        for child in &documents {
            usable |= self.visit(child, depth + 1)?;
        }
        if usable {
            let fresh = own.into_iter().filter(|d| self.blobs.insert(d.digest.clone()));
            self.found.blobs.extend(fresh);
            self.found.documents.push(document.clone());
        }
        self.seen.insert(document.digest.clone(), usable);
        Ok(usable)
    }
}

/// What `root` reaches. Manifests that lack a blob are left out, with indexes nothing of which is here.
pub fn of(store: &ContentStore, root: &Descriptor) -> Result<Closure, ImageError> {
    let found = Closure { root: root.clone(), blobs: Vec::new(), documents: Vec::new(), missing: Vec::new() };
    let mut walk = Walk { store, seen: HashMap::new(), blobs: HashSet::new(), found };
    walk.visit(root, 0)?;
    let mut found = walk.found;
    found.missing.sort();
    found.missing.dedup();
    Ok(found)
}

impl Images {
    /// What moves to a registry. Registries refuse an index that names what they have not: where not all of
    /// it is here, the image of one platform goes by itself.
    pub fn for_push(&self, name: &str, target: &Descriptor, part: &Part) -> Result<Closure, ImageError> {
        let whole = match part {
            Part::Platform(platform) => return self.one(name, target, platform),
            Part::Here | Part::All => of(self.store(), target)?,
        };
        if whole.missing.is_empty() {
            return Ok(whole);
        }
        let here = self.platforms(&target.digest);
        let own = here.iter().find(|p| index::distance(&Platform::host(), p) == Some(0));
        match (part, here.as_slice(), own) {
            (_, [], _) => Err(not_present(&whole).named(name)),
            (Part::Here, [only], _) | (Part::Here, _, Some(only)) => self.one(name, target, only),
            _ => Err(ImageError::Partial { image: name.to_owned(), here }),
        }
    }

    /// What moves into an archive. An index stays what it is, so that its digest does, also when some of its
    /// images are not here.
    pub fn for_archive(&self, name: &str, target: &Descriptor, part: &Part) -> Result<Closure, ImageError> {
        if let Part::Platform(platform) = part {
            return self.one(name, target, platform);
        }
        let found = of(self.store(), target)?;
        if self.platforms(&target.digest).is_empty() {
            return Err(not_present(&found).named(name));
        }
        if *part == Part::All && !found.missing.is_empty() {
            return Err(ImageError::Partial { image: name.to_owned(), here: self.platforms(&target.digest) });
        }
        Ok(found)
    }

    fn one(&self, name: &str, target: &Descriptor, platform: &Platform) -> Result<Closure, ImageError> {
        let manifest = self.load_named(name, &target.digest, platform)?.manifest;
        let found = of(self.store(), &manifest)?;
        if found.missing.is_empty() { Ok(found) } else { Err(not_present(&found).named(name)) }
    }
}

fn not_present(found: &Closure) -> ImageError {
    let missing = found.missing.iter().map(ToString::to_string).collect();
    ImageError::NotPresent { image: found.root.digest.to_string(), missing }
}
